package broker

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/demo"
	"github.com/remotegpu/gatehouse/broker/signin"
	"github.com/remotegpu/gatehouse/config"
	"github.com/remotegpu/gatehouse/connectors"
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
	b := &Broker{cfg: cfg, opts: &opts, log: opts.Log, now: opts.Now}
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
		if _, err := os.Stat(cfg.SecretKeyFile); cfg.Dev && opts.SecretKeys == "" && errors.Is(err, os.ErrNotExist) {
			return "made at the first start", nil
		}
		if _, err := b.openSealer(); err != nil || opts.SecretKeys != "" {
			return "GATEHOUSE_SECRET_KEY", err
		}
		warning, err := secretMode(cfg.SecretKeyFile)
		return cmp.Or(warning, cfg.SecretKeyFile), err
	}))
	if c := cfg.TLS; c.CertFile != "" {
		out = append(out, run("tls", true, func(context.Context) (string, error) {
			pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
			if err != nil {
				return "", err
			}
			if end := pair.Leaf.NotAfter; opts.Now().After(end) {
				return "", fmt.Errorf("the certificate ended on %s", end.Format(time.DateOnly))
			}
			return "until " + pair.Leaf.NotAfter.Format(time.DateOnly), pair.Leaf.VerifyHostname(cfg.IssuerURL().Hostname())
		}))
	}
	out = append(out, run("store", true, func(ctx context.Context) (string, error) {
		// Opening makes the file, and who checks may be somebody else than who
		// serves.
		if file, there := embedded(cfg.Store.Reveal()); !there {
			return "made at the first start", writableAbove(file)
		}
		s, err := openStore(ctx, cfg.Store.Reveal(), b.now, b.log)
		if storeInUse(err) {
			return "held by a running server", nil
		}
		if err != nil {
			return "", err
		}
		defer s.Close()
		warnings, err := s.Check(ctx)
		return strings.Join(warnings, "; "), err
	}))
	checked := &serving{Broker: b, cfg: cfg}
	methods, err := checked.openConnectors(nil)
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
			probes[i] = run("connector "+m.ID, true, func(ctx context.Context) (string, error) { return connectorDetail(ctx, m), m.Connector.Check(ctx) })
		})
	}
	wg.Wait()
	out = append(out, probes...)
	trust := checked.workloadProbes()
	probes = make([]Probe, len(trust))
	for i, p := range trust {
		wg.Go(func() { probes[i] = run(p.name, true, p.ask) })
	}
	wg.Wait()
	out = append(out, probes...)
	for _, p := range checked.clientKeyProbes() {
		out = append(out, run(p.name, true, p.ask))
	}
	for _, p := range (&serving{Broker: b, cfg: cfg}).checkBuckets() {
		out = append(out, run(p.name, p.required, p.ask))
	}
	for _, p := range checked.checkLenders() {
		out = append(out, run(p.name, p.required, p.ask))
	}
	for _, r := range cfg.Routes {
		for _, at := range r.Addresses() {
			if at != config.DemoUpstream {
				out = append(out, run("upstream "+r.Name, false, func(ctx context.Context) (string, error) { return r.Probe(ctx, at) }))
			}
		}
	}
	for _, p := range checked.telemetryProbes() {
		if p.sends && !opts.Send {
			out = append(out, Probe{Name: p.name, Skipped: true, Detail: "not asked: it would be told something; use --send"})
			continue
		}
		out = append(out, run(p.name, false, p.ask))
	}
	tells, err := (&serving{Broker: b, cfg: cfg}).notifications()
	if err != nil {
		return append(out, Probe{Name: "notifications", Required: true, Detail: err.Error()})
	}
	channels := tells.Probes(opts.Send, b.now)
	probes = make([]Probe, len(channels))
	for i, c := range channels {
		// Asked to send, that it arrives is what is asked.
		wg.Go(func() { probes[i] = run(c.Name, opts.Send, c.Run) })
	}
	wg.Wait()
	return append(out, probes...)
}

// connectorDetail is a connector's type, and until when an upstream's
// certificates are good, where it has any.
func connectorDetail(ctx context.Context, m signin.Method) string {
	h, ok := m.Connector.(connectors.CertificateHolder)
	if !ok {
		return m.Type
	}
	certs, err := h.Certificates(ctx)
	if err != nil { // Check says what is wrong
		return m.Type
	}
	var last time.Time
	for _, c := range certs {
		if !c.Ours && c.Ends.After(last) {
			last = c.Ends
		}
	}
	return m.Type + ", certificate until " + last.Format(time.DateOnly)
}

// embedded returns the file of an embedded store, and whether it is there; any
// other store is.
func embedded(address string) (file string, there bool) {
	path, ok := strings.CutPrefix(address, "sqlite:")
	if !ok {
		return "", true
	}
	path, _, _ = strings.Cut(path, "?")
	_, err := os.Stat(path)
	return path, !errors.Is(err, os.ErrNotExist)
}

// writableAbove reports whether a file could be made: the nearest folder above it
// that is there takes one.
func writableAbove(path string) error {
	dir := filepath.Dir(path)
	for {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	f, err := os.CreateTemp(dir, ".gatehouse-check-*")
	if err != nil {
		return err
	}
	f.Close()
	return os.Remove(f.Name())
}
