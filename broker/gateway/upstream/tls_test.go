package upstream

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
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and its key as PEM.
func (a authority) issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &k.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})
}

// write replaces a file and moves its time on, which a fast test might not.
func write(t *testing.T, name string, data []byte, at time.Time) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(name, at, at); err != nil {
		t.Fatal(err)
	}
}

// The server is verified by CA and name, sees our certificate, and changed files
// count from the next connection on; broken ones do not.
func TestTLSFiles(t *testing.T) {
	ca, other := newAuthority(t), newAuthority(t)
	serverCert, serverKey := ca.issue(t, "api.internal")
	pair, err := tls.X509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(ca.cert)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(r.TLS.PeerCertificates[0].Subject.CommonName))
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	srv.Config.ErrorLog = nil
	srv.StartTLS()
	defer srv.Close()

	dir := t.TempDir()
	cfg := TLSConfig{CAFile: filepath.Join(dir, "ca.pem"), ServerName: "api.internal", CertFile: filepath.Join(dir, "c.pem"), KeyFile: filepath.Join(dir, "k.pem")}
	at := time.Now().Add(-time.Hour)
	mine, key := ca.issue(t, "gateway-1")
	write(t, cfg.CAFile, ca.pem, at)
	write(t, cfg.CertFile, mine, at)
	write(t, cfg.KeyFile, key, at)
	c := &clock{t: time.Now()}
	var failures []error
	files, err := NewTLS(cfg, c.now, func(err error) { failures = append(failures, err) })
	if err != nil {
		t.Fatal(err)
	}
	ask := func(files *TLS) (string, error) {
		tr := &http.Transport{DialTLSContext: files.Dialer((&net.Dialer{}).DialContext, "")}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), "GET", srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b := make([]byte, 100)
		n, _ := resp.Body.Read(b)
		return string(b[:n]), nil
	}
	if who, err := ask(files); err != nil || who != "gateway-1" {
		t.Fatalf("%q %v", who, err)
	}
	named := cfg
	named.ServerName = "other.internal"
	wrong, err := NewTLS(named, c.now, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ask(wrong); err == nil || !Unheard(err) {
		t.Errorf("another name: %v", err)
	}

	mine, key = ca.issue(t, "gateway-2")
	write(t, cfg.CertFile, mine, at.Add(time.Minute)) // the key is still the old one's
	c.t = c.t.Add(lookEvery)
	if who, err := ask(files); err != nil || who != "gateway-1" || len(failures) != 1 {
		t.Errorf("half written: %q %v, told %v", who, err, failures)
	}
	write(t, cfg.KeyFile, key, at.Add(time.Minute))
	c.t = c.t.Add(lookEvery)
	if who, err := ask(files); err != nil || who != "gateway-2" {
		t.Errorf("changed: %q %v", who, err)
	}
	write(t, cfg.CAFile, other.pem, at.Add(2*time.Minute))
	c.t = c.t.Add(lookEvery)
	if who, err := ask(files); err == nil {
		t.Errorf("another CA: %q", who)
	}
}

func TestNewTLSRefuses(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.pem")
	write(t, empty, nil, time.Now())
	for name, cfg := range map[string]TLSConfig{
		"no file":  {CAFile: filepath.Join(dir, "none.pem")},
		"no PEM":   {CAFile: empty},
		"half":     {CertFile: empty},
		"no pair":  {CertFile: empty, KeyFile: empty},
		"key only": {KeyFile: empty},
	} {
		if _, err := NewTLS(cfg, time.Now, nil); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

// A server that takes the connection and says nothing is given up.
func TestHandshakeEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	files, err := NewTLS(TLSConfig{}, time.Now, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := files.Handshake(ctx, conn, "127.0.0.1"); err == nil {
		t.Error("a handshake without an answer came about")
	}
}
