package portal

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

type apiKeyView struct {
	ID        string     `json:"id"`
	Name      string     `json:"name"`
	Owner     string     `json:"owner"`
	Service   bool       `json:"service"`
	Scopes    []string   `json:"scopes"`
	CIDRs     []string   `json:"cidrs"`
	Created   time.Time  `json:"created"`
	Expires   time.Time  `json:"expires"`
	Revoked   *time.Time `json:"revoked,omitempty"`
	Successor string     `json:"successor,omitempty"`
	LastUsed  *time.Time `json:"last_used,omitempty"`
	LastIP    string     `json:"last_ip,omitempty"`
	State     string     `json:"state"` // active, rotating, expired or revoked
}

// newAPIKeyView is the one answer that holds the key.
type newAPIKeyView struct {
	apiKeyView
	Key string `json:"key"`
}

func (p *Portal) viewKey(ctx context.Context, k apikey.Key) (apiKeyView, error) {
	v := apiKeyView{ID: k.ID, Name: k.Name, Owner: k.Owner, Service: k.Service, Scopes: k.Scopes, CIDRs: []string{}, Created: k.Created.UTC(), Expires: k.Expires.UTC(), Successor: k.Successor, State: "active"}
	if v.Scopes == nil {
		v.Scopes = []string{}
	}
	for _, n := range k.CIDRs {
		v.CIDRs = append(v.CIDRs, n.String())
	}
	switch {
	case !k.Revoked.IsZero():
		at := k.Revoked.UTC()
		v.State, v.Revoked = "revoked", &at
	case !k.Usable(p.now()):
		v.State = "expired"
	case k.Successor != "":
		v.State = "rotating"
	}
	use, err := p.apiKeys.LastUse(ctx, k.ID)
	if err != nil {
		return v, err
	}
	if !use.At.IsZero() {
		at := use.At.UTC()
		v.LastUsed, v.LastIP = &at, use.IP
	}
	return v, nil
}

func (p *Portal) viewKeys(ctx context.Context, ks []apikey.Key, next string) (any, error) {
	out := page[apiKeyView]{Items: []apiKeyView{}, Next: next}
	for _, k := range ks {
		v, err := p.viewKey(ctx, k)
		if err != nil {
			return nil, err
		}
		out.Items = append(out.Items, v)
	}
	return out, nil
}

func (p *Portal) viewNew(ctx context.Context, k apikey.Key, text string, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	v, err := p.viewKey(ctx, k)
	return newAPIKeyView{v, text}, err
}

type apiKeyRequest struct {
	Name      string   `json:"name"`
	Scopes    []string `json:"scopes,omitempty"`
	CIDRs     []string `json:"cidrs,omitempty"`
	ExpiresIn string   `json:"expires_in,omitempty"` // a Go duration; default 2160h
}

type rotateKeyRequest struct {
	Overlap string `json:"overlap,omitempty"` // a Go duration in which both are good; default 24h
}

// duration reads a Go duration, or what is meant without one.
func duration(field, s string, without time.Duration) (time.Duration, error) {
	if s == "" {
		return without, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil {
		return 0, badRequest(field + " must be a duration, for example 720h")
	}
	return d, nil
}

func (p *Portal) createKey(ctx context.Context, c *caller, r *http.Request, owner string, service bool) (any, error) {
	var req apiKeyRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	life, err := duration("expires_in", req.ExpiresIn, keyLife)
	if err != nil {
		return nil, err
	}
	cidrs, err := networks(req.CIDRs)
	if err != nil {
		return nil, err
	}
	k, text, err := p.makeKey(ctx, c, r, apikey.Draft{Name: req.Name, Owner: owner, Service: service, Scopes: req.Scopes, CIDRs: cidrs, Life: life})
	return p.viewNew(ctx, k, text, err)
}

func (p *Portal) apiMyKeys(ctx context.Context, c *caller, _ *http.Request) (any, error) {
	ks, err := p.apiKeys.Of(ctx, c.sess.UserID)
	if err != nil {
		return nil, err
	}
	return p.viewKeys(ctx, ks, "")
}

func (p *Portal) apiCreateMyKey(ctx context.Context, c *caller, r *http.Request) (any, error) {
	return p.createKey(ctx, c, r, c.sess.UserID, false)
}

func (p *Portal) apiRevokeMyKey(ctx context.Context, c *caller, r *http.Request) (any, error) {
	k, err := p.ownKey(ctx, c.sess.UserID, chi.URLParam(r, "id"))
	if err != nil {
		return nil, err
	}
	return nil, p.revokeKey(ctx, c, r, k)
}

func (p *Portal) apiRotateMyKey(ctx context.Context, c *caller, r *http.Request) (any, error) {
	k, err := p.ownKey(ctx, c.sess.UserID, chi.URLParam(r, "id"))
	if err != nil {
		return nil, err
	}
	return p.rotated(ctx, c, r, k)
}

func (p *Portal) rotated(ctx context.Context, c *caller, r *http.Request, k apikey.Key) (any, error) {
	var req rotateKeyRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	overlap, err := duration("overlap", req.Overlap, 24*time.Hour)
	if err != nil {
		return nil, err
	}
	next, text, err := p.rotateKey(ctx, c, r, k, overlap)
	return p.viewNew(ctx, next, text, err)
}

func (p *Portal) apiKeysOfAll(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	if owner := r.URL.Query().Get("owner"); owner != "" {
		if _, err := p.accounts.Get(ctx, owner); err != nil {
			if owner, err = p.userCalled(ctx, "owner", owner); err != nil {
				return nil, err
			}
		}
		ks, err := p.apiKeys.Of(ctx, owner)
		if err != nil {
			return nil, err
		}
		return p.viewKeys(ctx, ks, "")
	}
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	ks, next, err := p.apiKeys.All(ctx, r.URL.Query().Get("after"), limit)
	if err != nil {
		return nil, err
	}
	return p.viewKeys(ctx, ks, next)
}

func (p *Portal) apiRevokeKeyOf(ctx context.Context, c *caller, r *http.Request) (any, error) {
	k, err := p.apiKeys.Get(ctx, chi.URLParam(r, "id"))
	if err != nil {
		return nil, err
	}
	return nil, p.revokeKey(ctx, c, r, k)
}

func (p *Portal) apiRotateKeyOf(ctx context.Context, c *caller, r *http.Request) (any, error) {
	k, err := p.apiKeys.Get(ctx, chi.URLParam(r, "id"))
	if err == nil && !k.Service { // a person's new key would be shown to somebody else
		err = forbidden("apikey.personal", "a person rotates their own keys; revoke it instead")
	}
	if err != nil {
		return nil, err
	}
	return p.rotated(ctx, c, r, k)
}

func (p *Portal) apiCreateAccountKey(ctx context.Context, c *caller, r *http.Request) (any, error) {
	name := chi.URLParam(r, "id")
	if _, err := p.accounts.Get(ctx, name); err != nil {
		return nil, err
	}
	return p.createKey(ctx, c, r, name, true)
}

type accountView struct {
	Name    string     `json:"name"`
	Groups  []string   `json:"groups"`
	Fixed   bool       `json:"fixed"` // it stands in the configuration
	Created *time.Time `json:"created,omitempty"`
}

func viewAccount(a user.ServiceAccount) accountView {
	v := accountView{Name: a.Name, Groups: a.Groups, Fixed: a.Created.IsZero()}
	if v.Groups == nil {
		v.Groups = []string{}
	}
	if !v.Fixed {
		at := a.Created.UTC()
		v.Created = &at
	}
	return v
}

type accountRequest struct {
	Name   string   `json:"name"`
	Groups []string `json:"groups,omitempty"`
}

func (p *Portal) apiAccounts(ctx context.Context, _ *caller, _ *http.Request) (any, error) {
	as, err := p.accounts.List(ctx)
	if err != nil {
		return nil, err
	}
	out := page[accountView]{Items: []accountView{}}
	for _, a := range as {
		out.Items = append(out.Items, viewAccount(a))
	}
	return out, nil
}

func (p *Portal) apiCreateAccount(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var req accountRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	// An upstream knows people and programs by the same id.
	if _, err := p.users.Get(ctx, req.Name); err == nil {
		return nil, user.ErrExists
	} else if !errors.Is(err, user.ErrNotFound) {
		return nil, err
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: req.Name, Details: map[string]string{"change": "service_account"}}); err != nil {
		return nil, err
	}
	a, err := p.accounts.Create(ctx, user.ServiceAccount{Name: req.Name, Groups: req.Groups})
	if err != nil {
		return nil, err
	}
	return viewAccount(a), nil
}

func (p *Portal) apiDeleteAccount(ctx context.Context, c *caller, r *http.Request) (any, error) {
	name := chi.URLParam(r, "id")
	if _, err := p.accounts.Get(ctx, name); err != nil {
		return nil, err
	}
	if p.accounts.Fixed(name) {
		return nil, user.ErrFixed
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: name, Details: map[string]string{"change": "service_account_deleted"}}); err != nil {
		return nil, err
	}
	if err := p.accounts.Delete(ctx, name); err != nil {
		return nil, err
	}
	// The account gone, its keys are dead; one of the same name must not revive them.
	return nil, p.apiKeys.RevokeAll(ctx, name)
}

func apiKeyError(err error) error {
	switch {
	case errors.Is(err, apikey.ErrUnknown):
		return notFound(err)
	case errors.Is(err, apikey.ErrInvalid):
		return unprocessable("apikey.invalid", err.Error())
	case errors.Is(err, apikey.ErrTooMany):
		return conflict("apikey.too_many", err)
	case errors.Is(err, user.ErrFixed), errors.Is(err, user.ErrExists):
		return conflict("service_account.conflict", err)
	case errors.Is(err, user.ErrBadAccount):
		return unprocessable("service_account.invalid", err.Error())
	}
	return nil
}

func conflict(code string, err error) error {
	e := web.Fail(http.StatusConflict, code, "error.api_bad_request", err)
	e.Args = map[string]any{"detail": err.Error()}
	return e
}
