package saml

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const (
	idpID = "https://idp.example.com/saml"
	base  = "https://id.example.com/auth/acme"
)

// rig is a connector with its identity provider and a clock.
type rig struct {
	t          testing.TB
	idp        *connectortest.SAMLProvider
	c          *Connector
	mu         sync.Mutex
	at         time.Time
	encryption connectors.KeyPair
	signing    connectors.KeyPair
}

type pair struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

var start = time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)

// Making keys is most of what the tests would do.
var (
	spSigning    = sync.OnceValue(newPair)
	spEncryption = sync.OnceValue(newPair)
	idpPair      = sync.OnceValue(newPair)
	foreignPair  = sync.OnceValue(newPair)
)

func newPair() pair {
	k, c := connectortest.KeyAndCertificate(panics{}, start.Add(-time.Hour), start.Add(1000*24*time.Hour))
	return pair{k, c}
}

// panics is a testing.TB for what is made once for all tests.
type panics struct{ testing.TB }

func (panics) Helper()           {}
func (panics) Fatal(args ...any) { panic(args) }

func newIDP(t testing.TB, p pair) *connectortest.SAMLProvider {
	idp := connectortest.BareSAMLProvider(t, idpID, "https://idp.example.com")
	idp.Key, idp.Cert = p.key, p.cert
	return idp
}

func newRig(t testing.TB, change func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, idp: newIDP(t, idpPair()), at: start}
	r.signing = connectors.KeyPair{Key: spSigning().key, Certificate: spSigning().cert, State: connectors.KeyCurrent, Until: start.Add(900 * 24 * time.Hour)}
	r.encryption = connectors.KeyPair{Key: spEncryption().key, Certificate: spEncryption().cert, State: connectors.KeyCurrent}
	cfg := Config{MetadataXML: r.idp.Metadata("")}
	if change != nil {
		change(&cfg)
	}
	r.open(cfg)
	return r
}

func (r *rig) now() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at
}

func (r *rig) wait(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at = r.at.Add(d)
}

func (r *rig) open(cfg Config) {
	r.t.Helper()
	c, err := Open(r.env(), cfg)
	if err != nil {
		r.t.Fatal(err)
	}
	r.c = c.(*Connector)
}

func (r *rig) env() connectors.Env {
	return connectors.Env{ID: "acme", URL: base, Now: r.now, Log: slog.New(slog.DiscardHandler),
		HTTPUpTo: func(int64, string, string, ...string) (*http.Client, error) { return http.DefaultClient, nil },
		KeyPairs: func(_ context.Context, use string) ([]connectors.KeyPair, error) {
			if use == connectors.KeySigning {
				return []connectors.KeyPair{r.signing}, nil
			}
			return []connectors.KeyPair{r.encryption}, nil
		}}
}

// begun is a request that the connector made.
func (r *rig) secret() []byte {
	r.t.Helper()
	js, err := json.Marshal(secret{"id-request", r.now()})
	if err != nil {
		r.t.Fatal(err)
	}
	return js
}

func (r *rig) answer() *connectortest.SAMLAnswer { return r.idp.NewAnswer(base, "id-request", r.now()) }

func posted(doc []byte) connectors.Return {
	return connectors.Return{Method: http.MethodPost, Params: url.Values{"SAMLResponse": {base64.StdEncoding.EncodeToString(doc)}, "RelayState": {"ABC"}}}
}

// bring is Screen and Finish.
func (r *rig) bring(doc []byte) (connectors.Identity, error) {
	ctx := context.Background()
	if err := r.c.Screen(ctx, posted(doc)); err != nil {
		return connectors.Identity{}, err
	}
	return r.c.Finish(ctx, connectors.Attempt{ID: "ABC", CallbackURL: base + "/callback"}, r.secret(), posted(doc))
}

func (r *rig) good(a *connectortest.SAMLAnswer) connectors.Identity {
	r.t.Helper()
	id, err := r.bring(r.idp.Document(a))
	if err != nil {
		r.t.Fatalf("a good answer was refused: %v", err)
	}
	return id
}

// word is the reason in an error.
func word(err error) string {
	var r *refusal
	if errors.As(err, &r) {
		return r.word
	}
	if err == nil {
		return ""
	}
	return "other: " + err.Error()
}

func (r *rig) refused(what string, doc []byte, want string) {
	r.t.Helper()
	id, err := r.bring(doc)
	if err == nil {
		r.t.Errorf("%s: signed in as %q", what, id.Subject)
		return
	}
	if got := word(err); got != want {
		r.t.Errorf("%s: refused for %q (%v), want %q", what, got, err, want)
	}
}
