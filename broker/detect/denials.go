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

// denials finds a burst of refusals of one kind to one caller: somebody tries
// doors, or something is broken and tries without end.
type denials struct {
	raise *Raiser
	at    map[refused]*burst
	good  map[string]*crowd // who signed in, by address
}

// refused is who was refused what: a user, a client, or the address of strangers.
type refused struct {
	name event.Name
	who  string
}

type burst struct {
	times     []time.Time // the newest, at most timesMost
	connector string
	target    string
	ip        string
	actor     string
	strangers bool
	said      bool
}

// crowd are the people who signed in from a network, as many as count.
type crowd struct{ people map[string]time.Time }

const timesMost = 2000

func newDenials(r *Raiser) *denials {
	d := &denials{raise: r}
	d.forget(nil)
	return d
}

func (d *denials) rule() string { return RuleDenials }

func (d *denials) window(c Config) time.Duration { return c.Denials.Window }

func (d *denials) forget(said []string) {
	d.at, d.good = map[refused]*burst{}, map[string]*crowd{}
	for _, subject := range said {
		name, who, _ := strings.Cut(subject, " ")
		d.at[refused{event.Name(name), who}] = &burst{said: true}
	}
}

func (d *denials) see(e *event.Event) {
	network := ""
	if ip, err := netip.ParseAddr(e.IP); err == nil {
		network = web.ClientNetwork(ip)
	}
	switch e.Name {
	case event.SigninSucceeded:
		c := d.good[network]
		if c == nil {
			if len(d.good) >= placesMost {
				return
			}
			c = &crowd{people: map[string]time.Time{}}
			d.good[network] = c
		}
		if len(c.people) < failuresMost {
			c.people[e.Actor] = e.Time
		}
		return
	case event.ConsoleDenied, event.WorkloadDenied:
	case event.SigninFailed:
		if e.Details["account"] != "" { // a wrong password: spraying's, or a lockout's
			return
		}
	default:
		return
	}
	k := refused{e.Name, cmp.Or(e.Actor, e.Client, network, e.Connector)}
	if k.who == "" {
		return
	}
	b := d.at[k]
	if b == nil {
		if len(d.at) >= placesMost {
			return
		}
		b = &burst{}
		d.at[k] = b
	}
	b.connector, b.target, b.ip, b.actor, b.strangers = e.Connector, e.Target, e.IP, e.Actor, e.Actor == "" && e.Client == ""
	if len(b.times) == timesMost {
		b.times = append(b.times[:0], b.times[timesMost/2:]...)
	}
	b.times = append(b.times, e.Time)
}

func (d *denials) judge(ctx context.Context, cfg Config, now time.Time) error {
	from := now.Add(-cfg.Denials.Window)
	for n, c := range d.good {
		for p, at := range c.people {
			if at.Before(from) {
				delete(c.people, p)
			}
		}
		if len(c.people) == 0 {
			delete(d.good, n)
		}
	}
	var all error
	for k, b := range d.at {
		i := 0
		for i < len(b.times) && b.times[i].Before(from) {
			i++
		}
		b.times = append(b.times[:0], b.times[i:]...)
		if len(b.times) == 0 && !b.said {
			delete(d.at, k)
			continue
		}
		all = errors.Join(all, d.judgeOne(ctx, cfg.Denials, k, b))
	}
	return all
}

func (d *denials) judgeOne(ctx context.Context, cfg DenialsConfig, k refused, b *burst) error {
	bound := cfg.Count
	if c := d.good[k.who]; c != nil && b.strangers {
		bound = max(bound, 2*len(c.people)) // a whole office, of whom some mistype
	}
	subject := string(k.name) + " " + k.who
	switch n := len(b.times); {
	case n >= bound:
		f := Finding{Rule: RuleDenials, Subject: subject, Severity: event.Warning, Target: cmp.Or(b.target, k.who), Connector: b.connector, Actor: b.actor, IP: b.ip,
			Facts: map[string]string{"event": string(k.name), "count": strconv.Itoa(n), "since": b.times[0].UTC().Format(time.RFC3339), "window": cfg.Window.String()}}
		if b.strangers {
			f.Facts["network"] = k.who
			f.Target = k.who // each may have tried another account
		}
		err := d.raise.Raise(ctx, f)
		b.said = b.said || err == nil
		return err
	case b.said && n < (bound+1)/2:
		if err := d.raise.Clear(ctx, RuleDenials, subject); err != nil {
			return err
		}
		b.said = false
	}
	return nil
}
