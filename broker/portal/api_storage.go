package portal

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// StorageOffer is an entry of storage_credentials.
type StorageOffer struct {
	*objectstore.Lender
	// Allow says who may have it; nil: everybody who is signed in.
	Allow *policy.Expr
}

// storageRequest names an offer; where the caller may use one alone, it need not.
type storageRequest struct {
	Name string `json:"name,omitempty"`
}

type storageOfferView struct {
	Name     string               `json:"name"`
	Provider string               `json:"provider"`
	Bucket   string               `json:"bucket"`
	Region   string               `json:"region"`
	Endpoint string               `json:"endpoint"`
	Prefix   string               `json:"prefix"`
	Access   []objectstore.Access `json:"access"`
	TTL      string               `json:"ttl"`
	// Direct reports that POST /storage/token serves the offer, for this role.
	Direct  bool   `json:"direct"`
	RoleARN string `json:"role_arn,omitempty"`
}

type lentView struct {
	Name            string    `json:"name"`
	Provider        string    `json:"provider"`
	AccessKeyID     string    `json:"access_key_id"`
	SecretAccessKey string    `json:"secret_access_key"`
	SessionToken    string    `json:"session_token"`
	Expiration      time.Time `json:"expiration"`
	Bucket          string    `json:"bucket"`
	Region          string    `json:"region"`
	Endpoint        string    `json:"endpoint"`
	Prefix          string    `json:"prefix"`
}

type storageTokenView struct {
	Token      string    `json:"token"`
	Expiration time.Time `json:"expiration"`
	Audience   string    `json:"audience"`
}

// account is the id of who asks: a user's, or a service account's.
func (c *caller) account() string {
	if c.service != "" {
		return c.service
	}
	return c.sess.UserID
}

// storageInput is what an offer's allow sees.
func (p *Portal) storageInput(ctx context.Context, c *caller) (policy.Input, error) {
	in := policy.Input{User: &policy.User{ID: c.account(), Kind: "service"}, Session: &policy.Session{Kind: "service", Scope: c.scopes}}
	if c.client != "" {
		in.Client = &policy.Client{ID: c.client, Name: p.clients.Name(c.client)}
	}
	if c.service != "" {
		a, err := p.accounts.Get(ctx, c.service)
		if err != nil && !errors.Is(err, user.ErrNotFound) {
			return in, err
		}
		in.User.Groups = a.Groups
		return in, nil
	}
	u, err := p.users.Profile(ctx, c.sess.UserID)
	if err != nil {
		return in, err
	}
	in.User = &policy.User{ID: u.ID, Email: u.Email, Name: u.Name, Username: u.Username, Kind: u.Kind, Groups: c.sess.Groups}
	s := c.sess
	in.Session = &policy.Session{ID: s.ID, Kind: string(s.Kind), Connector: s.Connector, ACR: s.ACR, AMR: s.AMR, Scope: c.scopes, AuthTime: s.AuthTime}
	if c.keyed {
		in.Session.Kind = "api_key"
	}
	if s.ID != "" {
		in.Session.Device, in.Session.Age = session.DeviceName(s.Agent), p.now().Sub(s.AuthTime)
	}
	return in, nil
}

// lends reports whether the caller may use an offer; any fault is a no.
func (p *Portal) lends(ctx context.Context, o StorageOffer, in policy.Input) bool {
	if o.Allow == nil {
		return true
	}
	d, err := o.Allow.Decide(ctx, in)
	if err != nil {
		p.log.WarnContext(ctx, "a rule of storage_credentials could not be decided, and refuses", "offer", o.Name, "err", err)
	}
	return d.Allowed && err == nil
}

// offers are those that the caller may use.
func (p *Portal) offers(ctx context.Context, c *caller) ([]StorageOffer, error) {
	in, err := p.storageInput(ctx, c)
	if err != nil {
		return nil, err
	}
	var out []StorageOffer
	for _, o := range p.storage {
		if p.lends(ctx, o, in) {
			out = append(out, o)
		}
	}
	return out, nil
}

// offer finds the one that a request means. One that is not for the caller is
// told from one that there is not by nothing (AD-1).
func (p *Portal) offer(ctx context.Context, c *caller, r *http.Request) (StorageOffer, error) {
	var req storageRequest
	if err := decode(r, &req); err != nil {
		return StorageOffer{}, err
	}
	all, err := p.offers(ctx, c)
	if err != nil {
		return StorageOffer{}, err
	}
	var names []string
	for _, o := range all {
		if o.Name == req.Name || req.Name == "" && len(all) == 1 {
			return o, nil
		}
		names = append(names, o.Name)
	}
	switch {
	case len(all) == 0:
		return StorageOffer{}, unprocessable("storage.none", "no storage is lent to this account; ask whoever runs this platform")
	case req.Name == "":
		return StorageOffer{}, unprocessable("storage.name", "say which one by name: "+strings.Join(names, ", "))
	}
	return StorageOffer{}, unprocessable("storage.unknown", "nothing of that name is lent to this account; there is: "+strings.Join(names, ", "))
}

func (p *Portal) apiStorage(ctx context.Context, c *caller, _ *http.Request) (any, error) {
	all, err := p.offers(ctx, c)
	if err != nil {
		return nil, err
	}
	out := page[storageOfferView]{Items: []storageOfferView{}}
	for _, o := range all {
		v := storageOfferView{Name: o.Name, Provider: o.Provider, Bucket: o.Where.Bucket, Region: o.Where.Region, Endpoint: o.Where.URL(), Prefix: o.For(o.Prefix, c.account()),
			Access: o.Access, TTL: o.TTL.String(), Direct: o.Direct}
		if v.Direct {
			v.RoleARN = o.For(o.RoleARN, c.account())
		}
		out.Items = append(out.Items, v)
	}
	return out, nil
}

func (p *Portal) apiLend(ctx context.Context, c *caller, r *http.Request) (any, error) {
	o, err := p.offer(ctx, c, r)
	if err != nil {
		return nil, err
	}
	lent, err := o.Lend(ctx, c.account())
	if err != nil {
		return nil, storageError(o, err)
	}
	v := lentView{Name: o.Name, Provider: o.Provider, AccessKeyID: lent.AccessKeyID, SecretAccessKey: lent.SecretAccessKey.Reveal(), SessionToken: lent.SessionToken.Reveal(),
		Expiration: lent.Expires, Bucket: o.Where.Bucket, Region: o.Where.Region, Endpoint: o.Where.URL(), Prefix: o.For(o.Prefix, c.account())}
	return v, p.recordLent(ctx, c, r, o, map[string]string{"what": "credentials", "prefix": v.Prefix, "key": lent.AccessKeyID, "expires": lent.Expires.Format(time.RFC3339)})
}

func (p *Portal) apiStorageToken(ctx context.Context, c *caller, r *http.Request) (any, error) {
	o, err := p.offer(ctx, c, r)
	if err != nil {
		return nil, err
	}
	if !o.Direct {
		return nil, forbidden("storage.token", "this offer gives credentials, not the token that they are lent for; its operator can allow that with direct: true, where the role itself keeps people apart")
	}
	token, expires, err := o.Lender.Token(ctx, c.account())
	if err != nil {
		return nil, storageError(o, err)
	}
	expires = expires.UTC().Truncate(time.Second)
	return storageTokenView{Token: token, Expiration: expires, Audience: o.Audience},
		p.recordLent(ctx, c, r, o, map[string]string{"what": "token", "audience": o.Audience, "expires": expires.Format(time.RFC3339)})
}

// recordLent writes down what was lent, before anybody has it.
func (p *Portal) recordLent(ctx context.Context, c *caller, r *http.Request, o StorageOffer, details map[string]string) error {
	details["name"], details["provider"], details["bucket"] = o.Name, o.Provider, o.Where.Bucket
	return p.record(ctx, r, event.Event{Name: event.StorageLent, Actor: c.actor(), Target: c.account(), Connector: c.sess.Connector, Client: c.client, Details: details})
}

// storageError says plainly that nothing was lent, and by whom; what the vendor
// said is for the log (docs/security.md G7).
func storageError(o StorageOffer, err error) error {
	if errors.Is(err, objectstore.ErrAccount) {
		return unprocessable("storage.account", "this account's id cannot be a part of an object's name")
	}
	var e *objectstore.LendError
	if !errors.As(err, &e) {
		return err
	}
	args := map[string]any{"name": o.Name, "host": e.Host}
	if e.Unavailable {
		out := web.Fail(http.StatusServiceUnavailable, "storage.unavailable", "error.storage_unavailable", err)
		out.Args, out.Header = args, http.Header{"Retry-After": {"10"}}
		return out
	}
	out := web.Fail(http.StatusBadGateway, "storage.refused", "error.storage_refused", err)
	out.Args = args
	return out
}

// checkStorage refuses offers that could not be told apart.
func checkStorage(offers []StorageOffer) error {
	seen := map[string]bool{}
	for _, o := range offers {
		if o.Lender == nil || seen[o.Name] {
			return fmt.Errorf("portal: the offer of storage %q is there twice, or has no lender", o.Name)
		}
		seen[o.Name] = true
	}
	return nil
}
