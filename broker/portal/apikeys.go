package portal

import (
	"context"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/event"
)

// keyFresh is how fresh a sign-in must be for making a key, which outlives it.
const keyFresh = 2 * time.Hour

// keyLife is how long a key lives unless somebody says otherwise.
const keyLife = 90 * 24 * time.Hour

// scopesOfKeys are those that keys may carry: what the resources define, one's
// own account and storage, and, of service accounts, the administration.
func (p *Portal) scopesOfKeys(service bool) []string {
	var out []string
	for _, r := range p.clients.Resources() {
		for s := range r.Scopes {
			out = append(out, s)
		}
	}
	out = append(out, ScopeAccount, ScopeStorage)
	if service {
		out = append(out, ScopeConsoles, ScopeSupport, ScopeAudit, ScopeAdmin)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// makeKey checks what is wanted, records it and makes the key.
func (p *Portal) makeKey(ctx context.Context, c *caller, r *http.Request, d apikey.Draft) (apikey.Key, string, error) {
	known := p.scopesOfKeys(d.Service)
	for _, s := range d.Scopes {
		if !slices.Contains(known, s) {
			return apikey.Key{}, "", unprocessable("apikey.scope", "there is no scope "+s+" for such a key; known: "+strings.Join(known, ", "))
		}
		if c.keyed && !slices.Contains(c.scopes, s) {
			return apikey.Key{}, "", unprocessable("apikey.scope", "a key makes no key that may do more than itself")
		}
	}
	if err := p.record(ctx, r, event.Event{Name: event.APIKeyCreated, Actor: c.actor(), Target: d.Owner,
		Details: map[string]string{"name": d.Name, "scopes": strings.Join(d.Scopes, " ")}}); err != nil {
		return apikey.Key{}, "", err
	}
	return p.apiKeys.Create(ctx, d)
}

func (p *Portal) revokeKey(ctx context.Context, c *caller, r *http.Request, k apikey.Key) error {
	if err := p.record(ctx, r, event.Event{Name: event.APIKeyRevoked, Actor: c.actor(), Target: k.Owner, Details: map[string]string{"key": k.ID, "name": k.Name}}); err != nil {
		return err
	}
	_, err := p.apiKeys.Revoke(ctx, k.ID)
	return err
}

func (p *Portal) rotateKey(ctx context.Context, c *caller, r *http.Request, k apikey.Key, overlap time.Duration) (apikey.Key, string, error) {
	if err := p.record(ctx, r, event.Event{Name: event.APIKeyCreated, Actor: c.actor(), Target: k.Owner, Details: map[string]string{"name": k.Name, "rotates": k.ID}}); err != nil {
		return apikey.Key{}, "", err
	}
	return p.apiKeys.Rotate(ctx, k.ID, overlap)
}

// ownKey is a key of the caller's own; another's does not exist for them (AD-1).
func (p *Portal) ownKey(ctx context.Context, owner, id string) (apikey.Key, error) {
	k, err := p.apiKeys.Get(ctx, id)
	if err == nil && (k.Owner != owner || k.Service) {
		err = apikey.ErrUnknown
	}
	return k, err
}

// networks reads CIDRs and single addresses.
func networks(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		n, err := netip.ParsePrefix(s)
		if ip, ipErr := netip.ParseAddr(s); err != nil && ipErr == nil {
			n, err = ip.Prefix(ip.BitLen())
		}
		if err != nil {
			return nil, unprocessable("apikey.cidr", s+" is neither a network like 203.0.113.0/24 nor an address")
		}
		out = append(out, n.Masked())
	}
	return out, nil
}
