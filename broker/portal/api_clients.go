package portal

import (
	"context"
	"net/http"
	"time"
)

type clientView struct {
	ClientID     string   `json:"client_id"`
	Name         string   `json:"client_name,omitempty"`
	RedirectURIs []string `json:"redirect_uris"`
	GrantTypes   []string `json:"grant_types"`
	Scope        string   `json:"scope"`
	Audiences    []string `json:"audiences,omitempty"`
	AuthMethod   string   `json:"token_endpoint_auth_method"`
	Trusted      bool     `json:"trusted"`
}

// apiClients never shows a secret, not even its mask (AD-5).
func (p *Portal) apiClients(context.Context, *caller, *http.Request) (any, error) {
	out := page[clientView]{Items: []clientView{}}
	for _, c := range p.clients.All() {
		out.Items = append(out.Items, clientView{ClientID: c.ClientID, Name: c.ClientName, RedirectURIs: c.RedirectURIs, GrantTypes: c.GrantTypes,
			Scope: c.Scope, Audiences: c.Audiences, AuthMethod: c.TokenEndpointAuthMethod, Trusted: c.Trusted})
	}
	return out, nil
}

// ConnectorState is one configured connector as the API and the pages show it.
type ConnectorState struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Type   string `json:"type"`
	Served bool   `json:"served"` // false: accepted, not served by this version
	// LinkOnly ones can be linked to an account and lead into none; Hidden ones
	// are not on the sign-in page.
	LinkOnly bool      `json:"link_only"`
	Hidden   bool      `json:"hidden"`
	Up       bool      `json:"up"`
	Since    time.Time `json:"since,omitzero"`
}

func (p *Portal) apiConnectors(context.Context, *caller, *http.Request) (any, error) {
	return page[ConnectorState]{Items: p.connectors()}, nil
}
