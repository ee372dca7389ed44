// Package portal holds the pages and the JSON of users and operators: who I am,
// the apps that I may open, my sessions, and /api/v1. It has no rule of its own:
// it asks the domain packages, and every endpoint's permission stands in one
// table (api_endpoints.go).
package portal

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/index"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/broker/workload"
)

// signIn is what the portal needs of the sign-in conversation.
type signIn interface {
	Current(r *http.Request) (session.Session, bool, error)
	Start(w http.ResponseWriter, r *http.Request, returnTo string) error
	StartFresh(w http.ResponseWriter, r *http.Request, returnTo string) error
	StartLink(w http.ResponseWriter, r *http.Request, s session.Session, connector, returnTo string) error
}

// App is something behind the gateway that a person may open.
type App struct {
	Name string // the route's or the lease's name
	Kind string // "api", or what the lease says: jupyter, vscode, terminal, custom
	Node string // of a console; else ""
	URL  string
	// State of a console is "up", "waking" or "" (not known).
	State string
	// Ends is when a console's lease runs out; zero for the others.
	Ends time.Time
}

// Config is what New needs.
type Config struct {
	Edge     *web.Edge
	Issuer   string
	Sessions *session.Manager
	Users    *user.Directory
	Ledger   *grant.Ledger
	Clients  *grant.Clients
	Keys     *token.Keyring
	Events   *event.Recorder
	SignIn   signIn
	Roles    Roles
	Consoles *console.Registry
	APIKeys  *apikey.Registry
	Accounts *user.ServiceAccounts
	// Trust are the rules for workloads.
	Trust *workload.Service
	// ConsoleURL is where people open a console.
	ConsoleURL func(id string) string
	// Frame makes the address with which a page of an origin frames a console.
	Frame func(ctx context.Context, s session.Session, console, origin, path string) (string, error)
	// MayFrame reports whether pages of an origin may frame consoles.
	MayFrame func(origin string) bool
	// Access says what the gateway would answer a session.
	Access func(ctx context.Context, q AccessQuestion, s session.Session) (Access, error)
	// OwnsDomain reports whether a connector may speak for an e-mail domain; verified is what the upstream said of the address.
	OwnsDomain func(connector, domain string, verified bool) bool
	// Place says where an address is, in a language; "" is not known. May be nil.
	Place func(ip, locale string) string
	// Apps lists what the person of a session may open through the gateway.
	Apps func(r *http.Request, s session.Session, u user.User) ([]App, error)
	// Preview returns the claims of the tokens that this session would get.
	Preview func(ctx context.Context, s session.Session) (access, id token.Claims, err error)
	// Connectors lists the configured connectors.
	Connectors func() []ConnectorState
	// Reload reads the configuration again, or fails with ErrRejected.
	Reload func(ctx context.Context, actor string) (Reload, error)
	// Index finds events; nil where this replica has none.
	Index *index.Index
	// ErrorPages are those that people were shown.
	ErrorPages *web.ErrorPages
	// Audit is the event log with its chain.
	Audit event.LogSource
	// Restore takes the events of an archive with after ≤ time < before into
	// Index and returns how many; before may be zero. ErrNoArchive if there is
	// none of that name.
	Restore func(ctx context.Context, archive string, after, before time.Time) (int, error)
	// Notify tells people and programs what happened.
	Notify notifier
	// Storage are the buckets that are lent.
	Storage []StorageOffer
	// AdminToken is the content of data/admin.token; "" means that there is none.
	AdminToken string
	Now        func() time.Time
	Log        *slog.Logger
}

// Portal serves the pages and the API.
type Portal struct {
	edge       *web.Edge
	issuer     string
	url        *url.URL // the issuer
	origin     string
	sessions   *session.Manager
	users      *user.Directory
	ledger     *grant.Ledger
	clients    *grant.Clients
	keys       *token.Keyring
	events     *event.Recorder
	signIn     signIn
	roles      Roles
	consoles   *console.Registry
	apiKeys    *apikey.Registry
	accounts   *user.ServiceAccounts
	trust      *workload.Service
	consoleURL func(id string) string
	frame      func(ctx context.Context, s session.Session, console, origin, path string) (string, error)
	mayFrame   func(origin string) bool
	access     func(ctx context.Context, q AccessQuestion, s session.Session) (Access, error)
	ownsDomain func(connector, domain string, verified bool) bool
	apps       func(r *http.Request, s session.Session, u user.User) ([]App, error)
	place      func(ip, locale string) string
	preview    func(ctx context.Context, s session.Session) (access, id token.Claims, err error)
	connectors func() []ConnectorState
	reload     func(ctx context.Context, actor string) (Reload, error)
	index      *index.Index
	errorPages *web.ErrorPages
	audit      event.LogSource
	restore    func(ctx context.Context, archive string, after, before time.Time) (int, error)
	notify     notifier
	storage    []StorageOffer
	adminToken operatorToken
	now        func() time.Time
	log        *slog.Logger
}

// New returns a Portal, or an error when something that it needs is missing.
func New(c Config) (*Portal, error) {
	if c.Edge == nil || c.Sessions == nil || c.Users == nil || c.Ledger == nil || c.Clients == nil || c.Keys == nil ||
		c.Events == nil || c.SignIn == nil || c.Apps == nil || c.Preview == nil || c.Connectors == nil || c.OwnsDomain == nil || c.Consoles == nil || c.APIKeys == nil || c.Accounts == nil || c.Trust == nil || c.ConsoleURL == nil || c.Access == nil || c.Frame == nil || c.MayFrame == nil || c.Reload == nil || c.Restore == nil || c.Audit.Key == nil || c.ErrorPages == nil || c.Notify == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("portal: the configuration is incomplete")
	}
	if err := checkStorage(c.Storage); err != nil {
		return nil, err
	}
	if c.Place == nil {
		c.Place = func(string, string) string { return "" }
	}
	iss, err := url.Parse(c.Issuer)
	if err != nil {
		return nil, err
	}
	return &Portal{edge: c.Edge, issuer: c.Issuer, url: iss, origin: iss.Scheme + "://" + iss.Host, sessions: c.Sessions, users: c.Users, ledger: c.Ledger,
		clients: c.Clients, keys: c.Keys, events: c.Events, signIn: c.SignIn, roles: c.Roles, consoles: c.Consoles, apiKeys: c.APIKeys, accounts: c.Accounts, trust: c.Trust, consoleURL: c.ConsoleURL, access: c.Access, frame: c.Frame, mayFrame: c.MayFrame, ownsDomain: c.OwnsDomain, apps: c.Apps, place: c.Place, preview: c.Preview, connectors: c.Connectors, reload: c.Reload, index: c.Index, errorPages: c.ErrorPages, audit: c.Audit, restore: c.Restore, notify: c.Notify,
		storage: c.Storage, adminToken: newOperatorToken(c.AdminToken), now: c.Now, log: c.Log}, nil
}

// operatorToken is data/admin.token, kept as a hash.
type operatorToken struct {
	set bool
	sum [sha256.Size]byte
}

func newOperatorToken(text string) operatorToken {
	if text == "" {
		return operatorToken{}
	}
	return operatorToken{set: true, sum: sha256.Sum256([]byte(text))}
}

func (t operatorToken) matches(raw string) bool {
	sum := sha256.Sum256([]byte(raw))
	return t.set && subtle.ConstantTimeCompare(sum[:], t.sum[:]) == 1
}

// who returns the person of this request, or begins the sign-in and returns
// done: the caller returns then.
func (p *Portal) who(w http.ResponseWriter, r *http.Request) (s session.Session, u user.User, done bool, err error) {
	s, ok, err := p.signIn.Current(r)
	if err != nil {
		return s, u, true, err
	}
	if !ok {
		back := r.URL.RequestURI()
		if r.Method != http.MethodGet {
			back = r.URL.Path
		}
		return s, u, true, p.signIn.Start(w, r, back)
	}
	u, err = p.users.Get(r.Context(), s.UserID)
	return s, u, err != nil, err
}
