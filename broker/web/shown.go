package web

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// Shown is an error page as a signed-in person was shown it: what the page said,
// not the cause, which the log has under the same reference. It names nobody but
// by id.
type Shown struct {
	Ref       string            `json:"ref"`
	RequestID string            `json:"request_id"`
	User      string            `json:"user"`
	Time      time.Time         `json:"time"`
	Status    int               `json:"status"`
	Code      string            `json:"code"`
	Text      string            `json:"text"`
	Args      map[string]string `json:"args,omitempty"`
	Down      string            `json:"down,omitempty"`
	Rule      string            `json:"rule,omitempty"`
	Reason    string            `json:"reason,omitempty"` // in the language of then
	Ask       string            `json:"ask,omitempty"`
	Handler   string            `json:"handler,omitempty"`
	Route     string            `json:"route,omitempty"`
}

const (
	shownFor     = 30 * 24 * time.Hour
	shownQueue   = 256
	shownPerUser = 60 // an hour: a page that reloads itself must not fill the store
	shownWrite   = 5 * time.Second
)

// ErrorPagesConfig is what NewErrorPages needs.
type ErrorPagesConfig struct {
	KV     store.KV
	Sealer *store.Sealer
	Now    func() time.Time
	Log    *slog.Logger
}

// ErrorPages keeps the error pages that signed-in people were shown, for 30 days.
// A stranger's are not kept: nothing anonymous writes (docs/security.md UP-1).
// Nobody's answer waits for it; when the store is slow, pages are not kept.
type ErrorPages struct {
	pages *store.Collection[Shown]
	queue chan Shown
	limit *Limiter
	log   *slog.Logger
}

// NewErrorPages returns an ErrorPages that keeps while Run runs.
func NewErrorPages(c ErrorPagesConfig) (*ErrorPages, error) {
	if c.KV == nil || c.Sealer == nil || c.Now == nil || c.Log == nil {
		return nil, errors.New("web: error pages need KV, Sealer, Now and Log")
	}
	return &ErrorPages{
		pages: store.NewCollection(c.KV, store.CollectionConfig[Shown]{Kind: "error-page", Sealer: c.Sealer, Now: c.Now, Expires: func(s Shown) time.Time { return s.Time.Add(shownFor) }}),
		queue: make(chan Shown, shownQueue), limit: NewLimiter(LimiterConfig{Max: shownPerUser, Window: time.Hour, Now: c.Now}), log: c.Log,
	}, nil
}

// Run writes down what was shown until ctx ends.
func (p *ErrorPages) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case s := <-p.queue:
			writing, cancel := context.WithTimeout(ctx, shownWrite)
			err := p.pages.Create(writing, s.Ref, s) // another of that reference stays what it is
			cancel()
			if err != nil && !errors.Is(err, store.ErrConflict) && ctx.Err() == nil {
				p.log.LogAttrs(ctx, slog.LevelWarn, "an error page cannot be shown again", slog.String("ref", s.Ref), slog.Any("err", err))
			}
		}
	}
}

// Get returns the page of a reference, whatever its letters' case.
// store.ErrNotFound: there is none, or it is no reference.
func (p *ErrorPages) Get(ctx context.Context, ref string) (Shown, error) {
	if ref = strings.ToUpper(ref); !isRef(ref) {
		return Shown{}, fmt.Errorf("error page: %w", store.ErrNotFound)
	}
	return p.pages.Get(ctx, ref)
}

func isRef(s string) bool {
	rest, ok := strings.CutPrefix(s, "GH-")
	a, b, two := strings.Cut(rest, "-")
	return ok && two && len(a) == 4 && len(b) == 4 && strings.Trim(a+b, refLetters) == ""
}

// keep takes a page that is being shown, and reports whether it did. That an
// address leads nowhere is not worth it, and whoever tries references would push
// out the pages that are.
func (p *ErrorPages) keep(q *Request, e *Error, now time.Time) bool {
	if p == nil || q.User == "" || q.Session == "" || e.Code == "store.unavailable" || e.Code == "not_found" || p.limit.Add(q.User) > shownPerUser {
		return false
	}
	s := Shown{Ref: q.Ref(), RequestID: q.ID, User: q.User, Time: now, Status: e.Status, Code: e.Code, Text: e.Text, Down: e.Down, Rule: e.Rule, Reason: e.Reason, Ask: e.Ask, Handler: q.Handler, Route: q.Route}
	for k, v := range e.Args {
		if s.Args == nil {
			s.Args = map[string]string{}
		}
		s.Args[k] = fmt.Sprint(v)
	}
	select {
	case p.queue <- s:
		return true
	default:
		return false
	}
}

// Operator is what a page that is shown again says to operators beside what it
// said to its owner.
type Operator struct {
	Person, User       string // as they are called now, and their id
	RequestID, Handler string
	Status             int
}

// ShowAgain renders a page that somebody was shown, in the reader's language. who
// is its owner as they are called now, if they are the reader; op is nil unless
// the reader is an operator.
func (e *Edge) ShowAgain(w http.ResponseWriter, r *http.Request, s Shown, who string, op *Operator) error {
	args := map[string]any{}
	for k, v := range s.Args {
		args[k] = v
	}
	locale := RequestOf(r).Locale
	data := errorPage{Title: e.Text(locale, s.Text, args), Code: s.Code, Ref: s.Ref, Time: s.Time.UTC(), Who: who, Down: s.Down, Rule: s.Rule, Reason: s.Reason, Ask: s.Ask, Past: true, Operator: op}
	if e.has(s.Text + ".help") {
		data.Help = e.Text(locale, s.Text+".help", args)
	}
	return e.Page(w, r, http.StatusOK, "error", data)
}
