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
// as this account before has a counter of its own (docs/security.md LD-9).
type limits struct {
	accounts, addresses, attempts, stored *web.Limiter
	self                                  string
	max                                   int
}

type limitKeys struct {
	account string // keyed hash of connector and typed name; what logs may show
	counter string // the account's, or this browser's own for it
	address string
}

const limitTopic = "signin.failed"

func (l *limits) init(c LimitsConfig, now func() time.Time) {
	l.accounts = web.NewLimiter(web.LimiterConfig{Max: c.AccountFailures, Window: c.AccountWindow, Now: now})
	l.addresses = web.NewLimiter(web.LimiterConfig{Max: c.AddressFailures, Window: time.Minute, Now: now})
	l.attempts = web.NewLimiter(web.LimiterConfig{Max: c.Attempts, Window: time.Minute, Now: now})
	l.stored = web.NewLimiter(web.LimiterConfig{Max: c.StoredAttempts, Window: time.Minute, Now: now})
	l.self, l.max = rand.Text(), c.AccountFailures
}

// keys names the counters of one try. The account is what was typed, folded as
// directories fold it, so that spellings of one name share a counter.
func (l *limits) keys(d *Door, r *http.Request, connector, username string) limitKeys {
	name := strings.ToLower(norm.NFKC.String(strings.TrimSpace(username)))
	if _, after, ok := strings.Cut(name, `\`); ok { // DOMAIN\name
		name = after
	}
	mac := d.cfg.Sealer.MAC("account", []byte(connector+"\x00"+name))
	k := limitKeys{account: base64.RawURLEncoding.EncodeToString(mac[:12]), address: web.ClientNetwork(web.RequestOf(r).IP)}
	k.counter = k.account
	if dev, ok := d.device(r); ok && slices.Contains(dev.Accounts, k.account) {
		k.counter = k.account + "/" + dev.ID
	}
	return k
}

func (l *limits) check(k limitKeys) (bool, time.Duration) {
	if ok, retry := l.accounts.Check(k.counter); !ok {
		return false, retry
	}
	return l.addresses.Check(k.address)
}

type limitMessage struct {
	From    string `json:"f"`
	Counter string `json:"c"`
	Address string `json:"a"`
}

// failed counts a wrong password and says whether it was the last one before
// the pause, and how many are left.
func (l *limits) failed(ctx context.Context, bus store.Bus, k limitKeys) (locked bool, left int) {
	n := l.accounts.Add(k.counter)
	l.addresses.Add(k.address)
	if js, err := json.Marshal(limitMessage{l.self, k.counter, k.address}); err == nil {
		_ = bus.Publish(ctx, limitTopic, js) // a replica that does not hear counts for itself
	}
	return n == l.max, max(0, l.max-n)
}

func (l *limits) succeeded(k limitKeys) { l.accounts.Reset(k.counter) }

func (l *limits) listen(ctx context.Context, bus store.Bus) {
	for ctx.Err() == nil {
		news, err := bus.Subscribe(ctx, limitTopic)
		if err == nil {
			for raw := range news {
				var m limitMessage
				if json.Unmarshal(raw, &m) == nil && m.From != l.self {
					l.accounts.Add(m.Counter)
					l.addresses.Add(m.Address)
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
}

// device is what a browser that signed in before can show: sealed, so that
// nobody makes one up to get more tries.
type device struct {
	ID       string   `json:"i"`
	Accounts []string `json:"a"`
}

const (
	deviceCookie   = "gatehouse-device"
	deviceAccounts = 5
)

func (d *Door) device(r *http.Request) (device, bool) {
	v, ok := d.cfg.Edge.Cookie(r, deviceCookie)
	if !ok {
		return device{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(v)
	if err != nil {
		return device{}, false
	}
	js, err := d.seal.Open("device", raw)
	if err != nil {
		return device{}, false
	}
	var dev device
	return dev, json.Unmarshal(js, &dev) == nil && dev.ID != ""
}

func (d *Door) rememberDevice(w http.ResponseWriter, r *http.Request, account string) {
	dev, ok := d.device(r)
	if !ok {
		dev = device{ID: rand.Text()}
	}
	if slices.Contains(dev.Accounts, account) {
		return
	}
	dev.Accounts = append(dev.Accounts, account)
	if n := len(dev.Accounts) - deviceAccounts; n > 0 {
		dev.Accounts = dev.Accounts[n:]
	}
	js, err := json.Marshal(dev)
	if err != nil {
		return
	}
	d.cfg.Edge.SetCookie(w, deviceCookie, base64.RawURLEncoding.EncodeToString(d.seal.Seal("device", js)), 180*24*time.Hour)
}
