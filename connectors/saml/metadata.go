package saml

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	crewjam "github.com/crewjam/saml"
)

// maxMetadata bounds a metadata document, in bytes (docs/security.md G6).
const maxMetadata = 5 << 20

// provider is one identity provider, as its metadata describes it.
type provider struct {
	EntityID string
	// Keys verify what it signs: all of the document, so that a key's successor
	// works before it is used and a key ends when it leaves (SP-3).
	Keys []*x509.Certificate
	// SSO and SLO are addresses by binding; SLOResponse where answers go instead.
	SSO, SLO, SLOResponse map[string]string
	Formats               []string // of NameIDs
	ValidUntil            time.Time
	CacheFor              time.Duration
}

// level is how long an element, and all inside it, may be used.
type level struct {
	until time.Time
	cache time.Duration
}

func (l level) within(el xml.StartElement) (level, error) {
	for _, a := range el.Attr {
		switch {
		case a.Name.Space != "":
		case a.Name.Local == "validUntil":
			t, err := instant(a.Value)
			if err != nil {
				return l, refuse("metadata", "validUntil is not a time: %q", a.Value)
			}
			if l.until.IsZero() || t.Before(l.until) {
				l.until = t
			}
		case a.Name.Local == "cacheDuration":
			var d crewjam.Duration
			if err := d.UnmarshalText([]byte(a.Value)); err != nil {
				return l, refuse("metadata", "cacheDuration is not a duration: %q", a.Value)
			}
			if l.cache == 0 || time.Duration(d) < l.cache {
				l.cache = time.Duration(d)
			}
		}
	}
	return l, nil
}

// parseMetadata reads the one identity provider that entityID names; of a
// document that describes a single one the name may be left out. With a pin the
// document must carry that certificate's signature (docs/security.md SP-11).
func parseMetadata(doc []byte, entityID string, pin *x509.Certificate) (p *provider, err error) {
	defer recovered(&err)
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf")) // ADFS writes a byte order mark
	r := metadataRules
	r.pinned = pin != nil
	if err := scan(doc, r); err != nil {
		return nil, err
	}
	if pin != nil {
		root, err := parse(doc)
		if err != nil {
			return nil, err
		}
		signed, _, err := verify(root, []*x509.Certificate{pin})
		if err != nil {
			return nil, refuse("metadata_signature", "the metadata is not signed by metadata_certificate: %v", err)
		}
		if doc, err = encoded(signed); err != nil {
			return nil, err
		}
	}
	dec := xml.NewDecoder(bytes.NewReader(doc))
	levels := []level{{}}
	var names []string
	for {
		tok, err := dec.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, refuse("metadata", "%v", err)
		}
		switch t := tok.(type) {
		case xml.StartElement:
			lv, err := levels[len(levels)-1].within(t)
			if err != nil {
				return nil, err
			}
			if t.Name.Local != "EntityDescriptor" || t.Name.Space != nsMetadata {
				levels = append(levels, lv)
				continue
			}
			id := attribute(t, "entityID")
			if entityID != "" && id != entityID {
				if err := dec.Skip(); err != nil {
					return nil, refuse("metadata", "%v", err)
				}
				continue
			}
			var e crewjam.EntityDescriptor
			if err := dec.DecodeElement(&e, &t); err != nil {
				return nil, refuse("metadata", "the description of %s cannot be read: %v", id, err)
			}
			if len(e.IDPSSODescriptors) == 0 {
				continue
			}
			if names = append(names, id); len(names) > 1 {
				return nil, refuse("metadata", "the metadata describes several identity providers (%s, …); name yours as entity_id", strings.Join(names, ", "))
			}
			if p, err = describe(e, lv); err != nil {
				return nil, err
			}
		case xml.EndElement:
			levels = levels[:len(levels)-1]
		}
	}
	switch {
	case p == nil && entityID != "":
		return nil, refuse("metadata", "the metadata does not describe the identity provider %s", entityID)
	case p == nil:
		return nil, refuse("metadata", "the metadata describes no identity provider")
	}
	return p, nil
}

func describe(e crewjam.EntityDescriptor, lv level) (*provider, error) {
	p := &provider{EntityID: e.EntityID, SSO: map[string]string{}, SLO: map[string]string{}, SLOResponse: map[string]string{}, ValidUntil: lv.until, CacheFor: lv.cache}
	if p.EntityID == "" || len(p.EntityID) > 1024 {
		return nil, refuse("metadata", "the identity provider has no entityID")
	}
	var weak error
	for _, d := range e.IDPSSODescriptors {
		if d.ValidUntil != nil && (p.ValidUntil.IsZero() || d.ValidUntil.Before(p.ValidUntil)) {
			p.ValidUntil = *d.ValidUntil
		}
		for _, k := range d.KeyDescriptors {
			if k.Use != "" && k.Use != "signing" {
				continue
			}
			for _, x := range k.KeyInfo.X509Data.X509Certificates {
				c, err := certificate(x.Data)
				if err != nil {
					weak = err
					continue
				}
				if !slices.ContainsFunc(p.Keys, c.Equal) {
					p.Keys = append(p.Keys, c)
				}
			}
		}
		for _, s := range d.SingleSignOnServices {
			if err := endpoint(p.SSO, s.Binding, s.Location); err != nil {
				return nil, err
			}
		}
		for _, s := range d.SingleLogoutServices {
			if err := endpoint(p.SLO, s.Binding, s.Location); err != nil {
				return nil, err
			}
			if err := endpoint(p.SLOResponse, s.Binding, cmp.Or(s.ResponseLocation, s.Location)); err != nil {
				return nil, err
			}
		}
		for _, f := range d.NameIDFormats {
			p.Formats = append(p.Formats, strings.TrimSpace(string(f)))
		}
	}
	switch {
	case len(p.Keys) == 0 && weak != nil:
		return nil, weak
	case len(p.Keys) == 0:
		return nil, refuse("metadata", "the metadata has no signing certificate")
	case p.SSO[crewjam.HTTPRedirectBinding] == "" && p.SSO[crewjam.HTTPPostBinding] == "":
		return nil, refuse("metadata", "the identity provider offers neither the Redirect nor the POST binding for sign-in")
	}
	return p, nil
}

// endpoint takes the first address of each binding that we speak.
func endpoint(to map[string]string, binding, location string) error {
	if binding != crewjam.HTTPRedirectBinding && binding != crewjam.HTTPPostBinding || to[binding] != "" {
		return nil
	}
	u, err := url.Parse(location)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())) {
		return refuse("metadata", "the address %q is not one of an https server", location)
	}
	to[binding] = location
	return nil
}

func certificate(data string) (*x509.Certificate, error) {
	der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(data), ""))
	if err != nil {
		return nil, refuse("metadata", "a certificate is not base64")
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, refuse("metadata", "a certificate cannot be read: %v", err)
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, refuse("metadata", "the signing key is RSA of %d bits; at least 2048 are needed", k.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if k.Curve.Params().BitSize < 256 {
			return nil, refuse("metadata", "the signing key's curve is too small")
		}
	default:
		return nil, refuse("metadata", "the signing key is neither RSA nor ECDSA")
	}
	return c, nil
}

// instant reads an xs:dateTime. SAML's are in UTC; some leave the Z out.
func instant(s string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		t, err = time.Parse("2006-01-02T15:04:05.999999999", s)
	}
	return t.UTC(), err
}
