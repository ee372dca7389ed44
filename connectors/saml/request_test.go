package saml

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// inflated is a Redirect message, its signature checked as the provider does.
func inflated(t *testing.T, to, name string, cert *x509.Certificate) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	if err := verifyQuery(u.RawQuery, name, []*x509.Certificate{cert}); err != nil {
		t.Errorf("our signature: %v", err)
	}
	raw, err := base64.StdEncoding.DecodeString(u.Query().Get(name))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := io.ReadAll(flate.NewReader(bytes.NewReader(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// A request is signed, opaque in its RelayState, and says what is wanted.
func TestBegin(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	dep, err := r.c.Begin(ctx, connectors.Attempt{ID: "ATTEMPT", CallbackURL: base + "/callback"})
	if err != nil {
		t.Fatal(err)
	}
	doc := inflated(t, dep.URL, "SAMLRequest", spSigning().cert)
	var s secret
	if err := json.Unmarshal(dep.Secret, &s); err != nil || !strings.Contains(doc, `ID="`+s.ID+`"`) || len(s.ID) < 40 {
		t.Errorf("%s %v", dep.Secret, err)
	}
	for _, want := range []string{`AssertionConsumerServiceURL="` + base + `/callback"`, base + "/metadata</saml:Issuer>", `Destination="https://idp.example.com/sso"`, `AllowCreate="true"`} {
		if !strings.Contains(doc, want) {
			t.Errorf("no %s in %s", want, doc)
		}
	}
	if strings.Contains(doc, "ForceAuthn") || strings.Contains(doc, "Format=") {
		t.Errorf("more than was asked for: %s", doc)
	}
	if u, _ := url.Parse(dep.URL); u.Query().Get("RelayState") != "ATTEMPT" {
		t.Errorf("%s", dep.URL)
	}
	dep, err = r.c.Begin(ctx, connectors.Attempt{ID: "A", ForceAuthn: true})
	if err != nil || !strings.Contains(inflated(t, dep.URL, "SAMLRequest", spSigning().cert), `ForceAuthn="true"`) {
		t.Errorf("%v %v", dep, err)
	}
}

// The NameID format: what the operator writes; else persistent, where offered.
func TestWantedFormat(t *testing.T) {
	offers := func(formats ...string) func(*Config) {
		return func(c *Config) {
			for _, f := range formats {
				c.MetadataXML = strings.Replace(c.MetadataXML, "<md:SingleSignOnService", "<md:NameIDFormat>"+f+"</md:NameIDFormat><md:SingleSignOnService", 1)
			}
		}
	}
	for _, c := range []struct {
		what, configured, want string
		offers                 []string
	}{
		{"nothing is offered", "", "", nil},
		{"persistent is offered", "", formatPersistent, []string{formatEmail, formatPersistent}},
		{"e-mail is offered", "", "", []string{formatEmail}},
		{"unspecified is wanted", "unspecified", "", []string{formatPersistent}},
		{"e-mail is wanted", "email", formatEmail, []string{formatPersistent}},
	} {
		r := newRig(t, func(cfg *Config) { offers(c.offers...)(cfg); cfg.NameIDFormat = c.configured })
		dep, err := r.c.Begin(context.Background(), connectors.Attempt{ID: "A"})
		if err != nil {
			t.Fatal(c.what, err)
		}
		doc := inflated(t, dep.URL, "SAMLRequest", spSigning().cert)
		if got := strings.Contains(doc, `Format="`+c.want+`"`); got != (c.want != "") || c.want == "" && strings.Contains(doc, "Format=") {
			t.Errorf("%s: %s", c.what, doc)
		}
	}
}

// Where the provider takes POST alone, the request is a form with the signature
// inside.
func TestBeginByPost(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.MetadataXML = strings.ReplaceAll(c.MetadataXML, "bindings:HTTP-Redirect", "bindings:SOAP")
	})
	dep, err := r.c.Begin(context.Background(), connectors.Attempt{ID: "ATTEMPT"})
	if err != nil || dep.URL != "https://idp.example.com/sso" || dep.Form.Get("RelayState") != "ATTEMPT" {
		t.Fatalf("%+v %v", dep, err)
	}
	doc, err := base64.StdEncoding.DecodeString(dep.Form.Get("SAMLRequest"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := parse(doc)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := verify(root, []*x509.Certificate{spSigning().cert}); err != nil {
		t.Error(err)
	}
	if kids := root.ChildElements(); kids[0].Tag != "Issuer" || kids[1].Tag != "Signature" {
		t.Errorf("the schema wants the signature behind the issuer: %s", doc)
	}
}

// logoutRequest is what the provider sends.
func (r *rig) logoutRequest(change func(string) string) string {
	doc := `<samlp:LogoutRequest xmlns:samlp="` + nsProtocol + `" xmlns:saml="` + nsAssertion + `" ID="_lo1" Version="2.0" IssueInstant="` + r.now().Format(time.RFC3339) + `" Destination="` + base + `/slo" NotOnOrAfter="` + r.now().Add(5*time.Minute).Format(time.RFC3339) + `"><saml:Issuer>` + idpID + `</saml:Issuer><saml:NameID Format="` + formatPersistent + `">u-1</saml:NameID><samlp:SessionIndex>s-1</samlp:SessionIndex></samlp:LogoutRequest>`
	if change != nil {
		doc = change(doc)
	}
	return doc
}

func redirected(t testing.TB, key *rsa.PrivateKey, name, doc, relay string) connectors.Return {
	t.Helper()
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, 9)
	_, _ = w.Write([]byte(doc))
	w.Close()
	q := name + "=" + url.QueryEscape(base64.StdEncoding.EncodeToString(b.Bytes()))
	if relay != "" {
		q += "&RelayState=" + url.QueryEscape(relay)
	}
	if key != nil {
		q += "&SigAlg=" + url.QueryEscape("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256")
		sum := sha256.Sum256([]byte(q))
		sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		q += "&Signature=" + url.QueryEscape(base64.StdEncoding.EncodeToString(sig))
	}
	v, err := url.ParseQuery(q)
	if err != nil {
		t.Fatal(err)
	}
	return connectors.Return{Method: http.MethodGet, Params: v, Query: q}
}

// The provider ends sessions by either binding, and gets a signed answer.
func TestLogoutRequest(t *testing.T) {
	r := newRig(t, nil)
	ctx := context.Background()
	mine, other := session{nameID{Value: "u-1"}, "s-1"}.text(), session{nameID{Value: "u-1"}, "s-2"}.text()
	byPost := connectors.Return{Method: http.MethodPost, Params: url.Values{"SAMLRequest": {base64.StdEncoding.EncodeToString(r.idp.SignDocument(r.logoutRequest(nil)))}}}
	for what, ret := range map[string]connectors.Return{"redirect": redirected(t, r.idp.Key, "SAMLRequest", r.logoutRequest(nil), "r&s"), "post": byPost} {
		out, err := r.c.FinishLogout(ctx, ret)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if out.Key != "name_id/u-1" || !out.Includes(mine) || out.Includes(other) || len(out.Once) != 1 {
			t.Errorf("%s: %+v", what, out)
		}
		doc := inflated(t, out.Answer.URL, "SAMLResponse", spSigning().cert)
		if !strings.Contains(doc, `InResponseTo="_lo1"`) || !strings.Contains(doc, statusSuccess) {
			t.Errorf("%s: %s", what, doc)
		}
		if u, _ := url.Parse(out.Answer.URL); what == "redirect" && u.Query().Get("RelayState") != "r&s" {
			t.Errorf("RelayState: %s", out.Answer.URL)
		}
	}
	all := func(d string) string {
		return strings.Replace(d, "<samlp:SessionIndex>s-1</samlp:SessionIndex>", "", 1)
	}
	out, err := r.c.FinishLogout(ctx, redirected(t, r.idp.Key, "SAMLRequest", r.logoutRequest(all), ""))
	if err != nil || out.Includes != nil {
		t.Errorf("without SessionIndex all sessions end: %+v %v", out, err)
	}
}

// A logout message that is not the provider's own ends nobody's session
// (docs/security.md SP-12).
func TestLogoutRefused(t *testing.T) {
	r := newRig(t, nil)
	foreign := newIDP(t, foreignPair())
	edit := func(old, new string) func(string) string {
		return func(d string) string { return strings.Replace(d, old, new, 1) }
	}
	get := func(change func(string) string) connectors.Return {
		return redirected(t, r.idp.Key, "SAMLRequest", r.logoutRequest(change), "x")
	}
	moved := get(nil)
	moved.Query = strings.Replace(moved.Query, "RelayState=x", "RelayState=y", 1)
	twice := get(nil)
	twice.Query = "SAMLRequest=AAAA&" + twice.Query
	hidden := get(nil) // what is read must be what is signed (docs/security.md G2)
	hidden.Query = "SAML%52equest=" + url.QueryEscape(redirected(t, nil, "SAMLRequest", r.logoutRequest(edit(">u-1<", ">u-2<")), "").Params.Get("SAMLRequest")) + "&" + hidden.Query
	hidden.Params, _ = url.ParseQuery(hidden.Query)
	if out, err := r.c.FinishLogout(context.Background(), hidden); err != nil || out.Key != "name_id/u-1" {
		t.Errorf("an escaped name is read before the signed one: %+v %v", out, err)
	}
	bomb := redirected(t, r.idp.Key, "SAMLRequest", r.logoutRequest(nil)+strings.Repeat(" ", 1<<20), "")
	sha1 := get(nil)
	sha1.Query = strings.Replace(sha1.Query, "rsa-sha256", "rsa-sha1", 1)
	response := redirected(t, r.idp.Key, "SAMLResponse", r.logoutRequest(nil), "")
	for what, c := range map[string]struct {
		ret  connectors.Return
		want string
	}{
		"unsigned":              {redirected(t, nil, "SAMLRequest", r.logoutRequest(nil), ""), "unsigned"},
		"foreign key":           {redirected(t, foreign.Key, "SAMLRequest", r.logoutRequest(nil), ""), "signature"},
		"another RelayState":    {moved, "signature"},
		"parameter twice":       {twice, "signature"},
		"SHA-1":                 {sha1, "algorithm"},
		"bomb":                  {bomb, "too_large"},
		"unsigned by post":      {connectors.Return{Method: http.MethodPost, Params: url.Values{"SAMLRequest": {base64.StdEncoding.EncodeToString([]byte(r.logoutRequest(nil)))}}}, "unsigned"},
		"foreign key by post":   {connectors.Return{Method: http.MethodPost, Params: url.Values{"SAMLRequest": {base64.StdEncoding.EncodeToString(foreign.SignDocument(r.logoutRequest(nil)))}}}, "signature"},
		"a request as response": {response, "root"},
		"a response as request": {connectors.Return{Method: http.MethodPost, Params: url.Values{"SAMLRequest": {base64.StdEncoding.EncodeToString(r.idp.Document(r.answer()))}}}, "root"},
		"destination":           {get(edit(base+"/slo", "https://other.example.com/slo")), "destination"},
		"no destination":        {get(edit(`Destination="`+base+`/slo"`, "")), "destination"},
		"issuer":                {get(edit(idpID+"</saml:Issuer>", "https://other</saml:Issuer>")), "issuer"},
		"expired":               {get(edit(`NotOnOrAfter="2026-11-26T09:05`, `NotOnOrAfter="2026-11-26T08:05`)), "expired"},
		"old":                   {get(edit(`IssueInstant="2026-11-26T09:00`, `IssueInstant="2026-11-26T08:00`)), "expired"},
		"no NameID":             {get(edit(">u-1<", "><")), "name_id"},
		"not deflated":          {connectors.Return{Method: http.MethodGet, Params: url.Values{"SAMLRequest": {"AAAA"}}, Query: "SAMLRequest=AAAA"}, "deflate"},
		"nothing":               {connectors.Return{Method: http.MethodGet}, "base64"},
		"assertion inside":      {get(edit("<samlp:SessionIndex>", `<saml:Assertion ID="_a"/><samlp:SessionIndex>`)), "assertions"},
		"refused by provider":   {redirected(t, r.idp.Key, "SAMLResponse", logoutResponse(r, "Responder"), ""), "status"},
		"an answer to nothing":  {redirected(t, r.idp.Key, "SAMLResponse", strings.Replace(logoutResponse(r, "Success"), `InResponseTo="id-1" `, "", 1), ""), "in_response_to"},
	} {
		if out, err := r.c.FinishLogout(context.Background(), c.ret); word(err) != c.want || out.Key != "" {
			t.Errorf("%s: %v %+v", what, err, out)
		}
	}
	out, err := r.c.FinishLogout(context.Background(), redirected(t, r.idp.Key, "SAMLResponse", logoutResponse(r, "Success"), ""))
	if err != nil || out.Key != "" || out.Answer.URL != "" || out.InResponseTo != "id-1" {
		t.Errorf("the answer to ours: %+v %v", out, err)
	}
}

func logoutResponse(r *rig, status string) string {
	return `<samlp:LogoutResponse xmlns:samlp="` + nsProtocol + `" xmlns:saml="` + nsAssertion + `" ID="_lr1" InResponseTo="id-1" Version="2.0" IssueInstant="` + r.now().Format(time.RFC3339) + `" Destination="` + base + `/slo"><saml:Issuer>` + idpID + `</saml:Issuer><samlp:Status><samlp:StatusCode Value="urn:oasis:names:tc:SAML:2.0:status:` + status + `"/></samlp:Status></samlp:LogoutResponse>`
}

// Signing out here asks the provider to, with what it knows the session by.
func TestBeginLogout(t *testing.T) {
	r := newRig(t, nil)
	id := r.good(r.answer())
	dep, err := r.c.BeginLogout(context.Background(), id, base+"/slo")
	if err != nil {
		t.Fatal(err)
	}
	doc := inflated(t, dep.URL, "SAMLRequest", spSigning().cert)
	for _, want := range []string{">u-1<", ">s-1<", `Destination="https://idp.example.com/slo"`, formatPersistent, "NotOnOrAfter"} {
		if !strings.Contains(doc, want) {
			t.Errorf("no %s in %s", want, doc)
		}
	}
	if dep, err := r.c.BeginLogout(context.Background(), connectors.Identity{}, ""); err != nil || dep.URL != "" {
		t.Errorf("nothing to end: %+v %v", dep, err)
	}
	r.open(Config{MetadataXML: strings.ReplaceAll(r.idp.Metadata(""), "SingleLogoutService", "ArtifactResolutionService")})
	if dep, err := r.c.BeginLogout(context.Background(), id, ""); err != nil || dep.URL != "" {
		t.Errorf("a provider without logout: %+v %v", dep, err)
	}
}

// Whatever comes, a session ends only by the provider's own signature.
func FuzzLogout(f *testing.F) {
	r := newRig(f, nil)
	f.Add(r.logoutRequest(nil), true)
	f.Add(string(r.idp.SignDocument(r.logoutRequest(nil))), true)
	f.Add(redirected(f, r.idp.Key, "SAMLRequest", r.logoutRequest(nil), "x").Query, false)
	f.Fuzz(func(t *testing.T, in string, post bool) {
		ret := connectors.Return{Method: http.MethodPost, Params: url.Values{"SAMLRequest": {base64.StdEncoding.EncodeToString([]byte(in))}}}
		if !post {
			v, err := url.ParseQuery(in)
			if err != nil {
				return
			}
			ret = connectors.Return{Method: http.MethodGet, Params: v, Query: in}
		}
		out, err := r.c.FinishLogout(context.Background(), ret)
		if err == nil && out.Key != "" && out.Key != "name_id/u-1" {
			t.Fatalf("ended for %q, which nobody signed", out.Key)
		}
	})
}
