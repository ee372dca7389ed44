package saml

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// Every way in which identity providers sign and encrypt signs in.
func TestGoodAnswers(t *testing.T) {
	r := newRig(t, nil)
	for name, change := range map[string]func(*connectortest.SAMLAnswer){
		"assertion signed":         func(*connectortest.SAMLAnswer) {},
		"response signed":          func(a *connectortest.SAMLAnswer) { a.SignAssertion, a.SignAnswer = false, true },
		"both signed":              func(a *connectortest.SAMLAnswer) { a.SignAnswer = true },
		"no KeyInfo":               func(a *connectortest.SAMLAnswer) { a.KeyInfo = false },
		"SHA-512":                  func(a *connectortest.SAMLAnswer) { a.Method = dsig.RSASHA512SignatureMethod },
		"encrypted, signed inside": func(a *connectortest.SAMLAnswer) { a.EncryptTo = r.encryption.Certificate },
		"encrypted, AES-128":       func(a *connectortest.SAMLAnswer) { a.EncryptTo, a.Cipher = r.encryption.Certificate, "aes128-gcm" },
		"encrypted, signed outside": func(a *connectortest.SAMLAnswer) {
			a.EncryptTo, a.SignAssertion, a.SignAnswer = r.encryption.Certificate, false, true
		},
		"encrypted, signed both ways": func(a *connectortest.SAMLAnswer) { a.EncryptTo, a.SignAnswer = r.encryption.Certificate, true },
		"no Destination, unsigned":    func(a *connectortest.SAMLAnswer) { a.Before = func(e *etree.Element) { e.RemoveAttr("Destination") } },
		"clock a little ahead": func(a *connectortest.SAMLAnswer) {
			a.Now, a.NotBefore = r.now().Add(50*time.Second), r.now().Add(50*time.Second)
		},
	} {
		a := r.answer()
		change(a)
		id, err := r.bring(r.idp.Document(a))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if id.Subject != "u-1" || id.Email != "alice@acme.com" || id.Name != "Alice" || !slices.Equal(id.Groups, []string{"gpu", "ops"}) || id.Connector != "acme" {
			t.Errorf("%s: %+v", name, id)
		}
		if len(id.Once) != 2 || id.Once[0].Until.Before(r.now().Add(maxDelay)) || !id.AuthTime.Equal(r.now()) {
			t.Errorf("%s: once %v, signed in at %s", name, id.Once, id.AuthTime)
		}
	}
}

// Each mistake is refused for its own reason (docs/security.md SP-2 to SP-6).
func TestRefusedAnswers(t *testing.T) {
	r := newRig(t, nil)
	foreign := newIDP(t, foreignPair())
	set := func(path, attr, value string) func(*connectortest.SAMLAnswer) {
		return func(a *connectortest.SAMLAnswer) {
			a.Before = func(e *etree.Element) {
				for _, el := range e.FindElements(path) {
					if value == "" {
						el.RemoveAttr(attr)
					} else {
						el.CreateAttr(attr, value)
					}
				}
			}
		}
	}
	remove := func(path string) func(*connectortest.SAMLAnswer) {
		return func(a *connectortest.SAMLAnswer) {
			a.Before = func(e *etree.Element) {
				for _, el := range e.FindElements(path) {
					el.Parent().RemoveChild(el)
				}
			}
		}
	}
	add := func(path, tag string) func(*connectortest.SAMLAnswer) {
		return func(a *connectortest.SAMLAnswer) {
			a.Before = func(e *etree.Element) { e.FindElement(path).CreateElement(tag) }
		}
	}
	for _, c := range []struct {
		what, want string
		change     func(*connectortest.SAMLAnswer)
	}{
		{"not signed", "unsigned", func(a *connectortest.SAMLAnswer) { a.SignAssertion = false }},
		{"signature stripped", "unsigned", func(a *connectortest.SAMLAnswer) {
			a.After = func(e *etree.Element) {
				as := e.SelectElement("Assertion")
				as.RemoveChild(as.SelectElement("Signature"))
			}
		}},
		{"changed after it was signed", "signature", func(a *connectortest.SAMLAnswer) {
			a.After = func(e *etree.Element) { e.FindElement("//NameID").SetText("admin") }
		}},
		{"response changed after it was signed", "signature", func(a *connectortest.SAMLAnswer) {
			a.SignAnswer = true
			a.After = func(e *etree.Element) { e.CreateAttr("InResponseTo", "id-other") }
		}},
		{"good response signature, bad one inside", "signature", func(a *connectortest.SAMLAnswer) {
			a.SignAnswer = true
			a.Before = func(e *etree.Element) { // signed by somebody else, and then all of it by the provider
				as := e.SelectElement("Assertion")
				at := as.Index()
				signed := foreign.Sign(connectortest.Standalone(as), dsig.RSASHA256SignatureMethod, true)
				e.RemoveChildAt(at)
				e.InsertChildAt(at, signed)
			}
			a.SignAssertion = false
		}},
		{"SHA-1", "algorithm", func(a *connectortest.SAMLAnswer) { a.Method = dsig.RSASHA1SignatureMethod }},
		{"encrypted and not signed", "unsigned", func(a *connectortest.SAMLAnswer) { a.SignAssertion, a.EncryptTo = false, r.encryption.Certificate }},
		{"encrypted to somebody else", "decrypt", func(a *connectortest.SAMLAnswer) { a.EncryptTo = spSigning().cert }},
		{"AES-CBC", "cipher", func(a *connectortest.SAMLAnswer) { a.EncryptTo, a.Cipher = r.encryption.Certificate, "aes256-cbc" }},
		{"3DES", "cipher", func(a *connectortest.SAMLAnswer) { a.EncryptTo, a.Cipher = r.encryption.Certificate, "tripledes-cbc" }},
		{"RSA 1.5", "key_transport", func(a *connectortest.SAMLAnswer) { a.EncryptTo, a.Transport = r.encryption.Certificate, "rsa-1_5" }},
		{"DTD inside the encryption", "doctype", func(a *connectortest.SAMLAnswer) {
			a.EncryptTo = r.encryption.Certificate
			a.Plain = func(p []byte) []byte { return append([]byte(`<!DOCTYPE a [<!ENTITY b "c">]>`), p...) }
		}},
		{"two assertions inside the encryption", "trailing", func(a *connectortest.SAMLAnswer) {
			a.EncryptTo = r.encryption.Certificate
			a.Plain = func(p []byte) []byte { return append(p, p...) }
		}},
		{"nothing inside the encryption", "not_xml", func(a *connectortest.SAMLAnswer) {
			a.EncryptTo = r.encryption.Certificate
			a.Plain = func([]byte) []byte { return nil }
		}},
		{"foreign issuer", "issuer", func(a *connectortest.SAMLAnswer) { a.Issuer = "https://other.example.com" }},
		{"foreign assertion issuer", "issuer", func(a *connectortest.SAMLAnswer) { a.AssertionIssuer = "https://other.example.com" }},
		{"no issuer, signed", "issuer", func(a *connectortest.SAMLAnswer) { remove("./Issuer")(a); a.SignAnswer = true; a.SignAssertion = false }},
		{"foreign audience", "audience", func(a *connectortest.SAMLAnswer) { a.Audiences = []string{"https://other.example.com"} }},
		{"no audience", "audience", func(a *connectortest.SAMLAnswer) { a.Audiences = nil }},
		{"a second audience that is not ours", "audience", func(a *connectortest.SAMLAnswer) { a.Audiences = append(a.Audiences, "https://other.example.com") }},
		{"foreign recipient", "recipient", func(a *connectortest.SAMLAnswer) { a.Recipient = "https://other.example.com/acs" }},
		{"foreign destination", "destination", func(a *connectortest.SAMLAnswer) { a.Destination = "https://other.example.com/acs" }},
		{"destination is only a path", "destination", func(a *connectortest.SAMLAnswer) { a.Destination = "/auth/acme/callback" }},
		{"no destination, signed", "destination", func(a *connectortest.SAMLAnswer) { set(".", "Destination", "")(a); a.SignAnswer = true }},
		{"another request", "in_response_to", func(a *connectortest.SAMLAnswer) { a.InResponseTo = "id-other" }},
		{"another request, inside alone", "in_response_to", set("//SubjectConfirmationData", "InResponseTo", "id-other")},
		{"no request, inside alone", "in_response_to", set("//SubjectConfirmationData", "InResponseTo", "")},
		{"no request, outside alone", "in_response_to", set(".", "InResponseTo", "")},
		{"unasked", "idp_initiated", func(a *connectortest.SAMLAnswer) { a.InResponseTo = "" }},
		{"status", "status", func(a *connectortest.SAMLAnswer) { a.Status = "urn:oasis:names:tc:SAML:2.0:status:Responder" }},
		{"version", "version", set(".", "Version", "1.1")},
		{"assertion's version", "version", set("./Assertion", "Version", "1.1")},
		{"old", "expired", func(a *connectortest.SAMLAnswer) { a.Now = r.now().Add(-6 * time.Minute) }},
		{"of the future", "future", func(a *connectortest.SAMLAnswer) { a.Now = r.now().Add(2 * time.Minute) }},
		{"not yet", "not_yet", func(a *connectortest.SAMLAnswer) { a.NotBefore = r.now().Add(2 * time.Minute) }},
		{"conditions over", "expired", func(a *connectortest.SAMLAnswer) { a.Until = r.now().Add(-2 * time.Minute) }},
		{"confirmation over", "expired", func(a *connectortest.SAMLAnswer) { a.ConfirmedUntil = r.now().Add(-2 * time.Minute) }},
		{"session over", "session_over", func(a *connectortest.SAMLAnswer) { a.SessionUntil = r.now().Add(-time.Second) }},
		{"holder of key", "subject_confirmation", set("//SubjectConfirmation", "Method", "urn:oasis:names:tc:SAML:2.0:cm:holder-of-key")},
		{"no confirmation", "subject_confirmation", remove("//SubjectConfirmation")},
		{"no confirmation data", "subject_confirmation", remove("//SubjectConfirmationData")},
		{"confirmation with NotBefore", "subject_confirmation", set("//SubjectConfirmationData", "NotBefore", "2026-01-01T00:00:00Z")},
		{"confirmation without end", "subject_confirmation", set("//SubjectConfirmationData", "NotOnOrAfter", "")},
		{"no subject", "subject", remove("//Subject")},
		{"no conditions", "conditions", remove("//Conditions")},
		{"conditions without end", "conditions", set("//Conditions", "NotOnOrAfter", "")},
		{"unknown condition", "conditions", add("//Conditions", "saml:Condition")},
		{"nobody signed in", "authn_statement", remove("//AuthnStatement")},
		{"no NameID", "name_id", remove("//NameID")},
		{"empty NameID", "name_id", func(a *connectortest.SAMLAnswer) { a.NameID = "" }},
		{"NameID that turns around", "name_id", func(a *connectortest.SAMLAnswer) { a.NameID = "admin\u202e" }},
		{"long NameID", "name_id", func(a *connectortest.SAMLAnswer) { a.NameID = strings.Repeat("a", 257) }},
		{"transient NameID", "name_id", func(a *connectortest.SAMLAnswer) { a.Format = formatTransient }},
		{"e-mail as NameID", "name_id", func(a *connectortest.SAMLAnswer) { a.NameID, a.Format = "a@acme.com", formatEmail }},
	} {
		a := r.answer()
		c.change(a)
		r.refused(c.what, r.idp.Document(a), c.want)
	}
	r.refused("foreign key", foreign.Document(foreign.NewAnswer(base, "id-request", r.now())), "signature")
	r.refused("empty", nil, "missing")
	if err := r.c.Screen(context.Background(), connectors.Return{Params: map[string][]string{"SAMLResponse": {"§"}}}); word(err) != "base64" {
		t.Errorf("not base64: %v", err)
	}
	if err := r.c.Screen(context.Background(), connectors.Return{Params: map[string][]string{"SAMLResponse": {strings.Repeat("A", 1<<20)}}}); word(err) != "too_large" {
		t.Errorf("huge: %v", err)
	}
}

// Whoever sends forged documents is told one thing whatever was wrong with
// them; the log alone knows which (docs/security.md G7).
func TestOneCodeBeforeTheSignature(t *testing.T) {
	r := newRig(t, nil)
	for _, doc := range [][]byte{[]byte("<a/>"), []byte("<!DOCTYPE a><a/>"), newIDP(t, foreignPair()).Document(r.answer())} {
		_, err := r.bring(doc)
		f, ok := err.(*connectors.Fault)
		if !ok || f.Code != faultSignature {
			t.Errorf("%T %v", err, err)
		}
	}
}

// What a refusal quotes of a stranger's document is short and cannot be mistaken
// for other lines of the log (docs/security.md G8).
func TestRefusalsQuoteLittle(t *testing.T) {
	r := newRig(t, nil)
	for _, doc := range []string{"<a:" + strings.Repeat("b", 100_000) + ` xmlns:a="urn:x:y"/>`, "<a:b\u202e xmlns:a=\"urn:x:y\"/>", `<a:b xmlns:a="urn:x:y&#10;level=ERROR"/>`} {
		_, err := r.bring([]byte(doc))
		if err == nil || len(err.Error()) > 600 || strings.ContainsAny(err.Error(), "\n\u202e") {
			t.Errorf("%.200q", err)
		}
	}
}

// An ECDSA signature is read in XML's form, the two numbers side by side.
func TestECDSA(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: start.Add(-time.Hour), NotAfter: start.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := dsig.NewSigningContext(key, [][]byte{der})
	if err != nil {
		t.Fatal(err)
	}
	ctx.Canonicalizer = dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")
	if err := ctx.SetSignatureMethod(dsig.ECDSASHA256SignatureMethod); err != nil {
		t.Fatal(err)
	}
	doc := etree.NewDocument()
	if err := doc.ReadFromString(`<samlp:Response xmlns:samlp="` + nsProtocol + `" ID="_1"><samlp:Status/></samlp:Response>`); err != nil {
		t.Fatal(err)
	}
	signed, err := ctx.SignEnveloped(doc.Root())
	if err != nil {
		t.Fatal(err)
	}
	value := signed.FindElement("./Signature/SignatureValue")
	var sig struct{ R, S *big.Int }
	raw, err := base64.StdEncoding.DecodeString(value.Text())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := asn1.Unmarshal(raw, &sig); err != nil {
		t.Fatal(err)
	}
	both := append(sig.R.FillBytes(make([]byte, 32)), sig.S.FillBytes(make([]byte, 32))...)
	value.SetText(base64.StdEncoding.EncodeToString(both))
	again := func() *etree.Element { // as it is sent
		t.Helper()
		doc, err := encoded(signed)
		if err != nil {
			t.Fatal(err)
		}
		root, err := parse(doc)
		if err != nil {
			t.Fatal(err)
		}
		return root
	}
	if _, _, err := verify(again(), []*x509.Certificate{idpPair().cert, cert}); err != nil {
		t.Error(err)
	}
	both[40] ^= 1
	value.SetText(base64.StdEncoding.EncodeToString(both))
	if _, _, err := verify(again(), []*x509.Certificate{cert}); word(err) != "signature" {
		t.Errorf("a changed signature: %v", err)
	}
}

// AES-CBC is an oracle unless all that can go wrong behind it looks alike.
func TestCBC(t *testing.T) {
	r := newRig(t, func(c *Config) { c.AllowAESCBC = true })
	a := r.answer()
	a.EncryptTo, a.Cipher = r.encryption.Certificate, "aes256-cbc"
	r.good(a)
	for what, change := range map[string]func(*connectortest.SAMLAnswer){
		"not XML": func(a *connectortest.SAMLAnswer) { a.Plain = func([]byte) []byte { return []byte("<") } },
		"a DTD": func(a *connectortest.SAMLAnswer) {
			a.Plain = func(p []byte) []byte { return append([]byte("<!DOCTYPE a>"), p...) }
		},
		"not signed": func(a *connectortest.SAMLAnswer) { a.SignAssertion = false },
		"changed": func(a *connectortest.SAMLAnswer) {
			a.Plain = func(p []byte) []byte { return []byte(strings.ReplaceAll(string(p), "u-1", "u-2")) }
		},
		"half blocks": func(a *connectortest.SAMLAnswer) { a.After = shorten(7) },
		"one block":   func(a *connectortest.SAMLAnswer) { a.After = shorten(16) },
		"nothing":     func(a *connectortest.SAMLAnswer) { a.After = shorten(0) },
	} {
		a := r.answer()
		a.EncryptTo, a.Cipher = r.encryption.Certificate, "aes256-cbc"
		change(a)
		_, err := r.bring(r.idp.Document(a))
		if f, ok := err.(*connectors.Fault); !ok || f.Err != errDecrypt {
			t.Errorf("%s: %v", what, err)
		}
	}
	gcm := r.answer()
	gcm.EncryptTo, gcm.After = r.encryption.Certificate, shorten(5)
	r.refused("GCM shorter than its nonce", r.idp.Document(gcm), "decrypt")
}

// shorten cuts the ciphertext of the assertion.
func shorten(n int) func(*etree.Element) {
	return func(e *etree.Element) {
		v := e.FindElement("./EncryptedAssertion/EncryptedData/CipherData/CipherValue")
		raw, err := base64.StdEncoding.DecodeString(v.Text())
		if err != nil {
			panic(err)
		}
		v.SetText(base64.StdEncoding.EncodeToString(raw[:n]))
	}
}

// want_assertions_signed asks for more than the response's signature.
func TestWantAssertionsSigned(t *testing.T) {
	r := newRig(t, func(c *Config) { c.WantAssertionsSigned = true })
	r.good(r.answer())
	a := r.answer()
	a.SignAssertion, a.SignAnswer = false, true
	r.refused("response alone", r.idp.Document(a), "unsigned")
}

// A fresh authentication that was asked for is one (docs/security.md ISS-11).
func TestForceAuthn(t *testing.T) {
	r := newRig(t, nil)
	a := r.answer()
	a.AuthnAt = r.now().Add(-time.Hour)
	doc := r.idp.Document(a)
	if _, err := r.bring(doc); err != nil {
		t.Errorf("an earlier sign-in at the provider is good where none was asked for: %v", err)
	}
	_, err := r.c.Finish(context.Background(), connectors.Attempt{ForceAuthn: true}, r.secret(), posted(doc))
	if word(err) != "not_fresh" {
		t.Errorf("an hour old: %v", err)
	}
}

// What nobody asked for is refused, or thrown away for a sign-in that begins
// here; RelayState is looked up (docs/security.md SP-9).
func TestUnsolicited(t *testing.T) {
	r := newRig(t, func(c *Config) { c.AllowIDPInitiated, c.IDPInitiatedTargets = true, []string{"apps=/account/apps"} })
	for relay, want := range map[string]string{"apps": "/account/apps", "": "/", "https://evil.example.com": "/", "/account/apps": "/"} {
		a := r.answer()
		a.InResponseTo = ""
		ret := posted(r.idp.Document(a))
		ret.Params.Set("RelayState", relay)
		err := r.c.Screen(context.Background(), ret)
		u, ok := err.(*connectors.Unsolicited)
		if !ok || u.Target != want {
			t.Errorf("%q: %v", relay, err)
		}
		if _, err := r.c.Finish(context.Background(), connectors.Attempt{}, r.secret(), ret); word(err) != "in_response_to" {
			t.Errorf("an unasked answer finished: %v", err)
		}
	}
	a := r.answer()
	a.InResponseTo, a.SignAssertion = "", false
	r.refused("unasked and unsigned", r.idp.Document(a), "unsigned")
	a = r.answer()
	a.Before = func(e *etree.Element) { e.RemoveAttr("InResponseTo") }
	r.refused("half unasked", r.idp.Document(a), "in_response_to")
}

// 850 groups fit; above the cap the error says what to do, and the library's
// panic at 1,000 elements is out of reach.
func TestManyGroups(t *testing.T) {
	r := newRig(t, nil)
	groups := func(n int) *connectortest.SAMLAnswer {
		a := r.answer()
		a.Attributes["groups"] = nil
		for i := range n {
			a.Attributes["groups"] = append(a.Attributes["groups"], fmt.Sprintf("g-%d", i))
		}
		return a
	}
	if id := r.good(groups(850)); len(id.Groups) != 850 {
		t.Errorf("%d groups", len(id.Groups))
	}
	for _, n := range []int{900, 1000, 1100} {
		r.refused(fmt.Sprint(n), r.idp.Document(groups(n)), "too_many_elements")
	}
	// Were the scan not there, verification would still not panic.
	if _, err := verifyResponse(r.idp.Document(groups(1100)), []*x509.Certificate{r.idp.Cert}, []*rsa.PrivateKey{r.encryption.Key}, Config{}); err == nil {
		t.Error("the library verifies more than 1,000 elements: the cap can be lifted")
	}
}

// An assertion that says that it is good for years is not remembered for years.
func TestOnceIsBounded(t *testing.T) {
	r := newRig(t, nil)
	a := r.answer()
	a.ConfirmedUntil, a.Until = r.now().Add(10*365*24*time.Hour), r.now().Add(10*365*24*time.Hour)
	id := r.good(a)
	if until := id.Once[0].Until; until.After(r.now().Add(time.Hour)) {
		t.Errorf("kept until %s", until)
	}
	r.wait(id.Once[0].Until.Sub(r.now()))
	r.refused("then", r.idp.Document(a), "expired")
}

// The session at the provider bounds ours, and both are found again for logout.
func TestSessionOfTheProvider(t *testing.T) {
	r := newRig(t, nil)
	a := r.answer()
	a.SessionUntil = r.now().Add(time.Hour)
	id := r.good(a)
	if !id.SessionEnds.Equal(a.SessionUntil) || id.SessionKey != "name_id/u-1" || !strings.Contains(id.Session, `"i":"s-1"`) {
		t.Errorf("%+v", id)
	}
}
