package web

import (
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"time"
	"unicode"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/tracing"
)

// Error is an answer that something went wrong: for a person as a page, for a
// machine as JSON, with the request's reference in both. It says nothing of the
// cause that a stranger should not know (docs/security.md G7); that is in Err,
// for the log.
type Error struct {
	Status int
	// Code is stable and for machines: "policy.denied".
	Code string
	// Text is the message id of the headline; Text+".help" is what to do.
	Text string
	Args map[string]any
	// Actions are links offered to the person.
	Actions []Action
	// Who is the person as we know them; "" for a stranger.
	Who string
	// Down names what stands behind us and did not answer.
	Down string
	// Rule is the name of the rule that refused, Reason what its operator says to
	// who is refused, Ask whom they may ask.
	Rule, Reason, Ask string
	// Expected says that it is no news to anybody, such as an answer to who polls:
	// it is logged at debug alone.
	Expected bool
	Err      error
	// Header is added to the answer.
	Header http.Header
	// JSON is the body for machines; where it is set, everybody gets it.
	JSON any
}

// Action is a link on an error page.
type Action struct {
	Text string // message id
	URL  string
}

// Fail makes an Error.
func Fail(status int, code, text string, err error) *Error {
	return &Error{Status: status, Code: code, Text: text, Err: err}
}

// Error returns the text for the log.
func (e *Error) Error() string {
	if e.Err != nil {
		return e.Code + ": " + e.Err.Error()
	}
	return e.Code
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

type errorBody struct {
	Error   string `json:"error"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Ref     string `json:"ref"`
	Rule    string `json:"rule,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Contact string `json:"contact,omitempty"`
}

type errorPage struct {
	Title, Help, Code, Ref string
	Who, Down              string
	Rule, Reason, Ask      string
	Time                   time.Time
	Actions                []Action
	Again                  bool // asking once more may help
	Kept                   bool // it can be shown again by its reference
	Past                   bool // it is shown again
	Operator               *Operator
}

// RenderError writes the one answer for an error. What is no *Error is a fault
// of ours, or the store's being out of reach.
func (e *Edge) RenderError(w http.ResponseWriter, r *http.Request, err error) {
	q := RequestOf(r)
	var we *Error
	if !errors.As(err, &we) {
		if errors.Is(err, store.ErrUnavailable) {
			we = &Error{Status: http.StatusServiceUnavailable, Code: "store.unavailable", Text: "error.store", Err: err, Header: http.Header{"Retry-After": {"5"}}}
		} else {
			we = Fail(http.StatusInternalServerError, "internal", "error.internal", err)
		}
	}
	level := slog.LevelInfo
	if we.Status >= 500 {
		level = slog.LevelError
	} else if we.Expected {
		level = slog.LevelDebug
	}
	e.cfg.Log.LogAttrs(r.Context(), level, "request failed", slog.String("ref", q.Ref()),
		slog.Int("status", we.Status), slog.String("code", we.Code), slog.String("handler", q.Handler), slog.String("route", q.Route), slog.String("path", quote(r.URL.Path)), slog.String("err", quote(we.Error())))
	q.Span.Status(we.Status, tracing.Server)
	h := w.Header()
	e.base(h, q)
	maps.Copy(h, we.Header)
	h.Set("Cache-Control", "no-store")
	if we.JSON != nil {
		_ = e.JSON(w, we.Status, we.JSON)
		return
	}
	if !Navigates(r) {
		_ = e.JSON(w, we.Status, errorBody{Error: machineWord(we.Status), Code: we.Code, Message: e.Text("en", we.Text, we.Args), Ref: q.Ref(), Rule: we.Rule, Reason: we.Reason, Contact: we.Ask})
		return
	}
	data := errorPage{Title: e.Text(q.Locale, we.Text, we.Args), Code: we.Code, Ref: q.Ref(), Time: e.cfg.Now().UTC(), Actions: we.Actions, Who: we.Who, Down: we.Down, Rule: we.Rule, Reason: we.Reason, Ask: we.Ask,
		Again: we.Status >= 500 || we.Status == http.StatusTooManyRequests, Kept: e.cfg.Shown.keep(q, we, e.cfg.Now().UTC())}
	if e.has(we.Text + ".help") {
		data.Help = e.Text(q.Locale, we.Text+".help", we.Args)
	}
	if err := e.Page(w, r, we.Status, "error", data); err != nil {
		e.cfg.Log.ErrorContext(r.Context(), "the error page failed", "err", err)
		http.Error(w, we.Code+" "+q.Ref(), we.Status)
	}
}

func machineWord(status int) string {
	switch status {
	case http.StatusUnauthorized:
		return "unauthorized"
	case http.StatusForbidden:
		return "forbidden"
	case http.StatusNotFound:
		return "not_found"
	case http.StatusTooManyRequests:
		return "too_many_requests"
	case http.StatusServiceUnavailable:
		return "unavailable"
	}
	if status >= 500 {
		return "server_error"
	}
	return "invalid_request"
}

// quote bounds and escapes what a stranger wrote before it reaches a log (G8):
// control characters, and those that reorder text or end a line in some viewers.
func quote(s string) string {
	const most = 256
	out := make([]rune, 0, min(len(s), most))
	for _, c := range s {
		if len(out) == most {
			break
		}
		if reorders(c) || unicode.IsControl(c) || unicode.In(c, unicode.Bidi_Control, unicode.Zl, unicode.Zp) {
			c = '\uFFFD'
		}
		out = append(out, c)
	}
	return string(out)
}
