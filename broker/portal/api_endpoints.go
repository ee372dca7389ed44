package portal

import (
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/workload"
)

// stepUp is how fresh a sign-in must be for what changes keys and people (AD-2).
const stepUp = 5 * time.Minute

// adminFresh is how old the sign-in of somebody may be who looks after others
// (AD-2).
const adminFresh = 12 * time.Hour

// endpoints is the whole API of this version with the permission of each line.
// openapi.json is made of it.
func (p *Portal) endpoints() []endpoint {
	self := permission{self: true, scopes: []string{ScopeAccount}}
	read := permission{roles: []Role{RoleAuditor, RoleSupport}, scopes: []string{ScopeAudit, ScopeSupport}, fresh: adminFresh}
	support := permission{roles: []Role{RoleSupport}, scopes: []string{ScopeSupport}, fresh: adminFresh}
	keys := permission{roles: []Role{RoleAdmin}, scopes: []string{ScopeAdmin}, fresh: stepUp}
	selfFresh := permission{self: true, scopes: []string{ScopeAccount}, fresh: stepUp}
	admin := permission{roles: []Role{RoleAdmin}, scopes: []string{ScopeAdmin}, fresh: adminFresh}
	lend := permission{roles: []Role{RoleAdmin}, scopes: []string{ScopeConsoles}, fresh: adminFresh, service: true}
	lent := permission{roles: []Role{RoleAuditor, RoleSupport}, scopes: []string{ScopeConsoles, ScopeAudit, ScopeSupport}, fresh: adminFresh, service: true}
	makesKeys := permission{self: true, scopes: []string{ScopeAccount}, fresh: keyFresh}
	frames := permission{self: true, scopes: []string{ScopeConsoles}}
	lends := permission{self: true, scopes: []string{ScopeStorage, ScopeAccount}, service: true}
	people := keys // who has an account is as grave as what signs for it
	audit := permission{roles: []Role{RoleAuditor}, scopes: []string{ScopeAudit}, fresh: adminFresh}
	return []endpoint{
		{method: http.MethodGet, path: "/openapi.json", summary: "This description.", needs: permission{public: true}, answer: map[string]any{}, serve: p.apiOpenAPI},

		{method: http.MethodGet, path: "/me", summary: "Who I am, my groups and roles.", needs: self, answer: meView{}, serve: p.apiMe},
		{method: http.MethodGet, path: "/me/identities", summary: "The upstream identities that are linked to my account.", needs: self, answer: page[identityView]{}, serve: p.apiMyIdentities},
		{method: http.MethodDelete, path: "/me/identities/{id}", summary: "Unlink one of them, never the last; its sessions end.", needs: selfFresh, serve: p.apiUnlinkMine},
		{method: http.MethodGet, path: "/me/sessions", summary: "My sessions and devices.", needs: self, answer: page[sessionView]{}, serve: p.apiMySessions},
		{method: http.MethodDelete, path: "/me/sessions/{id}", summary: "End one of my sessions.", needs: self, serve: p.apiEndMySession},
		{method: http.MethodPost, path: "/me/sessions/revoke-others", summary: "End all my sessions but this one, of every kind.", needs: self, answer: endedView{}, serve: p.apiEndMyOthers},

		{method: http.MethodGet, path: "/me/events", summary: "What happened to my account, newest first.", needs: self, query: []string{"after", "before", "cursor", "limit"}, answer: ownEventsPage{}, serve: p.apiMyEvents},

		{method: http.MethodGet, path: "/me/api-keys", summary: "My API keys, dead ones of the last days too.", needs: self, answer: page[apiKeyView]{}, serve: p.apiMyKeys},
		{method: http.MethodPost, path: "/me/api-keys", summary: "Make an API key; the answer shows it, once.", needs: makesKeys, body: apiKeyRequest{}, answer: newAPIKeyView{}, serve: p.apiCreateMyKey},
		{method: http.MethodDelete, path: "/me/api-keys/{id}", summary: "Revoke one of my keys: dead on every replica within a second.", needs: self, serve: p.apiRevokeMyKey},
		{method: http.MethodPost, path: "/me/api-keys/{id}/rotate", summary: "Replace one of my keys; both are good for overlap.", needs: makesKeys, body: rotateKeyRequest{}, answer: newAPIKeyView{}, serve: p.apiRotateMyKey},

		{method: http.MethodGet, path: "/api-keys", summary: "API keys of everybody, or of one owner: a user, or a service account.", needs: read, query: []string{"owner", "after", "limit"}, answer: page[apiKeyView]{}, serve: p.apiKeysOfAll},
		{method: http.MethodDelete, path: "/api-keys/{id}", summary: "Revoke anybody's key.", needs: support, serve: p.apiRevokeKeyOf},
		{method: http.MethodPost, path: "/api-keys/{id}/rotate", summary: "Replace a service account's key; both are good for overlap.", needs: keys, body: rotateKeyRequest{}, answer: newAPIKeyView{}, serve: p.apiRotateKeyOf},
		{method: http.MethodGet, path: "/service-accounts", summary: "Accounts of programs.", needs: read, answer: page[accountView]{}, serve: p.apiAccounts},
		{method: http.MethodPost, path: "/service-accounts", summary: "Make a service account with groups.", needs: keys, body: accountRequest{}, answer: accountView{}, serve: p.apiCreateAccount},
		{method: http.MethodDelete, path: "/service-accounts/{id}", summary: "Take one away; its keys are dead.", needs: keys, serve: p.apiDeleteAccount},
		{method: http.MethodPost, path: "/service-accounts/{id}/api-keys", summary: "Make a key of a service account; the answer shows it, once.", needs: keys, body: apiKeyRequest{}, answer: newAPIKeyView{}, serve: p.apiCreateAccountKey},

		{method: http.MethodGet, path: "/trust", summary: "Rules by which workloads (CI jobs) exchange their tokens, in the order in which they are tried.", needs: read, answer: page[trustView]{}, serve: p.apiTrust},
		{method: http.MethodGet, path: "/trust/{name}", summary: "One rule.", needs: read, answer: trustView{}, serve: p.apiTrustRule},
		{method: http.MethodPut, path: "/trust/{name}", summary: "Make a rule or replace it, on every replica within a second; those of the configuration are changed there.", needs: keys, body: trustRequest{}, answer: trustView{}, serve: p.apiPutTrust},
		{method: http.MethodDelete, path: "/trust/{name}", summary: "Take a rule away; tokens that it gave live on for their ttl.", needs: keys, serve: p.apiDeleteTrust},
		{method: http.MethodPost, path: "/trust/explain", summary: "Which rule takes a token, or claims, and what differs from the others. Nothing is issued, and the token is not used up.", needs: read, body: explainRequest{}, answer: workload.Explanation{}, serve: p.apiExplainTrust},

		{method: http.MethodGet, path: "/users", summary: "All users; q finds by id, e-mail address or user name.", needs: read, query: []string{"q", "after", "limit"}, answer: page[userView]{}, serve: p.apiUsers},
		{method: http.MethodGet, path: "/users/{id}", summary: "One user with the linked identities.", needs: read, answer: userView{}, serve: p.apiUser},
		{method: http.MethodPost, path: "/users/{id}/suspend", summary: "Suspend: all sessions and tokens of the user end within a second.", needs: support, answer: userView{}, serve: p.apiSuspend},
		{method: http.MethodPost, path: "/users/{id}/resume", summary: "Let a suspended user sign in again.", needs: support, answer: userView{}, serve: p.apiResume},

		{method: http.MethodPost, path: "/users/{id}/merge", summary: "Move the identities and consents of another user (from) to this one; the other is shut for good.", needs: people, body: mergeRequest{}, answer: userView{}, serve: p.apiMerge},

		{method: http.MethodGet, path: "/invites", summary: "Invitations of the last week; used and withdrawn ones too.", needs: admin, query: []string{"after", "limit"}, answer: page[inviteView]{}, serve: p.apiInvites},
		{method: http.MethodPost, path: "/invites", summary: "Invite an e-mail address: a link that makes one account within 7 days, shown once.", needs: people, body: inviteRequest{}, answer: newInviteView{}, serve: p.apiInvite},
		{method: http.MethodDelete, path: "/invites/{id}", summary: "Withdraw an invitation.", needs: people, serve: p.apiWithdraw},

		{method: http.MethodGet, path: "/sessions", summary: "The sessions of a user (user=ID).", needs: read, query: []string{"user"}, answer: page[sessionView]{}, serve: p.apiSessions},
		{method: http.MethodDelete, path: "/sessions/{id}", summary: "End a session of anybody.", needs: support, serve: p.apiEndSession},

		{method: http.MethodPost, path: "/access/check", summary: "Who may reach a URL of the gateway, and why not: a user by each browser session, or all users. Nothing is forwarded.", needs: read, body: accessRequest{}, answer: page[accessView]{}, serve: p.apiAccess},

		{method: http.MethodGet, path: "/consoles", summary: "Console leases, by owner or node; watch=true answers with all and then every change, a line of JSON each.", needs: lent, query: []string{"owner", "node", "after", "limit", "watch"}, answer: page[leaseView]{}, serve: p.apiConsoles},
		{method: http.MethodPost, path: "/consoles", summary: "Lend up to 1,000 consoles; each stands or falls by itself.", needs: lend, body: bulkRequest{}, answer: bulkView{}, serve: p.apiPutConsoles},
		{method: http.MethodGet, path: "/consoles/{id}", summary: "One console lease.", needs: lent, answer: leaseView{}, serve: p.apiConsole},
		{method: http.MethodPut, path: "/consoles/{id}", summary: "Lend a console, or change what is lent; the same again is a heartbeat.", needs: lend, body: leaseRequest{}, answer: leaseView{}, serve: p.apiPutConsole},
		{method: http.MethodPost, path: "/consoles/{id}/ticket", summary: "A one-time address with which the page of an allowed origin frames the console for the caller; 60 seconds.", needs: frames, body: ticketRequest{}, answer: ticketView{}, serve: p.apiTicket},
		{method: http.MethodDelete, path: "/consoles/{id}", summary: "Take a console back: what is open closes within a second.", needs: lend, serve: p.apiDeleteConsole},

		{method: http.MethodGet, path: "/storage/credentials", summary: "Storage that is lent to me: which bucket and prefix, and what I may do there.", needs: lends, answer: page[storageOfferView]{}, serve: p.apiStorage},
		{method: http.MethodPost, path: "/storage/credentials", summary: "Borrow credentials for my prefix of a bucket; an hour at most.", needs: lends, body: storageRequest{}, answer: lentView{}, serve: p.apiLend},
		{method: http.MethodPost, path: "/storage/token", summary: "The web identity token with which SDKs ask the vendor's token service themselves; only of offers with direct: true.", needs: lends, body: storageRequest{}, answer: storageTokenView{}, serve: p.apiStorageToken},

		{method: http.MethodGet, path: "/keys", summary: "Signing keys and their states.", needs: read, answer: page[keyView]{}, serve: p.apiSigningKeys},
		{method: http.MethodPost, path: "/keys/rotate", summary: "Put the next key of an algorithm to use now.", needs: keys, body: rotateRequest{}, answer: page[keyView]{}, serve: p.apiRotateKey},
		{method: http.MethodPost, path: "/keys/{kid}/revoke", summary: "Withdraw a key at once: what it signed is void.", needs: keys, answer: page[keyView]{}, serve: p.apiRevokeKey},

		{method: http.MethodGet, path: "/notify/channels", summary: "Notification channels, whether messages arrive, and what waits.", needs: read, answer: page[channelView]{}, serve: p.apiChannels},
		{method: http.MethodPost, path: "/notify/channels/{id}/test", summary: "Send a test message now, past the queue; the answer says what the other side said.", needs: admin, answer: testView{}, serve: p.apiTestChannel},
		{method: http.MethodGet, path: "/notify/dead-letters", summary: "Messages that were given up, of all channels or of one (channel=ID).", needs: read, query: []string{"channel", "after", "limit"}, answer: page[letterView]{}, serve: p.apiLetters},
		{method: http.MethodPost, path: "/notify/dead-letters/{id}/retry", summary: "Send one again, before what waits.", needs: admin, serve: p.apiRetryLetter},
		{method: http.MethodDelete, path: "/notify/dead-letters/{id}", summary: "Forget one; the audit log keeps its events.", needs: admin, serve: p.apiDropLetter},

		{method: http.MethodPost, path: "/reload", summary: "Read this replica's configuration again: all of it is put to use, or nothing (422, with every problem).", needs: keys, answer: Reload{}, serve: p.apiReload},
		{method: http.MethodGet, path: "/clients", summary: "OIDC clients.", needs: read, answer: page[clientView]{}, serve: p.apiClients},
		{method: http.MethodGet, path: "/audit/events", summary: "The audit log, newest first; format=jsonl or csv answers with all that the filter finds, a line each.", needs: audit,
			query: []string{"after", "before", "name", "actor", "target", "person", "ip", "connector", "client", "ref", "severity", "text", "order", "names", "format", "limit", "cursor"}, answer: eventsPage{}, serve: p.apiEvents},
		{method: http.MethodGet, path: "/audit/key", summary: "The public half of the key that the audit log's chain is signed with.", needs: audit, answer: auditKeyView{}, serve: p.apiAuditKey},
		{method: http.MethodPost, path: "/audit/restore", summary: "Take the events of an archive into this replica's index, so that they are found again; minutes, where there are many.", needs: keys, body: restoreRequest{}, answer: restoreView{}, serve: p.apiAuditRestore},
		{method: http.MethodGet, path: "/audit/bundle", summary: "The log in the store with its chain, a line of JSON each, as `gatehouse audit verify` reads it.", needs: audit, answer: map[string]any{}, serve: p.apiAuditBundle},

		{method: http.MethodGet, path: "/connectors", summary: "Connectors and whether they can be reached.", needs: read, answer: page[ConnectorState]{}, serve: p.apiConnectors},
	}
}
