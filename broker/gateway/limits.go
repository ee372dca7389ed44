package gateway

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

// RateLimitConfig bounds how often somebody may ask. Every replica counts for
// itself.
type RateLimitConfig struct {
	Requests int           `yaml:"requests"`
	Per      time.Duration `yaml:"per"`   // default 1s
	Burst    int           `yaml:"burst"` // at once; default: requests
	// By is session (default; a service by its id), ip (IPv6 by /64), or key: an
	// API key or a client together with its user.
	By string `yaml:"by"`
}

// limitedAtOnce is how many callers a limit remembers: some 10 MB for a route.
const limitedAtOnce = 100_000

// rateLimit is the generic cell rate algorithm: of everybody it keeps one moment,
// that at which all that was asked would have been allowed one by one.
type rateLimit struct {
	every time.Duration // between two requests
	slack time.Duration // that may be used ahead
	by    string
	mu    sync.Mutex
	due   map[string]time.Time
}

func newRateLimit(c RateLimitConfig) *rateLimit {
	every := cmp.Or(c.Per, time.Second) / time.Duration(c.Requests)
	return &rateLimit{every: every, slack: every * time.Duration(cmp.Or(c.Burst, c.Requests)-1), by: cmp.Or(c.By, "session"), due: map[string]time.Time{}}
}

// goOn takes over what is counted under the limit that a route had before. One
// that is the same goes on itself; of another one everybody owes as many requests
// as before, at the new rate. Where it counted by something else nobody owes any.
func (l *rateLimit) goOn(before *rateLimit, now time.Time) *rateLimit {
	if l == nil || before == nil || l.by != before.by {
		return l
	}
	if l.every == before.every && l.slack == before.slack {
		return before
	}
	before.mu.Lock()
	defer before.mu.Unlock()
	for key, due := range before.due {
		if owed := due.Sub(now); owed > 0 {
			l.due[key] = now.Add(time.Duration(float64(owed) / float64(before.every) * float64(l.every)))
		}
	}
	return l
}

// take counts one request; where it is one too many, it says how long to wait.
func (l *rateLimit) take(key string, now time.Time) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	due, known := l.due[key]
	if due.Before(now) {
		due = now
	}
	if ahead := due.Sub(now); ahead > l.slack {
		return ahead - l.slack, false
	}
	if !known && len(l.due) >= limitedAtOnce {
		l.makeRoom(now)
	}
	l.due[key] = due.Add(l.every)
	return 0, true
}

// makeRoom forgets those who owe nothing, and if they are too few those who owe
// least: who asks most is not forgotten for many others.
func (l *rateLimit) makeRoom(now time.Time) {
	for owed := time.Duration(0); ; owed = max(2*owed, l.every) {
		for key, due := range l.due {
			if due.Sub(now) <= owed {
				delete(l.due, key)
			}
		}
		if len(l.due) <= limitedAtOnce*9/10 {
			return
		}
	}
}

// limited answers 429 to who asks too often. Before the caller is known, only
// addresses are counted.
func (g *Gateway) limited(r *http.Request, pg *passage, known bool) error {
	l, c := pg.route.limit, &pg.caller
	if l == nil || known == (l.by == "ip") {
		return nil
	}
	key := ""
	switch l.by {
	case "ip":
		key = addressKey(web.RequestOf(r).IP)
	case "key":
		key = cmp.Or(c.keyID, c.userID+" "+c.clientID)
		if c.cookie {
			key = c.session.ID
		}
	default:
		key = cmp.Or(c.session.ID, c.userID)
	}
	wait, ok := l.take(key, g.cfg.Now())
	if ok {
		return nil
	}
	e := web.Fail(http.StatusTooManyRequests, "limit.rate", "error.too_often", nil)
	e.Args = map[string]any{"name": pg.route.Name}
	e.Header = http.Header{"Retry-After": {strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10)}}
	return e
}

// addressKey is whom an address stands for: of IPv6 one customer has a /64.
func addressKey(ip netip.Addr) string {
	if ip = ip.Unmap(); ip.Is6() {
		if p, err := ip.Prefix(64); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

var errTooLarge = errors.New("the body is larger than the route's max_body")

// tooLarge is 413; the connection ends, since the rest of the body is not read.
func tooLarge(rt *route) error {
	e := web.Fail(http.StatusRequestEntityTooLarge, "request.too_large", "error.body_too_large", errTooLarge)
	e.Args = map[string]any{"name": rt.Name, "max": rt.MaxBody}
	e.Header = http.Header{"Connection": {"close"}}
	return e
}

// parseSize reads a number of bytes: 1048576, 512KiB, 10MiB, 2GiB, or with
// decimal units 10MB.
func parseSize(s string) (int64, error) {
	bad := fmt.Errorf("%q is not a number of bytes, such as 1048576 or 10MiB", s)
	at := strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' })
	if at < 0 {
		at = len(s)
	}
	n, err := strconv.ParseInt(s[:at], 10, 64)
	if err != nil || n <= 0 {
		return 0, bad
	}
	units := map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
	unit, ok := units[strings.TrimPrefix(s[at:], " ")]
	if !ok || n > (1<<62)/unit {
		return 0, bad
	}
	return n * unit, nil
}

// limitProblems complains about limits that mean nothing.
func (r Route) limitProblems(add func(field, rule, text, fix string)) {
	if r.MaxBody != "" {
		if _, err := parseSize(r.MaxBody); err != nil {
			add("MaxBody", "route.max_body", err.Error()+".", "max_body: 10MiB")
		}
	}
	l := r.RateLimit
	if l == (RateLimitConfig{}) {
		return
	}
	per := cmp.Or(l.Per, time.Second)
	switch {
	case l.Requests < 1:
		add("RateLimit", "route.rate_limit", "A rate limit needs a number of requests.", "rate_limit: {requests: 100, per: 1m}")
	case per < 0 || per > 24*time.Hour || per/time.Duration(l.Requests) < time.Microsecond:
		add("RateLimit", "route.rate_limit", "The time is at most a day, and a microsecond or more for each request.", "per: 1m")
	case l.Burst < 0 || l.Burst > 1_000_000:
		add("RateLimit.Burst", "route.rate_limit", "A burst is 1 to 1,000,000 requests.", "burst: 20")
	}
	switch l.By {
	case "", "session", "ip", "key":
	default:
		add("RateLimit.By", "route.rate_limit", fmt.Sprintf("%q is nothing to count by.", l.By), "session, ip or key")
	}
}
