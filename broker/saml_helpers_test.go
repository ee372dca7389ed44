package broker_test

import (
	"bytes"
	"compress/flate"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// samlDoor is a broker whose connector acme is a SAML identity provider.
type samlDoor struct {
	*harness
	idp *connectortest.SAMLProvider
	out *captured
	w   *watchedStore
}

type samlKey struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

var samlKeys = sync.OnceValue(func() samlKey {
	k, c := connectortest.KeyAndCertificate(noTest{}, time.Now().Add(-time.Hour), time.Now().Add(20*24*time.Hour))
	return samlKey{k, c}
})

// noTest is a testing.TB for what is made once for all tests.
type noTest struct{ testing.TB }

func (noTest) Helper()           {}
func (noTest) Fatal(args ...any) { panic(args) }

// startSAML starts one; lines are further keys of the connector, top those of
// the file, and change edits the metadata.
func startSAML(t *testing.T, lines, top string, change func(string) string) *samlDoor {
	t.Helper()
	d := &samlDoor{idp: connectortest.BareSAMLProvider(t, "https://idp.example.com/saml", "https://idp.example.com"), out: &captured{}, w: &watchedStore{}}
	d.idp.Key, d.idp.Cert = samlKeys().key, samlKeys().cert
	metadata := d.idp.Metadata("")
	if change != nil {
		metadata = change(metadata)
	}
	yaml := fmt.Sprintf("connectors:\n  - id: acme\n    type: saml\n    name: Acme\n    org: acme\n    metadata_xml: '%s'\n", metadata)
	for l := range strings.Lines(lines) {
		yaml += "    " + l
	}
	d.harness = startWith(t, &harness{yaml: yaml + "\n" + top, wrap: d.w.watch, log: slog.NewJSONHandler(d.out, nil)})
	return d
}

func (d *samlDoor) base() string { return d.URL + "/auth/acme" }

// depart goes from a sign-in page to the provider, and returns what was asked.
func (d *samlDoor) depart(b *browser, page answer) (request, relay string) {
	d.t.Helper()
	a := b.get("/signin/acme?attempt=" + field(d.t, attemptField, page))
	return d.asked(a)
}

var requestID = regexp.MustCompile(` ID="(id-[0-9a-f]{40})"`)

func (d *samlDoor) asked(a answer) (request, relay string) {
	d.t.Helper()
	if a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "https://idp.example.com/sso?SAMLRequest=") {
		d.t.Fatalf("no departure: %d %s\n%s", a.StatusCode, a.Header.Get("Location"), a.Body)
	}
	doc := inflate(d.t, a.location().Query().Get("SAMLRequest"))
	m := requestID.FindStringSubmatch(doc)
	if m == nil {
		d.t.Fatalf("no ID in %s", doc)
	}
	return m[1], a.location().Query().Get("RelayState")
}

func inflate(t testing.TB, message string) string {
	t.Helper()
	raw, err := base64.StdEncoding.DecodeString(message)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := io.ReadAll(flate.NewReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// answer is the provider's good answer.
func (d *samlDoor) answer(request string) *connectortest.SAMLAnswer {
	return d.idp.NewAnswer(d.base(), request, d.now())
}

// post brings an answer as a browser does: cross-site, without our Lax cookies.
func (d *samlDoor) post(doc []byte, relay string) answer {
	d.t.Helper()
	return d.browser().post("/auth/acme/callback", url.Values{"SAMLResponse": {base64.StdEncoding.EncodeToString(doc)}, "RelayState": {relay}},
		"Origin", "https://idp.example.com", "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate")
}

// signIn goes all the way; change edits the answer.
func (d *samlDoor) enter(b *browser, change func(*connectortest.SAMLAnswer)) answer {
	d.t.Helper()
	request, relay := d.depart(b, b.follow(b.get("/")))
	a := d.answer(request)
	if change != nil {
		change(a)
	}
	parked := d.post(d.idp.Document(a), relay)
	if parked.StatusCode != http.StatusSeeOther {
		d.t.Fatalf("not parked: %d\n%s", parked.StatusCode, parked.Body)
	}
	return b.follow(b.get(parked.Header.Get("Location")))
}

func (d *samlDoor) inside(b *browser) bool {
	d.t.Helper()
	return b.get("/account").StatusCode == http.StatusOK
}

// slo is a message of the provider's by the Redirect binding.
func (d *samlDoor) slo(name, doc string) string {
	d.t.Helper()
	var small bytes.Buffer
	w, _ := flate.NewWriter(&small, 9)
	_, _ = w.Write([]byte(doc))
	w.Close()
	q := name + "=" + url.QueryEscape(base64.StdEncoding.EncodeToString(small.Bytes())) + "&SigAlg=" + url.QueryEscape("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256")
	sum := sha256.Sum256([]byte(q))
	sig, err := rsa.SignPKCS1v15(nil, d.idp.Key, crypto.SHA256, sum[:])
	if err != nil {
		d.t.Fatal(err)
	}
	return "/auth/acme/slo?" + q + "&Signature=" + url.QueryEscape(base64.StdEncoding.EncodeToString(sig))
}

func (d *samlDoor) logoutRequest(id, name string) string {
	return fmt.Sprintf(`<samlp:LogoutRequest xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="%s" Version="2.0" IssueInstant="%s" Destination="%s/slo"><saml:Issuer>%s</saml:Issuer><saml:NameID>%s</saml:NameID><samlp:SessionIndex>s-1</samlp:SessionIndex></samlp:LogoutRequest>`,
		id, d.now().UTC().Format(time.RFC3339), d.base(), d.idp.EntityID, name)
}

// logoutResponse is the provider's word that its session is over.
func (d *samlDoor) logoutResponse(request string) string {
	return `<samlp:LogoutResponse xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" ID="_r1" InResponseTo="` + request + `" Version="2.0" IssueInstant="` + d.now().UTC().Format(time.RFC3339) + `" Destination="` + d.base() + `/slo"><saml:Issuer>` + d.idp.EntityID + `</saml:Issuer><samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></samlp:Status></samlp:LogoutResponse>`
}
