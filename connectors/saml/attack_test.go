package saml

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/beevik/etree"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// wrapped makes the eight classical positions of a forged message around a
// genuine signature, for a genuine document.
func wrapped(genuine []byte) map[string][]byte {
	out := map[string][]byte{}
	tree := func() *etree.Element {
		d := etree.NewDocument()
		if err := d.ReadFromBytes(genuine); err != nil {
			panic(err)
		}
		return d.Root()
	}
	forge := func(el *etree.Element, id string) *etree.Element {
		el.CreateAttr("ID", id)
		for _, n := range el.FindElements(".//NameID") {
			n.SetText("admin")
		}
		if s := el.SelectElement("Signature"); s != nil {
			el.RemoveChild(s)
		}
		return el
	}
	put := func(name string, root *etree.Element) {
		d := etree.NewDocumentWithRoot(root)
		raw, err := d.WriteToBytes()
		if err != nil {
			panic(err)
		}
		out[name] = raw
	}
	// Of the response: the original inside the signature, or beside it.
	{
		orig := tree()
		sig := orig.SelectElement("Signature")
		if sig != nil {
			evil := forge(tree(), "_evil")
			s := sig.Copy()
			stripped := orig.Copy()
			stripped.RemoveChild(stripped.SelectElement("Signature"))
			s.AddChild(stripped.Copy())
			evil.InsertChildAt(1, s)
			put("XSW1", evil)

			evil = forge(tree(), "_evil")
			evil.InsertChildAt(1, stripped)
			evil.InsertChildAt(2, sig.Copy())
			put("XSW2", evil)
			return out
		}
	}
	original := func(root *etree.Element) *etree.Element { return root.SelectElement("Assertion") }
	{
		root := tree()
		root.InsertChildAt(original(root).Index(), forge(original(root).Copy(), "_evil"))
		put("XSW3", root)
	}
	{
		root := tree()
		orig := original(root)
		evil := forge(orig.Copy(), "_evil")
		root.RemoveChild(orig)
		evil.AddChild(orig)
		root.AddChild(evil)
		put("XSW4", root)
	}
	{
		root := tree()
		orig := original(root)
		evil := forge(orig.Copy(), "_evil")
		evil.InsertChildAt(1, orig.SelectElement("Signature").Copy())
		stripped := orig.Copy()
		stripped.RemoveChild(stripped.SelectElement("Signature"))
		root.RemoveChild(orig)
		root.AddChild(evil)
		root.AddChild(stripped)
		put("XSW5", root)
	}
	inSignature := func(name string, into func(sig, stripped *etree.Element)) {
		root := tree()
		orig := original(root)
		evil := forge(orig.Copy(), "_evil")
		sig := orig.SelectElement("Signature").Copy()
		stripped := orig.Copy()
		stripped.RemoveChild(stripped.SelectElement("Signature"))
		into(sig, stripped)
		evil.InsertChildAt(1, sig)
		root.RemoveChild(orig)
		root.AddChild(evil)
		put(name, root)
	}
	inSignature("XSW6", func(sig, stripped *etree.Element) { sig.AddChild(stripped) })
	{
		root := tree()
		ext := root.CreateElement("samlp:Extensions")
		ext.AddChild(forge(original(root).Copy(), original(root).SelectAttrValue("ID", "")))
		root.RemoveChild(ext)
		root.InsertChildAt(1, ext)
		put("XSW7", root)
	}
	inSignature("XSW8", func(sig, stripped *etree.Element) { sig.CreateElement("ds:Object").AddChild(stripped) })
	return out
}

// A signature that is moved proves nothing (docs/security.md SP-1). Were the
// scan not there, what is read would still be what was signed (G2).
func TestWrappedSignatures(t *testing.T) {
	r := newRig(t, nil)
	ofResponse := r.answer()
	ofResponse.SignAssertion, ofResponse.SignAnswer = false, true
	want := map[string]string{"XSW1": "reference", "XSW2": "assertions", "XSW3": "assertions", "XSW4": "assertions", "XSW5": "reference", "XSW6": "reference", "XSW7": "assertions", "XSW8": "reference"}
	n := 0
	for _, genuine := range [][]byte{r.idp.Document(ofResponse), r.idp.Document(r.answer())} {
		for name, doc := range wrapped(genuine) {
			n++
			id, err := r.bring(doc)
			if err == nil {
				t.Errorf("%s: signed in as %q", name, id.Subject)
			} else if w := word(err); w != want[name] {
				t.Errorf("%s: %v", name, err)
			}
			ans, err := verifyResponse(doc, []*x509.Certificate{r.idp.Cert}, nil, Config{})
			if err == nil && bytes.Contains(ans.assertion, []byte("admin")) {
				t.Errorf("%s: without the scan the forged assertion is read", name)
			}
		}
	}
	if n != 8 {
		t.Errorf("%d variants", n)
	}
}

// The scan's own rules, each by a document that breaks one of them.
func TestScan(t *testing.T) {
	r := newRig(t, nil)
	a := r.answer()
	genuine := string(r.idp.Document(a))
	replace := func(old, new string) string {
		if !strings.Contains(genuine, old) {
			t.Fatalf("there is no %s in\n%s", old, genuine)
		}
		return strings.Replace(genuine, old, new, 1)
	}
	assertion := genuine[strings.Index(genuine, "<saml:Assertion"):strings.Index(genuine, "</samlp:Response>")]
	deep := strings.Repeat("<samlp:a>", 70) + strings.Repeat("</samlp:a>", 70)
	for _, c := range []struct{ what, doc, want string }{
		{"comment in the NameID", replace(">u-1<", ">u-1<!-- -->.evil<"), "comment"},
		{"processing instruction", replace(">u-1<", "><?a b?>u-1<"), "processing_instruction"},
		{"stylesheet in front", `<?xml version="1.0"?><?xml-stylesheet href="a"?>` + genuine, "processing_instruction"},
		{"the assertion twice", replace("</samlp:Response>", assertion+"</samlp:Response>"), "duplicate_id"},
		{"duplicate assertion", replace("</samlp:Response>", strings.ReplaceAll(assertion, a.AssertionID, "_other")+"</samlp:Response>"), "assertions"},
		{"assertion without a namespace", replace("</samlp:Response>", `<x:Assertion xmlns:x="urn:x:y"/></samlp:Response>`), "assertions"},
		{"response inside", replace("</samlp:Response>", `<samlp:Response/></samlp:Response>`), "assertions"},
		{"DTD", `<!DOCTYPE Response SYSTEM "http://127.0.0.1/x">` + genuine, "doctype"},
		{"entity bomb", `<!DOCTYPE a [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>` + strings.Replace(genuine, ">u-1<", ">&b;<", 1), "doctype"},
		{"entity without DTD", replace(">u-1<", ">&a;<"), "entity"},
		{"UTF-16", `<?xml version="1.0" encoding="UTF-16"?>` + genuine, "encoding"},
		{"Latin 1", `<?xml version="1.0" encoding="ISO-8859-1"?>` + genuine, "encoding"},
		{"invalid UTF-8", replace(">u-1<", ">u-\xff<"), "encoding"},
		{"nested deeply", replace("</samlp:Response>", deep+"</samlp:Response>"), "too_deep"},
		{"many elements", replace("</samlp:Response>", strings.Repeat("<samlp:a/>", 901)+"</samlp:Response>"), "too_many_elements"},
		{"many attributes", replace("<samlp:Status>", "<samlp:Status"+attributesText(65)+">"), "too_many_attributes"},
		{"huge", replace("</samlp:Response>", "<samlp:a>"+strings.Repeat("a", maxMessage)+"</samlp:a></samlp:Response>"), "too_large"},
		{"another root", "<samlp:Other xmlns:samlp=\"" + nsProtocol + "\"/>", "root"},
		{"text behind the root", genuine + "x", "trailing"},
		{"element behind the root", genuine + "<a/>", "trailing"},
		{"duplicate ID", replace("<samlp:Status>", `<samlp:Status ID="`+a.AssertionID+`">`), "duplicate_id"},
		{"duplicate Id", replace("<samlp:Status>", `<samlp:Status Id="`+a.AssertionID+`">`), "duplicate_id"},
		{"ID in a namespace", replace("<samlp:Status>", `<samlp:Status samlp:ID="_x">`), "id"},
		{"xml:id", replace("<samlp:Status>", `<samlp:Status xml:id="_x">`), "id"},
		{"an attribute twice", replace("<samlp:Status>", `<samlp:Status a="1" a="2">`), "duplicate_attribute"},
		{"prefix with two meanings", replace("<samlp:Status>", `<samlp:Status xmlns:saml="urn:x:y">`), "namespace"},
		{"relative namespace", replace("<samlp:Status>", `<samlp:Status xmlns:q="q">`), "namespace"},
		{"empty namespace", replace("<samlp:Status>", `<samlp:Status xmlns="">`), "namespace"},
		{"undeclared prefix", replace("<samlp:Status>", `<q:a/><samlp:Status>`), "namespace"},
		{"no namespace", replace("<samlp:Status>", `<a/><samlp:Status>`), "namespace"},
		{"colons", replace("<samlp:Status>", `<samlp:Status :a="b">`), "name"},
		{"a second signature", replace("</ds:Signature>", "</ds:Signature>"+genuine[strings.Index(genuine, "<ds:Signature"):strings.Index(genuine, "</ds:Signature>")]+"</ds:Signature>"), "signatures"},
		{"a signature elsewhere", replace("<samlp:Status>", `<samlp:Status><ds:Signature xmlns:ds="`+nsSignature+`"/>`), "signature_place"},
		{"a signature that is none", replace("<samlp:Status>", `<q:Signature xmlns:q="urn:x:y"/><samlp:Status>`), "signature_place"},
		{"two references", replace("</ds:SignedInfo>", `<ds:Reference URI="#x"/></ds:SignedInfo>`), "references"},
		{"no reference", genuine[:strings.Index(genuine, "<ds:Reference")] + genuine[strings.Index(genuine, "</ds:Reference>")+len("</ds:Reference>"):], "references"},
		{"reference to everything", replace(`<ds:Reference URI="#`+a.AssertionID+`"`, `<ds:Reference URI=""`), "reference"},
		{"reference elsewhere", replace(`<ds:Reference URI="#`, `<ds:Reference URI="#x`), "reference"},
		{"two SignedInfo", replace("<ds:SignedInfo>", "<ds:SignedInfo/><ds:SignedInfo>"), "references"},
		{"an Object", replace("</ds:Signature>", "<ds:Object/></ds:Signature>"), "signature_object"},
		{"XSLT", replace(nsSignature+"enveloped-signature", "http://www.w3.org/TR/1999/REC-xslt-19991116"), "transform"},
		{"another canonicalization", replace(`<ds:CanonicalizationMethod Algorithm="`+nsExcC14N, `<ds:CanonicalizationMethod Algorithm="`+nsExcC14N+`WithComments`), "canonicalization"},
		{"HMAC", replace("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", nsSignature+"hmac-sha1"), "algorithm"},
		{"SHA-1 digest", replace(nsEncrypt+"sha256", nsSignature+"sha1"), "algorithm"},
		{"not XML", "<a", "not_xml"},
		{"nothing", " ", "not_xml"},
		{"wrong end", "<samlp:Response xmlns:samlp=\"" + nsProtocol + "\"></samlp:Other>", "not_xml"},
	} {
		if got := word(scan([]byte(c.doc), responseRules)); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
	if err := scan([]byte(genuine), responseRules); err != nil {
		t.Error(err)
	}
	if err := scan([]byte(`<?xml version="1.0" encoding="utf-8" standalone="yes"?>`+"\n"+genuine+"\n"), responseRules); err != nil {
		t.Error(err)
	}
}

func attributesText(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, ` a%d="1"`, i)
	}
	return b.String()
}

// What verifies was signed by the provider's key, whatever the bytes.
func FuzzVerify(f *testing.F) {
	r := newRig(f, nil)
	for _, change := range []func(*connectortest.SAMLAnswer){
		func(*connectortest.SAMLAnswer) {},
		func(a *connectortest.SAMLAnswer) { a.SignAssertion, a.SignAnswer = false, true },
		func(a *connectortest.SAMLAnswer) { a.EncryptTo = r.encryption.Certificate },
		func(a *connectortest.SAMLAnswer) {
			a.EncryptTo, a.SignAnswer, a.SignAssertion = r.encryption.Certificate, true, false
		},
	} {
		a := r.answer()
		change(a)
		doc := r.idp.Document(a)
		f.Add(doc)
		if a.EncryptTo == nil {
			for _, d := range wrapped(doc) {
				f.Add(d)
			}
		}
	}
	keys, private := []*x509.Certificate{r.idp.Cert}, []*rsa.PrivateKey{r.encryption.Key}
	f.Fuzz(func(t *testing.T, doc []byte) {
		if scan(doc, responseRules) != nil {
			return
		}
		ans, err := verifyResponse(doc, keys, private, Config{AllowAESCBC: true})
		if err != nil {
			return
		}
		as, err := readAssertion(ans.assertion)
		if err != nil {
			return
		}
		// All seeds say that this is u-1; nobody else could have signed another.
		if len(as.Subject) != 1 || len(as.Subject[0].NameID) != 1 || as.Subject[0].NameID[0].Value != "u-1" || as.Issuer[0] != idpID {
			t.Fatalf("verified, and never signed: %s", ans.assertion)
		}
	})
}

// The scan ends, whatever the bytes, and nothing that it passes makes the tree
// fail.
func FuzzScan(f *testing.F) {
	r := newRig(f, nil)
	f.Add(r.idp.Document(r.answer()))
	f.Add([]byte(r.idp.Metadata("")))
	f.Add([]byte("<a"))
	f.Fuzz(func(t *testing.T, doc []byte) {
		for _, rules := range []rules{responseRules, logoutRules, metadataRules, assertionRules} {
			if scan(doc, rules) != nil {
				continue
			}
			if root, err := parse(doc); err != nil || root == nil {
				t.Fatalf("the scan passed what the tree cannot read: %v", err)
			}
		}
		_, _ = parseMetadata(doc, "", nil)
	})
}
