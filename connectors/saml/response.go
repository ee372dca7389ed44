package saml

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// responseXML is what is read of a samlp:Response. Attributes and elements that
// are not named here decide nothing.
type responseXML struct {
	ID           string   `xml:"ID,attr"`
	Version      string   `xml:"Version,attr"`
	IssueInstant string   `xml:"IssueInstant,attr"`
	Destination  string   `xml:"Destination,attr"`
	InResponseTo *string  `xml:"InResponseTo,attr"`
	Issuer       []string `xml:"urn:oasis:names:tc:SAML:2.0:assertion Issuer"`
	Status       []struct {
		Code struct {
			Value string `xml:"Value,attr"`
			Sub   struct {
				Value string `xml:"Value,attr"`
			} `xml:"urn:oasis:names:tc:SAML:2.0:protocol StatusCode"`
		} `xml:"urn:oasis:names:tc:SAML:2.0:protocol StatusCode"`
		Message string `xml:"urn:oasis:names:tc:SAML:2.0:protocol StatusMessage"`
	} `xml:"urn:oasis:names:tc:SAML:2.0:protocol Status"`
}

const statusSuccess = "urn:oasis:names:tc:SAML:2.0:status:Success"

// answer is a Response whose signature has been verified: what was signed, and
// nothing else, except the outer Response where only the assertion is.
type answer struct {
	response  responseXML
	signed    bool // the Response itself
	assertion []byte
}

// decode returns the document in a SAMLResponse.
func decode(form string) ([]byte, error) {
	if form == "" {
		return nil, refuse("missing", "there is no SAMLResponse")
	}
	if len(form) > maxMessage/3*4+maxMessage/64 {
		return nil, refuse("too_large", "the SAMLResponse has %d characters", len(form))
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(form), "")) // some break the lines
	if err != nil {
		return nil, refuse("base64", "the SAMLResponse is not base64")
	}
	return raw, nil
}

// enter waits for a place to read a document in.
func (c *Connector) enter(ctx context.Context) (leave func(), err error) {
	select {
	case c.parsing <- struct{}{}:
		return func() { <-c.parsing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("saml: too many documents at once: %w", connectors.ErrBusy)
	}
}

// trusted are the keys that may have signed (docs/security.md SP-3).
func (c *Connector) trusted(p *provider) []*x509.Certificate {
	if !c.cfg.StrictCertificateDates {
		return p.Keys
	}
	now := c.now()
	var out []*x509.Certificate
	for _, k := range p.Keys {
		if !now.Before(k.NotBefore) && !now.After(k.NotAfter) {
			out = append(out, k)
		}
	}
	return out
}

// open reads a SAMLResponse up to the point where its signature is verified. A
// signature that fits no key has the metadata read again, once a minute.
func (c *Connector) open(ctx context.Context, form string) (*answer, *provider, error) {
	doc, err := decode(form)
	if err != nil {
		return nil, nil, err
	}
	leave, err := c.enter(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer leave()
	if err := scan(doc, responseRules); err != nil {
		return nil, nil, err
	}
	p, err := c.source.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	pairs, err := c.keys(ctx, connectors.KeyEncryption)
	if err != nil {
		return nil, nil, err
	}
	var private []*rsa.PrivateKey
	for _, k := range pairs {
		private = append(private, k.Key)
	}
	ans, err := verifyResponse(doc, c.trusted(p), private, c.cfg)
	if r, ok := err.(*refusal); ok && r.word == "signature" && c.source.hurry(ctx, p) {
		if p = c.source.usable(); p == nil {
			return nil, nil, err
		}
		ans, err = verifyResponse(doc, c.trusted(p), private, c.cfg)
	}
	return ans, p, err
}

// verifyResponse is the whole of what happens to a scanned document before
// anything of it is believed (docs/security.md SP-2). It needs no network and no
// clock.
func verifyResponse(doc []byte, keys []*x509.Certificate, private []*rsa.PrivateKey, cfg Config) (ans *answer, err error) {
	defer recovered(&err)
	root, err := parse(doc)
	if err != nil {
		return nil, err
	}
	ans = &answer{}
	if childOf(root, nsSignature, "Signature") != nil {
		// From here on the tree is the one that was signed; an assertion's own
		// signature is looked at in the tree that came, whose namespaces it knows.
		signed, _, err := verify(root, keys)
		if err != nil {
			return nil, err
		}
		ans.signed = true
		raw, err := encoded(signed)
		if err != nil {
			return nil, err
		}
		if err := xml.Unmarshal(raw, &ans.response); err != nil {
			return nil, refuse("not_xml", "%v", err)
		}
		if plain := childOf(signed, nsAssertion, "Assertion"); plain != nil {
			// Namespaces that the response declares are needed inside too.
			if ans.assertion, err = detach(plain); err != nil {
				return nil, err
			}
		}
		if enc := childOf(signed, nsAssertion, "EncryptedAssertion"); enc != nil {
			root = signed // what is decrypted is what was signed
		}
	} else if err := xml.Unmarshal(doc, &ans.response); err != nil {
		return nil, refuse("not_xml", "%v", err)
	}
	inner := childOf(root, nsAssertion, "Assertion")
	cbc := false
	if enc := childOf(root, nsAssertion, "EncryptedAssertion"); enc != nil {
		plain, err := decrypt(enc, private, cfg.AllowAESCBC)
		if err != nil {
			return nil, err
		}
		cbc = strings.HasSuffix(algorithm(childOf(childOf(enc, nsEncrypt, "EncryptedData"), nsEncrypt, "EncryptionMethod")), "-cbc")
		if err = scan(plain, assertionRules); err == nil {
			inner, err = parse(plain)
		}
		if err != nil {
			return nil, indistinct(cbc, err)
		}
		ans.assertion = plain
	}
	if inner == nil {
		if len(ans.response.Status) == 1 && ans.response.Status[0].Code.Value != statusSuccess {
			return nil, ans.status()
		}
		return nil, refuse("assertions", "there is no assertion in it")
	}
	if childOf(inner, nsSignature, "Signature") == nil {
		switch {
		case !ans.signed:
			return nil, indistinct(cbc, refuse("unsigned", "neither the response nor the assertion is signed; encryption proves nothing about who sent it"))
		case cfg.WantAssertionsSigned:
			return nil, refuse("unsigned", "only the response is signed, and want_assertions_signed is set")
		}
		return ans, nil
	}
	signed, _, err := verify(inner, keys)
	if err != nil {
		return nil, indistinct(cbc, err)
	}
	if ans.assertion, err = encoded(signed); err != nil {
		return nil, err
	}
	return ans, nil
}

// indistinct makes one error of all that can go wrong behind AES-CBC before a
// signature has been verified: telling them apart is an oracle (SP-4).
func indistinct(cbc bool, err error) error {
	if cbc {
		return errDecrypt
	}
	return err
}

func (a *answer) status() error {
	s := a.response.Status[0]
	short := func(v string) string { return v[strings.LastIndex(v, ":")+1:] }
	return fault(faultStatus, refuse("status", "the identity provider refused: %s %s %q", short(s.Code.Value), short(s.Code.Sub.Value), s.Message))
}

// Screen says whether a POST carries something that the identity provider
// signed; nothing else is kept (docs/security.md SP-8). An answer that nobody
// asked for never goes further (SP-9).
func (c *Connector) Screen(ctx context.Context, r connectors.Return) error {
	ans, p, err := c.open(ctx, r.Params.Get("SAMLResponse"))
	if err != nil {
		return fault(faultSignature, err)
	}
	if ans.response.InResponseTo != nil {
		return nil
	}
	a, err := readAssertion(ans.assertion)
	if err != nil {
		return fault(faultAnswer, err)
	}
	switch {
	case a.answers():
		return fault(faultAnswer, refuse("in_response_to", "the response answers no request, its assertion does"))
	case !c.cfg.AllowIDPInitiated:
		return fault(faultAnswer, refuse("idp_initiated", "nobody asked for this sign-in; start at our page, or set allow_idp_initiated"))
	case len(a.Issuer) != 1 || a.Issuer[0] != p.EntityID:
		return fault(faultAnswer, refuse("issuer", "the assertion is not by %s", p.EntityID))
	}
	return &connectors.Unsolicited{Target: c.cfg.target(r.Params.Get("RelayState"))}
}

// Windows of time (docs/security.md SP-5, SP-6).
const (
	skew     = time.Minute
	maxDelay = 5 * time.Minute
)

// Finish reads what was parked, and judges all of it.
func (c *Connector) Finish(ctx context.Context, a connectors.Attempt, sealed []byte, r connectors.Return) (connectors.Identity, error) {
	var s secret
	if err := json.Unmarshal(sealed, &s); err != nil || s.ID == "" {
		return connectors.Identity{}, fmt.Errorf("saml: the attempt has no request id")
	}
	ans, p, err := c.open(ctx, r.Params.Get("SAMLResponse"))
	if err != nil {
		return connectors.Identity{}, fault(faultSignature, err)
	}
	if err := c.judgeResponse(ans, p, s); err != nil {
		return connectors.Identity{}, fault(faultAnswer, err)
	}
	as, err := readAssertion(ans.assertion)
	if err != nil {
		return connectors.Identity{}, fault(faultAnswer, err)
	}
	until, err := c.judgeAssertion(as, p, s, a.ForceAuthn)
	if err != nil {
		return connectors.Identity{}, fault(faultAnswer, err)
	}
	id, err := c.identity(ctx, as, p)
	if err != nil {
		return connectors.Identity{}, fault(faultAnswer, err)
	}
	// Whatever it says itself, its IssueInstant makes it too old by then.
	if last := c.now().Add(maxDelay + skew); until.After(last) {
		until = last
	}
	until = until.Add(2 * skew)
	id.Once = []connectors.OneTime{{ID: "assertion/" + as.ID, Until: until}, {ID: "response/" + ans.response.ID, Until: until}}
	return id, nil
}

// judgeResponse is SP-5.
func (c *Connector) judgeResponse(ans *answer, p *provider, s secret) error {
	r := ans.response
	switch {
	case r.Version != "2.0":
		return refuse("version", "the response is of SAML %q", r.Version)
	case r.ID == "":
		return refuse("id", "the response has no ID")
	case r.InResponseTo == nil || *r.InResponseTo != s.ID:
		return refuse("in_response_to", "the response is the answer to another request")
	case len(r.Issuer) > 1 || len(r.Issuer) == 1 && r.Issuer[0] != p.EntityID || len(r.Issuer) == 0 && ans.signed:
		return refuse("issuer", "the response is by %q, not by %s", r.Issuer, p.EntityID)
	case r.Destination != "" && r.Destination != c.acs(), r.Destination == "" && ans.signed:
		return refuse("destination", "the response was meant for %q; the address here is %s", r.Destination, c.acs())
	case len(r.Status) != 1:
		return refuse("status", "the response has no status")
	case r.Status[0].Code.Value != statusSuccess:
		return ans.status()
	}
	return c.judgeInstant("response", r.IssueInstant)
}

// judgeInstant wants a message to be of now.
func (c *Connector) judgeInstant(what, at string) error {
	t, err := instant(at)
	if err != nil {
		return refuse("issue_instant", "the %s has no IssueInstant", what)
	}
	age := c.now().Sub(t)
	if age >= -skew && age <= maxDelay {
		return nil
	}
	word, text := "expired", "was made"
	if age < 0 {
		word, text = "future", "will be made"
	}
	return clock(age, refuse(word, "the %s %s at %s, and here it is %s; compare the clocks", what, text, t.Format(time.RFC3339), c.now().UTC().Format(time.RFC3339)))
}

// clock is the fault of clocks that differ by that much.
func clock(by time.Duration, err error) error {
	minutes := int(by.Abs().Round(time.Minute) / time.Minute)
	return &connectors.Fault{Code: faultClock, Args: map[string]any{"minutes": max(1, minutes)}, Err: err}
}

func sole(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	return values[0], true
}

// audiences reports whether every restriction names us, and there is one.
func (c *Connector) audiences(rs []audienceXML) bool {
	return len(rs) > 0 && !slices.ContainsFunc(rs, func(r audienceXML) bool { return !slices.Contains(r.Audiences, c.entityID()) })
}
