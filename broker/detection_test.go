package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// raised waits for findings of a rule.
func raised(t *testing.T, w *watchedStore, rule string, n int) []event.Event {
	t.Helper()
	var out []event.Event
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out = nil
		for _, e := range w.named(event.DetectionRaised) {
			if e.Details["rule"] == rule {
				out = append(out, e)
			}
		}
		if len(out) >= n || time.Now().After(end) {
			break
		}
	}
	if len(out) != n {
		t.Fatalf("%d findings of %s, want %d: %v", len(out), rule, n, out)
	}
	return out
}

// Wrong passwords for many names through the door become one finding, which holds
// none of the names; a bound that a reload changes holds at once.
func TestDetectionOfSpraying(t *testing.T) {
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: "rate_limits: {address_failures: 1000}\n", wrap: w.watch})
	b := h.browser()
	try := func(i int) {
		t.Helper()
		page := b.get("/signin")
		a := b.post("/signin/local", url.Values{"username": {fmt.Sprint("person-", i)}, "password": {"Summer2026!"}, "attempt": {field(t, attemptField, page)}})
		if a.StatusCode != http.StatusUnprocessableEntity {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
	}
	for i := range 8 {
		try(i)
	}
	h.reloads("rate_limits: {address_failures: 1000}\ndetection: {password_spraying: {accounts: 10}}\n", "detection", "")
	for i := range 4 {
		try(100 + i)
	}
	f := raised(t, w, "password_spraying", 1)[0]
	if f.Details["scope"] != "address" || f.Severity != event.Critical || f.IP != "127.0.0.1" {
		t.Errorf("%+v", f)
	}
	if s := fmt.Sprint(f); strings.Contains(s, "person-") || strings.Contains(s, "Summer") {
		t.Errorf("what was typed is in it: %s", s)
	}
}

// An API key of a service account and the listener's certificate that end soon.
func TestDetectionOfEndings(t *testing.T) {
	w := &watchedStore{}
	h := startWith(t, &harness{yaml: "service_accounts: [{name: ci}]\n", wrap: w.watch})
	if a := h.operator("POST", "/api/v1/service-accounts/ci/api-keys", `{"name":"deploy","expires_in":"2160h"}`); a.StatusCode >= 300 {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	h.wait(2160*time.Hour - 60*time.Hour)
	f := raised(t, w, "expiring", 1)[0]
	if f.Details["kind"] != "api_key" || f.Details["days"] != "3" || f.Details["owner"] != "ci" || f.Severity != event.Critical {
		t.Errorf("%+v", f)
	}
}

// pair writes a certificate that ends at a time.
func pair(t *testing.T, dir string, ends time.Time) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-80 * 24 * time.Hour), NotAfter: ends}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pk}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// The certificate that the gateway shows to an upstream.
func TestDetectionOfUpstreamCertificate(t *testing.T) {
	w := &watchedStore{}
	cert, key := pair(t, t.TempDir(), time.Now().Add(6*24*time.Hour))
	startWith(t, &harness{wrap: w.watch, yaml: fmt.Sprintf("routes: [{name: api, host: api.localhost, upstream: \"https://127.0.0.1:9\", tls: {cert_file: %q, key_file: %q}}]\n", cert, key)})
	f := raised(t, w, "expiring", 1)[0]
	if f.Details["kind"] != "upstream_certificate" || f.Details["id"] != "api" || f.Details["days"] != "7" || f.Severity != event.Warning {
		t.Errorf("%+v", f)
	}
}
