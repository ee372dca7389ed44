package signin

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/text/unicode/norm"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
)

// limits counts failures, in bounded memory; replicas tell each other. An
// account's counter cannot be turned against its owner: a browser that signed in
// as this account before has a counter of its own, and no other bounds it
// (docs/security.md LD-9).
type limits struct {
	accounts, addresses, networks, attempts, stored *web.Limiter

	under *gate // tries whose outcome is not known yet
	self  string
	max   LimitsConfig
}

type limitKeys struct {
	account  string // keyed hash of connector and typed name; what logs may show
	device   string // this browser's, where it signed in as this account before
	subject  string // the connector's own name for the account, once it has said so
	counters []string
	// under is the address at this connector: tries that hang at one do not use
	// up the room of another, or a directory that is away would keep a whole
	// office from every other way in. Failures are counted for all together.
	under   string
	address string
	network string
}

const limitTopic = "signin.failed"

// newLimits counts on where those before are not nil: who reloads the
// configuration gives nobody more tries.
func newLimits(c LimitsConfig, now func() time.Time, before *limits) *limits {
	l := &limits{self: rand.Text(), under: &gate{slots: map[string]*slot{}}, max: c}
	if before != nil {
		l.self, l.under = before.self, before.under
	} else {
		before = l
	}
	for _, one := range []struct {
		to     **web.Limiter
		from   *web.Limiter
		most   int
		window time.Duration
	}{
		{&l.accounts, before.accounts, c.AccountFailures, c.AccountWindow},
		{&l.addresses, before.addresses, c.AddressFailures, time.Minute},
		{&l.networks, before.networks, c.NetworkFailures, time.Minute},
		{&l.attempts, before.attempts, c.Attempts, time.Minute},
		{&l.stored, before.stored, c.StoredAttempts, time.Minute},
	} {
		if one.from == nil {
			one.from = web.NewLimiter(web.LimiterConfig{Now: now})
		}
		*one.to = one.from.With(one.most, one.window)
	}
	return l
}

// keys names the counters of one try. The account is what was typed, folded as
// directories fold it, so that spellings of one name share a counter.
func (l *limits) keys(d *Door, r *http.Request, connector, username string) limitKeys {
	name := strings.ToLower(norm.NFKC.String(strings.TrimSpace(username)))
	if _, after, ok := strings.Cut(name, `\`); ok && after != "" { // DOMAIN\name
		name = after
	}
	ip := web.RequestOf(r).IP
	k := limitKeys{account: d.accountHash(connector, name), address: web.ClientNetwork(ip), network: web.WiderNetwork(ip)}
	k.under = connector + "/" + k.address
	if dev, ok := d.device(r); ok && slices.Contains(dev.Accounts, k.account) {
		k.device = dev.ID
	}
	k.counters = []string{k.counter(k.account)}
	return k
}

func (d *Door) accountHash(connector, name string) string {
	mac := d.cfg.Sealer.MAC("account", []byte(connector+"\x00"+name))
	return base64.RawURLEncoding.EncodeToString(mac[:12])
}

func (k limitKeys) counter(account string) string {
	if k.device != "" {
		return account + "/" + k.device
	}
	return account
}

// canonical takes notice of whose password is about to be checked: all names of
// one account share a counter. It reports whether there is a try left.
func (l *limits) canonical(d *Door, k *limitKeys, subject string) bool {
	k.subject = subject
	counter := k.counter(d.accountHash("subject", subject))
	if !slices.Contains(k.counters, counter) {
		k.counters = append(k.counters, counter)
	}
	ok, _ := l.accounts.Check(counter)
	return ok
}

// left returns how many tries the counters of these keys leave.
func (l *limits) left(k limitKeys) int {
	n := l.max.AccountFailures
	for _, c := range k.counters {
		n = min(n, l.max.AccountFailures-l.accounts.Count(c))
	}
	return max(0, n)
}

// enter waits until the tries under way leave room for another: many at once are
// no more guesses than one after the other. It fails with ErrThrottled when none
// is left; else leave must be called.
func (l *limits) enter(ctx context.Context, k *limitKeys) (leave func(), err error) {
	account, err := l.under.enter(ctx, k.counters[0], func() int { return l.left(*k) })
	if err != nil || k.device != "" {
		return account, err
	}
	address, err := l.under.enter(ctx, k.under, func() int {
		return min(l.max.AddressFailures-l.addresses.Count(k.address), l.max.NetworkFailures-l.networks.Count(k.network))
	})
	if err != nil {
		account()
		return nil, err
	}
	return func() { address(); account() }, nil
}

// retry returns when the keys that are over their limit are under it again.
func (l *limits) retry(k limitKeys) time.Duration {
	_, longest := l.addresses.Check(k.address)
	if k.device != "" {
		longest = 0
	}
	for _, c := range k.counters {
		_, d := l.accounts.Check(c)
		longest = max(longest, d)
	}
	return longest
}

type limitMessage struct {
	From     string   `json:"f"`
	Counters []string `json:"c"`
	Address  string   `json:"a"`
	Network  string   `json:"n"`
}

func (l *limits) count(m limitMessage) (most int) {
	for _, c := range m.Counters {
		most = max(most, l.accounts.Add(c))
	}
	l.addresses.Add(m.Address)
	l.networks.Add(m.Network)
	return most
}

// failed counts a wrong password and says whether it was the last one before
// the pause, and how many are left.
func (l *limits) failed(ctx context.Context, bus store.Bus, k limitKeys) (locked bool, left int) {
	m := limitMessage{l.self, k.counters, k.address, k.network}
	most := l.count(m)
	if js, err := json.Marshal(m); err == nil {
		_ = bus.Publish(ctx, limitTopic, js) // a replica that does not hear counts for itself
	}
	return most == l.max.AccountFailures, l.left(k)
}

func (l *limits) succeeded(k limitKeys) {
	for _, c := range k.counters {
		l.accounts.Reset(c)
	}
}

// finished takes back what a successful sign-in counted: its attempt, and how
// often that was stored (G10).
func (l *limits) finished(address string, writes int) {
	l.attempts.Sub(address)
	for range writes {
		l.stored.Sub(address)
	}
}

func (l *limits) listen(ctx context.Context, bus store.Bus) {
	for ctx.Err() == nil {
		news, err := bus.Subscribe(ctx, limitTopic)
		if err == nil {
			for raw := range news {
				var m limitMessage
				if json.Unmarshal(raw, &m) == nil && m.From != l.self {
					l.count(m)
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}
