// Package sentry reports faults to Sentry: what the log says at the level error,
// panics with their stack, and the traces of a part of the requests. Reports are
// made of our own words alone, never of a request, and what is left of an error's
// text has passed Scrub (docs/security.md ST-6). What is no fault of ours, an
// upstream of a route that is down for example, is for metrics and not for here.
package sentry

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	sdk "github.com/getsentry/sentry-go"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// Settings are what New needs.
type Settings struct {
	Config Config
	// Client carries the envelopes; it bounds time and answers.
	Client  *http.Client
	Version string // the release
	// Log is for what the client has to say of itself; it must not be one that
	// reports to it.
	Log *slog.Logger
	Now func() time.Time
}

// Client reports. A nil Client reports nothing.
type Client struct {
	cfg   *Settings
	sdk   *sdk.Client
	to    *transport
	seen  *repeats
	spans *transactions
}

// New returns a Client, or nil without a DSN. It reaches no network.
func New(cfg Settings) (*Client, error) {
	if cfg.Config.DSN.IsZero() {
		return nil, nil
	}
	if cfg.Client == nil || cfg.Log == nil || cfg.Now == nil {
		return nil, errors.New("sentry: Client, Log and Now are needed")
	}
	to, err := newTransport(cfg)
	if err != nil {
		return nil, err
	}
	env := cfg.Config.Environment
	if env == "" {
		env = defaultEnvironment
	}
	c := &Client{cfg: &cfg, to: to, seen: newRepeats(cfg.Now)}
	// Nothing is gathered by the library: no request, no user, no environment, no
	// modules, no breadcrumbs, no source lines.
	c.sdk, err = sdk.NewClient(sdk.ClientOptions{
		Dsn: cfg.Config.DSN.Reveal(), Environment: env, Release: "gatehouse@" + cfg.Version, Transport: to, MaxBreadcrumbs: -1,
		Integrations:          func([]sdk.Integration) []sdk.Integration { return nil },
		BeforeSend:            func(e *sdk.Event, _ *sdk.EventHint) *sdk.Event { return bare(e) },
		BeforeSendTransaction: func(e *sdk.Event, _ *sdk.EventHint) *sdk.Event { return bare(e) },
		DisableClientReports:  true, DisableTelemetryBuffer: true,
	})
	if err != nil { // its text may hold the DSN
		return nil, errors.New("sentry.dsn is not of the form https://KEY@HOST/PROJECT")
	}
	c.spans = &transactions{report: func(e *sdk.Event) { c.sdk.CaptureEvent(e, nil, nil) }, open: map[[8]byte]*transaction{}}
	return c, nil
}

// bare is the last door before the network: whatever somebody adds to a report
// some day, these are not in it.
func bare(e *sdk.Event) *sdk.Event {
	e.Request, e.User, e.ServerName, e.Modules, e.Breadcrumbs, e.Attachments, e.Threads = nil, sdk.User{}, "", nil, nil, nil, nil
	e.Message = Scrub(e.Message)
	for i := range e.Exception {
		e.Exception[i].Type, e.Exception[i].Value = Scrub(e.Exception[i].Type), Scrub(e.Exception[i].Value)
		if st := e.Exception[i].Stacktrace; st != nil {
			for j := range st.Frames {
				f := &st.Frames[j]
				f.AbsPath, f.Vars, f.PreContext, f.ContextLine, f.PostContext = "", nil, nil, "", nil
			}
		}
	}
	for k, v := range e.Tags {
		if e.Tags[k] = word(v); e.Tags[k] == "" {
			delete(e.Tags, k)
		}
	}
	return e
}

// Run sends until ctx ends, and then what waits, for at most two seconds. It
// returns nil.
func (c *Client) Run(ctx context.Context) error {
	if c != nil {
		c.to.run(ctx)
	}
	return nil
}

// Close ends what the library has started.
func (c *Client) Close() {
	if c != nil {
		c.sdk.Close()
	}
}

// Spans takes the spans of traces that Sentry is to get, and Rate is their part
// of all traces; nil and 0 where there are to be none.
func (c *Client) Spans() (_ sdktrace.SpanProcessor, rate float64) {
	if c == nil || c.cfg.Config.TracesSampleRate == 0 {
		return nil, 0
	}
	return c.spans, c.cfg.Config.TracesSampleRate
}
