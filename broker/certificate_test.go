package broker

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pair makes a key and its certificate of a serial number.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "id.example.com"}, NotBefore: now, NotAfter: now.Add(time.Hour)},
		&x509.Certificate{SerialNumber: big.NewInt(serial)}, &priv.PublicKey, priv)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// Kubernetes swaps both files at once behind a symbolic link; other tools write
// one after the other. Whatever does not fit together is said and not used.
func TestCertificateFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	put := func(folder string, serial int64) {
		t.Helper()
		cert, key := pair(t, serial)
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o700); err != nil {
			t.Fatal(err)
		}
		for name, b := range map[string][]byte{"tls.crt": cert, "tls.key": key} {
			if err := os.WriteFile(filepath.Join(dir, folder, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	point := func(folder string) {
		t.Helper()
		if err := os.Symlink(folder, filepath.Join(dir, "next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	put("a", 1)
	put("b", 2)
	put("c", 3)
	point("a")
	var log bytes.Buffer
	now := time.Now()
	c := &certificate{certFile: filepath.Join(dir, "..data", "tls.crt"), keyFile: filepath.Join(dir, "..data", "tls.key"),
		now: func() time.Time { return now }, log: slog.New(slog.NewTextHandler(&log, nil))}
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	serves := func(what string, serial int64) {
		t.Helper()
		now = now.Add(lookEvery)
		got, err := c.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		if n := got.Leaf.SerialNumber.Int64(); n != serial {
			t.Errorf("%s: certificate %d serves, want %d", what, n, serial)
		}
	}
	copyFile := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, to), b, 0o600)
		}
		if err == nil { // a file system may not tell two times in one tick apart
			now = now.Add(time.Second)
			err = os.Chtimes(filepath.Join(dir, to), now, now)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	serves("the start", 1)
	point("b")
	serves("both swapped behind the link", 2)
	copyFile("c/tls.crt", "b/tls.crt")
	serves("the certificate alone, whose key is another", 2)
	serves("the same again", 2)
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("a pair that does not fit was said %d times, want once:\n%s", n, log.String())
	}
	copyFile("c/tls.key", "b/tls.key")
	serves("then the key alone", 3)
	if err := os.Remove(filepath.Join(dir, "b", "tls.key")); err != nil {
		t.Fatal(err)
	}
	serves("the key is gone", 3)
}
