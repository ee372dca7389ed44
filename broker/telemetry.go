package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/logging"
	"github.com/remotegpu/gatehouse/broker/sentry"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/tracing"
	"github.com/remotegpu/gatehouse/broker/uptimekuma"
)

// openTelemetry makes what tells others of this process: Sentry and traces. Both
// last as long as the process, so that a change of theirs needs a restart. Without
// them nothing stands between a request and its handler.
func (b *Broker) openTelemetry() error {
	s := &serving{Broker: b, cfg: b.cfg}
	if c := b.cfg.Sentry; !c.DSN.IsZero() {
		host, err := c.Host()
		if err != nil {
			return err
		}
		client, err := s.outgoing(0, c.Proxy, c.CAFile, hostOnly("//"+host))
		if err != nil {
			return fmt.Errorf("sentry: %w", err)
		}
		if b.sentry, err = sentry.New(sentry.Settings{Config: c, Client: client, Version: b.opts.Version, Log: b.log, Now: b.now}); err != nil {
			return err
		}
		b.log = slog.New(logging.WithRequest(b.sentry.Handler(b.opts.Log.Handler())))
	}
	set := tracing.Settings{Config: b.cfg.Tracing, Version: b.opts.Version, Instance: rand.Text(), Log: b.log}
	set.Also, set.AlsoRatio = b.sentry.Spans()
	if c := b.cfg.Tracing; c.OTLPEndpoint != "" {
		u, err := c.URL()
		if err != nil {
			return fmt.Errorf("tracing.otlp_endpoint: %w", err)
		}
		if set.Client, err = s.outgoing(0, c.Proxy, c.CAFile, u.Hostname()); err != nil {
			return fmt.Errorf("tracing: %w", err)
		}
	}
	var err error
	b.tracer, err = tracing.New(set)
	return err
}

// traceFlush is how long the last traces may take at the end.
const traceFlush = 2 * time.Second

func (b *Broker) closeTelemetry() {
	ctx, cancel := context.WithTimeout(context.Background(), traceFlush)
	defer cancel()
	if err := b.tracer.Close(ctx); err != nil {
		b.log.Warn("the last traces were not sent", "err", err)
	}
	b.sentry.Close()
}

// traced puts spans around the operations of a store, where there are traces.
func (b *Broker) traced(s store.Store) store.Store {
	if b.tracer == nil {
		return s
	}
	return store.Trace(s, func(ctx context.Context, op, kind string) (context.Context, func(error)) {
		ctx, span := tracing.Start(ctx, "store "+op, tracing.Client)
		if !span.On() {
			return ctx, func(error) {}
		}
		span.Set("db.operation.name", op)
		span.Set("gatehouse.store.kind", kind)
		return ctx, func(err error) {
			span.Fail(err)
			span.End()
		}
	})
}

// openKuma makes what pushes to Uptime Kuma: what /readyz would say.
func (b *serving) openKuma() (*uptimekuma.Pusher, error) {
	c := b.cfg.UptimeKuma
	if c.PushURL.IsZero() {
		return nil, nil
	}
	client, err := b.kumaClient()
	if err != nil {
		return nil, err
	}
	return uptimekuma.New(uptimekuma.Settings{Config: c, Client: client, Log: b.log, Look: func(ctx context.Context) uptimekuma.State {
		start := time.Now()
		r := b.readiness(ctx)
		return uptimekuma.State{Up: r.Ready, Message: r.words(), Took: time.Since(start)}
	}})
}

func (b *serving) kumaClient() (*http.Client, error) {
	c := b.cfg.UptimeKuma
	u, err := url.Parse(c.PushURL.Reveal())
	if err != nil { // its text holds the URL
		return nil, errors.New("uptime_kuma.push_url is no URL")
	}
	client, err := b.outgoing(0, c.Proxy, c.CAFile, u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("uptime_kuma: %w", err)
	}
	return client, nil
}

// words say on one line what /readyz says.
func (r ready) words() string {
	var failed, down []string
	for _, c := range r.Checks {
		if !c.OK {
			failed = append(failed, c.Name)
		}
	}
	for _, c := range r.Connectors {
		if c.Served && !c.Up {
			down = append(down, c.ID)
		}
	}
	out := "ready"
	if len(failed) > 0 {
		out = "failed: " + strings.Join(failed, ", ")
	}
	if len(down) > 0 {
		out += "; connectors down: " + strings.Join(down, ", ")
	}
	return out
}
