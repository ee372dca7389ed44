package broker

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/logging"
	"github.com/remotegpu/gatehouse/config"
)

// NewLogger writes every line to w as the configuration says.
func NewLogger(w io.Writer, c config.LogConfig) *slog.Logger {
	c.Flood = -1
	log, _, _ := NewServerLogger(w, c)
	return log
}

// NewServerLogger is NewLogger for a process that goes on: its level can be set
// later on, and floods are counted. Call flush when the process ends: it writes
// what was counted instead of written.
func NewServerLogger(w io.Writer, c config.LogConfig) (log *slog.Logger, at *slog.LevelVar, flush func()) {
	at = new(slog.LevelVar)
	at.Set(level(c))
	log, flush = logging.New(w, logging.Config{Text: c.Format == "text", Level: at, Flood: c.Flood})
	return log, at, flush
}

// level is log.level; the default is info.
func level(c config.LogConfig) slog.Level {
	switch c.Level {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

type readyCheck struct {
	Name     string   `json:"name"`
	OK       bool     `json:"ok"`
	Millis   float64  `json:"ms"`
	Warnings []string `json:"warnings,omitempty"`
}

type ready struct {
	Ready      bool         `json:"ready"`
	Version    string       `json:"version"`
	Checks     []readyCheck `json:"checks"`
	Connectors []connector  `json:"connectors"`
}

type connector struct {
	ID     string    `json:"id"`
	Served bool      `json:"served"`
	Up     bool      `json:"up"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`
}

// readyz is on the private listener: can this replica serve? A connector that is
// down degrades it and no more.
func (b *serving) readyz(w http.ResponseWriter, r *http.Request) error {
	out := b.readiness(r.Context())
	code := http.StatusOK
	if !out.Ready {
		code = http.StatusServiceUnavailable
	}
	if strings.Contains(r.Header.Get("Accept"), "application/json") {
		return b.edge.JSON(w, code, out)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	for _, c := range out.Checks {
		_, _ = io.WriteString(w, c.Name+" "+map[bool]string{true: "ok", false: "failed"}[c.OK]+"\n")
		for _, warn := range c.Warnings {
			_, _ = io.WriteString(w, "  warning: "+warn+"\n")
		}
	}
	for _, c := range out.Connectors {
		state := "up"
		switch {
		case !c.Served:
			state = "accepted, not served by this version"
		case !c.Up:
			state = "down since " + c.Since.Format(time.RFC3339)
		}
		_, _ = io.WriteString(w, "connector "+c.ID+" "+state+"\n")
	}
	return nil
}

// readiness asks what this replica cannot serve without.
func (b *serving) readiness(ctx context.Context) ready {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out := ready{Ready: true, Version: b.opts.Version, Connectors: []connector{}}
	start := time.Now()
	warnings, err := b.store.Check(ctx)
	out.Checks = append(out.Checks, readyCheck{"store", err == nil, float64(time.Since(start).Microseconds()) / 1000, warnings})
	start = time.Now()
	_, _, _, kerr := b.keys.JWKS(ctx)
	out.Checks = append(out.Checks, readyCheck{"keys", kerr == nil, float64(time.Since(start).Microseconds()) / 1000, nil})
	for _, s := range b.door.States() {
		out.Connectors = append(out.Connectors, connector{s.ID, s.Served, s.Up, s.Since.UTC(), s.Reason})
	}
	out.Ready = err == nil && kerr == nil
	return out
}
