package portal

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/web"
)

// notifier is what the API needs of notifications.
type notifier interface {
	Channels(ctx context.Context) ([]notify.State, error)
	Test(ctx context.Context, id string) (time.Duration, error)
	Letters(ctx context.Context, channel, after string, limit int) ([]notify.Letter, string, error)
	Letter(ctx context.Context, id string) (notify.Letter, error)
	Retry(ctx context.Context, id string) error
	Drop(ctx context.Context, id string) error
}

// channelView is a notification channel. Its address holds a secret: what is
// shown of it is the host and the last characters (docs/security.md NO-1).
type channelView struct {
	ID        string    `json:"id"`
	Name      string    `json:"name"`
	Kind      string    `json:"kind"`
	Address   string    `json:"address"`
	State     string    `json:"state"` // ok, waiting, failing or down
	Delivered time.Time `json:"delivered,omitzero"`
	Failed    time.Time `json:"failed,omitzero"`
	Error     string    `json:"error,omitempty"`
	Waiting   int       `json:"waiting"`
	Dead      int       `json:"dead"`
}

type testView struct {
	OK     bool   `json:"ok"`
	Millis int    `json:"ms"`
	Error  string `json:"error,omitempty"`
}

type letterView struct {
	ID       string    `json:"id"`
	Channel  string    `json:"channel"`
	Time     time.Time `json:"time"`
	Error    string    `json:"error"`
	Tries    int       `json:"tries"`
	Events   int       `json:"events"`
	Names    []string  `json:"names"`
	Retrying bool      `json:"retrying,omitempty"`
}

func (p *Portal) apiChannels(ctx context.Context, _ *caller, _ *http.Request) (any, error) {
	cs, err := p.notify.Channels(ctx)
	if err != nil {
		return nil, err
	}
	out := page[channelView]{Items: []channelView{}}
	for _, c := range cs {
		out.Items = append(out.Items, channelView(c))
	}
	return out, nil
}

// apiTestChannel sends a test message. That it did not arrive is an answer, not
// an error of ours.
func (p *Portal) apiTestChannel(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := chi.URLParam(r, "id")
	took, err := p.notify.Test(ctx, id)
	if errors.Is(err, notify.ErrNoChannel) {
		return nil, notFound(err)
	}
	out := testView{OK: err == nil, Millis: int(took.Milliseconds())}
	if err != nil {
		out.Error = err.Error()
	}
	result := map[bool]string{true: "arrived", false: "did not arrive"}[err == nil]
	return out, p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: id, Details: map[string]string{"change": "notify_test", "result": result}})
}

func (p *Portal) apiLetters(ctx context.Context, _ *caller, r *http.Request) (any, error) {
	limit, err := limitOf(r)
	if err != nil {
		return nil, err
	}
	q := r.URL.Query()
	for _, id := range []string{q.Get("after"), q.Get("channel")} {
		if id != "" && !plainID.MatchString(id) {
			return nil, badRequest("after and channel are ids of ours")
		}
	}
	ls, next, err := p.notify.Letters(ctx, q.Get("channel"), q.Get("after"), limit)
	if err != nil {
		return nil, err
	}
	out := page[letterView]{Items: []letterView{}, Next: next}
	for _, l := range ls {
		v := letterView(l)
		v.Names = append([]string{}, v.Names...)
		out.Items = append(out.Items, v)
	}
	return out, nil
}

// apiRetryLetter has a dead letter sent again; what comes of it shows in the
// lists.
func (p *Portal) apiRetryLetter(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := chi.URLParam(r, "id")
	if err := p.recordLetter(ctx, c, r, id, "notify_retry"); err != nil {
		return nil, err
	}
	err := p.notify.Retry(ctx, id)
	if errors.Is(err, notify.ErrNoChannel) {
		return nil, web.Fail(http.StatusConflict, "notify.no_channel", "error.conflict", err)
	}
	return nil, err
}

func (p *Portal) apiDropLetter(ctx context.Context, c *caller, r *http.Request) (any, error) {
	id := chi.URLParam(r, "id")
	if err := p.recordLetter(ctx, c, r, id, "notify_drop"); err != nil {
		return nil, err
	}
	return nil, p.notify.Drop(ctx, id)
}

// recordLetter records what is about to become of a dead letter, if there is
// such a one.
func (p *Portal) recordLetter(ctx context.Context, c *caller, r *http.Request, id, change string) error {
	l, err := p.notify.Letter(ctx, id)
	if err != nil {
		return err
	}
	return p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: id, Details: map[string]string{"change": change, "channel": l.Channel}})
}
