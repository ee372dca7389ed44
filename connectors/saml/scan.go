package saml

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Namespaces.
const (
	nsProtocol  = "urn:oasis:names:tc:SAML:2.0:protocol"
	nsAssertion = "urn:oasis:names:tc:SAML:2.0:assertion"
	nsMetadata  = "urn:oasis:names:tc:SAML:2.0:metadata"
	nsSignature = "http://www.w3.org/2000/09/xmldsig#"
	nsEncrypt   = "http://www.w3.org/2001/04/xmlenc#"
	nsEncrypt11 = "http://www.w3.org/2009/xmlenc11#"
	nsExcC14N   = "http://www.w3.org/2001/10/xml-exc-c14n#"
	nsXML       = "http://www.w3.org/XML/1998/namespace"
)

// Bounds of one message (docs/security.md SP-1). goxmldsig fails at 1,000
// elements, so that this is the cap on groups too.
const (
	maxMessage    = 512 << 10
	maxElements   = 900
	maxDepth      = 64
	maxAttributes = 64
)

// rules say what a document may be.
type rules struct {
	roots      []xml.Name
	bytes      int
	elements   int
	comments   bool // metadata is written by people
	assertions bool // exactly where assertions may stand is looked at
	signed     bool // every signature in it is looked at
	pinned     bool // only that of the root is; of those further inside nobody reads any
}

var (
	responseRules   = rules{roots: []xml.Name{{Space: nsProtocol, Local: "Response"}}, bytes: maxMessage, elements: maxElements, assertions: true, signed: true}
	assertionRules  = rules{roots: []xml.Name{{Space: nsAssertion, Local: "Assertion"}}, bytes: maxMessage, elements: maxElements, assertions: true, signed: true}
	logoutRules     = rules{roots: []xml.Name{{Space: nsProtocol, Local: "LogoutRequest"}, {Space: nsProtocol, Local: "LogoutResponse"}}, bytes: 64 << 10, elements: 200, assertions: true, signed: true}
	metadataRules   = rules{roots: []xml.Name{{Space: nsMetadata, Local: "EntityDescriptor"}, {Space: nsMetadata, Local: "EntitiesDescriptor"}}, bytes: maxMetadata, elements: 400_000, comments: true}
	methodsSigning  = algorithms("http://www.w3.org/2001/04/xmldsig-more#rsa-sha256", "http://www.w3.org/2001/04/xmldsig-more#rsa-sha384", "http://www.w3.org/2001/04/xmldsig-more#rsa-sha512", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha256", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha384", "http://www.w3.org/2001/04/xmldsig-more#ecdsa-sha512")
	methodsDigest   = algorithms("http://www.w3.org/2001/04/xmlenc#sha256", "http://www.w3.org/2001/04/xmldsig-more#sha384", "http://www.w3.org/2001/04/xmlenc#sha512")
	methodsC14N     = algorithms(nsExcC14N)
	methodTransform = algorithms(nsExcC14N, nsSignature+"enveloped-signature")
)

func algorithms(names ...string) map[string]bool {
	m := map[string]bool{}
	for _, n := range names {
		m[n] = true
	}
	return m
}

// open is an element whose end has not come yet.
type open struct {
	name       xml.Name
	id         string
	signatures int // children
	references int // of a Signature
	infos      int // SignedInfo of a Signature
}

// scanner reads a document once, before any other code sees it.
type scanner struct {
	rules      rules
	stack      []open
	prefixes   map[string]string
	ids        map[string]bool
	elements   int
	assertions int
	ended      bool
}

// scan looks at the raw bytes of a document with a plain token reader and
// refuses whatever could be read in two ways, or take too much to read
// (docs/security.md SP-1).
func scan(doc []byte, r rules) error {
	if len(doc) > r.bytes {
		return refuse("too_large", "the document has %d bytes; at most %d are read", len(doc), r.bytes)
	}
	if !utf8.Valid(doc) {
		return refuse("encoding", "the document is not UTF-8")
	}
	s := &scanner{rules: r, prefixes: map[string]string{}, ids: map[string]bool{}}
	dec := xml.NewDecoder(bytes.NewReader(doc))
	dec.Strict = true
	for {
		begins := dec.InputOffset()
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return notWellFormed(doc, err)
		}
		switch t := tok.(type) {
		case xml.StartElement:
			if err := s.start(t); err != nil {
				return err
			}
		case xml.EndElement:
			if err := s.end(); err != nil {
				return err
			}
		case xml.CharData:
			if len(s.stack) == 0 && len(bytes.TrimSpace(t)) > 0 {
				return refuse("trailing", "there is text outside the root element")
			}
		case xml.Comment:
			if !r.comments {
				return refuse("comment", "there is a comment in it; programs disagree about the text around one")
			}
		case xml.ProcInst:
			if t.Target != "xml" || begins != 0 {
				return refuse("processing_instruction", "there is a processing instruction in it")
			}
			if e := strings.ToLower(string(t.Inst)); strings.Contains(e, "encoding") && !strings.Contains(e, `"utf-8"`) && !strings.Contains(e, `'utf-8'`) {
				return refuse("encoding", "it declares an encoding other than UTF-8")
			}
		case xml.Directive:
			return refuse("doctype", "there is a DOCTYPE or another declaration in it; none is read")
		}
	}
	if !s.ended {
		return refuse("not_xml", "there is no complete root element")
	}
	return nil
}

// notWellFormed tells an entity, which only a DOCTYPE could define, from any
// other mistake.
func notWellFormed(doc []byte, err error) error {
	switch msg := err.Error(); {
	case strings.Contains(msg, "encoding"):
		return refuse("encoding", "it declares an encoding other than UTF-8")
	case strings.Contains(msg, "entity"):
		return refuse("entity", "there is an entity in it that XML itself does not know")
	case bytes.Contains(doc, []byte("<!DOCTYPE")):
		return refuse("doctype", "there is a DOCTYPE or another declaration in it; none is read")
	}
	return refuse("not_xml", "it is not well-formed XML: %v", err)
}

func (s *scanner) start(t xml.StartElement) error {
	s.elements++
	switch {
	case s.elements > s.rules.elements:
		return refuse("too_many_elements", "more than %d elements; of groups about 850 fit, so have the identity provider send only those that matter here", s.rules.elements)
	case len(s.stack) >= maxDepth:
		return refuse("too_deep", "elements are nested deeper than %d", maxDepth)
	case len(t.Attr) > maxAttributes:
		return refuse("too_many_attributes", "an element has more than %d attributes", maxAttributes)
	case s.ended:
		return refuse("trailing", "there is a second element behind the root")
	}
	o := open{name: t.Name}
	if err := s.attributes(t, &o); err != nil {
		return err
	}
	if err := absolute(t.Name); err != nil {
		return err
	}
	if len(s.stack) == 0 {
		if !s.isRoot(t.Name) {
			return refuse("root", "the root element is {%s}%s", t.Name.Space, t.Name.Local)
		}
	}
	if s.rules.assertions {
		if err := s.place(t.Name); err != nil {
			return err
		}
	}
	if s.rules.signed || s.rules.pinned && (t.Name.Local == "Signature" && len(s.stack) == 1 || s.inOwnSignature()) {
		if err := s.signature(t); err != nil {
			return err
		}
	}
	s.stack = append(s.stack, o)
	return nil
}

func (s *scanner) isRoot(n xml.Name) bool {
	for _, r := range s.rules.roots {
		if n == r {
			return true
		}
	}
	return false
}

// place allows one Assertion or EncryptedAssertion, as a child of the root.
func (s *scanner) place(n xml.Name) error {
	switch n.Local {
	case "Assertion", "EncryptedAssertion":
		s.assertions++
		if s.assertions > 1 {
			return refuse("assertions", "there is more than one assertion in it")
		}
		if n.Space != nsAssertion {
			return refuse("assertions", "an assertion is in the namespace %s", n.Space)
		}
		root := len(s.stack) == 0
		if !root && (len(s.stack) != 1 || s.stack[0].name != (xml.Name{Space: nsProtocol, Local: "Response"})) {
			return refuse("assertions", "the assertion is not directly inside the response")
		}
	case "Response", "LogoutRequest", "LogoutResponse":
		if len(s.stack) > 0 {
			return refuse("assertions", "there is a %s inside the message", n.Local)
		}
	}
	return nil
}

func (s *scanner) end() error {
	o := s.stack[len(s.stack)-1]
	if o.name.Local == "Signature" && (s.rules.signed || s.rules.pinned && len(s.stack) == 2) && (o.references != 1 || o.infos != 1) {
		return refuse("references", "a signature has %d references; exactly one is read", o.references)
	}
	s.stack = s.stack[:len(s.stack)-1]
	s.ended = len(s.stack) == 0
	return nil
}

// attributes refuses what two parsers could read differently: an attribute that
// is there twice, an id that is not the plain ID, a prefix that changes meaning.
func (s *scanner) attributes(t xml.StartElement, o *open) error {
	seen := map[xml.Name]bool{}
	for _, a := range t.Attr {
		if seen[a.Name] {
			return refuse("duplicate_attribute", "an attribute is there twice")
		}
		seen[a.Name] = true
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			if err := s.declare(a); err != nil {
				return err
			}
			continue
		}
		if a.Name.Space != "" {
			if err := absolute(a.Name); err != nil {
				return err
			}
		}
		if strings.Contains(a.Name.Local, ":") {
			return refuse("name", "an attribute's name has a colon too many")
		}
		if !strings.EqualFold(a.Name.Local, "ID") {
			continue
		}
		if a.Name.Space != "" {
			return refuse("id", "an ID attribute is in a namespace")
		}
		if s.ids[a.Value] {
			return refuse("duplicate_id", "two elements have the same ID")
		}
		s.ids[a.Value] = true
		if a.Name.Local == "ID" {
			o.id = a.Value
		}
	}
	return nil
}

// declare takes notice of a namespace. A prefix may not stand for one of the
// namespaces that decide and for another one as well.
func (s *scanner) declare(a xml.Attr) error {
	prefix := a.Name.Local
	if a.Name.Space == "" {
		prefix = ""
	}
	if u, err := url.Parse(a.Value); err != nil || !u.IsAbs() {
		return refuse("namespace", "a namespace is not an absolute URI")
	}
	if prefix == "xml" || prefix == "xmlns" {
		return refuse("namespace", "a reserved prefix is declared")
	}
	before, known := s.prefixes[prefix]
	s.prefixes[prefix] = a.Value
	if known && prefix != "" && before != a.Value && (decides(before) || decides(a.Value)) {
		return refuse("namespace", "a prefix stands for two namespaces")
	}
	return nil
}

func decides(ns string) bool {
	return ns == nsProtocol || ns == nsAssertion || ns == nsSignature || ns == nsEncrypt
}

func absolute(n xml.Name) error {
	if strings.Contains(n.Local, ":") {
		return refuse("name", "a name has a colon too many")
	}
	if n.Space == nsXML {
		return nil
	}
	if u, err := url.Parse(n.Space); err != nil || !u.IsAbs() {
		return refuse("namespace", "{%s}%s is not in a declared namespace", n.Space, n.Local)
	}
	return nil
}
