package detect

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Clocks compares this machine's clock with others: of the upstreams that answer
// our calls, by the Date of their answers (RFC 9110 section 6.6.1), and of the
// store. Tokens and assertions are judged by time, so that a clock that is wrong
// refuses everybody or believes what is over. It is safe for concurrent use.
type Clocks struct {
	mu    sync.Mutex
	hosts map[string]*clock
}

// clock is what is known of another's clock.
type clock struct {
	skew    time.Duration // ahead of ours; 0 where the difference is within what can be known
	samples int           // in a row that were off in the same direction
	last    time.Time
	said    bool
	settled bool // said or cleared by this process: before, the last one may have said it
}

const (
	// clockSamples must agree: one answer may have waited in a queue.
	clockSamples = 3
	clocksMost   = 1000
)

// NewClocks returns Clocks that know nobody.
func NewClocks() *Clocks { return &Clocks{hosts: map[string]*clock{}} }

// Answer takes notice of an upstream's answer to a request that was sent and
// answered at these times. An answer that came out of a cache (it has an Age) and
// one without a Date say nothing.
func (c *Clocks) Answer(host string, h http.Header, sent, received time.Time) {
	if c == nil || h.Get("Age") != "" {
		return
	}
	date, err := http.ParseTime(h.Get("Date"))
	if err != nil {
		return
	}
	c.Saw(strings.ToLower(host), date, date.Add(time.Second), sent, received)
}

// Saw takes notice that another's clock was from and to at some time between sent
// and received.
func (c *Clocks) Saw(name string, from, to, sent, received time.Time) {
	skew := time.Duration(0)
	switch {
	case from.After(received):
		skew = from.Sub(received)
	case to.Before(sent):
		skew = to.Sub(sent)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.hosts[name]
	if k == nil {
		if len(c.hosts) >= clocksMost {
			oldest := ""
			for n, o := range c.hosts {
				if oldest == "" || o.last.Before(c.hosts[oldest].last) {
					oldest = n
				}
			}
			delete(c.hosts, oldest)
		}
		k = &clock{}
		c.hosts[name] = k
	}
	if cmp.Compare(skew, 0) != cmp.Compare(k.skew, 0) {
		k.samples = 0
	}
	k.skew, k.last = skew, received
	k.samples++
}

// judgement is what a clock came to.
type judgement struct {
	name string
	skew time.Duration
	off  bool
}

// judge raises each clock that is further off than the bound. Where most of
// several agree it is ours that is wrong, which is worse.
func (c *Clocks) judge(ctx context.Context, r *Raiser, replica string, bound time.Duration) error {
	c.mu.Lock()
	var all []judgement
	off, same := 0, 0
	for name, k := range c.hosts {
		if k.samples < clockSamples {
			continue
		}
		is := k.skew.Abs() > bound
		if is {
			off++
			same += cmp.Compare(k.skew, 0)
		}
		if is || k.said || !k.settled {
			all = append(all, judgement{name, k.skew, is})
		}
	}
	ours := off >= 2 && (same == off || same == -off) && 2*off > len(c.hosts)
	c.mu.Unlock()
	slices.SortFunc(all, func(a, b judgement) int { return cmp.Compare(a.name, b.name) })
	var errs error
	for _, j := range all {
		subject := replica + " " + j.name
		var err error
		if j.off {
			f := Finding{Rule: RuleClock, Subject: subject, Severity: event.Warning, Target: j.name,
				Facts: map[string]string{"replica": replica, "clock": j.name, "ahead": j.skew.Round(time.Second).String(), "whose": "theirs"}}
			if ours {
				f.Severity, f.Facts["whose"] = event.Critical, "ours"
			}
			err = r.Raise(ctx, f)
		} else {
			err = r.Clear(ctx, RuleClock, subject)
		}
		errs = errors.Join(errs, err)
		c.mu.Lock()
		if k := c.hosts[j.name]; k != nil && err == nil {
			k.said, k.settled = j.off, true
		}
		c.mu.Unlock()
	}
	return errs
}
