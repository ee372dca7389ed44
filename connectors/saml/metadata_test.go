package saml

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// server serves metadata that a test changes.
type server struct {
	*httptest.Server
	mu    sync.Mutex
	doc   string
	code  int
	asked int
}

func serve(t *testing.T, doc string) *server {
	s := &server{doc: doc, code: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.asked++
		w.WriteHeader(s.code)
		fmt.Fprint(w, s.doc)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *server) set(code int, doc string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.code, s.doc = code, doc
}

func (s *server) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked
}

// The provider rolls its key twice while we run: sign-in goes on, and a key that
// has left the metadata is refused (docs/security.md SP-3, SP-11).
func TestKeyRollOverTwice(t *testing.T) {
	r := newRig(t, nil)
	s := serve(t, r.idp.Metadata(`cacheDuration="PT1H"`))
	r.open(Config{MetadataURL: s.URL})
	ctx := context.Background()
	check := func() {
		t.Helper()
		if err := r.c.Check(ctx); err != nil {
			t.Fatal(err)
		}
	}
	check()
	r.good(r.answer())
	old := *r.idp
	for round, next := range []pair{foreignPair(), spSigning()} {
		// Announced: both certificates are there, the old key still signs.
		announced := r.idp.Metadata(`cacheDuration="PT1H"`, r.idp.Cert, next.cert)
		s.set(http.StatusOK, announced)
		r.wait(61 * time.Minute)
		check()
		r.good(r.answer())
		// Used.
		old = *r.idp
		r.idp.Key, r.idp.Cert = next.key, next.cert
		r.good(r.answer())
		a := old.NewAnswer(base, "id-request", r.now())
		if _, err := r.bring(old.Document(a)); err != nil {
			t.Errorf("round %d: the old key is in the metadata: %v", round, err)
		}
		// The old one is gone.
		s.set(http.StatusOK, r.idp.Metadata(`cacheDuration="PT1H"`))
		r.wait(61 * time.Minute)
		check()
		r.good(r.answer())
		r.refused("the old key", old.Document(old.NewAnswer(base, "id-request", r.now())), "signature")
	}
}

// A key changed in a hurry has the metadata read again, once a minute at most.
func TestHurriedKey(t *testing.T) {
	r := newRig(t, nil)
	s := serve(t, r.idp.Metadata(""))
	r.open(Config{MetadataURL: s.URL})
	r.good(r.answer())
	r.idp.Key, r.idp.Cert = foreignPair().key, foreignPair().cert
	s.set(http.StatusOK, r.idp.Metadata(""))
	r.refused("within the minute", r.idp.Document(r.answer()), "signature")
	r.wait(2 * time.Minute)
	r.good(r.answer())
	before := s.count()
	forger := newIDP(t, spSigning())
	r.wait(2 * time.Minute)
	for range 20 {
		r.refused("forged", forger.Document(forger.NewAnswer(base, "id-request", r.now())), "signature")
	}
	if n := s.count() - before; n != 1 {
		t.Errorf("forged answers had the metadata read %d times in a minute", n)
	}
}

// A copy stays in use while a new one cannot be had, until its validUntil.
func TestStaleMetadata(t *testing.T) {
	r := newRig(t, nil)
	s := serve(t, r.idp.Metadata(`validUntil="2026-11-27T09:00:00Z"`))
	r.open(Config{MetadataURL: s.URL})
	ctx := context.Background()
	if err := r.c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	s.set(http.StatusInternalServerError, "no")
	r.wait(23*time.Hour + 30*time.Minute)
	if err := r.c.Check(ctx); err != nil {
		t.Errorf("stale, and still good: %v", err)
	}
	r.good(r.answer())
	r.wait(time.Hour)
	if err := r.c.Check(ctx); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("after validUntil: %v", err)
	}
	if _, err := r.bring(r.idp.Document(r.answer())); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("after validUntil: %v", err)
	}
	if _, err := r.c.Begin(ctx, connectors.Attempt{ID: "A"}); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("after validUntil: %v", err)
	}
	// It is replaced an hour before it ends, whatever cacheDuration says.
	s.set(http.StatusOK, r.idp.Metadata(`validUntil="2026-12-27T09:00:00Z" cacheDuration="P10D"`))
	r.wait(2 * time.Minute)
	if err := r.c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	before := s.count()
	r.wait(23 * time.Hour)
	if _ = r.c.Check(ctx); s.count() != before {
		t.Error("read before a day is over")
	}
	r.wait(2 * time.Hour)
	if _ = r.c.Check(ctx); s.count() != before+1 {
		t.Error("a cacheDuration of ten days is not bounded by one")
	}
}

// cacheDuration is bounded below too: a provider cannot have itself asked all
// the time.
func TestCacheDurationBounds(t *testing.T) {
	r := newRig(t, nil)
	s := serve(t, r.idp.Metadata(`cacheDuration="PT1S"`))
	r.open(Config{MetadataURL: s.URL})
	ctx := context.Background()
	for range 30 {
		if err := r.c.Check(ctx); err != nil {
			t.Fatal(err)
		}
		r.wait(time.Minute)
	}
	if n := s.count(); n != 1 {
		t.Errorf("asked %d times in half an hour", n)
	}
}

// Whoever answers at the address cannot become another provider.
func TestProviderStaysTheSame(t *testing.T) {
	r := newRig(t, nil)
	s := serve(t, r.idp.Metadata(""))
	r.open(Config{MetadataURL: s.URL})
	ctx := context.Background()
	if err := r.c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	other := *r.idp
	other.EntityID = "https://other.example.com"
	s.set(http.StatusOK, other.Metadata(""))
	r.wait(7 * time.Hour)
	_ = r.c.Check(ctx)
	if p, err := r.c.source.get(ctx); err != nil || p.EntityID != idpID {
		t.Errorf("%v %v", p, err)
	}
}

// A metadata server that hangs holds nobody longer than they are willing to
// wait, and is one call whatever the crowd.
func TestHangingMetadata(t *testing.T) {
	r := newRig(t, nil)
	release := make(chan struct{})
	var asked sync.Map
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		asked.Store(req, true)
		select {
		case <-release:
		case <-req.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(release)
	r.open(Config{MetadataURL: srv.URL})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := r.c.Begin(ctx, connectors.Attempt{ID: "A"}); !errors.Is(err, connectors.ErrUnavailable) {
				t.Errorf("begin: %v", err)
			}
		})
	}
	cancel()
	wg.Wait()
	n := 0
	asked.Range(func(any, any) bool { n++; return true })
	if n > 1 {
		t.Errorf("%d calls", n)
	}
}

// Metadata from a file is read again when it changes.
func TestMetadataFile(t *testing.T) {
	r := newRig(t, nil)
	file := filepath.Join(t.TempDir(), "idp.xml")
	write := func(doc string) {
		if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("\xef\xbb\xbf" + r.idp.Metadata("")) // as ADFS writes it
	r.open(Config{MetadataFile: file})
	ctx := context.Background()
	r.good(r.answer())
	r.idp.Key, r.idp.Cert = foreignPair().key, foreignPair().cert
	write(r.idp.Metadata(""))
	if err := r.c.Check(ctx); err != nil {
		t.Fatal(err)
	}
	r.good(r.answer())
	write("nonsense")
	if err := r.c.Check(ctx); err != nil {
		t.Errorf("a file that is being edited: %v", err)
	}
	r.good(r.answer())
}

// What metadata may not say (docs/security.md SP-11).
func TestMetadataRefused(t *testing.T) {
	r := newRig(t, nil)
	good := r.idp.Metadata("")
	foreign := newIDP(t, foreignPair())
	aggregate := `<md:EntitiesDescriptor xmlns:md="` + nsMetadata + `" validUntil="2026-12-01T00:00:00Z">` + strings.ReplaceAll(good, `ID="_md"`, "") + strings.ReplaceAll(strings.ReplaceAll(good, idpID, "https://two.example.com"), `ID="_md"`, "") + `</md:EntitiesDescriptor>`
	if p, err := parseMetadata([]byte(aggregate), idpID, nil); err != nil || p.EntityID != idpID || p.ValidUntil.Month() != time.December {
		t.Errorf("%+v %v", p, err)
	}
	signed := r.idp.SignDocument(good)
	if _, err := parseMetadata(signed, "", r.idp.Cert); err != nil {
		t.Errorf("signed by the pin: %v", err)
	}
	for what, c := range map[string]struct {
		doc, entity, want string
		pinned            bool
	}{
		"several providers":          {doc: aggregate, want: "metadata"},
		"another provider":           {doc: good, entity: "https://nobody.example.com", want: "metadata"},
		"no provider":                {doc: `<md:EntityDescriptor xmlns:md="` + nsMetadata + `" entityID="a"/>`, want: "metadata"},
		"a service provider":         {doc: `<md:EntityDescriptor xmlns:md="` + nsMetadata + `" entityID="a"><md:SPSSODescriptor protocolSupportEnumeration="a"/></md:EntityDescriptor>`, want: "metadata"},
		"a script as address":        {doc: strings.ReplaceAll(good, "https://idp.example.com/sso", "javascript:alert(1)"), want: "metadata"},
		"http":                       {doc: strings.ReplaceAll(good, "https://idp.example.com/sso", "http://idp.example.com/sso"), want: "metadata"},
		"no address":                 {doc: strings.ReplaceAll(good, "SingleSignOnService", "ArtifactResolutionService"), want: "metadata"},
		"no certificate":             {doc: strings.ReplaceAll(good, `use="signing"`, `use="encryption"`), want: "metadata"},
		"a DTD":                      {doc: "<!DOCTYPE a>" + good, want: "doctype"},
		"an entity":                  {doc: strings.Replace(good, "<md:IDP", "&a;<md:IDP", 1), want: "entity"},
		"nested deeply":              {doc: strings.Replace(good, "</md:EntityDescriptor>", strings.Repeat("<md:a>", 70)+strings.Repeat("</md:a>", 70)+"</md:EntityDescriptor>", 1), want: "too_deep"},
		"too large":                  {doc: good + strings.Repeat(" ", maxMetadata), want: "too_large"},
		"validUntil is no time":      {doc: strings.Replace(good, `ID="_md"`, `validUntil="soon"`, 1), want: "metadata"},
		"pinned, not signed":         {doc: good, pinned: true, want: "metadata_signature"},
		"pinned, signed by another":  {doc: string(foreign.SignDocument(good)), pinned: true, want: "metadata_signature"},
		"pinned, changed afterwards": {doc: strings.Replace(string(signed), "https://idp.example.com/slo", "https://evil.example.com/slo", 1), pinned: true, want: "metadata_signature"},
		"a weak key":                 {doc: r.idp.Metadata("", connectortest.WeakCertificate(t)), want: "metadata"},
	} {
		pin := r.idp.Cert
		if !c.pinned {
			pin = nil
		}
		if _, err := parseMetadata([]byte(c.doc), c.entity, pin); word(err) != c.want {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Several certificates are tried whatever the message names; dates count only
// where the operator says so.
func TestCertificateDates(t *testing.T) {
	r := newRig(t, nil)
	r.open(Config{MetadataXML: r.idp.Metadata("", foreignPair().cert, spSigning().cert, r.idp.Cert)})
	a := r.answer()
	a.KeyInfo = false
	r.good(a)
	r.wait(2000 * 24 * time.Hour) // all of them are over
	r.good(r.answer())
	r.open(Config{MetadataXML: r.idp.Metadata(""), StrictCertificateDates: true})
	r.refused("strict", r.idp.Document(r.answer()), "no_key")
	if err := r.c.Check(context.Background()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("no certificate counts: %v", err)
	}
	certs, err := r.c.Certificates(context.Background())
	if err != nil || len(certs) != 3 || certs[0].Ours || !certs[1].Ours || !certs[1].Ends.Equal(r.signing.Until) || !certs[0].Ends.Equal(r.idp.Cert.NotAfter) {
		t.Errorf("%+v %v", certs, err)
	}
}

func TestConfigProblems(t *testing.T) {
	idp := newIDP(t, idpPair())
	good := idp.Metadata("")
	pin := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: idp.Cert.Raw}))
	for what, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"paste":              {Config{MetadataXML: good}, ""},
		"address":            {Config{MetadataURL: "https://idp.example.com/m", MetadataCertificate: pin}, ""},
		"loopback":           {Config{MetadataURL: "http://127.0.0.1:1/m"}, ""},
		"nothing":            {Config{}, "saml.metadata"},
		"two":                {Config{MetadataXML: good, MetadataFile: "a"}, "saml.metadata"},
		"http":               {Config{MetadataURL: "http://idp.example.com/m"}, "saml.metadata_url"},
		"http, pinned":       {Config{MetadataURL: "http://idp.example.com/m", MetadataCertificate: pin}, ""},
		"no address":         {Config{MetadataURL: "idp"}, "saml.metadata_url"},
		"no XML":             {Config{MetadataXML: "a"}, "saml.metadata_xml"},
		"no certificate":     {Config{MetadataXML: good, MetadataCertificate: "a"}, "saml.metadata_certificate"},
		"format":             {Config{MetadataXML: good, NameIDFormat: "uuid"}, "saml.name_id_format"},
		"target":             {Config{MetadataXML: good, AllowIDPInitiated: true, IDPInitiatedTargets: []string{"portal"}}, "saml.target"},
		"target elsewhere":   {Config{MetadataXML: good, AllowIDPInitiated: true, IDPInitiatedTargets: []string{"a=//evil.example.com"}}, "saml.target"},
		"target twice":       {Config{MetadataXML: good, AllowIDPInitiated: true, IDPInitiatedTargets: []string{"a=/", "a=/b"}}, "saml.target"},
		"targets of nothing": {Config{MetadataXML: good, IDPInitiatedTargets: []string{"a=/"}}, "saml.target"},
	} {
		ps := c.cfg.Problems()
		if c.want == "" && len(ps) > 0 || c.want != "" && (len(ps) != 1 || ps[0].Rule != c.want) {
			t.Errorf("%s: %v", what, ps)
		}
	}
}

// Our metadata is XML that our own rules pass, with a certificate for each use,
// the successor's too, and nothing that we refuse.
func TestDescribe(t *testing.T) {
	r := newRig(t, nil)
	ct, doc, err := r.c.Describe(context.Background())
	if err != nil || ct != "application/samlmetadata+xml" {
		t.Fatal(ct, err)
	}
	if err := scan(doc, metadataRules); err != nil {
		t.Error(err)
	}
	text := string(doc)
	for _, want := range []string{`entityID="` + base + `/metadata"`, `Location="` + base + `/callback"`, base + "/slo", `AuthnRequestsSigned="true"`, "aes256-gcm", formatPersistent} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	if strings.Contains(text, "cbc") || strings.Contains(text, "Artifact") {
		t.Errorf("more than is served:\n%s", text)
	}
	if n := bytes.Count(doc, []byte("<md:KeyDescriptor")); n != 2 {
		t.Errorf("%d keys", n)
	}
	next := connectors.KeyPair{Key: foreignPair().key, Certificate: foreignPair().cert, State: connectors.KeyNext}
	r.c.keys = func(context.Context, string) ([]connectors.KeyPair, error) {
		return []connectors.KeyPair{r.signing, next, {Key: r.encryption.Key, Certificate: r.encryption.Certificate, State: connectors.KeyRetired}}, nil
	}
	_, doc, err = r.c.Describe(context.Background())
	if n := bytes.Count(doc, []byte("<md:KeyDescriptor")); err != nil || n != 4 {
		t.Errorf("with successors: %d keys, %v", n, err)
	}
	// An assertion encrypted to a retired key is still read.
	a := r.answer()
	a.EncryptTo = r.encryption.Certificate
	r.good(a)
}
