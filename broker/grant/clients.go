package grant

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
)

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
			GrantTypes: []string{AuthorizationCode, RefreshToken, DeviceCode, TokenExchange}, Trusted: true, DeviceOffline: true, Audiences: names,
			Scope: "openid profile email groups offline_access gatehouse:account gatehouse:storage gatehouse:consoles gatehouse:support gatehouse:audit gatehouse:admin",
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
		if c.ClientSecret != "" {
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

// Name is what people call the client, or "" for an id that is none.
func (cs *Clients) Name(id string) string {
	if c, ok := cs.byID[id]; ok {
		return c.Name()
	}
	return ""
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

// Resources lists the resources in order of name.
func (cs *Clients) Resources() []Resource {
	var out []Resource
	for k, r := range cs.resources {
		if k == r.Name {
			out = append(out, r)
		}
	}
	slices.SortFunc(out, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// name is what aud says: the name of a resource, also where its URI was given.
func (cs *Clients) name(s string) string {
	if r, ok := cs.resources[s]; ok {
		return r.Name
	}
	return s
}

// Canonical is what aud says of a resource: its name, also where its URI was
// given. What is no resource comes back as it is.
func (cs *Clients) Canonical(nameOrURI string) string { return cs.name(nameOrURI) }

// Serves reports whether the client is a resource server of the audience
// (resource_server_for).
func (cs *Clients) Serves(c *Client, audience string) bool {
	return audience != "" && slices.ContainsFunc(c.ResourceServerFor, func(r string) bool { return cs.name(r) == cs.name(audience) })
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
