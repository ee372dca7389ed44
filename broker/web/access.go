package web

import (
	"log/slog"
	"net/http"
	"slices"
	"time"
)

// AccessMessage is the message of the access log's lines.
const AccessMessage = "access"

// AccessFields are what a line of the access log can say. Neither a query nor a
// path as it was sent is among them: both may hold tokens.
func AccessFields() []string {
	return []string{"host", "method", "path", "handler", "route", "status", "bytes", "duration_ms", "ip", "user", "session", "proto", "agent"}
}

// AccessDefault are the fields where the configuration names none: all but the
// browser's own description.
func AccessDefault() []string { return slices.DeleteFunc(AccessFields(), isAgent) }

func isAgent(f string) bool { return f == "agent" }

// accessLog writes a line for every request; nil writes none.
type accessLog struct {
	log    *slog.Logger
	fields []string
}

func newAccessLog(log *slog.Logger, fields []string) *accessLog {
	if len(fields) == 0 {
		return nil
	}
	return &accessLog{log: log, fields: fields}
}

// counter counts what is written, and remembers the status.
type counter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// WriteHeader remembers the first final status.
func (c *counter) WriteHeader(code int) {
	if c.status == 0 && (code >= 200 || code == http.StatusSwitchingProtocols) {
		c.status = code
	}
	c.ResponseWriter.WriteHeader(code)
}

// Write counts.
func (c *counter) Write(b []byte) (int, error) {
	if c.status == 0 {
		c.status = http.StatusOK
	}
	n, err := c.ResponseWriter.Write(b)
	c.bytes += int64(n)
	return n, err
}

// Unwrap lets http.ResponseController reach the connection.
func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// write writes the line of a request that is over. What a stranger chooses (host
// and method) was checked by then, or the request was refused.
func (a *accessLog) write(r *http.Request, q *Request, c *counter, took time.Duration) {
	if !a.log.Enabled(r.Context(), slog.LevelInfo) {
		return
	}
	status := c.status
	switch {
	case q.Switched:
		status = http.StatusSwitchingProtocols
	case status == 0:
		status = http.StatusOK // net/http's, where a handler writes nothing
	}
	var room [16]slog.Attr
	as := room[:0]
	text := func(k, v string) {
		if v != "" {
			as = append(as, slog.String(k, v))
		}
	}
	for _, f := range a.fields {
		switch f {
		case "host":
			text(f, q.Host)
		case "method":
			text(f, cutText(quote(r.Method), 32))
		case "path":
			text(f, q.Pattern)
		case "handler":
			text(f, q.Handler)
		case "route":
			text(f, q.Route)
		case "status":
			as = append(as, slog.Int(f, status))
		case "bytes":
			as = append(as, slog.Int64(f, c.bytes))
		case "duration_ms":
			as = append(as, slog.Float64(f, float64(took.Microseconds())/1000))
		case "ip":
			if q.IP.IsValid() {
				text(f, q.IP.String())
			}
		case "user":
			text(f, q.User)
		case "session":
			text(f, q.Session)
		case "proto":
			text(f, r.Proto)
		case "agent":
			text(f, quote(q.Agent))
		}
	}
	a.log.LogAttrs(r.Context(), slog.LevelInfo, AccessMessage, as...)
}
