package broker

import (
	"context"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/demo"
	"github.com/remotegpu/gatehouse/config"
)

// DemoHandler is the demo upstream by itself.
func DemoHandler() http.Handler { return demo.Handler() }

// Probe is what asking one outside system came to.
type Probe struct {
	Name     string `json:"name"`
	OK       bool   `json:"ok"`
	Required bool   `json:"required"` // the broker cannot serve without it
	Skipped  bool   `json:"skipped,omitempty"`
	Millis   int64  `json:"ms"`
	Detail   string `json:"detail,omitempty"`
}

// probeTimeout bounds one probe.
const probeTimeout = 20 * time.Second

// Check asks every system that the configuration names whether it can be used.
// A store that a running server holds is busy, not broken: that is said.
func Check(ctx context.Context, cfg *config.Config, opts Options) []Probe {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	b := &Broker{cfg: cfg, opts: opts, log: opts.Log, now: opts.Now}
	var out []Probe
	run := func(name string, required bool, f func(context.Context) (string, error)) Probe {
		start := time.Now()
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		detail, err := f(ctx)
		p := Probe{Name: name, OK: err == nil, Required: required, Millis: time.Since(start).Milliseconds(), Detail: detail}
		if err != nil {
			p.Detail = err.Error()
		}
		return p
	}
	out = append(out, run("secret key", true, func(context.Context) (string, error) {
		_, err := b.sealer()
		return cfg.SecretKeyFile, err
	}))
	out = append(out, run("store", true, func(ctx context.Context) (string, error) {
		s, err := openStore(ctx, cfg.Store.Reveal(), b.now, b.log)
		if err != nil {
			if strings.Contains(err.Error(), "redis:// for replicas") {
				return "held by a running server", nil
			}
			return "", err
		}
		defer s.Close()
		warnings, err := s.Check(ctx)
		return strings.Join(warnings, "; "), err
	}))
	methods, err := b.openConnectors()
	if err != nil {
		return append(out, Probe{Name: "connectors", Required: true, Detail: err.Error()})
	}
	probes := make([]Probe, len(methods))
	var wg sync.WaitGroup
	for i, m := range methods {
		if m.Connector == nil {
			probes[i] = Probe{Name: "connector " + m.ID, Skipped: true, Detail: "accepted, not served by this version"}
			continue
		}
		wg.Go(func() {
			probes[i] = run("connector "+m.ID, true, func(ctx context.Context) (string, error) { return m.Type, m.Connector.Check(ctx) })
		})
	}
	wg.Wait()
	out = append(out, probes...)
	for _, r := range cfg.Routes {
		if r.Lease || r.Upstream == config.DemoUpstream {
			continue
		}
		out = append(out, run("upstream "+r.Name, false, func(ctx context.Context) (string, error) {
			scheme, hostport, _ := strings.Cut(r.Upstream, "://")
			hostport, _, _ = strings.Cut(hostport, "/")
			if _, _, err := net.SplitHostPort(hostport); err != nil {
				hostport = net.JoinHostPort(hostport, map[string]string{"http": "80", "https": "443"}[scheme])
			}
			c, err := (&net.Dialer{}).DialContext(ctx, "tcp", hostport)
			if err != nil {
				return "", err
			}
			return hostport, c.Close()
		}))
	}
	return out
}
