package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// maxWebhookAnswer bounds what is read of an answer, in bytes
// (docs/security.md NO-3); maxWebhook what is sent.
const (
	maxWebhookAnswer = 4 << 10
	maxWebhook       = 256 << 10
	minWebhookKey    = 24 // bytes; Standard Webhooks wants 24 to 64
	maxWebhookKey    = 64
)

type webhook struct {
	http   *http.Client
	url    redact.Box[url.URL]
	keys   redact.Box[[][]byte]
	now    func() time.Time
	hidden redact.Box[hidden]
}

// NewWebhook returns the sender of one endpoint, by the specification of
// Standard Webhooks (https://www.standardwebhooks.com).
func NewWebhook(c Webhook, env Env) (Sender, error) {
	if err := env.check(); err != nil {
		return nil, err
	}
	if err := refuse(c.Problems()); err != nil {
		return nil, fmt.Errorf("webhooks: %w", err)
	}
	u, err := url.Parse(c.URL.Reveal())
	if err != nil {
		return nil, errors.New("webhooks: url cannot be read")
	}
	keys, err := webhookKeys(c.Secret.Reveal())
	if err != nil {
		return nil, fmt.Errorf("webhooks: %w", err)
	}
	hc, err := env.HTTP(c.Proxy, c.CAFile, u.Hostname())
	if err != nil {
		return nil, fmt.Errorf("webhooks: outgoing client: %w", err)
	}
	secrets := strings.Fields(strings.ReplaceAll(c.Secret.Reveal(), "whsec_", ""))
	return &webhook{http: staying(hc), url: redact.Hide(*u), keys: redact.Hide(keys), now: env.Now, hidden: redact.Hide(secretsOf(u, secrets...))}, nil
}

// webhookKeys reads the secrets of an endpoint, one a line or parted by blanks.
// Every one signs, so that a receiver may change over while both are there.
func webhookKeys(secret string) ([][]byte, error) {
	var keys [][]byte
	for _, s := range strings.Fields(secret) {
		enc, ok := strings.CutPrefix(s, "whsec_")
		if !ok {
			return nil, errors.New("a secret without whsec_ in front")
		}
		key, err := base64.StdEncoding.DecodeString(enc)
		if err != nil {
			key, err = base64.RawStdEncoding.DecodeString(enc)
		}
		if err != nil {
			return nil, errors.New("what follows whsec_ is no base64") // the error could quote it
		}
		if len(key) < minWebhookKey || len(key) > maxWebhookKey {
			return nil, fmt.Errorf("a secret of %d bytes", len(key))
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no secret")
	}
	return keys, nil
}

// Problems complains about a webhook that nothing could be sent to.
func (w Webhook) Problems() []problem.Problem {
	ps := webhookURL("URL", w.URL)
	if u, err := url.Parse(w.URL.Reveal()); len(ps) == 0 && err == nil && u.Scheme == "http" && !loopback(u.Hostname()) {
		ps = append(ps, problem.Problem{Field: "URL", Rule: "webhooks.https", Text: "http sends events readable over the network.", Fix: "https", Warning: true})
	}
	if _, err := webhookKeys(w.Secret.Reveal()); err != nil {
		ps = append(ps, problem.Problem{Field: "Secret", Rule: "webhooks.secret", Text: "A webhook is signed with a secret of 24 to 64 bytes; this has " + err.Error() + ".",
			Fix: "whsec_ and what `openssl rand -base64 32` prints; several, parted by a blank, while one follows another"})
	}
	return ps
}

// webhookBody is what Standard Webhooks recommends: a type, a time, and data.
type webhookBody struct {
	Type      string      `json:"type"` // the event's name; events.digest where several names are in it
	Timestamp time.Time   `json:"timestamp"`
	Data      webhookData `json:"data"`
}

type webhookData struct {
	ID       string         `json:"id"` // the webhook-id
	Severity event.Severity `json:"severity"`
	Count    int            `json:"count"` // events that this stands for
	Events   []event.Event  `json:"events"`
	Omitted  int            `json:"omitted,omitempty"` // events left out because there are too many for one body
	Title    string         `json:"title,omitempty"`
	Text     string         `json:"text,omitempty"`
	Link     string         `json:"link,omitempty"`
	Locale   string         `json:"locale,omitempty"`
}

func (w *webhook) body(m Message) ([]byte, error) {
	b := webhookBody{Type: webhookType(m.Events), Timestamp: m.Time.UTC(), Data: webhookData{
		ID: m.ID, Severity: m.Severity, Count: max(m.Count, len(m.Events), 1), Events: append([]event.Event{}, m.Events...),
		Title: m.Title, Text: m.Text, Link: m.Link, Locale: m.Locale,
	}}
	for {
		js, err := marshal(b)
		if err != nil || len(js) <= maxWebhook || len(b.Data.Events) == 0 {
			return js, err
		}
		keep := len(b.Data.Events) / 2
		b.Data.Omitted += len(b.Data.Events) - keep
		b.Data.Events = b.Data.Events[:keep]
	}
}

func webhookType(es []event.Event) string {
	if len(es) == 0 {
		return "message" // a test, or words without an event
	}
	for _, e := range es[1:] {
		if e.Name != es[0].Name {
			return "events.digest"
		}
	}
	return string(es[0].Name)
}

// sign returns webhook-signature: v1 and the HMAC of id, time and body, once for
// each secret.
func (w *webhook) sign(id, at string, body []byte) string {
	var out []string
	for _, key := range w.keys.Reveal() {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(id + "." + at + "."))
		h.Write(body)
		out = append(out, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	return strings.Join(out, " ")
}

// Send posts the message. Only 410 says that it never will be taken; what else
// fails may be mended on the other side.
func (w *webhook) Send(ctx context.Context, m Message) error {
	if m.ID == "" || m.ID != cut(oneLine(m.ID), 64) || strings.Contains(m.ID, ".") {
		return Permanent{errors.New("webhook: a message whose id cannot be signed")} // a mistake of ours
	}
	body, err := w.body(m)
	if err != nil {
		return Permanent{fmt.Errorf("webhook: %w", err)}
	}
	to := w.url.Reveal()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return Permanent{errors.New("webhook: the request cannot be made")}
	}
	at := strconv.FormatInt(w.now().Unix(), 10)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Webhook-Id", m.ID)
	req.Header.Set("Webhook-Timestamp", at)
	req.Header.Set("Webhook-Signature", w.sign(m.ID, at, body))
	resp, err := w.http.Do(req)
	if err != nil {
		return w.hidden.Reveal().failed("webhook", "send", err)
	}
	defer resp.Body.Close()
	// What a receiver says is for the operator's eyes; the rest is not read.
	said, _ := io.ReadAll(io.LimitReader(resp.Body, maxWebhookAnswer))
	return w.judge(resp, string(said))
}

func (w *webhook) judge(resp *http.Response, said string) error {
	if resp.StatusCode/100 == 2 {
		return nil
	}
	err := fmt.Errorf("webhook: status %d", resp.StatusCode)
	if s := w.hidden.Reveal().said(said); s != "" {
		err = fmt.Errorf("%w: %s", err, s)
	}
	switch {
	case resp.StatusCode == http.StatusGone:
		return Permanent{fmt.Errorf("%w: the receiver wants nothing any more (410): remove the webhook", err)}
	case resp.StatusCode == http.StatusRequestEntityTooLarge:
		return Permanent{fmt.Errorf("%w: the receiver takes no body of this size: raise its limit to 256 KiB", err)}
	case resp.StatusCode/100 == 3:
		return fmt.Errorf("webhook: status %d: redirects are not followed: write the final address to url", resp.StatusCode)
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != "":
		return RateLimited{After: retryAfter(resp.Header, w.now(), time.Minute), Err: err}
	case resp.StatusCode == http.StatusUnauthorized, resp.StatusCode == http.StatusForbidden:
		return fmt.Errorf("%w: does the receiver know this secret, and is its clock right?", err)
	}
	return err
}
