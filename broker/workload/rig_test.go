package workload

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/store/storetest"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
	"github.com/remotegpu/gatehouse/connectors/workload"
)

const ours = "https://id.example.com"

// rig is a service on a real store, with issuers that sign.
type rig struct {
	*Service
	t                       testing.TB
	clock                   storetest.Clock
	store                   *line
	github, gitlab, jenkins *connectortest.OP
	log                     *slog.Logger

	mu       sync.Mutex
	accounts map[string][]string
}

// line is a store that can be cut off.
type line struct {
	store.Store
	mu  sync.Mutex
	cut bool
}

func (l *line) set(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cut = cut
}

func (l *line) gone() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cut
}

func (l *line) Get(ctx context.Context, k store.Key) (store.Item, error) {
	if l.gone() {
		return store.Item{}, store.ErrUnavailable
	}
	return l.Store.Get(ctx, k)
}

func (l *line) Put(ctx context.Context, it store.Item) (uint64, error) {
	if l.gone() {
		return 0, store.ErrUnavailable
	}
	return l.Store.Put(ctx, it)
}

func (l *line) Stale() bool { return l.gone() || l.Store.Stale() }

func newRig(t testing.TB) *rig {
	t.Helper()
	r := &rig{t: t, log: slog.New(slog.DiscardHandler), accounts: map[string][]string{"acme-deployer": {"deployers"}}}
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: r.clock.Now, Log: r.log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	r.store = &line{Store: s}
	for _, op := range []**connectortest.OP{&r.github, &r.gitlab, &r.jenkins} {
		*op = connectortest.NewOP(t)
		(*op).Now = r.clock.Now
	}
	r.Service = r.replica()
	r.use(r.rules()...)
	return r
}

// replica is another service on the same store.
func (r *rig) replica() *Service {
	r.t.Helper()
	events, err := event.New(event.Config{Log: r.store, Now: r.clock.Now, Logger: r.log})
	if err != nil {
		r.t.Fatal(err)
	}
	s, err := New(Config{KV: r.store, Bus: r.store, Sealer: storetest.Sealer(r.t), Events: events, Now: r.clock.Now, Log: r.log, Grace: 10 * time.Second,
		Account: func(_ context.Context, name string) ([]string, bool, error) {
			r.mu.Lock()
			defer r.mu.Unlock()
			groups, there := r.accounts[name]
			return groups, there, nil
		}})
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	r.t.Cleanup(func() { cancel(); <-done })
	return s
}

func (r *rig) rules() []Rule {
	gh, gl, j := githubRule(), gitlabRule(), jenkinsRule()
	gh.Name, gh.Issuer, gh.TokenAudience, gh.Scope = "github", r.github.URL, "https://api.example.com", "deployments:read deployments:write"
	gl.Name, gl.Issuer = "gitlab", r.gitlab.URL
	j.Name, j.Issuer = "jenkins", r.jenkins.URL
	return []Rule{gh, gl, j}
}

func (r *rig) setting(rules ...Rule) Setting {
	return Setting{Rules: rules, Issuer: ours,
		Resource: func(s string) (string, bool) {
			return "platform-api", s == "platform-api" || s == "https://api.example.com"
		},
		Open: func(src Source) (connectors.TokenConnector, error) {
			return workload.Open(connectors.Env{Now: r.clock.Now, Log: r.log, HTTP: func(string, string, ...string) (*http.Client, error) {
				return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}, nil
			}}, workload.Config(src))
		}}
}

func (r *rig) use(rules ...Rule) {
	r.t.Helper()
	for _, rule := range rules {
		for _, p := range rule.Problems() {
			if !p.Warning {
				r.t.Fatalf("%s: %v", rule.Name, p)
			}
		}
	}
	p, err := r.Prepare(r.t.Context(), r.setting(rules...))
	if err != nil {
		r.t.Fatal(err)
	}
	r.Use(p)
}

// token signs claims as an issuer does, with the times of now; a change of nil
// takes a claim out.
func (r *rig) token(op *connectortest.OP, js string, change ...any) string {
	r.t.Helper()
	now := r.clock.Now()
	c := claimsOf(r.t, js, append([]any{"iss", op.URL, "iat", json.Number(stamp(now)), "nbf", json.Number(stamp(now)), "exp", json.Number(stamp(now.Add(5 * time.Minute)))}, change...)...)
	return op.Token("JWT", c)
}

func stamp(t time.Time) string {
	js, err := json.Marshal(t.Unix())
	if err != nil {
		panic(err)
	}
	return string(js)
}

// last are the events of a name, the newest last.
func (r *rig) events(name event.Name) []event.Event {
	r.t.Helper()
	all, _, err := event.Read(r.t.Context(), r.store, 0, 10_000)
	if err != nil {
		r.t.Fatal(err)
	}
	var out []event.Event
	for _, e := range all {
		if e.Name == name {
			out = append(out, e)
		}
	}
	return out
}

func (r *rig) denied() event.Event {
	r.t.Helper()
	all := r.events(event.WorkloadDenied)
	if len(all) == 0 {
		r.t.Fatal("nothing was denied")
	}
	return all[len(all)-1]
}

func wantOf() Want {
	return Want{Client: "ci", IP: "192.0.2.7", Agent: "curl/8", RequestID: "GH-1"}
}

func refused(err error) bool {
	return errors.Is(err, ErrRefused) && !errors.Is(err, ErrScope) && !errors.Is(err, ErrAudience)
}
