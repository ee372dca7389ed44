// Package issuer is the OpenID Connect provider: one file per endpoint or grant
// type, and errors.go for what the RFCs call each failure. It names no
// connector and speaks no SQL.
package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// SignInRequest is what the issuer asks of whoever signs people in.
type SignInRequest struct {
	ReturnTo, LoginHint, Connector, DomainHint, App, UILocales string
	Force                                                      bool
}

type signIn interface {
	StartWith(w http.ResponseWriter, r *http.Request, s SignInRequest) error
	Current(r *http.Request) (session.Session, bool, error)
}

type sessions interface {
	Get(ctx context.Context, id string) (session.Session, error)
	Recheck(ctx context.Context, id string) (session.Session, error)
	StartChild(ctx context.Context, parent session.Session, kind session.Kind) (session.Session, error)
	StartDevice(ctx context.Context, parent session.Session, d session.DeviceInfo) (session.Session, error)
	Longest(parent session.Session, kind session.Kind) time.Duration
	Revoke(ctx context.Context, id, reason string) error
}

type users interface {
	Profile(ctx context.Context, id string) (user.User, error)
}

type keys interface {
	Sign(ctx context.Context, alg token.Alg, typ token.Type, c token.Claims) (string, error)
	Verify(ctx context.Context, typ token.Type, raw string) (token.Claims, error)
	JWKS(ctx context.Context) (body []byte, etag string, maxAge time.Duration, err error)
}

// Config is what New needs.
type Config struct {
	Edge *web.Edge
	// Issuer is the iss: the public URL without a trailing slash.
	Issuer   string
	Clients  *grant.Clients
	Ledger   *grant.Ledger
	Keys     keys
	Sessions sessions
	Users    users
	SignIn   signIn
	Sealer   *store.Sealer
	Events   *event.Recorder
	Tokens   grant.TokensConfig
	// Reachable fails while the store cannot be asked: nothing is issued then.
	Reachable func(context.Context) error
	// Grantable drops the scopes that the person of a session may not have.
	Grantable func(ctx context.Context, s session.Session, scopes []string) ([]string, error)
	// Accounts are the service accounts.
	Accounts accounts
	APIKeys  apiKeys
	// Signatures verifies the assertions of clients that have keys.
	Signatures signatures
	// Workloads decides about the tokens of CI jobs; nil takes none.
	Workloads workloads
	// Place says where an address is, in English, for what is kept; PlaceFor in a
	// person's language. "" is not known. May be nil.
	Place    func(ctx context.Context, ip string) (country, place string)
	PlaceFor func(ip, locale string) string
	Now      func() time.Time
	Log      *slog.Logger
	// Observe is told of every answer of the token endpoint: the grant type, and
	// the error's code or ""; may be nil.
	Observe func(grantType, code string)
}

// Issuer answers the protocol's endpoints. It is safe for concurrent use.
type Issuer struct {
	cfg       Config
	marks     *store.Sealer
	handles   *store.Sealer // of requests of the device flow, for one session each
	discovery []byte
	claims    map[string]map[string]*policy.Expr // client → claim → expression
	exchanges map[string]*policy.Expr            // client → its exchange rule
	origins   map[string]bool                    // of public clients, for CORS
	grants    []grantHandler                     // the grant types served; discovery is derived from it
}

// New checks the configuration and compiles the clients' claims.
func New(cfg Config) (*Issuer, error) {
	if cfg.Edge == nil || cfg.Clients == nil || cfg.Ledger == nil || cfg.Keys == nil || cfg.Sessions == nil || cfg.Users == nil || cfg.SignIn == nil || cfg.Sealer == nil || cfg.Events == nil || cfg.Grantable == nil || cfg.Reachable == nil || cfg.Accounts == nil || cfg.APIKeys == nil || cfg.Signatures == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("issuer: the configuration is incomplete")
	}
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Host == "" || strings.HasSuffix(cfg.Issuer, "/") || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("issuer: %q is not a URL without query and trailing slash", cfg.Issuer)
	}
	cfg.Tokens = cfg.Tokens.WithDefaults()
	marks, err := cfg.Sealer.For("authorize")
	if err != nil {
		return nil, err
	}
	handles, err := cfg.Sealer.For("device")
	if err != nil {
		return nil, err
	}
	if cfg.Place == nil {
		cfg.Place = func(context.Context, string) (string, string) { return "", "" }
	}
	if cfg.PlaceFor == nil {
		cfg.PlaceFor = func(string, string) string { return "" }
	}
	is := &Issuer{cfg: cfg, marks: marks, handles: handles, claims: map[string]map[string]*policy.Expr{}, exchanges: map[string]*policy.Expr{}, origins: map[string]bool{}}
	for _, c := range cfg.Clients.All() {
		for name, src := range c.Claims {
			e, err := policy.Compile(policy.AtClaims, policy.Any, src)
			if err != nil {
				return nil, fmt.Errorf("issuer: client %s, claim %s: %w", c.ClientID, name, err)
			}
			if is.claims[c.ClientID] == nil {
				is.claims[c.ClientID] = map[string]*policy.Expr{}
			}
			is.claims[c.ClientID][name] = e
		}
		if c.Exchange != nil {
			if is.exchanges[c.ClientID], err = policy.Compile(policy.AtExchange, policy.Bool, *c.Exchange); err != nil {
				return nil, fmt.Errorf("issuer: client %s, exchange: %w", c.ClientID, err)
			}
		}
		if !c.Public() {
			continue
		}
		for _, raw := range c.RedirectURIs {
			if o := originOf(raw); o != "" {
				is.origins[o] = true
			}
		}
	}
	is.grants = []grantHandler{{grant.AuthorizationCode, is.redeemCode}, {grant.RefreshToken, is.refresh}, {grant.ClientCredentials, is.clientCredentials}, {grant.DeviceCode, is.redeemDevice}}
	is.grants = append(is.grants, grantHandler{grant.TokenExchange, is.exchange})
	if cfg.Workloads != nil {
		is.grants = append(is.grants, grantHandler{grant.JWTBearer, is.assertion})
	}
	if is.discovery, err = is.metadata(); err != nil {
		return nil, err
	}
	return is, nil
}

// originOf is the origin of a web address as browsers write it (RFC 6454
// section 6.2): lower case, the scheme's own port left out; "" for another.
func originOf(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return ""
	}
	host := strings.ToLower(u.Host)
	if port := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]; strings.HasSuffix(host, port) {
		host = strings.TrimSuffix(host, port)
	}
	return u.Scheme + "://" + host
}

// scopesOf takes a scope parameter apart; a scope that is there twice counts once.
func scopesOf(s string) []string {
	var out []string
	for _, f := range strings.Fields(s) {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

func writeJSON(w http.ResponseWriter, v any) error {
	js, err := json.Marshal(v)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store") // RFC 6749 section 5.1
	h.Set("Pragma", "no-cache")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(js)
	return nil
}
