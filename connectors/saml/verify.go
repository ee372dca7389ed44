package saml

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"strings"

	"github.com/beevik/etree"
	dsig "github.com/russellhaering/goxmldsig"
	"github.com/russellhaering/goxmldsig/etreeutils"
)

// parse makes a tree of a document that scan has passed.
func parse(doc []byte) (_ *etree.Element, err error) {
	defer recovered(&err)
	d := etree.NewDocument()
	if err := d.ReadFromBytes(doc); err != nil {
		return nil, refuse("not_xml", "it is not well-formed XML: %v", err)
	}
	if d.Root() == nil {
		return nil, refuse("not_xml", "there is no root element")
	}
	return d.Root(), nil
}

// recovered turns a panic of a library into a refusal: crewjam/saml and
// goxmldsig have had several, each within reach of whoever can send a document.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = refuse("panic", "the XML library failed: %v", v)
	}
}

// childOf returns the one child of that name, or nil.
func childOf(el *etree.Element, space, local string) *etree.Element {
	for _, c := range el.ChildElements() {
		if c.Tag == local && c.NamespaceURI() == space {
			return c
		}
	}
	return nil
}

// verify checks the signature that el carries with each of the keys, and returns
// el as it was signed: a tree made of the very bytes that were digested, so that
// nothing else can be read afterwards (docs/security.md G2, SP-3). What a
// message says about its certificate is not looked at.
func verify(el *etree.Element, keys []*x509.Certificate) (signed *etree.Element, by *x509.Certificate, err error) {
	defer recovered(&err)
	if childOf(el, nsSignature, "Signature") == nil {
		return nil, nil, refuse("unsigned", "%s is not signed", el.Tag)
	}
	if len(keys) == 0 {
		return nil, nil, refuse("no_key", "the metadata has no usable signing certificate")
	}
	ctx, err := etreeutils.NSBuildParentContext(el)
	if err != nil {
		return nil, nil, refuse("signature", "%v", err)
	}
	if ctx, err = ctx.SubContext(el); err != nil {
		return nil, nil, refuse("signature", "%v", err)
	}
	detached, err := etreeutils.NSDetatch(ctx, el)
	if err != nil {
		return nil, nil, refuse("signature", "%v", err)
	}
	sig := childOf(detached, nsSignature, "Signature")
	// Without its KeyInfo the library uses the one key that it is given.
	if info := childOf(sig, nsSignature, "KeyInfo"); info != nil {
		sig.RemoveChild(info)
	}
	value := childOf(sig, nsSignature, "SignatureValue")
	if value == nil {
		return nil, nil, refuse("signature", "there is no SignatureValue")
	}
	raw := strings.Join(strings.Fields(value.Text()), "")
	var last error
	for _, k := range keys {
		value.SetText(forLibrary(raw, k))
		v := dsig.NewDefaultValidationContext(&dsig.MemoryX509CertificateStore{Roots: []*x509.Certificate{k}})
		v.IdAttribute = "ID"
		// A pinned key is trusted beyond its certificate's dates, which are judged
		// elsewhere (SP-3).
		v.Clock = dsig.NewFakeClockAt(k.NotBefore)
		if signed, last = v.Validate(detached); last == nil && signed != nil {
			return signed, k, nil
		}
	}
	return nil, nil, refuse("signature", "the signature of %s fits none of the %d signing certificates in the metadata (%v); if the identity provider has a new certificate, its metadata here is old", el.Tag, len(keys), last)
}

// forLibrary writes an ECDSA signature as the library wants it: XML has the two
// numbers side by side, crypto/x509 reads ASN.1.
func forLibrary(value string, key *x509.Certificate) string {
	pub, ok := key.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return value
	}
	raw, err := base64.StdEncoding.DecodeString(value)
	size := (pub.Curve.Params().BitSize + 7) / 8
	if err != nil || len(raw) != 2*size {
		return value
	}
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:size]), new(big.Int).SetBytes(raw[size:])})
	if err != nil {
		return value
	}
	return base64.StdEncoding.EncodeToString(der)
}

// encoded writes a tree of one's own document again.
func encoded(el *etree.Element) ([]byte, error) {
	d := etree.NewDocumentWithRoot(el.Copy())
	d.WriteSettings = etree.WriteSettings{CanonicalEndTags: true, CanonicalText: true, CanonicalAttrVal: true}
	out, err := d.WriteToBytes()
	if err != nil {
		return nil, fmt.Errorf("saml: %w", err)
	}
	return out, nil
}
