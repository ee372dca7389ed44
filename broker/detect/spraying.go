package detect

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// spraying finds a few wrong passwords on each of many accounts: from one
// address, from a network, or over so many addresses that no single one stands
// out. What counts is accounts that failed and did not get in from the same
// address, before or afterwards. An office behind one address has people who mistype and then get
// in; the more of them sign in from a place, the more failures it may have.
type spraying struct {
	raise *Raiser
	at    map[place]*failures
}

// place is where failures are counted together.
type place struct {
	scope   string // address, network or everywhere
	network string
}

type failures struct {
	since    time.Time
	accounts map[string]*tries
	good     map[string]admission // who got in from here
	said     bool
	changed  bool
}

type admission struct {
	last time.Time
	from string // the address
}

type tries struct {
	n     int
	first time.Time
	last  time.Time
	from  string // its address
}

const (
	// failuresMost bounds what is remembered of one place, placesMost the places.
	// A bound that is reached counts as many already.
	failuresMost = 5000
	placesMost   = 20_000
	// goodShare is how many people who signed in from a place excuse one account
	// that failed there.
	goodShare = 5
)

func newSpraying(r *Raiser) *spraying {
	s := &spraying{raise: r}
	s.forget(nil)
	return s
}

func (s *spraying) rule() string { return RuleSpraying }

func (s *spraying) window(c Config) time.Duration { return c.Spraying.Window }

func (s *spraying) forget(said []string) {
	s.at = map[place]*failures{}
	for _, subject := range said {
		scope, network, _ := strings.Cut(subject, " ")
		if f := s.place(place{scope, network}, time.Time{}); f != nil {
			f.said = true
		}
	}
}

func (s *spraying) see(e *event.Event) {
	ip, err := netip.ParseAddr(e.IP)
	if err != nil {
		return
	}
	from := web.ClientNetwork(ip)
	switch e.Name {
	case event.SigninSucceeded:
		for _, p := range placesOf(ip) {
			// Who is nobody's failure needs no place of its own, but for the count
			// of those who get in.
			f := s.place(p, e.Time)
			if f == nil {
				continue
			}
			if t := f.accounts[e.Actor]; t != nil && t.from == from {
				delete(f.accounts, e.Actor)
				f.changed = true
			}
			if _, known := f.good[e.Actor]; known || len(f.good) < failuresMost {
				f.good[e.Actor] = admission{e.Time, from}
			}
		}
	case event.SigninFailed:
		account := cmp.Or(e.Target, e.Details["account"])
		if account == "" || e.Details["account"] == "" { // no password was tried
			return
		}
		for _, p := range placesOf(ip) {
			f := s.place(p, e.Time)
			if f == nil || f.good[account].from == from { // who is in may mistype at the next device
				continue
			}
			t := f.accounts[account]
			if t == nil {
				if len(f.accounts) >= failuresMost {
					continue
				}
				t = &tries{first: e.Time}
				f.accounts[account] = t
			}
			t.n, t.last, t.from, f.changed = t.n+1, e.Time, from, true
		}
	}
}

// placesOf are the three places of an address.
func placesOf(ip netip.Addr) [3]place {
	return [3]place{{"address", web.ClientNetwork(ip)}, {"network", web.WiderNetwork(ip)}, {scope: "everywhere"}}
}

func (s *spraying) place(p place, at time.Time) *failures {
	f := s.at[p]
	if f == nil {
		if len(s.at) >= placesMost {
			return nil // there are the wider ones
		}
		f = &failures{since: at, accounts: map[string]*tries{}, good: map[string]admission{}}
		s.at[p] = f
	}
	return f
}

func (s *spraying) judge(ctx context.Context, cfg Config, now time.Time) error {
	var all error
	for p, f := range s.at {
		if !f.changed && now.Sub(f.since) < judgeEvery {
			continue
		}
		f.since = now
		f.expire(now.Add(-cfg.Spraying.Window))
		if len(f.accounts) == 0 && len(f.good) == 0 && !f.said {
			delete(s.at, p)
			continue
		}
		err := s.judgeOne(ctx, cfg.Spraying, p, f)
		f.changed = err != nil // what was not recorded is tried again
		all = errors.Join(all, err)
	}
	return all
}

func (f *failures) expire(from time.Time) {
	for a, t := range f.accounts {
		if t.last.Before(from) {
			delete(f.accounts, a)
		}
	}
	for a, ok := range f.good {
		if ok.last.Before(from) {
			delete(f.good, a)
		}
	}
}

func (s *spraying) judgeOne(ctx context.Context, cfg SprayingConfig, p place, f *failures) error {
	accounts, n, first, addresses := 0, 0, time.Time{}, map[string]bool{}
	for _, t := range f.accounts {
		if t.n > cfg.Tries { // somebody insists on one account: that is a lockout's
			continue
		}
		accounts, n = accounts+1, n+t.n
		addresses[t.from] = true
		if first.IsZero() || t.first.Before(first) {
			first = t.first
		}
	}
	bound := map[string]int{"address": cfg.Accounts, "network": cfg.Network, "everywhere": cfg.Everywhere}[p.scope]
	bound = max(bound, len(f.good)/goodShare)
	subject := p.scope + " " + p.network
	switch {
	case accounts >= bound:
		// What comes from one address is told as that, once.
		if p.scope != "address" && len(addresses) == 1 {
			return nil
		}
		finding := Finding{Rule: RuleSpraying, Subject: subject, Severity: event.Critical, Target: cmp.Or(p.network, p.scope),
			Facts: map[string]string{"scope": p.scope, "accounts": strconv.Itoa(accounts), "tries": strconv.Itoa(n), "addresses": strconv.Itoa(len(addresses)), "since": first.UTC().Format(time.RFC3339), "window": cfg.Window.String()}}
		if p.network != "" {
			finding.Facts["network"] = p.network
		}
		if p.scope == "address" {
			finding.IP = addressOf(p.network)
		}
		err := s.raise.Raise(ctx, finding)
		f.said = f.said || err == nil
		return err
	case f.said && accounts < (bound+1)/2: // well below, so that it does not come and go
		if err := s.raise.Clear(ctx, RuleSpraying, subject); err != nil {
			return err
		}
		f.said = false
	}
	return nil
}

// addressOf is the address of a network of one host; of a /64 it is the network's
// first.
func addressOf(network string) string {
	ip, _, _ := strings.Cut(network, "/")
	return ip
}
