package saml

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"hash"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"

	crewjam "github.com/crewjam/saml"

	"github.com/remotegpu/gatehouse/connectors"
)

// session is what ends somebody's session at the identity provider.
type session struct {
	nameID
	Index string `json:"i,omitempty"`
}

func (s session) text() string {
	js, err := json.Marshal(s)
	if err != nil { // strings always can
		return ""
	}
	return string(js)
}

// key is the name under which the identity provider ends all sessions of a
// NameID. Formats and qualifiers are left out of some requests.
func (n nameID) key() string { return "name_id/" + n.Value }

// BeginLogout makes a signed LogoutRequest, where the identity provider takes any.
func (c *Connector) BeginLogout(ctx context.Context, id connectors.Identity, _ string) (connectors.Departure, error) {
	var s session
	if json.Unmarshal([]byte(id.Session), &s) != nil || s.Value == "" {
		return connectors.Departure{}, nil
	}
	p, err := c.source.get(ctx)
	if err != nil {
		return connectors.Departure{}, err
	}
	binding := crewjam.HTTPRedirectBinding
	if p.SLO[binding] == "" {
		binding = crewjam.HTTPPostBinding
	}
	if p.SLO[binding] == "" {
		return connectors.Departure{}, nil
	}
	now := c.now().UTC()
	ends := now.Add(maxDelay)
	req := crewjam.LogoutRequest{
		ID: newID(), Version: "2.0", IssueInstant: now, NotOnOrAfter: &ends, Destination: p.SLO[binding], Issuer: c.issuer(),
		NameID: &crewjam.NameID{Value: s.Value, Format: s.Format, NameQualifier: s.NameQualifier, SPNameQualifier: s.SPNameQualifier},
	}
	if s.Index != "" {
		req.SessionIndex = &crewjam.SessionIndex{Value: s.Index}
	}
	dep, err := c.send(ctx, binding, "SAMLRequest", req.Element(), p.SLO[binding], "")
	dep.Request = req.ID
	return dep, err
}

// logoutXML is what is read of a LogoutRequest or LogoutResponse.
type logoutXML struct {
	ID           string   `xml:"ID,attr"`
	InResponseTo string   `xml:"InResponseTo,attr"`
	Version      string   `xml:"Version,attr"`
	IssueInstant string   `xml:"IssueInstant,attr"`
	NotOnOrAfter string   `xml:"NotOnOrAfter,attr"`
	Destination  string   `xml:"Destination,attr"`
	Issuer       []string `xml:"urn:oasis:names:tc:SAML:2.0:assertion Issuer"`
	NameID       []nameID `xml:"urn:oasis:names:tc:SAML:2.0:assertion NameID"`
	Sessions     []string `xml:"urn:oasis:names:tc:SAML:2.0:protocol SessionIndex"`
	Status       struct {
		Code struct {
			Value string `xml:"Value,attr"`
		} `xml:"urn:oasis:names:tc:SAML:2.0:protocol StatusCode"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:protocol Status"`
}

// FinishLogout takes a LogoutRequest of the identity provider, or its answer to
// ours. Both must be signed: in the query for the Redirect binding, in the
// document for POST (docs/security.md SP-12).
func (c *Connector) FinishLogout(ctx context.Context, r connectors.Return) (connectors.Logout, error) {
	if r.Method != http.MethodPost { // only what the signature is over is read
		parts, err := queryParts(r.Query)
		if err != nil {
			return connectors.Logout{}, fault(faultSignature, err)
		}
		r.Params = url.Values{}
		for k, v := range parts {
			plain, err := url.QueryUnescape(v)
			if err != nil {
				return connectors.Logout{}, fault(faultSignature, refuse("signature", "%s cannot be read", k))
			}
			r.Params.Set(k, plain)
		}
	}
	name := "SAMLRequest"
	if r.Params.Get(name) == "" && r.Params.Get("SAMLResponse") != "" {
		name = "SAMLResponse"
	}
	out, err := c.finishLogout(ctx, name, r)
	if err != nil && name == "SAMLResponse" {
		return connectors.Logout{}, fmt.Errorf("%w: %w", err, connectors.ErrNotEnded)
	}
	return out, err
}

func (c *Connector) finishLogout(ctx context.Context, name string, r connectors.Return) (connectors.Logout, error) {
	p, err := c.source.get(ctx)
	if err != nil {
		return connectors.Logout{}, err
	}
	doc, err := c.openLogout(ctx, name, r, p)
	if err != nil {
		return connectors.Logout{}, fault(faultSignature, err)
	}
	var m logoutXML
	if err := xml.Unmarshal(doc, &m); err != nil {
		return connectors.Logout{}, fault(faultAnswer, refuse("not_xml", "%v", err))
	}
	out, err := c.judgeLogout(ctx, name, m, p, r.Params.Get("RelayState"))
	return out, fault(faultAnswer, err)
}

func (c *Connector) judgeLogout(ctx context.Context, name string, m logoutXML, p *provider, relayState string) (connectors.Logout, error) {
	var out connectors.Logout
	issuer, one := sole(m.Issuer)
	switch {
	case m.Version != "2.0" || m.ID == "":
		return out, refuse("version", "the message is of SAML %q", m.Version)
	case !one || issuer != p.EntityID:
		return out, refuse("issuer", "the message is by %q, not by %s", m.Issuer, p.EntityID)
	case m.Destination != c.slo():
		return out, refuse("destination", "the message was meant for %q; the address here is %s", m.Destination, c.slo())
	}
	if err := c.judgeInstant("message", m.IssueInstant); err != nil {
		return out, err
	}
	if name == "SAMLResponse" {
		// An answer to nothing would say of any session that it is over (SAML core 3.2.2).
		if m.InResponseTo == "" {
			return out, refuse("in_response_to", "the answer does not name the request that it answers")
		}
		out.InResponseTo = m.InResponseTo
		if m.Status.Code.Value != statusSuccess {
			return out, refuse("status", "the identity provider did not end its session: %s", m.Status.Code.Value)
		}
		return out, nil
	}
	now := c.now()
	until := now.Add(maxDelay)
	if m.NotOnOrAfter != "" {
		t, err := instant(m.NotOnOrAfter)
		if err != nil || !now.Before(t.Add(skew)) {
			return out, refuse("expired", "the request could be used until %s", m.NotOnOrAfter)
		}
		until = t
	}
	if len(m.NameID) != 1 || !text(m.NameID[0].Value) {
		return out, refuse("name_id", "the request does not say whose session ends")
	}
	out.Key = m.NameID[0].key()
	out.Once = []connectors.OneTime{{ID: "logout/" + m.ID, Until: until.Add(maxDelay)}}
	if len(m.Sessions) > 0 {
		wanted := map[string]bool{}
		for _, s := range m.Sessions {
			wanted[s] = true
		}
		out.Includes = func(text string) bool {
			var s session
			return json.Unmarshal([]byte(text), &s) == nil && wanted[s.Index]
		}
	}
	var err error
	out.Answer, err = c.logoutAnswer(ctx, m, p, relayState)
	return out, err
}

// logoutAnswer is our signed LogoutResponse. RelayState is the provider's own and
// goes back as it came (SAML bindings section 3.4.3), if it is no longer than it
// may be.
func (c *Connector) logoutAnswer(ctx context.Context, m logoutXML, p *provider, relayState string) (connectors.Departure, error) {
	binding := crewjam.HTTPRedirectBinding
	if p.SLOResponse[binding] == "" {
		binding = crewjam.HTTPPostBinding
	}
	if p.SLOResponse[binding] == "" {
		return connectors.Departure{}, nil
	}
	if len(relayState) > 1024 {
		relayState = ""
	}
	resp := crewjam.LogoutResponse{
		ID: newID(), InResponseTo: m.ID, Version: "2.0", IssueInstant: c.now().UTC(), Destination: p.SLOResponse[binding], Issuer: c.issuer(),
		Status: crewjam.Status{StatusCode: crewjam.StatusCode{Value: statusSuccess}},
	}
	return c.send(ctx, binding, "SAMLResponse", resp.Element(), p.SLOResponse[binding], relayState)
}

// openLogout returns the document of a logout message, verified.
func (c *Connector) openLogout(ctx context.Context, name string, r connectors.Return, p *provider) ([]byte, error) {
	leave, err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	keys := c.trusted(p)
	if r.Method == http.MethodPost {
		doc, err := decode(r.Params.Get(name))
		if err != nil {
			return nil, err
		}
		if err := scan(doc, logoutRules); err != nil {
			return nil, err
		}
		root, err := parse(doc)
		if err != nil {
			return nil, err
		}
		signed, _, err := verify(root, keys)
		if r, ok := err.(*refusal); ok && r.word == "signature" && c.source.hurry(ctx, p) {
			if p = c.source.usable(); p != nil {
				signed, _, err = verify(root, c.trusted(p))
			}
		}
		if err != nil {
			return nil, err
		}
		if err := rootIs(signed.Tag, name); err != nil {
			return nil, err
		}
		return encoded(signed)
	}
	doc, err := inflate(r.Params.Get(name))
	if err != nil {
		return nil, err
	}
	if err := scan(doc, logoutRules); err != nil {
		return nil, err
	}
	if err := verifyQuery(r.Query, name, keys); err != nil {
		return nil, err
	}
	root, err := parse(doc)
	if err != nil {
		return nil, err
	}
	return doc, rootIs(root.Tag, name)
}

func rootIs(tag, name string) error {
	if want := strings.Replace(name, "SAML", "Logout", 1); tag != want {
		return refuse("root", "%s holds a %s", name, tag)
	}
	return nil
}

// inflate opens the Redirect binding's encoding, up to 64 KiB (SP-12).
func inflate(form string) ([]byte, error) {
	raw, err := base64.StdEncoding.DecodeString(form)
	if err != nil || len(raw) == 0 {
		return nil, refuse("base64", "the message is not base64")
	}
	doc, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(raw)), int64(logoutRules.bytes)+1))
	if err != nil {
		return nil, refuse("deflate", "the message is not deflated")
	}
	return doc, nil
}

// queryParts are the parameters of the Redirect binding as they stand, escapes
// and all; each may be there once.
func queryParts(query string) (map[string]string, error) {
	parts := map[string]string{}
	for p := range strings.SplitSeq(query, "&") {
		k, v, _ := strings.Cut(p, "=")
		switch k {
		case "SAMLRequest", "SAMLResponse", "RelayState", "SigAlg", "Signature":
		default:
			continue
		}
		if _, twice := parts[k]; twice {
			return nil, refuse("signature", "%s is there twice", k)
		}
		parts[k] = v
	}
	return parts, nil
}

// verifyQuery checks the Redirect binding's signature over the very octets that
// came (SAML bindings section 3.4.4.1).
func verifyQuery(query, name string, keys []*x509.Certificate) error {
	parts, err := queryParts(query)
	if err != nil {
		return err
	}
	if parts["Signature"] == "" || parts["SigAlg"] == "" {
		return refuse("unsigned", "the message is not signed")
	}
	method, err := url.QueryUnescape(parts["SigAlg"])
	if err != nil || !methodsSigning[method] {
		return refuse("algorithm", "the signature is made with %q; set the identity provider to RSA-SHA256", method)
	}
	value, err := url.QueryUnescape(parts["Signature"])
	if err != nil {
		return refuse("signature", "the signature cannot be read")
	}
	sig, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value), ""))
	if err != nil {
		return refuse("signature", "the signature cannot be read")
	}
	signed := name + "=" + parts[name]
	if rs, ok := parts["RelayState"]; ok {
		signed += "&RelayState=" + rs
	}
	signed += "&SigAlg=" + parts["SigAlg"]
	for _, k := range keys {
		if checkQuery(k, method, []byte(signed), sig) {
			return nil
		}
	}
	return refuse("signature", "the signature fits none of the %d signing certificates in the metadata", len(keys))
}

func checkQuery(k *x509.Certificate, method string, signed, sig []byte) bool {
	var h hash.Hash
	var id crypto.Hash
	switch {
	case strings.HasSuffix(method, "sha256"):
		h, id = sha256.New(), crypto.SHA256
	case strings.HasSuffix(method, "sha384"):
		h, id = sha512.New384(), crypto.SHA384
	default:
		h, id = sha512.New(), crypto.SHA512
	}
	h.Write(signed)
	sum := h.Sum(nil)
	switch pub := k.PublicKey.(type) {
	case *rsa.PublicKey:
		return strings.Contains(method, "#rsa-") && rsa.VerifyPKCS1v15(pub, id, sum, sig) == nil
	case *ecdsa.PublicKey:
		size := (pub.Curve.Params().BitSize + 7) / 8
		if !strings.Contains(method, "#ecdsa-") {
			return false
		}
		if len(sig) == 2*size {
			return ecdsa.Verify(pub, sum, new(big.Int).SetBytes(sig[:size]), new(big.Int).SetBytes(sig[size:]))
		}
		return ecdsa.VerifyASN1(pub, sum, sig)
	}
	return false
}
