package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
)

// Config is the connector's section.
type Config struct {
	Issuer       string        `yaml:"issuer"`
	ClientID     string        `yaml:"client_id"`
	ClientSecret redact.String `yaml:"client_secret"`
	RedirectURI  string        `yaml:"redirect_uri"` // default: the broker's callback
	Scopes       []string      `yaml:"scopes"`       // default: openid profile email, and groups and offline_access where discovery lists them

	// AuthMethod is how we prove who we are at the token endpoint. By default
	// private_key_jwt with a private_key, none without a secret, and else
	// client_secret_basic, or client_secret_post where discovery lists that alone.
	AuthMethod   string        `yaml:"token_endpoint_auth_method"`
	PrivateKey   redact.String `yaml:"private_key"`    // PEM: RSA, EC or Ed25519
	PrivateKeyID string        `yaml:"private_key_id"` // its kid at the provider

	// SigningAlgs are the algorithms that an ID token may be signed with.
	SigningAlgs []string `yaml:"id_token_signing_algs,some"`
	// Prompt is sent with every departure: "select_account", "consent".
	Prompt string `yaml:"prompt"`
	// SkipUserInfo leaves the userinfo endpoint alone.
	SkipUserInfo bool `yaml:"skip_userinfo"`
	// Claims says in CEL where our values are in the provider's claims.
	Claims map[string]string `yaml:"claims"`

	Proxy  string `yaml:"proxy"`
	CAFile string `yaml:"ca_file"`

	// The five below replace what discovery says, one by one. With the first
	// three, discovery is not asked.
	AuthorizeURL  string `yaml:"authorize_url"`
	TokenURL      string `yaml:"token_url"`
	JWKSURL       string `yaml:"jwks_url"`
	UserInfoURL   string `yaml:"userinfo_url"`
	EndSessionURL string `yaml:"end_session_url"`
}

// asymmetric are the algorithms that exist for us: never none, never HS*
// (docs/security.md ISS-7 holds for what others signed too).
var asymmetric = []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}

// mapped are the names that Claims may have. The subject is not among them: it
// is `sub` and nothing that can be renamed (UP-4).
var mapped = []string{"username", "name", "email", "email_verified", "picture", "locale", "groups"}

var authMethods = []string{"client_secret_basic", "client_secret_post", "private_key_jwt", "none"}

// Problems complains about what could not be served.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if c.Issuer == "" {
		add("Issuer", "oidc.issuer", "issuer is missing: it is the provider's own name and where its discovery document is.", "issuer: https://idp.example.com")
	} else {
		ps = append(ps, AddressProblems("Issuer", "oidc.issuer", c.Issuer)...)
		if u, err := url.Parse(c.Issuer); err == nil && strings.HasSuffix(u.Path, "/.well-known/openid-configuration") {
			add("Issuer", "oidc.issuer", "This is the address of the discovery document; the issuer is what stands before it.", strings.TrimSuffix(c.Issuer, "/.well-known/openid-configuration"))
		} else if err == nil && u.RawQuery != "" {
			add("Issuer", "oidc.issuer", "An issuer has no query.", u.Scheme+"://"+u.Host+u.Path)
		}
	}
	if c.ClientID == "" {
		add("ClientID", "oidc.client_id", "client_id is missing: it names this installation at the provider.", "the client id that the provider gave")
	}
	for _, f := range []struct{ field, value string }{
		{"RedirectURI", c.RedirectURI}, {"AuthorizeURL", c.AuthorizeURL}, {"TokenURL", c.TokenURL}, {"JWKSURL", c.JWKSURL},
		{"UserInfoURL", c.UserInfoURL}, {"EndSessionURL", c.EndSessionURL},
	} {
		if f.value != "" {
			ps = append(ps, AddressProblems(f.field, "oidc.url", f.value)...)
		}
	}
	ps = append(ps, ScopeProblems(c.Scopes)...)
	for i, a := range c.SigningAlgs {
		if !slices.Contains(asymmetric, a) {
			add(fmt.Sprintf("SigningAlgs[%d]", i), "oidc.alg", fmt.Sprintf("%q is no algorithm that we take.", a), "one of "+strings.Join(asymmetric, ", "))
		}
	}
	if slices.Contains(strings.Fields(c.Prompt), "none") {
		add("Prompt", "oidc.prompt", "prompt: none would let nobody in who is not signed in at the provider already.", "leave it out, or select_account")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		if !slices.Contains(mapped, name) {
			add("Claims["+name+"]", "oidc.claims", fmt.Sprintf("There is no %q to be filled from a claim.", name), "one of "+strings.Join(mapped, ", "))
		}
	}
	return append(ps, c.authProblems()...)
}

func (c Config) authProblems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "oidc.auth_method", Text: text, Fix: fix})
	}
	switch {
	case c.AuthMethod != "" && !slices.Contains(authMethods, c.AuthMethod):
		add("AuthMethod", fmt.Sprintf("%q is no way to authenticate that we know.", c.AuthMethod), "one of "+strings.Join(authMethods, ", "))
	case c.AuthMethod == "private_key_jwt" && c.PrivateKey.IsZero():
		add("AuthMethod", "private_key_jwt needs a private_key.", "private_key_file: /run/secrets/idp-key.pem")
	case strings.HasPrefix(c.AuthMethod, "client_secret_") && c.ClientSecret.IsZero():
		add("AuthMethod", c.AuthMethod+" needs a client_secret.", "client_secret_file: /run/secrets/idp")
	case c.AuthMethod == "" && !c.PrivateKey.IsZero() && !c.ClientSecret.IsZero():
		add("PrivateKey", "There are a private_key and a client_secret, and only one of them is used.", "one of the two, or token_endpoint_auth_method")
	}
	if !c.PrivateKey.IsZero() {
		if _, err := ParsePrivateKey(c.PrivateKey.Reveal()); err != nil {
			add("PrivateKey", "private_key cannot be used: "+err.Error()+".", "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256")
		}
	}
	return ps
}

// Expressions lists the section's CEL for the configuration's own check.
func (c Config) Expressions() []connectors.Expression {
	var out []connectors.Expression
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		out = append(out, connectors.Expression{Field: "Claims[" + name + "]", Source: c.Claims[name]})
	}
	return out
}

// AddressProblems complains about what is no address of a web server.
func AddressProblems(field, rule, value string) []problem.Problem {
	u, err := url.Parse(value)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return []problem.Problem{{Field: field, Rule: rule, Text: "This is not the address of a web server.", Fix: "for example https://idp.example.com"}}
	case u.User != nil || u.Fragment != "":
		return []problem.Problem{{Field: field, Rule: rule, Text: "An address with a user name or a # part is not used here.", Fix: u.Scheme + "://" + u.Host + u.Path}}
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return []problem.Problem{{Field: field, Rule: rule, Text: "http sends the client's secret and people's tokens readable over the network.", Fix: "https://" + u.Host + u.Path, Warning: true}}
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// ScopeProblems complains about what cannot be a scope (RFC 6749 section 3.3).
func ScopeProblems(scopes []string) []problem.Problem {
	var ps []problem.Problem
	for i, s := range scopes {
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' }) {
			ps = append(ps, problem.Problem{Field: fmt.Sprintf("Scopes[%d]", i), Rule: "oidc.scope", Text: fmt.Sprintf("%q is not a scope.", s), Fix: "scopes: [openid, profile, email]"})
		}
	}
	return ps
}

// trusted returns the hosts that the operator wrote: they may be private.
func (c Config) trusted() []string {
	var hosts []string
	for _, a := range []string{c.Issuer, c.TokenURL, c.JWKSURL, c.UserInfoURL} {
		if u, err := url.Parse(a); err == nil && u.Host != "" && !slices.Contains(hosts, u.Hostname()) {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// ParsePrivateKey reads a key that we sign with from PEM. Its errors quote
// nothing of it.
func ParsePrivateKey(text string) (crypto.Signer, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("it is no PEM block")
	}
	var key any
	var err error
	switch block.Type {
	case "PRIVATE KEY":
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		return nil, errors.New("the PEM block is no private key without a password")
	}
	if err != nil {
		return nil, errors.New("the private key cannot be read") // the error could quote the key
	}
	s, ok := key.(crypto.Signer)
	if !ok || algOf(s) == "" {
		return nil, errors.New("it is neither RSA of 2048 bits or more, nor P-256, P-384, P-521 or Ed25519")
	}
	return s, nil
}

// algOf returns the algorithm that a key signs with; "" for a key that we do
// not sign with.
func algOf(key crypto.Signer) jose.SignatureAlgorithm {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() >= 2048 {
			return jose.RS256
		}
	case *ecdsa.PrivateKey:
		switch k.Curve.Params().BitSize {
		case 256:
			return jose.ES256
		case 384:
			return jose.ES384
		case 521:
			return jose.ES512
		}
	case ed25519.PrivateKey:
		return jose.EdDSA
	}
	return ""
}
