package connectortest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
)

// SAMLProvider is a SAML identity provider that says whatever a test wants.
type SAMLProvider struct {
	t        testing.TB
	EntityID string
	Base     string // its addresses are Base/sso and Base/slo
	Key      *rsa.PrivateKey
	Cert     *x509.Certificate
}

// NewSAMLProvider makes one with a key of its own, good around now.
func NewSAMLProvider(t testing.TB, entityID, base string, now time.Time) *SAMLProvider {
	t.Helper()
	p := &SAMLProvider{t: t, EntityID: entityID, Base: base}
	p.Rotate(now)
	return p
}

// BareSAMLProvider makes one without a key, for tests that share keys.
func BareSAMLProvider(t testing.TB, entityID, base string) *SAMLProvider {
	return &SAMLProvider{t: t, EntityID: entityID, Base: base}
}

// Rotate gives it a new key.
func (p *SAMLProvider) Rotate(now time.Time) {
	p.t.Helper()
	p.Key, p.Cert = KeyAndCertificate(p.t, now.Add(-time.Hour), now.Add(1000*24*time.Hour))
}

// KeyAndCertificate makes a key with a self-signed certificate.
func KeyAndCertificate(t testing.TB, from, until time.Time) (*rsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key, selfSigned(t, key, from, until)
}

// WeakCertificate is one whose key is too short to be taken.
func WeakCertificate(t testing.TB) *x509.Certificate {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	return selfSigned(t, key, time.Now(), time.Now().Add(time.Hour))
}

func selfSigned(t testing.TB, key *rsa.PrivateKey, from, until time.Time) *x509.Certificate {
	t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<60))
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: "idp"}, NotBefore: from, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Metadata describes it with these signing certificates, its own if none are
// named. extra is put into the root's start tag.
func (p *SAMLProvider) Metadata(extra string, certs ...*x509.Certificate) string {
	if certs == nil {
		certs = []*x509.Certificate{p.Cert}
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" xmlns:ds="http://www.w3.org/2000/09/xmldsig#" entityID="%s" ID="_md" %s><md:IDPSSODescriptor protocolSupportEnumeration="urn:oasis:names:tc:SAML:2.0:protocol">`, p.EntityID, extra)
	for _, c := range certs {
		fmt.Fprintf(&b, `<md:KeyDescriptor use="signing"><ds:KeyInfo><ds:X509Data><ds:X509Certificate>%s</ds:X509Certificate></ds:X509Data></ds:KeyInfo></md:KeyDescriptor>`, base64.StdEncoding.EncodeToString(c.Raw))
	}
	for _, s := range []string{"SingleLogoutService", "SingleSignOnService"} {
		at := map[string]string{"SingleLogoutService": "/slo", "SingleSignOnService": "/sso"}[s]
		for _, binding := range []string{"HTTP-Redirect", "HTTP-POST"} {
			fmt.Fprintf(&b, `<md:%s Binding="urn:oasis:names:tc:SAML:2.0:bindings:%s" Location="%s"/>`, s, binding, p.Base+at)
		}
	}
	b.WriteString(`</md:IDPSSODescriptor></md:EntityDescriptor>`)
	return b.String()
}

// SAMLAnswer is what a provider says. NewAnswer fills it in rightly; a test
// changes what it is about.
type SAMLAnswer struct {
	ResponseID, AssertionID   string
	InResponseTo              string // "" leaves the attribute out, in both places
	Destination, Recipient    string
	Issuer, AssertionIssuer   string
	Audiences                 []string
	NameID, Format            string
	Status                    string
	Now, NotBefore, Until     time.Time // of the conditions
	ConfirmedUntil, AuthnAt   time.Time
	SessionIndex              string
	SessionUntil              time.Time
	Attributes                map[string][]string
	SignAssertion, SignAnswer bool
	Method                    string // of signatures
	KeyInfo                   bool   // signatures carry the certificate
	EncryptTo                 *x509.Certificate
	Cipher                    string // aes256-gcm, aes128-gcm, aes256-cbc, tripledes-cbc
	Transport                 string // rsa-oaep-mgf1p, rsa-1_5
	// Before changes the Response before it is signed, Plain the assertion's
	// text before it is encrypted, After the Response when it is done.
	Before, After func(response *etree.Element)
	Plain         func([]byte) []byte
}

// NewAnswer answers a request at the addresses below base (…/auth/acme).
func (p *SAMLProvider) NewAnswer(base, inResponseTo string, now time.Time) *SAMLAnswer {
	return &SAMLAnswer{
		ResponseID: randomID(), AssertionID: randomID(), InResponseTo: inResponseTo, Destination: base + "/callback", Recipient: base + "/callback",
		Issuer: p.EntityID, AssertionIssuer: p.EntityID, Audiences: []string{base + "/metadata"}, NameID: "u-1", Format: "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent",
		Status: "urn:oasis:names:tc:SAML:2.0:status:Success", Now: now, NotBefore: now.Add(-time.Minute), Until: now.Add(5 * time.Minute), ConfirmedUntil: now.Add(5 * time.Minute), AuthnAt: now,
		SessionIndex: "s-1", Attributes: map[string][]string{"mail": {"alice@acme.com"}, "displayName": {"Alice"}, "groups": {"gpu", "ops"}},
		SignAssertion: true, Method: dsig.RSASHA256SignatureMethod, KeyInfo: true, Cipher: "aes256-gcm", Transport: "rsa-oaep-mgf1p",
	}
}

func randomID() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	return "_" + hex.EncodeToString(raw)
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

func escape(s string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(s))
	return b.String()
}

// Document writes the answer.
func (p *SAMLProvider) Document(a *SAMLAnswer) []byte {
	p.t.Helper()
	var b strings.Builder
	to := ""
	if a.InResponseTo != "" {
		to = fmt.Sprintf(` InResponseTo="%s"`, a.InResponseTo)
	}
	fmt.Fprintf(&b, `<samlp:Response xmlns:samlp="urn:oasis:names:tc:SAML:2.0:protocol" xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion" xmlns:xs="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" ID="%s" Version="2.0" IssueInstant="%s" Destination="%s"%s>`, a.ResponseID, stamp(a.Now), a.Destination, to)
	fmt.Fprintf(&b, `<saml:Issuer>%s</saml:Issuer><samlp:Status><samlp:StatusCode Value="%s"/></samlp:Status>`, a.Issuer, a.Status)
	fmt.Fprintf(&b, `<saml:Assertion ID="%s" Version="2.0" IssueInstant="%s"><saml:Issuer>%s</saml:Issuer><saml:Subject><saml:NameID Format="%s">%s</saml:NameID>`, a.AssertionID, stamp(a.Now), a.AssertionIssuer, a.Format, escape(a.NameID))
	fmt.Fprintf(&b, `<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData NotOnOrAfter="%s" Recipient="%s"%s/></saml:SubjectConfirmation></saml:Subject>`, stamp(a.ConfirmedUntil), a.Recipient, to)
	fmt.Fprintf(&b, `<saml:Conditions NotBefore="%s" NotOnOrAfter="%s">`, stamp(a.NotBefore), stamp(a.Until))
	for _, au := range a.Audiences {
		fmt.Fprintf(&b, `<saml:AudienceRestriction><saml:Audience>%s</saml:Audience></saml:AudienceRestriction>`, au)
	}
	ends := ""
	if !a.SessionUntil.IsZero() {
		ends = fmt.Sprintf(` SessionNotOnOrAfter="%s"`, stamp(a.SessionUntil))
	}
	fmt.Fprintf(&b, `</saml:Conditions><saml:AuthnStatement AuthnInstant="%s" SessionIndex="%s"%s><saml:AuthnContext><saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:PasswordProtectedTransport</saml:AuthnContextClassRef></saml:AuthnContext></saml:AuthnStatement><saml:AttributeStatement>`, stamp(a.AuthnAt), a.SessionIndex, ends)
	for n, vs := range a.Attributes {
		fmt.Fprintf(&b, `<saml:Attribute Name="%s">`, escape(n))
		for _, v := range vs {
			fmt.Fprintf(&b, `<saml:AttributeValue xsi:type="xs:string">%s</saml:AttributeValue>`, escape(v))
		}
		b.WriteString(`</saml:Attribute>`)
	}
	b.WriteString(`</saml:AttributeStatement></saml:Assertion></samlp:Response>`)

	doc := etree.NewDocument()
	p.must(doc.ReadFromString(b.String()))
	resp := doc.Root()
	if a.Before != nil {
		a.Before(resp)
	}
	if as := resp.SelectElement("Assertion"); as != nil {
		if a.SignAssertion {
			at := as.Index()
			signed := p.Sign(Standalone(as), a.Method, a.KeyInfo)
			resp.RemoveChildAt(at)
			resp.InsertChildAt(at, signed)
			as = signed
		}
		if a.EncryptTo != nil {
			at := as.Index()
			plain := write(p.t, Standalone(as))
			if a.Plain != nil {
				plain = a.Plain(plain)
			}
			resp.RemoveChildAt(at)
			resp.InsertChildAt(at, p.encrypt(plain, a))
		}
	}
	if a.SignAnswer {
		resp = p.Sign(resp, a.Method, a.KeyInfo)
	}
	if a.After != nil {
		a.After(resp)
	}
	return write(p.t, resp)
}

// Standalone copies an element with the namespaces that it is written in.
func Standalone(el *etree.Element) *etree.Element {
	c := el.Copy()
	for _, ns := range [][2]string{{"saml", "urn:oasis:names:tc:SAML:2.0:assertion"}, {"xs", "http://www.w3.org/2001/XMLSchema"}, {"xsi", "http://www.w3.org/2001/XMLSchema-instance"}} {
		if c.SelectAttr("xmlns:"+ns[0]) == nil {
			c.CreateAttr("xmlns:"+ns[0], ns[1])
		}
	}
	return c
}

func write(t testing.TB, el *etree.Element) []byte {
	t.Helper()
	out, err := etree.NewDocumentWithRoot(el.Copy()).WriteToBytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (p *SAMLProvider) must(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}

// Sign puts the provider's signature behind the first child of el, the Issuer.
func (p *SAMLProvider) Sign(el *etree.Element, method string, keyInfo bool) *etree.Element {
	p.t.Helper()
	ctx, err := dsig.NewSigningContext(p.Key, [][]byte{p.Cert.Raw})
	p.must(err)
	ctx.Canonicalizer = dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")
	p.must(ctx.SetSignatureMethod(method))
	signed, err := ctx.SignEnveloped(el)
	p.must(err)
	sig := signed.RemoveChildAt(len(signed.Child) - 1).(*etree.Element)
	if !keyInfo {
		sig.RemoveChild(sig.SelectElement("KeyInfo"))
	}
	at := 0
	if len(signed.ChildElements()) > 0 && signed.ChildElements()[0].Tag == "Issuer" {
		at = 1
	}
	signed.InsertChildAt(at, sig)
	return signed
}

// SignDocument signs a document given as text.
func (p *SAMLProvider) SignDocument(doc string) []byte {
	p.t.Helper()
	d := etree.NewDocument()
	p.must(d.ReadFromString(doc))
	return write(p.t, p.Sign(d.Root(), dsig.RSASHA256SignatureMethod, true))
}

func (p *SAMLProvider) encrypt(plain []byte, a *SAMLAnswer) *etree.Element {
	p.t.Helper()
	size := map[string]int{"aes128-gcm": 16, "aes256-gcm": 32, "aes128-cbc": 16, "aes256-cbc": 32, "tripledes-cbc": 24}[a.Cipher]
	key := make([]byte, size)
	_, _ = rand.Read(key)
	ns := "http://www.w3.org/2001/04/xmlenc#"
	var text []byte
	if strings.HasSuffix(a.Cipher, "-gcm") {
		ns = "http://www.w3.org/2009/xmlenc11#"
		block, err := aes.NewCipher(key)
		p.must(err)
		gcm, err := cipher.NewGCM(block)
		p.must(err)
		nonce := make([]byte, gcm.NonceSize())
		_, _ = rand.Read(nonce)
		text = gcm.Seal(nonce, nonce, plain, nil)
	} else {
		block, err := aes.NewCipher(key) // 3DES is only ever refused by its name
		p.must(err)
		pad := aes.BlockSize - len(plain)%aes.BlockSize
		padded := append(bytes.Clone(plain), make([]byte, pad)...)
		padded[len(padded)-1] = byte(pad)
		iv := make([]byte, aes.BlockSize)
		_, _ = rand.Read(iv)
		text = append(iv, make([]byte, len(padded))...)
		cipher.NewCBCEncrypter(block, iv).CryptBlocks(text[aes.BlockSize:], padded)
	}
	pub := a.EncryptTo.PublicKey.(*rsa.PublicKey)
	wrapped, err := rsa.EncryptOAEP(sha1.New(), rand.Reader, pub, key, nil)
	p.must(err)
	b64 := base64.StdEncoding.EncodeToString
	doc := etree.NewDocument()
	p.must(doc.ReadFromString(fmt.Sprintf(`<saml:EncryptedAssertion xmlns:saml="urn:oasis:names:tc:SAML:2.0:assertion"><xenc:EncryptedData xmlns:xenc="http://www.w3.org/2001/04/xmlenc#" Type="http://www.w3.org/2001/04/xmlenc#Element"><xenc:EncryptionMethod Algorithm="%s%s"/><ds:KeyInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><xenc:EncryptedKey><xenc:EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#%s"><ds:DigestMethod Algorithm="http://www.w3.org/2000/09/xmldsig#sha1"/></xenc:EncryptionMethod><xenc:CipherData><xenc:CipherValue>%s</xenc:CipherValue></xenc:CipherData></xenc:EncryptedKey></ds:KeyInfo><xenc:CipherData><xenc:CipherValue>%s</xenc:CipherValue></xenc:CipherData></xenc:EncryptedData></saml:EncryptedAssertion>`,
		ns, a.Cipher, a.Transport, b64(wrapped), b64(text))))
	return doc.Root()
}
