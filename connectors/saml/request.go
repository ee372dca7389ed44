package saml

import (
	"bytes"
	"compress/flate"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/beevik/etree"
	crewjam "github.com/crewjam/saml"
	dsig "github.com/russellhaering/goxmldsig"

	"github.com/remotegpu/gatehouse/connectors"
)

// secret is what an attempt keeps until the answer: to which request it must be
// the answer, and from when on a fresh authentication counts.
type secret struct {
	ID string    `json:"i"`
	At time.Time `json:"t"`
}

// Begin makes a signed AuthnRequest. The Redirect binding is preferred: it has
// no form, whose redirects some browsers tie to the page's policy.
func (c *Connector) Begin(ctx context.Context, a connectors.Attempt) (connectors.Departure, error) {
	p, err := c.source.get(ctx)
	if err != nil {
		return connectors.Departure{}, err
	}
	binding := crewjam.HTTPRedirectBinding
	if p.SSO[binding] == "" {
		binding = crewjam.HTTPPostBinding
	}
	now := c.now().UTC()
	allow := true
	req := crewjam.AuthnRequest{
		ID: newID(), Version: "2.0", IssueInstant: now, Destination: p.SSO[binding], AssertionConsumerServiceURL: c.acs(), ProtocolBinding: crewjam.HTTPPostBinding,
		Issuer: c.issuer(), NameIDPolicy: &crewjam.NameIDPolicy{AllowCreate: &allow, Format: c.wantedFormat(p)},
	}
	if a.ForceAuthn {
		req.ForceAuthn = &allow
	}
	js, err := json.Marshal(secret{req.ID, now})
	if err != nil {
		return connectors.Departure{}, fmt.Errorf("saml: %w", err)
	}
	dep, err := c.send(ctx, binding, "SAMLRequest", req.Element(), p.SSO[binding], a.ID)
	dep.Secret = js
	return dep, err
}

// wantedFormat is the NameID format that is asked for; nil asks for none, since
// ADFS refuses a request for one that no rule of it makes.
func (c *Connector) wantedFormat(p *provider) *string {
	f := nameIDFormats[c.cfg.NameIDFormat]
	if c.cfg.NameIDFormat == "" && slices.Contains(p.Formats, formatPersistent) {
		f = formatPersistent
	}
	if f == "" || f == formatUnspecified {
		return nil
	}
	return &f
}

func (c *Connector) issuer() *crewjam.Issuer { return &crewjam.Issuer{Value: c.entityID()} }

// newID is a message's id: 160 random bits, and no digit in front, which an
// xs:ID may not have.
func newID() string {
	raw := make([]byte, 20)
	_, _ = rand.Read(raw) // never fails
	return "id-" + hex.EncodeToString(raw)
}

// send signs a message and makes the departure that carries it.
func (c *Connector) send(ctx context.Context, binding, name string, el *etree.Element, to, relayState string) (connectors.Departure, error) {
	key, err := c.signingKey(ctx)
	if err != nil {
		return connectors.Departure{}, err
	}
	if binding == crewjam.HTTPRedirectBinding {
		u, err := redirect(key.Key, name, el, to, relayState)
		return connectors.Departure{URL: u}, err
	}
	signed, err := envelop(key, el)
	if err != nil {
		return connectors.Departure{}, err
	}
	doc, err := encoded(signed)
	if err != nil {
		return connectors.Departure{}, err
	}
	form := url.Values{name: {base64.StdEncoding.EncodeToString(doc)}}
	if relayState != "" {
		form.Set("RelayState", relayState)
	}
	return connectors.Departure{URL: to, Form: form}, nil
}

func (c *Connector) signingKey(ctx context.Context) (connectors.KeyPair, error) {
	pairs, err := c.keys(ctx, connectors.KeySigning)
	if err != nil {
		return connectors.KeyPair{}, err
	}
	for _, k := range pairs {
		if k.State == connectors.KeyCurrent {
			return k, nil
		}
	}
	return connectors.KeyPair{}, fmt.Errorf("saml: there is no signing key")
}

// redirect writes a message into a URL and signs the query's very octets (SAML
// bindings section 3.4.4.1).
func redirect(key *rsa.PrivateKey, name string, el *etree.Element, to, relayState string) (string, error) {
	doc, err := encoded(el)
	if err != nil {
		return "", err
	}
	var small bytes.Buffer
	w, err := flate.NewWriter(&small, flate.BestCompression)
	if err != nil {
		return "", fmt.Errorf("saml: %w", err)
	}
	if _, err := w.Write(doc); err != nil {
		return "", fmt.Errorf("saml: %w", err)
	}
	if err := w.Close(); err != nil {
		return "", fmt.Errorf("saml: %w", err)
	}
	query := name + "=" + url.QueryEscape(base64.StdEncoding.EncodeToString(small.Bytes()))
	if relayState != "" {
		query += "&RelayState=" + url.QueryEscape(relayState)
	}
	query += "&SigAlg=" + url.QueryEscape(dsig.RSASHA256SignatureMethod)
	sum := sha256.Sum256([]byte(query))
	sig, err := rsa.SignPKCS1v15(nil, key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("saml: sign: %w", err)
	}
	query += "&Signature=" + url.QueryEscape(base64.StdEncoding.EncodeToString(sig))
	u, err := url.Parse(to)
	if err != nil {
		return "", fmt.Errorf("saml: %w", err)
	}
	if u.RawQuery != "" {
		query = u.RawQuery + "&" + query
	}
	u.RawQuery = query
	return u.String(), nil
}

// envelop signs a message and puts the signature where the schema wants it:
// behind the Issuer, which is the first child of all of ours.
func envelop(key connectors.KeyPair, el *etree.Element) (*etree.Element, error) {
	ctx, err := dsig.NewSigningContext(key.Key, [][]byte{key.Certificate.Raw})
	if err != nil {
		return nil, fmt.Errorf("saml: sign: %w", err)
	}
	ctx.Canonicalizer = dsig.MakeC14N10ExclusiveCanonicalizerWithPrefixList("")
	if err := ctx.SetSignatureMethod(dsig.RSASHA256SignatureMethod); err != nil {
		return nil, fmt.Errorf("saml: sign: %w", err)
	}
	signed, err := ctx.SignEnveloped(el)
	if err != nil {
		return nil, fmt.Errorf("saml: sign: %w", err)
	}
	sig := signed.RemoveChildAt(len(signed.Child) - 1)
	signed.InsertChildAt(1, sig)
	return signed, nil
}
