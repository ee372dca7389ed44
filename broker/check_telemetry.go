package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/broker/uptimekuma"
)

// telemetryProbe asks one of the systems that are told how this deployment is.
type telemetryProbe struct {
	name  string
	sends bool // something arrives there, so only if Options.Send
	ask   func(context.Context) (detail string, err error)
}

// telemetryProbes are those that are configured. Nobody needs one of them to sign
// in, so that none is required.
func (b *serving) telemetryProbes() []telemetryProbe {
	var out []telemetryProbe
	if !b.cfg.Sentry.DSN.IsZero() {
		out = append(out, telemetryProbe{name: "sentry", ask: func(context.Context) (string, error) { return b.cfg.Sentry.Host() }})
	}
	if b.cfg.Tracing.OTLPEndpoint != "" {
		out = append(out, telemetryProbe{name: "tracing", ask: b.probeCollector})
	}
	if !b.cfg.UptimeKuma.PushURL.IsZero() {
		out = append(out, telemetryProbe{name: "uptime_kuma", sends: true, ask: b.probeKuma})
	}
	return out
}

// probeCollector exports no spans, which a collector answers like any export.
func (b *serving) probeCollector(ctx context.Context) (string, error) {
	c := b.cfg.Tracing
	u, err := c.URL()
	if err != nil {
		return "", err
	}
	client, err := b.outgoing(0, c.Proxy, c.CAFile, u.Hostname())
	if err != nil {
		return "", err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(nil)) // an empty message of protobuf is no bytes
	if err != nil {
		return "", err
	}
	for k, v := range c.Headers {
		req.Header.Set(k, v.Reveal())
	}
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error // says the method and the URL again
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return "", fmt.Errorf("%s: %w", u.Host, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	switch {
	case resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden:
		return "", fmt.Errorf("%s answers %d: write its credentials under tracing.headers", u.Host, resp.StatusCode)
	case resp.StatusCode == http.StatusNotFound:
		return "", fmt.Errorf("%s answers 404 at %s: is this the collector's port for OTLP over HTTP, 4318 as a rule?", u.Host, u.Path)
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s answers %d", u.Host, resp.StatusCode)
	}
	return u.Host, nil
}

// probeKuma pushes once that this is well: what it says is for the one who checks.
func (b *serving) probeKuma(ctx context.Context) (string, error) {
	client, err := b.kumaClient()
	if err != nil {
		return "", err
	}
	if err := uptimekuma.Push(ctx, client, b.cfg.UptimeKuma.PushURL, uptimekuma.State{Up: true, Message: "gatehouse check", Took: time.Millisecond}); err != nil {
		return "", err
	}
	return "told that this is up", nil
}
