package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
)

func newID() string { return rand.Text() }

func join(s []string) string { return strings.Join(s, " ") }

// Lease lends a console to somebody until it expires. The platform writes it;
// the upstream's address comes from here alone (docs/security.md GW-12).
type Lease struct {
	ID       string    `json:"id"` // the node's label in the host name
	Node     string    `json:"node"`
	Upstream string    `json:"upstream"` // URL
	Kind     string    `json:"kind,omitempty"`
	Owner    string    `json:"owner"`            // user id
	Users    []string  `json:"users,omitempty"`  // invited, by id
	Groups   []string  `json:"groups,omitempty"` // invited, by group
	Expires  time.Time `json:"expires"`
	version  uint64
	target   *url.URL // Upstream
}

func (l Lease) same(o Lease) bool {
	return l.ID == o.ID && l.Upstream == o.Upstream && l.Owner == o.Owner
}

// parseUpstream reads the URL of an upstream: scheme, host and maybe a path.
func parseUpstream(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("upstream is not an http or https URL without query and user")
	}
	return u, nil
}

// ErrNoLease means that nothing is lent under that name.
var ErrNoLease = errors.New("no such lease")

const leaseTopic = "lease"

type leases struct {
	cfg    Config
	c      *store.Collection[Lease]
	mu     sync.RWMutex
	gen    uint64
	doubts uint64 // how often news may have been lost
	held   map[string]heldLease
}

// heldLease is a lease as last read; after another doubt it is read again.
type heldLease struct {
	Lease
	doubts uint64
}

const leasesMax = 10_000

func newLeases(cfg Config) *leases {
	return &leases{cfg: cfg, held: map[string]heldLease{}, c: store.NewCollection(cfg.KV, store.CollectionConfig[Lease]{
		Kind: "lease", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true, Expires: func(l Lease) time.Time { return l.Expires },
		Index: func(l Lease) map[string]string { return map[string]string{"owner": l.Owner} },
		Tell: func(l Lease) store.Message {
			js, err := json.Marshal(struct{ ID string }{l.ID})
			if err != nil { // a string always can
				return store.Message{}
			}
			return store.Message{Topic: leaseTopic, Data: js}
		},
	})}
}

// get returns a lease from memory while other replicas are heard. While the
// store is out of reach it is what was last read: how long that may be used is
// for the caller's session to say (docs/security.md SE-3).
func (ls *leases) get(ctx context.Context, id string) (Lease, error) {
	stale := ls.cfg.Bus.Stale()
	ls.mu.RLock()
	h, ok := ls.held[id]
	gen, sure := ls.gen, ok && h.doubts == ls.doubts
	ls.mu.RUnlock()
	l := h.Lease
	if !sure || stale {
		read, version, err := ls.c.GetVersion(ctx, id)
		switch {
		case errors.Is(err, store.ErrNotFound) || err == nil && read.ID != id:
			return Lease{}, ErrNoLease
		case err == nil:
			l = read
			if l.target, err = parseUpstream(l.Upstream); err != nil {
				return Lease{}, fmt.Errorf("lease %q: %w", id, err)
			}
			l.version = version
			ls.keep(gen, l)
		case !ok || !errors.Is(err, store.ErrUnavailable):
			return Lease{}, err
		}
	}
	if !ls.cfg.Now().Before(l.Expires) {
		return Lease{}, ErrNoLease
	}
	return l, nil
}

// keep holds what was read, unless something was forgotten meanwhile.
func (ls *leases) keep(gen uint64, l Lease) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.gen != gen {
		return
	}
	if len(ls.held) >= leasesMax {
		clear(ls.held)
	}
	ls.held[l.ID] = heldLease{l, ls.doubts}
}

func (ls *leases) forget(id string) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.gen++
	if id == "" {
		ls.doubts++
	} else {
		delete(ls.held, id)
	}
}

func (ls *leases) listen(ctx context.Context) {
	for ctx.Err() == nil {
		news, err := ls.cfg.Bus.Subscribe(ctx, leaseTopic)
		if err == nil {
			ls.forget("") // what was read before anybody listened may have changed unheard
			for raw := range news {
				var m struct{ ID string }
				if json.Unmarshal(raw, &m) == nil {
					ls.forget(m.ID)
				}
			}
		}
		ls.forget("")
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// PutLease lends, or changes what is lent. Open sockets are decided again.
func (g *Gateway) PutLease(ctx context.Context, l Lease) error {
	if !validNode(l.ID) {
		return fmt.Errorf("lease %q: the id is the first label of a host name: a-z, 0-9 and -", l.ID)
	}
	if _, err := parseUpstream(l.Upstream); err != nil {
		return fmt.Errorf("lease %q: %w", l.ID, err)
	}
	if err := g.leases.c.Put(ctx, l.ID, l); err != nil {
		return err
	}
	g.leases.forget(l.ID) // the others were told by the write itself
	return nil
}

// App is something that a person may open.
type App struct {
	Name, Kind, Node, URL string
}

// Apps lists what this session may open: routes with a host of their own, and
// the consoles that are lent to it. A rule that looks at the request is asked
// about the one that opening would make now, from the same address.
func (g *Gateway) Apps(ctx context.Context, s session.Session, ip string) ([]App, error) {
	opening := func(rt *route, host string) *policy.Request {
		return &policy.Request{Method: http.MethodGet, Path: rt.Path, Host: host, IP: ip, Time: g.cfg.Now()}
	}
	c := caller{session: s, userID: s.UserID, kind: string(s.Kind), cookie: true}
	port := ""
	if p := g.cfg.Issuer.Port(); p != "" {
		port = ":" + p
	}
	var out []App
	for _, rt := range g.all {
		if !rt.session || rt.Lease || rt.suffix != "" {
			continue
		}
		if ok, err := g.mayOpen(ctx, rt, c, Lease{}, opening(rt, rt.Host)); err != nil {
			return nil, err
		} else if !ok {
			continue
		}
		out = append(out, App{Name: rt.Name, Kind: "api", URL: g.cfg.Issuer.Scheme + "://" + rt.Host + port + rt.Path})
	}
	lent, _, err := g.leases.c.List(ctx, "", "", "", 500)
	if err != nil {
		return nil, err
	}
	for _, rt := range g.all {
		if !rt.Lease || !rt.session {
			continue
		}
		for _, l := range lent {
			if ok, err := g.mayOpen(ctx, rt, c, l, opening(rt, l.ID+rt.suffix)); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
			out = append(out, App{Name: l.ID, Kind: l.Kind, Node: l.Node, URL: g.cfg.Issuer.Scheme + "://" + l.ID + rt.suffix + port + rt.Path})
		}
	}
	return out, nil
}

// mayOpen decides without making what an upstream needs. A rule that looks at a
// request which is not there says nothing, and its route is shown.
func (g *Gateway) mayOpen(ctx context.Context, rt *route, c caller, l Lease, req *policy.Request) (bool, error) {
	if req == nil && rt.allow != nil && rt.allow.ReadsRequest() {
		return true, nil
	}
	p, err := g.decide(ctx, rt, c, l, req, g.cfg.Now())
	if err != nil {
		return false, err
	}
	return p.allowed, nil
}
