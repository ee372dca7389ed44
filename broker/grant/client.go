// Package grant holds OAuth's state machines without HTTP: clients, codes,
// refresh families, consents. What a client may do for a session is here; how
// it asks is the issuer's business.
package grant

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
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
	BackchannelLogoutURI    string        `yaml:"backchannel_logout_uri"`
	GrantTypes              []string      `yaml:"grant_types"`                // default: authorization_code, refresh_token
	TokenEndpointAuthMethod string        `yaml:"token_endpoint_auth_method"` // default: basic or post with a secret, none without
	Scope                   string        `yaml:"scope"`                      // space-separated; default: openid profile email
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
	// Claims adds claims to tokens, in CEL.
	Claims                   map[string]string `yaml:"claims"`
	IDTokenSignedResponseAlg string            `yaml:"id_token_signed_response_alg"` // RS256 (default) or ES256
	// AllowedConnectors limits through which connectors people may come.
	AllowedConnectors []string `yaml:"allowed_connectors"`
	DeviceOffline     bool     `yaml:"device_offline"`
	DeviceAdmin       bool     `yaml:"device_admin"`
}

// Grant types that we know (RFC 6749, RFC 8628, RFC 8693).
const (
	AuthorizationCode = "authorization_code"
	RefreshToken      = "refresh_token"
	ClientCredentials = "client_credentials"
	DeviceCode        = "urn:ietf:params:oauth:grant-type:device_code"
	TokenExchange     = "urn:ietf:params:oauth:grant-type:token-exchange"
)

// Client authentication methods (RFC 7591 section 2).
const (
	AuthBasic = "client_secret_basic"
	AuthPost  = "client_secret_post"
	AuthNone  = "none"
)

// CLI is the client of our own command line.
const CLI = "gatehouse-cli"

// Public reports whether the client has no secret.
func (c *Client) Public() bool { return c.ClientSecret == "" }

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

// RedirectAllowed reports whether uri is registered: by exact comparison of
// strings, except that a public client's loopback IP redirect may have any port
// (RFC 8252 section 7.3, RFC 9700 section 4.1.3).
func (c *Client) RedirectAllowed(uri string) bool {
	if uri == "" {
		return false
	}
	if slices.Contains(c.RedirectURIs, uri) {
		return true
	}
	if !c.Public() {
		return false
	}
	return slices.ContainsFunc(c.RedirectURIs, func(reg string) bool { return sameLoopback(reg, uri) })
}

// sameLoopback compares two URIs of the form http://<loopback IP>[:port]/rest
// byte for byte, the port left out.
func sameLoopback(registered, asked string) bool {
	rh, rp, rrest, ok := splitLoopback(registered)
	if !ok {
		return false
	}
	ah, ap, arest, ok := splitLoopback(asked)
	return ok && rh == ah && rrest == arest && (ap != "" || rp == "")
}

func splitLoopback(uri string) (host, port, rest string, ok bool) {
	after, found := strings.CutPrefix(uri, "http://")
	if !found {
		return "", "", "", false
	}
	end := strings.IndexAny(after, "/?#")
	if end < 0 {
		end = len(after)
	}
	authority, rest := after[:end], after[end:]
	switch {
	case strings.HasPrefix(authority, "127.0.0.1"):
		host = "127.0.0.1"
	case strings.HasPrefix(authority, "[::1]"):
		host = "[::1]"
	default:
		return "", "", "", false
	}
	port = authority[len(host):]
	if port != "" {
		digits := strings.TrimPrefix(port, ":")
		if len(digits) == len(port) || len(digits) < 1 || len(digits) > 5 || strings.Trim(digits, "0123456789") != "" {
			return "", "", "", false
		}
		port = digits
	}
	return host, port, rest, !strings.ContainsAny(rest, "#\\")
}

// ValidRedirectURI checks a redirect URI for registration (docs/security.md
// ISS-2). public tells whether the client has no secret: only then are loopback
// http and private-use schemes for applications on the person's own machine
// (RFC 8252 section 7).
func ValidRedirectURI(raw string, public bool) error {
	if len(raw) > 2048 {
		return errors.New("it is longer than 2048 bytes")
	}
	for i := range len(raw) {
		if c := raw[i]; c <= 0x20 || c >= 0x7f || c == '\\' {
			return errors.New("it holds a space, a backslash, a control or a non-ASCII character")
		}
	}
	if strings.Contains(raw, "#") {
		return errors.New("a redirect URI has no fragment (RFC 6749 section 3.1.2)")
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("it is not a URI")
	}
	if u.User != nil || strings.Contains(u.Host, "@") {
		return errors.New("it holds user information (@)")
	}
	for _, p := range []string{u.EscapedPath(), u.Path} {
		for seg := range strings.SplitSeq(p, "/") {
			if name, _, _ := strings.Cut(seg, ";"); name == ".." || name == "." {
				return errors.New("its path holds . or .. segments")
			}
		}
	}
	switch scheme := strings.ToLower(u.Scheme); {
	case scheme == "https":
		if u.Hostname() == "" {
			return errors.New("it has no host")
		}
	case scheme == "http":
		host := u.Hostname()
		if ip, err := netip.ParseAddr(host); host != "localhost" && (err != nil || !ip.IsLoopback()) {
			return errors.New("http is for loopback addresses alone; use https")
		}
	case strings.Contains(scheme, ".") && public: // reverse domain name, RFC 8252 section 7.1
		if u.Opaque != "" || u.Host == "" && !strings.HasPrefix(u.Path, "/") {
			return errors.New("write it as com.example.app:/callback")
		}
	default:
		return fmt.Errorf("scheme %q is not https, loopback http or (for public clients) a reverse domain name", u.Scheme)
	}
	return nil
}

var reservedClaims = []string{"iss", "sub", "aud", "exp", "nbf", "iat", "jti", "auth_time", "nonce", "acr", "amr", "azp", "at_hash", "c_hash", "s_hash", "sid",
	"client_id", "scope", "groups", "email", "email_verified", "act", "cnf", "typ", "events"}

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
	for i, g := range c.GrantTypes {
		switch g {
		case AuthorizationCode, RefreshToken, DeviceCode, TokenExchange:
		case ClientCredentials:
			if c.Public() {
				add(fmt.Sprintf("GrantTypes[%d]", i), "client.grant", "client_credentials is for confidential clients (RFC 6749 section 4.4).", "a client_secret")
			}
		default:
			add(fmt.Sprintf("GrantTypes[%d]", i), "client.grant", fmt.Sprintf("%q is no grant type that is served here.", g), "authorization_code, refresh_token, client_credentials")
		}
	}
	if c.HasGrant(AuthorizationCode) && len(c.RedirectURIs) == 0 {
		add("RedirectURIs", "client.redirect_uris", "A client with the authorization_code grant needs a redirect URI.", "redirect_uris: [https://app.example.com/callback]")
	}
	switch m := c.TokenEndpointAuthMethod; {
	case m == "", m == AuthNone && c.Public(), (m == AuthBasic || m == AuthPost) && !c.Public():
	case m == AuthNone:
		add("TokenEndpointAuthMethod", "client.auth", "A client with a secret cannot authenticate with none.", "client_secret_basic")
	case m == AuthBasic || m == AuthPost:
		add("TokenEndpointAuthMethod", "client.auth", m+" needs a client_secret.", "a client_secret, or none")
	default:
		add("TokenEndpointAuthMethod", "client.auth", fmt.Sprintf("%q is no method that is served here.", m), "client_secret_basic, client_secret_post or none")
	}
	switch c.IDTokenSignedResponseAlg {
	case "", "RS256", "ES256":
	default:
		add("IDTokenSignedResponseAlg", "client.alg", fmt.Sprintf("ID tokens are not signed with %q.", c.IDTokenSignedResponseAlg), "RS256 or ES256")
	}
	if c.Public() && c.RequirePKCE != nil && !*c.RequirePKCE {
		add("RequirePKCE", "client.pkce", "A public client always needs PKCE (RFC 9700 section 2.1.1).", "leave require_pkce out")
	}
	if !c.Public() && len(c.ClientSecret.Reveal()) < 8 {
		add("ClientSecret", "client.secret", "The client secret is shorter than 8 characters.", "the output of: openssl rand -base64 32")
	}
	for name, src := range c.Claims {
		if slices.Contains(reservedClaims, name) || strings.HasPrefix(name, "gatehouse:") {
			add("Claims", "client.claims", fmt.Sprintf("The claim %q is ours to set.", name), "another name")
		} else if _, err := policy.Compile(policy.AtClaims, policy.Any, src); err != nil {
			add("Claims", "client.claims", fmt.Sprintf("The claim %q: %v.", name, err), "")
		}
	}
	return ps
}

// Resource is an API that our access tokens are for.
type Resource struct {
	Name string `yaml:"name"`
	URI  string `yaml:"uri"`
	// Scopes says in words what each scope means: scope → language → text.
	Scopes map[string]map[string]string `yaml:"scopes"`
}

// Problems complains about a resource that could not be asked for.
func (r Resource) Problems() []problem.Problem {
	var ps []problem.Problem
	if r.Name == "" || strings.ContainsAny(r.Name, " \t\"\\") {
		ps = append(ps, problem.Problem{Field: "Name", Rule: "resource.name", Text: "A resource needs a name without spaces: it is the aud of its tokens.", Fix: "name: my-api"})
	}
	if r.URI != "" {
		if u, err := url.Parse(r.URI); err != nil || !u.IsAbs() || u.Fragment != "" {
			ps = append(ps, problem.Problem{Field: "URI", Rule: "resource.uri", Text: "A resource's uri is absolute and has no fragment (RFC 8707 section 2).", Fix: "uri: https://api.example.com"})
		}
	}
	return ps
}

// ErrInvalidClient means that client authentication failed (RFC 6749 section 5.2).
var ErrInvalidClient = errors.New("client authentication failed")

// ErrInvalidTarget means that a resource was asked for that the client may not
// have, or more than one (RFC 8707 section 2).
var ErrInvalidTarget = errors.New("the resource is unknown or not allowed for this client, or there is more than one")

// Clients knows all clients and resources.
type Clients struct {
	byID      map[string]*Client
	secrets   map[string][32]byte
	order     []string
	resources map[string]Resource
	issuer    string
}

// NewClients checks and indexes clients and resources; gatehouse-cli is added
// unless it is defined.
func NewClients(clients []Client, resources []Resource, issuer string) (*Clients, error) {
	cs := &Clients{byID: map[string]*Client{}, secrets: map[string][32]byte{}, resources: map[string]Resource{}, issuer: issuer}
	names := []string{issuer}
	for _, r := range resources {
		for _, k := range []string{r.Name, r.URI} {
			if k == "" {
				continue
			}
			if _, dup := cs.resources[k]; dup {
				return nil, fmt.Errorf("resource %q is there twice", k)
			}
			cs.resources[k] = r
		}
		names = append(names, r.Name)
	}
	if !slices.ContainsFunc(clients, func(c Client) bool { return c.ClientID == CLI }) {
		clients = append(slices.Clip(clients), Client{
			ClientID: CLI, ClientName: "Gatehouse CLI", RedirectURIs: []string{"http://127.0.0.1/callback", "http://[::1]/callback"},
			GrantTypes: []string{AuthorizationCode, RefreshToken, DeviceCode}, Trusted: true, DeviceOffline: true, Audiences: names,
			Scope: "openid profile email groups offline_access gatehouse:account gatehouse:consoles gatehouse:support gatehouse:audit gatehouse:admin",
		})
	}
	for i := range clients {
		c := clients[i]
		if ps := c.Problems(); len(ps) > 0 {
			return nil, fmt.Errorf("client %q: %w", c.ClientID, ps[0])
		}
		if cs.byID[c.ClientID] != nil {
			return nil, fmt.Errorf("client %q is there twice", c.ClientID)
		}
		if !c.Public() {
			cs.secrets[c.ClientID] = sha256.Sum256([]byte(c.ClientSecret.Reveal()))
		}
		cs.byID[c.ClientID] = &c
		cs.order = append(cs.order, c.ClientID)
	}
	return cs, nil
}

// Get returns a client.
func (cs *Clients) Get(id string) (*Client, bool) {
	c, ok := cs.byID[id]
	return c, ok
}

// All returns the clients in the order of the file.
func (cs *Clients) All() []*Client {
	out := make([]*Client, 0, len(cs.order))
	for _, id := range cs.order {
		out = append(out, cs.byID[id])
	}
	return out
}

// Authenticate checks a client's secret in constant time. A public client has
// none to check and is refused here.
func (cs *Clients) Authenticate(id, secret string) (*Client, error) {
	got := sha256.Sum256([]byte(secret))
	want, known := cs.secrets[id]
	if subtle.ConstantTimeCompare(got[:], want[:]) != 1 || !known {
		return nil, ErrInvalidClient
	}
	return cs.byID[id], nil
}

// Resource returns a resource by name or URI.
func (cs *Clients) Resource(nameOrURI string) (Resource, bool) {
	r, ok := cs.resources[nameOrURI]
	return r, ok
}

// Resources returns the resource that an audience names, for its scopes.
func (cs *Clients) name(s string) string {
	if r, ok := cs.resources[s]; ok {
		return r.Name
	}
	return s
}

// Audience decides the aud of an access token: the one resource asked for, by
// name or URI, if the client may; else the client's first; else the issuer.
func (cs *Clients) Audience(c *Client, requested []string) (string, error) {
	if len(requested) > 1 {
		return "", ErrInvalidTarget
	}
	allowed := make([]string, 0, len(c.Audiences)+1)
	for _, a := range c.Audiences {
		allowed = append(allowed, cs.name(a))
	}
	if len(allowed) == 0 {
		allowed = append(allowed, cs.issuer)
	}
	if len(requested) == 0 {
		return allowed[0], nil
	}
	asked := cs.name(requested[0])
	if !slices.Contains(allowed, asked) {
		return "", ErrInvalidTarget
	}
	return asked, nil
}
