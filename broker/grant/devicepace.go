package grant

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

const (
	// wrongCodes is how many wrong user codes one session, one account and one
	// address may type in the life of a code (docs/security.md DF-2, G10).
	wrongCodes = 5
	// guessBudget bounds all wrong codes together: tries times live codes, of
	// 20^8 = 2^34.57 codes, stay below 2^-20.
	guessBudget = 24_000
	// DeviceRequests is how many requests that nobody has answered one address may
	// make a minute, unless SetDeviceRequests says otherwise, and networkTimes how
	// many times that all of its /24 or /48.
	DeviceRequests = 60
	networkTimes   = 10
	// intervalStep is what slow_down adds (RFC 8628 section 3.5); beyond
	// intervalMost a device gets nowhere before its code ends.
	intervalStep = 5 * time.Second
	intervalMost = 60 * time.Second
	// pollSlack is by how much a poll may come too soon: what the network hurries
	// is not the device's doing.
	pollSlack = time.Second
	// pollsMost bounds the devices whose polls are remembered.
	pollsMost = 20_000
	// countedFor is how long a count of the live codes is believed.
	countedFor = 30 * time.Second
)

// pace keeps in memory who polls, asks and guesses how often. Replicas tell each
// other of wrong codes; the rest each one counts for itself.
type pace struct {
	now  func() time.Time
	self string

	mu       sync.Mutex
	requests int // per address and minute
	asked    *web.Limiter
	wrong    *web.Limiter
	all      *web.Limiter
	polls    map[string]polled
	count    int
	countAt  time.Time
}

type polled struct {
	at       time.Time
	interval time.Duration
}

func newPace(now func() time.Time) *pace {
	const none = 1 << 30 // the bounds are looked at here
	return &pace{now: now, self: rand.Text(), requests: DeviceRequests, polls: map[string]polled{},
		asked: web.NewLimiter(web.LimiterConfig{Max: none, Window: time.Minute, Now: now}),
		wrong: web.NewLimiter(web.LimiterConfig{Max: none, Window: DeviceTTL, Now: now}),
		all:   web.NewLimiter(web.LimiterConfig{Max: none, Window: DeviceTTL, Now: now})}
}

// SetDeviceRequests sets how many requests of the device flow that nobody has
// answered one address may make a minute.
func (l *Ledger) SetDeviceRequests(n int) {
	l.pace.mu.Lock()
	defer l.pace.mu.Unlock()
	l.pace.requests = n
}

// admit counts a request of an address, and reports whether it still fits.
func (p *pace) admit(network string) bool {
	if network == "" {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	wide := around(network)
	if p.asked.Count(network) >= p.requests || p.asked.Count(wide) >= networkTimes*p.requests {
		return false
	}
	p.asked.Add(network)
	p.asked.Add(wide)
	return true
}

// around is the network that holds one of web.ClientNetwork.
func around(network string) string {
	p, err := netip.ParsePrefix(network)
	if err != nil {
		return "around " + network
	}
	return "around " + web.WiderNetwork(p.Addr())
}

// answered takes a request back: what came to an end counts no more (G10).
func (p *pace) answered(network string) {
	if network != "" {
		p.asked.Sub(network)
		p.asked.Sub(around(network))
	}
}

// poll takes notice of a poll that has to wait. interval is 0 for one that came
// in time, else how long it is from now on; grew says whether that is news.
func (p *pace) poll(d Device) (interval time.Duration, grew bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	last := p.polls[d.ID]
	if d.Polled.After(last.at) {
		last.at = d.Polled
	}
	last.interval = max(last.interval, d.Interval)
	soon := !last.at.IsZero() && now.Sub(last.at) < last.interval-pollSlack
	if soon && last.interval < intervalMost {
		last.interval, grew = last.interval+intervalStep, true
	}
	last.at = now
	if _, there := p.polls[d.ID]; !there && len(p.polls) >= pollsMost {
		for id, v := range p.polls {
			if now.Sub(v.at) > 2*intervalMost {
				delete(p.polls, id)
			}
		}
		if len(p.polls) >= pollsMost {
			clear(p.polls)
		}
	}
	p.polls[d.ID] = last
	if !soon {
		return 0, false
	}
	return last.interval, grew
}

func (p *pace) live() (n int, fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count, !p.countAt.IsZero() && p.now().Sub(p.countAt) < countedFor
}

func (p *pace) counted(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count, p.countAt = n, p.now()
}

func (p *pace) issued() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.count++
}

// GuessError means that no more user codes may be tried for now.
type GuessError struct {
	// After is when one may be again.
	After time.Duration
	// All says that it is not this person's tries but everybody's together.
	All bool
}

// Error returns the text for the log.
func (e *GuessError) Error() string {
	if e.All {
		return fmt.Sprintf("too many wrong user codes of everybody together; again in %s", e.After)
	}
	return fmt.Sprintf("too many wrong user codes; again in %s", e.After)
}

// Guess lets somebody try one user code: by a session, an account and a network,
// each of which has few wrong ones (docs/security.md DF-2). It is counted before
// the code is looked for, so that many at once are no more tries than one after
// the other; found takes a right one back, wrong tells the other replicas. One of
// the two must be called.
func (l *Ledger) Guess(ctx context.Context, session, account, network string) (found, wrong func(), err error) {
	live, err := l.liveDevices(ctx)
	if err != nil {
		return nil, nil, err
	}
	keys := []string{"session " + session, "account " + account, "network " + network}
	p := l.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, k := range keys {
		if p.wrong.Count(k) >= wrongCodes {
			return nil, nil, &GuessError{After: p.wrong.Remaining(k)}
		}
	}
	if p.all.Count("") >= guessBudget/max(1, live) {
		return nil, nil, &GuessError{After: p.all.Remaining(""), All: true}
	}
	p.guessed(keys)
	found = func() {
		for _, k := range keys {
			p.wrong.Sub(k)
		}
		p.all.Sub("")
	}
	wrong = func() {
		if js, err := json.Marshal(guessMessage{p.self, keys}); err == nil {
			_ = l.cfg.Bus.Publish(ctx, guessTopic, js) // a replica that does not hear counts for itself
		}
	}
	return found, wrong, nil
}

func (p *pace) guessed(keys []string) {
	for _, k := range keys {
		p.wrong.Add(k)
	}
	p.all.Add("")
}

const guessTopic = "device.wrong"

// guessMessage is what replicas tell each other of a wrong user code.
type guessMessage struct {
	From string   `json:"f"`
	Keys []string `json:"k"`
}

// Run hears of other replicas' wrong user codes until ctx ends.
func (l *Ledger) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		news, err := l.cfg.Bus.Subscribe(ctx, guessTopic)
		if err == nil {
			for raw := range news {
				var m guessMessage
				if json.Unmarshal(raw, &m) == nil && m.From != l.pace.self && len(m.Keys) <= 8 {
					l.pace.guessed(m.Keys)
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return nil
}
