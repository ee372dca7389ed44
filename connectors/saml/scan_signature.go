package saml

import (
	"encoding/xml"
	"slices"
)

// signature looks at an element that is, or stands inside, a Signature. Names
// are judged whatever their namespace: what only looks like a part of a
// signature has no business there (docs/security.md SP-1, SP-4).
func (s *scanner) signature(t xml.StartElement) error {
	if t.Name.Local == "Signature" {
		return s.signatureBegins(t.Name)
	}
	at := s.inSignature()
	if at < 0 {
		return nil
	}
	sig := &s.stack[at]
	algorithm := attribute(t, "Algorithm")
	switch t.Name.Local {
	case "SignedInfo":
		if sig.infos++; sig.infos > 1 || at != len(s.stack)-1 {
			return refuse("references", "a signature has more than one SignedInfo")
		}
	case "Object", "Manifest":
		return refuse("signature_object", "a signature has an %s", t.Name.Local)
	case "Reference":
		if sig.references++; sig.references > 1 {
			return refuse("references", "a signature has %d references; exactly one is read", sig.references)
		}
		if len(s.stack) != at+2 || s.stack[at+1].name.Local != "SignedInfo" {
			return refuse("references", "a reference is not directly inside SignedInfo")
		}
		parent := s.stack[at-1]
		if uri := attribute(t, "URI"); parent.id == "" || uri != "#"+parent.id {
			return refuse("reference", "the signature is over something else than the element that it stands in")
		}
	case "Transform":
		if !methodTransform[algorithm] {
			return refuse("transform", "the signature uses the transform %s", algorithm)
		}
	case "CanonicalizationMethod":
		if !methodsC14N[algorithm] {
			return refuse("canonicalization", "the signature uses the canonicalization %s; exclusive canonicalization without comments is read", algorithm)
		}
	case "SignatureMethod":
		if !methodsSigning[algorithm] {
			return refuse("algorithm", "the signature is made with %s; set the identity provider to RSA-SHA256", algorithm)
		}
	case "DigestMethod":
		if !methodsDigest[algorithm] {
			return refuse("algorithm", "the digest is made with %s; set the identity provider to SHA-256", algorithm)
		}
	}
	return nil
}

// signatureBegins allows one, directly inside the message or the assertion.
func (s *scanner) signatureBegins(n xml.Name) error {
	if n.Space != nsSignature {
		return refuse("signature_place", "a Signature is in the namespace %s", n.Space)
	}
	if len(s.stack) == 0 {
		return refuse("signature_place", "a signature is the root")
	}
	parent := &s.stack[len(s.stack)-1]
	inRoot := len(s.stack) == 1
	inAssertion := len(s.stack) == 2 && parent.name == (xml.Name{Space: nsAssertion, Local: "Assertion"})
	if !inRoot && !inAssertion {
		return refuse("signature_place", "a signature stands inside %s", parent.name.Local)
	}
	if parent.signatures++; parent.signatures > 1 {
		return refuse("signatures", "%s has more than one signature", parent.name.Local)
	}
	return nil
}

// inSignature returns where in the stack the Signature is that we are in, or -1.
func (s *scanner) inSignature() int {
	return slices.IndexFunc(s.stack, func(o open) bool { return o.name.Local == "Signature" })
}

// inOwnSignature reports whether we are in the signature of the root.
func (s *scanner) inOwnSignature() bool {
	return len(s.stack) > 1 && s.stack[1].name.Local == "Signature"
}

func attribute(t xml.StartElement, name string) string {
	for _, a := range t.Attr {
		if a.Name.Space == "" && a.Name.Local == name {
			return a.Value
		}
	}
	return ""
}
