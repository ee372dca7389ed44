package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// maxAnswer bounds what is read of a robot's answer, in bytes. The vendors'
// answers have a few hundred.
const maxAnswer = 16 << 10

// robot is what the senders of the four chats share: an address that is a
// secret, and an answer that is judged by what its body says.
type robot struct {
	kind   vendor
	http   *http.Client
	url    redact.Box[url.URL]
	secret redact.Box[string]
	key    string // keyword of the robot's security settings, or ""
	now    func() time.Time
	hidden redact.Box[hidden]
}

func newRobot(v vendor, c Channel, env Env) (*robot, error) {
	if err := env.check(); err != nil {
		return nil, err
	}
	if err := refuse(c.problems(v)); err != nil {
		return nil, fmt.Errorf("%s: %w", v.section, err)
	}
	u, err := url.Parse(c.WebhookURL.Reveal())
	if err != nil {
		return nil, fmt.Errorf("%s: webhook_url cannot be read", v.section) // the error would quote it
	}
	hc, err := env.HTTP(c.Proxy, c.CAFile, u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("%s: outgoing client: %w", v.section, err)
	}
	return &robot{kind: v, http: staying(hc), url: redact.Hide(*u), secret: redact.Hide(c.Secret.Reveal()), key: c.Keyword, now: env.Now, hidden: redact.Hide(secretsOf(u, c.Secret.Reveal()))}, nil
}

// staying returns a client that follows no redirect: it would take the message,
// and often the secret, somewhere else.
func staying(hc *http.Client) *http.Client {
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &own
}

// answer is what came back, read to its end or to maxAnswer.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// post sends JSON and returns what was answered. extra is added to the query.
func (r *robot) post(ctx context.Context, extra string, body []byte) (answer, error) {
	u := r.url.Reveal()
	if extra != "" {
		u.RawQuery = strings.TrimPrefix(u.RawQuery+"&"+extra, "&")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return answer{}, fmt.Errorf("%s: the request cannot be made", r.kind.section)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	resp, err := r.http.Do(req)
	if err != nil {
		return answer{}, r.hidden.Reveal().failed(r.kind.section, "send", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		// It may have been taken; a second one says the same thing twice.
		return answer{}, r.hidden.Reveal().failed(r.kind.section, "read the answer", err)
	}
	return answer{resp.StatusCode, resp.Header, b}, nil
}

// verdict is what an error code means to us.
type verdict struct {
	fate  fate
	after time.Duration // of limited
	do    string        // what somebody has to do
}

type fate int

const (
	retry     fate = iota // nobody knows; it may work soon
	permanent             // it needs somebody
	limited               // too many
)

// refused makes the error of an answer that said no.
func (r *robot) refused(code string, message string, v verdict) error {
	text := fmt.Sprintf("%s: %s", r.kind.section, code)
	if v.do != "" {
		text += ": " + v.do
	} else if m := r.hidden.Reveal().said(message); m != "" {
		text += ": " + m
	}
	err := errors.New(text)
	switch v.fate {
	case permanent:
		return Permanent{err}
	case limited:
		return RateLimited{After: v.after, Err: err}
	}
	return err
}

// byErrcode judges the answer of a vendor that says errcode and errmsg. shown is
// what of its text may be passed on.
func (r *robot) byErrcode(a answer, shown func(string) string, judge func(code int, message string) verdict) error {
	var said struct {
		Code    *int   `json:"errcode"`
		Message string `json:"errmsg"`
	}
	switch {
	case !decoded(a, &said) || said.Code == nil:
		return r.byStatus(a)
	case *said.Code == 0 && a.status/100 == 2:
		return nil
	case *said.Code == 0:
		return r.byStatus(a)
	}
	return r.refused("errcode "+strconv.Itoa(*said.Code), shown(said.Message), judge(*said.Code, said.Message))
}

// byStatus judges an answer whose body says nothing that we know.
func (r *robot) byStatus(a answer) error {
	code := "status " + strconv.Itoa(a.status)
	switch {
	case a.status == http.StatusTooManyRequests:
		return r.refused(code, "", verdict{limited, retryAfter(a.header, r.now(), time.Minute), "too many messages"})
	case a.status >= 300 && a.status < 400:
		return r.refused(code, "", verdict{permanent, 0, "the answer is a redirect, which is not followed: webhook_url is not the robot's own address, or a proxy stands between"})
	case a.status >= 200 && a.status < 300:
		return r.refused("the answer is not one of a robot", string(a.body), verdict{})
	case a.status == http.StatusNotFound, a.status == http.StatusGone:
		return r.refused(code, "", verdict{permanent, 0, "there is no such robot: compare webhook_url with the robot's settings"})
	}
	return r.refused(code, string(a.body), verdict{})
}

// bounds of what a server may ask us to wait.
const (
	minAfter = time.Second
	maxAfter = time.Hour
)

// retryAfter reads Retry-After (RFC 9110 10.2.3), seconds or a date.
func retryAfter(h http.Header, now time.Time, otherwise time.Duration) time.Duration {
	v := strings.TrimSpace(h.Get("Retry-After"))
	after := otherwise
	if n, err := strconv.ParseInt(v, 10, 32); err == nil {
		after = time.Duration(n) * time.Second
	} else if at, err := http.ParseTime(v); err == nil {
		after = at.Sub(now)
	}
	return min(max(after, minAfter), maxAfter)
}

// decoded reads a vendor's JSON answer; false if it is none.
func decoded(a answer, into any) bool { return json.Unmarshal(a.body, into) == nil }
