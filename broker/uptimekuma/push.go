// Package uptimekuma tells a push monitor of Uptime Kuma how this replica is. A
// monitor that hears nothing goes down by itself, so that a replica that cannot
// speak any more needs nobody to speak for it. What Uptime Kuma asks by itself
// (/healthz) is not here.
package uptimekuma

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// State is what a push says.
type State struct {
	Up bool
	// Message is shown beside the monitor: a few words of ours, nothing of a user
	// and no address of an inner system.
	Message string
	// Took is how long the look at this replica took.
	Took time.Duration
}

// Settings are what New needs.
type Settings struct {
	Config Config
	// Client makes the calls; an answer's body is bounded by it.
	Client *http.Client
	// Look finds out how this replica is; its context ends before the next push.
	Look func(ctx context.Context) State
	Log  *slog.Logger
}

// Pusher pushes. The zero value pushes nothing.
type Pusher struct {
	cfg    *Settings
	every  time.Duration
	failed bool // the last push, so that a failure is told once
}

// New returns a Pusher; without a push_url it does nothing.
func New(cfg Settings) (*Pusher, error) {
	if cfg.Config.PushURL.IsZero() {
		return &Pusher{}, nil
	}
	if cfg.Client == nil || cfg.Look == nil || cfg.Log == nil {
		return nil, errors.New("uptimekuma: Client, Look and Log are needed")
	}
	every := cfg.Config.Every
	if every == 0 {
		every = defaultEvery
	}
	return &Pusher{cfg: &cfg, every: every}, nil
}

// Run pushes at once and then every so often, until ctx ends. A push that fails
// is logged once, as is the first that works again; nothing waits for it.
func (p *Pusher) Run(ctx context.Context) {
	if p == nil || p.cfg == nil {
		return
	}
	tick := time.NewTicker(p.every)
	defer tick.Stop()
	for {
		p.once(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Pusher) once(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, p.every)
	defer cancel()
	err := Push(ctx, p.cfg.Client, p.cfg.Config.PushURL, p.cfg.Look(ctx))
	if errors.Is(ctx.Err(), context.Canceled) { // we are shutting down
		return
	}
	switch {
	case err != nil && !p.failed:
		p.cfg.Log.Warn("Uptime Kuma was not told how this replica is; tried again each time", "err", err)
	case err == nil && p.failed:
		p.cfg.Log.Info("Uptime Kuma is told again how this replica is")
	}
	p.failed = err != nil
}

// reply is what Uptime Kuma answers.
type reply struct {
	OK  bool   `json:"ok"`
	Msg string `json:"msg"`
}

// Push tells the monitor of a push URL once. Its errors hold the host and never
// the path, whose end is the monitor's token (docs/security.md NO-1).
func Push(ctx context.Context, client *http.Client, pushURL redact.String, s State) error {
	u, err := url.Parse(pushURL.Reveal())
	if err != nil {
		return errors.New("uptime_kuma.push_url is no URL")
	}
	q := u.Query()
	q.Set("status", "down") // any other word than "up" is down to it
	if s.Up {
		q.Set("status", "up")
	}
	q.Set("msg", s.Message)
	// It takes 0 for "not measured".
	q.Set("ping", strconv.FormatInt(max(1, s.Took.Milliseconds()), 10))
	u.RawQuery = q.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fmt.Errorf("%s: the request cannot be made", u.Host)
	}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error // its text holds the URL
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return fmt.Errorf("%s: %w", u.Host, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return fmt.Errorf("%s: %w", u.Host, err)
	}
	var r reply
	switch err := json.Unmarshal(body, &r); {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s answers 404: there is no active push monitor with this token; copy its push URL again", u.Host)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s answers %d", u.Host, resp.StatusCode)
	case err != nil || !r.OK:
		return fmt.Errorf("%s answers 200, and not as Uptime Kuma does; is push_url the address of a sign-in page?", u.Host)
	}
	return nil
}
