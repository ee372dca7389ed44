// Package grant holds OAuth's state machines without HTTP: clients, codes,
// refresh families, consents. What a client may do for a session is here; how
// it asks is the issuer's business.
package grant

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Client is a static OAuth client (RFC 7591 section 2, and keys of ours).
type Client struct {
	ClientID                string        `yaml:"client_id"`
	ClientSecret            redact.String `yaml:"client_secret"` // absent: public client
	ClientName              string        `yaml:"client_name"`
	ClientURI               string        `yaml:"client_uri"`
	LogoURI                 string        `yaml:"logo_uri"`
	RedirectURIs            []string      `yaml:"redirect_uris"`
	PostLogoutRedirectURIs  []string      `yaml:"post_logout_redirect_uris"`
	BackchannelLogoutURI    string        `yaml:"backchannel_logout_uri,later"`
	GrantTypes              []string      `yaml:"grant_types"`                // default: authorization_code, refresh_token
	TokenEndpointAuthMethod string        `yaml:"token_endpoint_auth_method"` // default: basic or post with a secret, private_key_jwt with keys, else none
	// JWKS or JWKSURI are the client's public keys, for private_key_jwt, and
	// TokenEndpointAuthSigningAlg the only algorithm that it signs with then.
	JWKS                        JWKS   `yaml:"jwks"`
	JWKSURI                     string `yaml:"jwks_uri"`
	TokenEndpointAuthSigningAlg string `yaml:"token_endpoint_auth_signing_alg"`
	Scope                       string `yaml:"scope"` // space-separated; default: openid profile email
	// Audiences are the resources that tokens may be for; the first is the
	// default. Without any, tokens are for the issuer.
	Audiences []string `yaml:"audiences"`
	// Trusted clients are first-party: no consent page.
	Trusted bool `yaml:"trusted"`
	// RequirePKCE is true unless the file says otherwise; public clients
	// always need it.
	RequirePKCE *bool `yaml:"require_pkce"`
	// ResourceServerFor names resources whose tokens this client may introspect.
	ResourceServerFor []string `yaml:"resource_server_for"`
	// Exchange says, in CEL, which tokens the client may exchange and for what
	// (RFC 8693). Without it: its own ones, and nobody acts for anybody.
	Exchange *string `yaml:"exchange"`
	// Claims adds claims to tokens, in CEL.
	Claims                   map[string]string `yaml:"claims"`
	IDTokenSignedResponseAlg string            `yaml:"id_token_signed_response_alg"` // RS256 (default) or ES256
	// AllowedConnectors limits through which connectors people may come.
	AllowedConnectors []string `yaml:"allowed_connectors,some"`
	// DeviceOffline lets the device flow give offline_access, DeviceAdmin the
	// scopes of roles (docs/security.md DF-3).
	DeviceOffline bool `yaml:"device_offline"`
	DeviceAdmin   bool `yaml:"device_admin"`
}

// Grant types that we know (RFC 6749, RFC 8628, RFC 8693, RFC 7523).
const (
	AuthorizationCode = "authorization_code"
	RefreshToken      = "refresh_token"
	ClientCredentials = "client_credentials"
	DeviceCode        = "urn:ietf:params:oauth:grant-type:device_code"
	TokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange"
	JWTBearer         = "urn:ietf:params:oauth:grant-type:jwt-bearer"
)

// Client authentication methods (RFC 7591 section 2).
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
	AuthNone  = "none"
	// AuthPrivateKeyJWT is RFC 7523 section 2.2 by a key of the client's.
	AuthPrivateKeyJWT = "private_key_jwt"
)

// CLI is the client of our own command line.
const CLI = "gatehouse-cli"

// Public reports whether the client has neither secret nor key.
func (c *Client) Public() bool { return c.ClientSecret == "" && !c.Keyed() }

// HasGrant reports whether the client may use a grant type.
func (c *Client) HasGrant(g string) bool {
	if len(c.GrantTypes) == 0 {
		return g == AuthorizationCode || g == RefreshToken
	}
	return slices.Contains(c.GrantTypes, g)
}

// Scopes are those that the client may ask for.
func (c *Client) Scopes() []string {
	if c.Scope == "" {
		return []string{"openid", "profile", "email"}
	}
	return strings.Fields(c.Scope)
}

// PKCERequired reports whether a code needs a challenge (RFC 9700 section 2.1.1).
func (c *Client) PKCERequired() bool { return c.Public() || c.RequirePKCE == nil || *c.RequirePKCE }

// Accepts reports whether the client may authenticate by this method.
func (c *Client) Accepts(method string) bool {
	if c.Public() {
		return method == AuthNone
	}
	if c.TokenEndpointAuthMethod == "" && c.ClientSecret == "" {
		return method == AuthPrivateKeyJWT
	}
	if c.TokenEndpointAuthMethod == "" {
		return method == AuthBasic || method == AuthPost
	}
	return method == c.TokenEndpointAuthMethod
}

// Name is what people are shown.
func (c *Client) Name() string {
	if c.ClientName != "" {
		return c.ClientName
	}
	return c.ClientID
}

var reservedClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "auth_time", "nonce", "acr", "amr", "azp", "at_hash", "c_hash", "s_hash", "sid",
	"active", "token_type", "client_id", "scope", "groups", "email", "email_verified", "act", "cnf", "typ", "events"}

// Problems complains about a client that could not be used as it stands.
func (c Client) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if c.ClientID == "" || len(c.ClientID) > 256 || strings.ContainsFunc(c.ClientID, func(r rune) bool { return r < 0x21 || r > 0x7e }) {
		add("ClientID", "client.id", "A client needs a client_id of visible ASCII characters.", "client_id: my-app")
	}
	for i, u := range c.RedirectURIs {
		if err := ValidRedirectURI(u, c.Public()); err != nil {
			add(fmt.Sprintf("RedirectURIs[%d]", i), "client.redirect_uri", "This redirect URI cannot be registered: "+err.Error()+".", "")
		}
	}
	for i, u := range c.PostLogoutRedirectURIs {
		if err := ValidRedirectURI(u, c.Public()); err != nil {
			add(fmt.Sprintf("PostLogoutRedirectURIs[%d]", i), "client.redirect_uri", "This URI cannot be registered: "+err.Error()+".", "")
		}
	}
	for _, l := range []struct{ field, url string }{{"ClientURI", c.ClientURI}, {"LogoURI", c.LogoURI}, {"BackchannelLogoutURI", c.BackchannelLogoutURI}} {
		if l.url == "" {
			continue
		}
		if err := validLink(l.url); err != nil {
			add(l.field, "client.uri", "This URL cannot be used: "+err.Error()+".", "https://app.example.com/")
		}
	}
	for i, g := range c.GrantTypes {
		switch g {
		case AuthorizationCode, RefreshToken, DeviceCode, TokenExchange, JWTBearer:
		case ClientCredentials:
			if c.Public() {
				add(fmt.Sprintf("GrantTypes[%d]", i), "client.grant", "client_credentials is for confidential clients (RFC 6749 section 4.4).", "a client_secret")
			}
		default:
			add(fmt.Sprintf("GrantTypes[%d]", i), "client.grant", fmt.Sprintf("%q is no grant type that is served here.", g), "authorization_code, refresh_token, client_credentials, "+DeviceCode)
		}
	}
	if c.HasGrant(AuthorizationCode) && len(c.RedirectURIs) == 0 {
		add("RedirectURIs", "client.redirect_uris", "A client with the authorization_code grant needs a redirect URI.", "redirect_uris: [https://app.example.com/callback]")
	}
	if c.Public() && len(c.ResourceServerFor) > 0 {
		add("ResourceServerFor", "client.resource_server", "A client without a secret cannot prove to be a resource server.", "a client_secret")
	}
	if c.Exchange != nil {
		if _, err := policy.Compile(policy.AtExchange, policy.Bool, *c.Exchange); err != nil {
			add("Exchange", "client.exchange", err.Error()+".", "")
		} else if !c.HasGrant(TokenExchange) {
			add("Exchange", "client.exchange", "The client has no grant that this is about.", "grant_types: ["+TokenExchange+"]")
		}
	}
	ps = append(ps, c.keyProblems()...)
	switch m := c.TokenEndpointAuthMethod; {
	case m == "", m == AuthNone && c.Public(), (m == AuthBasic || m == AuthPost) && c.ClientSecret != "", m == AuthPrivateKeyJWT && c.Keyed():
	case m == AuthPrivateKeyJWT:
		add("TokenEndpointAuthMethod", "client.auth", m+" needs the client's public keys.", "jwks_uri, or jwks")
	case m == AuthNone:
		add("TokenEndpointAuthMethod", "client.auth", "A client with a secret or keys cannot authenticate with none.", "client_secret_basic")
	case m == AuthBasic || m == AuthPost:
		add("TokenEndpointAuthMethod", "client.auth", m+" needs a client_secret.", "a client_secret, or none")
	default:
		add("TokenEndpointAuthMethod", "client.auth", fmt.Sprintf("%q is no method that is served here.", m), "client_secret_basic, client_secret_post, private_key_jwt or none")
	}
	switch c.IDTokenSignedResponseAlg {
	case "", "RS256", "ES256":
	default:
		add("IDTokenSignedResponseAlg", "client.alg", fmt.Sprintf("ID tokens are not signed with %q.", c.IDTokenSignedResponseAlg), "RS256 or ES256")
	}
	if c.Public() && c.RequirePKCE != nil && !*c.RequirePKCE {
		add("RequirePKCE", "client.pkce", "A public client always needs PKCE (RFC 9700 section 2.1.1).", "leave require_pkce out")
	}
	if c.ClientSecret != "" && len(c.ClientSecret.Reveal()) < 8 {
		add("ClientSecret", "client.secret", "The client secret is shorter than 8 characters.", "the output of: openssl rand -base64 32")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Claims)) {
		src := c.Claims[name]
		if slices.Contains(reservedClaims, name) || strings.HasPrefix(name, "gatehouse:") {
			add("Claims."+name, "client.claims", fmt.Sprintf("The claim %q is ours to set.", name), "another name")
		} else if _, err := policy.Compile(policy.AtClaims, policy.Any, src); err != nil {
			add("Claims."+name, "client.claims", fmt.Sprintf("The claim %q: %v.", name, err), "")
		}
	}
	return ps
}
