package sentry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	sdk "github.com/getsentry/sentry-go"

	"github.com/remotegpu/gatehouse/broker/redact"
)

const (
	queueSize   = 100       // envelopes that wait; more are dropped, nobody waits
	maxEnvelope = 200 << 10 // bytes; Sentry refuses an event of more than 1 MiB
	flushTime   = 2 * time.Second
	longestStop = time.Hour
	agent       = "sentry.go/" + sdk.SDKVersion
)

// transport sends envelopes, one after another, and never holds up who reports.
// It does what the library's own does not: it has an owner, a bound on each
// envelope, and our one kind of outgoing client.
type transport struct {
	endpoint string
	auth     redact.Box[string]
	client   *http.Client
	log      *slog.Logger
	now      func() time.Time
	queue    chan envelope
	dropped  atomic.Int64
	failed   bool // the last one; of Run alone

	mu    sync.Mutex
	until map[string]time.Time // by category; "" is all of them
}

type envelope struct {
	category string
	body     []byte
}

func newTransport(cfg Settings) (*transport, error) {
	dsn, err := sdk.NewDsn(cfg.Config.DSN.Reveal())
	if err != nil {
		return nil, errors.New("sentry.dsn is not of the form https://KEY@HOST/PROJECT")
	}
	auth := "Sentry sentry_version=7, sentry_client=" + agent + ", sentry_key=" + dsn.GetPublicKey()
	if secret := dsn.GetSecretKey(); secret != "" { // Sentry before 9
		auth += ", sentry_secret=" + secret
	}
	return &transport{endpoint: dsn.GetAPIURL().String(), auth: redact.Hide(auth), client: cfg.Client, log: cfg.Log, now: cfg.Now, queue: make(chan envelope, queueSize), until: map[string]time.Time{}}, nil
}

// Configure is the library's; all is known already.
func (t *transport) Configure(sdk.ClientOptions) {}

// Flush is the library's; Run sends what waits before it returns.
func (t *transport) Flush(time.Duration) bool { return len(t.queue) == 0 }

// FlushWithContext is the library's.
func (t *transport) FlushWithContext(context.Context) bool { return len(t.queue) == 0 }

// Close is the library's.
func (t *transport) Close() {}

// SendEvent queues an event, or drops it when the queue is full.
func (t *transport) SendEvent(e *sdk.Event) {
	category := "error"
	if e.Type == "transaction" {
		category = "transaction"
	}
	if t.stopped(category) || len(t.queue) == cap(t.queue) { // before it costs anything
		t.dropped.Add(1)
		return
	}
	payload, err := json.Marshal(e)
	if err != nil || len(payload) > maxEnvelope {
		t.dropped.Add(1)
		return
	}
	kind := "event"
	if e.Type != "" {
		kind = e.Type
	}
	// develop.sentry.dev, "Envelopes", Serialization Format.
	head, _ := json.Marshal(map[string]any{"event_id": e.EventID, "sent_at": t.now().UTC(), "sdk": map[string]string{"name": "sentry.go", "version": sdk.SDKVersion}}) // of strings: never fails
	item, _ := json.Marshal(map[string]any{"type": kind, "length": len(payload)})
	select {
	case t.queue <- envelope{category, bytes.Join([][]byte{head, item, payload, nil}, []byte("\n"))}:
	default:
		t.dropped.Add(1)
	}
}

// run sends until ctx ends, and then what still waits, for flushTime at most.
func (t *transport) run(ctx context.Context) {
	sending, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		last := time.AfterFunc(flushTime, cancel)
		context.AfterFunc(sending, func() { last.Stop() })
	})()
	for {
		select {
		case <-ctx.Done():
			for sending.Err() == nil {
				select {
				case e := <-t.queue:
					t.send(sending, e)
				default:
					return
				}
			}
			return
		case e := <-t.queue:
			t.send(sending, e)
		}
	}
}

func (t *transport) send(ctx context.Context, e envelope) {
	if t.stopped(e.category) {
		t.dropped.Add(1)
		return
	}
	err := t.post(ctx, e.body)
	if err != nil {
		t.dropped.Add(1)
	}
	switch {
	case err != nil && !t.failed:
		t.log.Warn("Sentry is not reached; what is reported meanwhile is in the log alone", "err", err)
	case err == nil && t.failed:
		t.log.Info("Sentry is reached again", "lost", t.dropped.Swap(0))
	}
	t.failed = err != nil
}

func (t *transport) post(ctx context.Context, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.endpoint, bytes.NewReader(body))
	if err != nil {
		return errors.New("the address of the DSN cannot be called")
	}
	req.Header.Set("Content-Type", "application/x-sentry-envelope")
	req.Header.Set("X-Sentry-Auth", t.auth.Reveal())
	req.Header.Set("User-Agent", agent)
	resp, err := t.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 4<<10))
	t.limits(resp)
	switch resp.StatusCode {
	case http.StatusOK, http.StatusTooManyRequests: // the latter is an answer like another
		return nil
	}
	return fmt.Errorf("the answer is %d", resp.StatusCode)
}

// limits stops what Sentry does not want for a while (develop.sentry.dev, "Rate
// Limiting").
func (t *transport) limits(resp *http.Response) {
	t.mu.Lock()
	defer t.mu.Unlock()
	stop := func(category, seconds string) {
		n, err := strconv.ParseFloat(strings.TrimSpace(seconds), 64)
		if err != nil || n < 0 {
			n = 60
		}
		d := min(time.Duration(n*float64(time.Second)), longestStop)
		t.until[category] = t.now().Add(d)
	}
	if all := resp.Header.Get("X-Sentry-Rate-Limits"); all != "" {
		for one := range strings.SplitSeq(all, ",") {
			parts := strings.Split(one, ":")
			if len(parts) < 2 {
				continue
			}
			for category := range strings.SplitSeq(parts[1], ";") {
				switch category {
				case "", "error", "transaction":
					stop(category, parts[0])
				}
			}
		}
		return
	}
	if resp.StatusCode == http.StatusTooManyRequests {
		stop("", resp.Header.Get("Retry-After"))
	}
}

func (t *transport) stopped(category string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	return now.Before(t.until[""]) || now.Before(t.until[category])
}
