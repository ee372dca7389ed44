package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Message is one thing to tell, in words and before any vendor's form. All texts
// are plain: a Sender cleans, shortens and escapes them by its vendor's rules.
type Message struct {
	ID       string    // the same at every try: webhook-id, Message-ID; letters, digits, - and _ only
	Time     time.Time // of the (last) event; shown at the message's foot in its own location
	Severity event.Severity
	Locale   string  // "en" or "zh-CN"
	Title    string  // one line, already in Locale; may hold what strangers wrote
	Text     string  // several lines, or ""
	Fields   []Field // shown in this order
	Link     string  // absolute address at our issuer, or ""
	LinkText string  // the button's words; "" with Link "" only
	Count    int     // events merged into this one; 0 and 1 are one
	// Events are what happened, for webhooks.
	Events []event.Event
	// To are the addresses of one person's mail. Without it mail goes to the
	// channel's own `to`; chats and webhooks do not look at it.
	To []string
}

// Field is one line of a message.
type Field struct {
	Label string // ours, in the message's locale
	Value string // may be what a stranger wrote
}

// Sender brings messages to one place. It is safe for concurrent use. An error
// is RateLimited, Permanent, or means that another try may succeed; none holds
// the place's address or secret.
type Sender interface {
	Send(ctx context.Context, m Message) error
}

// Checker is a Sender that can be tried without telling anybody. Chats and
// webhooks cannot.
type Checker interface {
	Check(ctx context.Context) error
}

// RateLimited means that the other side wants to be left alone for a while.
type RateLimited struct {
	After time.Duration // try again no sooner; more than 0
	Err   error         // what it said; may be nil
}

// Error says how long to wait.
func (e RateLimited) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("too many messages: try again in %s", e.After)
	}
	return fmt.Sprintf("%v: try again in %s", e.Err, e.After)
}

// Unwrap returns what the other side said.
func (e RateLimited) Unwrap() error { return e.Err }

// Permanent means that this message will not arrive until somebody changes
// something: the text says what.
type Permanent struct{ Err error }

// Error says what somebody has to do.
func (e Permanent) Error() string {
	if e.Err == nil {
		return "it will not be accepted as it is"
	}
	return e.Err.Error()
}

// Unwrap returns the cause.
func (e Permanent) Unwrap() error { return e.Err }

// Env is what a Sender gets from the broker.
type Env struct {
	// HTTP makes an outgoing client (docs/security.md G6). trusted are hosts
	// that the operator wrote down: they may be private, and are the ones that
	// a proxy is used for.
	HTTP func(proxy, caFile string, trusted ...string) (*http.Client, error)
	Now  func() time.Time
	// CAFile is `outgoing.ca_file`, for mail, which goes by no HTTP client.
	CAFile string
}

func (e Env) check() error {
	if e.HTTP == nil || e.Now == nil {
		return errors.New("notify: Env needs HTTP and Now")
	}
	return nil
}
