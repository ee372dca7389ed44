package portal

import (
	"net/http"
	"time"
)

// stepUp is how fresh a sign-in must be for what changes keys and people (AD-2).
const stepUp = 5 * time.Minute

// endpoints is the whole API of this version with the permission of each line.
// openapi.json is made of it.
func (p *Portal) endpoints() []endpoint {
	self := permission{self: true, scope: ScopeAccount}
	read := permission{roles: []Role{RoleAuditor, RoleSupport}, scope: ScopeAudit}
	support := permission{roles: []Role{RoleSupport}, scope: ScopeSupport, fresh: 12 * time.Hour}
	keys := permission{roles: []Role{RoleAdmin}, scope: ScopeAdmin, fresh: stepUp}
	return []endpoint{
		{http.MethodGet, "/openapi.json", "This description.", permission{public: true}, p.apiOpenAPI},

		{http.MethodGet, "/me", "Who I am, my groups and roles.", self, p.apiMe},
		{http.MethodGet, "/me/sessions", "My sessions and devices.", self, p.apiMySessions},
		{http.MethodDelete, "/me/sessions/{id}", "End one of my sessions.", self, p.apiEndMySession},
		{http.MethodPost, "/me/sessions/revoke-others", "End all my sessions but this one, of every kind.", self, p.apiEndMyOthers},

		{http.MethodGet, "/users", "All users; q finds by name, e-mail or id.", read, p.apiUsers},
		{http.MethodGet, "/users/{id}", "One user with the linked identities.", read, p.apiUser},
		{http.MethodPost, "/users/{id}/suspend", "Suspend: all sessions and tokens of the user end within a second.", support, p.apiSuspend},
		{http.MethodPost, "/users/{id}/resume", "Let a suspended user sign in again.", support, p.apiResume},

		{http.MethodGet, "/sessions", "The sessions of a user (user=ID).", read, p.apiSessions},
		{http.MethodDelete, "/sessions/{id}", "End a session of anybody.", support, p.apiEndSession},

		{http.MethodGet, "/keys", "Signing keys and their states.", read, p.apiKeys},
		{http.MethodPost, "/keys/rotate", "Put the next key of an algorithm to use now.", keys, p.apiRotateKey},
		{http.MethodPost, "/keys/{kid}/revoke", "Withdraw a key at once: what it signed is void.", keys, p.apiRevokeKey},

		{http.MethodGet, "/clients", "OIDC clients.", read, p.apiClients},
		{http.MethodGet, "/connectors", "Connectors and whether they can be reached.", read, p.apiConnectors},
	}
}
