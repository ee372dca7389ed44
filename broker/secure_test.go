package broker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority issues certificates of tests.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	File string // its certificate, PEM
	last int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	a.key = newKey(t)
	a.last = 1
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.File = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	name = filepath.Join(a.dir, name)
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return name
}

// issue writes a certificate of these names and its key; names are those of DNS
// and addresses. A second one under the same file name replaces the first.
func (a *authority) issue(file string, names ...string) (certFile, keyFile string) {
	a.t.Helper()
	key := newKey(a.t)
	a.last++
	c := &x509.Certificate{SerialNumber: big.NewInt(a.last), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			c.IPAddresses = append(c.IPAddresses, ip)
		} else {
			c.DNSNames = append(c.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, &key.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(file+".pem", "CERTIFICATE", der), a.write(file+".key", "PRIVATE KEY", pkcs8)
}

// pair is issue, loaded.
func (a *authority) pair(file string, names ...string) tls.Certificate {
	a.t.Helper()
	cert, err := tls.LoadX509KeyPair(a.issue(file, names...))
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

// trust is how clients know what the authority has issued.
func (a *authority) trust(protocols ...string) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool, NextProtos: protocols}
}

// secure starts a broker as in production: it opens its listeners itself, with
// TLS by a certificate file, for more host names than the usual ones. The issuer
// is https://sso.localhost.
func secure(t testing.TB, yaml string, more ...string) (*harness, *authority) {
	t.Helper()
	a := newAuthority(t)
	cert, key := a.issue("tls", append([]string{"sso.localhost", "api.localhost", "*.console.localhost"}, more...)...)
	h := startWith(t, &harness{own: true, tls: a.trust(), yaml: "issuer: https://sso.localhost\ntls: {cert_file: " + cert + ", key_file: " + key + "}\n" + yaml})
	return h, a
}

// handshake opens a connection to one of the broker's TLS listeners.
func (h *harness) handshake(addr, host string, protocols ...string) *tls.Conn {
	h.t.Helper()
	c := h.tls.Clone()
	c.ServerName, c.NextProtos = host, protocols
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	conn, err := (&tls.Dialer{Config: c}).DialContext(ctx, "tcp", addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn.(*tls.Conn)
}
