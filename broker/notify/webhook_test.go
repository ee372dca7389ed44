package notify_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/test/peers/robots"
)

// NO-3: the library of Standard Webhooks verifies what we send, by the present
// secret and, while one follows another, by either; a repetition has the same id.
func TestWebhookVerifies(t *testing.T) {
	const other = "whsec_b3RoZXItb3RoZXItb3RoZXItb3RoZXItb3RoZXI="
	for _, secret := range []redact.String{webhookKey, other + " " + webhookKey, webhookKey + "\n" + other + "\n"} {
		r := webhook(t, secret)
		for range 2 {
			if err := r.send(t, lockout()); err != nil {
				t.Fatal(err)
			}
		}
		if len(r.to.Taken()) != 1 || r.to.Seen() != 2 {
			t.Errorf("taken %d of %d", len(r.to.Taken()), r.to.Seen())
		}
		h := r.to.Taken()[0].Header
		if n := strings.Count(h.Get("Webhook-Signature"), "v1,"); n != len(strings.Fields(secret.Reveal())) {
			t.Errorf("%d signatures: %s", n, h.Get("Webhook-Signature"))
		}
	}
	if err := webhook(t, other).send(t, lockout()); err == nil || permanent(err) || !strings.Contains(err.Error(), "know this secret") {
		t.Errorf("another secret: %v", err)
	}
	late := webhook(t, webhookKey)
	late.clock.t = late.clock.t.Add(-10 * time.Minute)
	if err := late.send(t, lockout()); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("an old time: %v", err)
	}
	// The specification's own example.
	r := webhook(t, webhookKey)
	r.clock.t = time.Unix(1614265330, 0)
	m := lockout()
	m.ID = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	if err := r.send(t, m); err == nil {
		t.Error("the year 2021 was taken for today")
	}
}

// The body says what happened as the log has it, and how much of it.
func TestWebhookBody(t *testing.T) {
	type body struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      struct {
			ID, Severity, Title, Text, Link, Locale string
			Count, Omitted                          int
			Events                                  []event.Event
		}
	}
	send := func(m notify.Message) (b body) {
		r := webhook(t, webhookKey)
		if err := r.send(t, m); err != nil {
			t.Fatal(err)
		}
		if n := len(r.wire.last); n > 256<<10 {
			t.Errorf("%d bytes", n)
		}
		if err := json.Unmarshal(r.wire.last, &b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	b := send(lockout())
	if b.Type != "signin.lockout" || !b.Timestamp.Equal(noon) || b.Data.ID != "EVT01HZX7" || b.Data.Severity != "warning" || b.Data.Count != 1 ||
		len(b.Data.Events) != 1 || b.Data.Events[0].IP != "203.0.113.7" || b.Data.Title != lockout().Title || b.Data.Link != lockout().Link {
		t.Errorf("%+v", b)
	}
	many := lockout()
	for range 5000 {
		many.Events = append(many.Events, many.Events[0])
	}
	many.Count = len(many.Events)
	if b := send(many); b.Type != "signin.lockout" || b.Data.Count != 5001 || b.Data.Omitted == 0 || len(b.Data.Events)+b.Data.Omitted != 5001 {
		t.Errorf("%s: %d events, %d left out of %d", b.Type, len(b.Data.Events), b.Data.Omitted, b.Data.Count)
	}
	mixed := lockout()
	mixed.Events = append(mixed.Events, event.Event{Name: event.Signout})
	if b := send(mixed); b.Type != "events.digest" {
		t.Errorf("mixed: %s", b.Type)
	}
	if b := send(notify.Message{ID: "t1", Time: noon, Title: "test"}); b.Type != "message" || b.Data.Events == nil {
		t.Errorf("a test: %+v", b)
	}
}

// Only what the receiver will never want is given up.
func TestWebhookAnswers(t *testing.T) {
	r := webhook(t, webhookKey)
	for _, c := range []struct {
		answer    robots.Answer
		permanent bool
		after     time.Duration
		says      string
	}{
		{robots.Answer{Status: 410}, true, 0, "remove the webhook"},
		{robots.Answer{Status: 413}, true, 0, "256 KiB"},
		{robots.Answer{Status: 400, Body: "no"}, false, 0, "status 400: no"},
		{robots.Answer{Status: 401}, false, 0, "secret"},
		{robots.Answer{Status: 404}, false, 0, "status 404"},
		{robots.Answer{Status: 307, Header: map[string]string{"Location": "https://169.254.169.254/"}}, false, 0, "not followed"},
		{robots.Answer{Status: 429}, false, time.Minute, "429"},
		{robots.Answer{Status: 429, Header: map[string]string{"Retry-After": "7"}}, false, 7 * time.Second, "429"},
		{robots.Answer{Status: 503, Header: map[string]string{"Retry-After": "7"}}, false, 7 * time.Second, "503"},
		{robots.Answer{Status: 503}, false, 0, "503"},
		{robots.Answer{Status: 500, Body: strings.Repeat("y", 100_000)}, false, 0, "yyy"},
		{robots.Answer{Status: 500, Body: "you sent " + webhookPath + "\x1b[2J\n"}, false, 0, "you sent ***"},
	} {
		r.to.Script(c.answer)
		err := r.send(t, lockout())
		after, _ := limited(err)
		if err == nil || permanent(err) != c.permanent || after != c.after || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 400 {
			t.Errorf("%d: %v", c.answer.Status, err)
		}
	}
	for _, id := range []string{"", "a.b", "a\nb", strings.Repeat("a", 65)} {
		m := lockout()
		m.ID = id
		if err := r.send(t, m); !permanent(err) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

// A secret that signs nothing, or is none, stops the start.
func TestWebhookSecrets(t *testing.T) {
	for secret, ok := range map[redact.String]bool{
		webhookKey: true, "": false, " ": false, "hunter2hunter2hunter2hunter2": false, "whsec_": false, "whsec_aHVudGVyMg==": false, "whsec_%%%": false,
		webhookKey + " hunter2": false, "whsec_" + redact.String(strings.Repeat("A", 88)): false,
		"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwAA": true, // without padding
	} {
		ps := notify.Webhook{URL: "https://a.example.com", Secret: secret}.Problems()
		if (len(ps) == 0) != ok {
			t.Errorf("%q: %v", secret.Reveal(), ps)
		}
		for _, p := range ps {
			if strings.Contains(p.Error(), "hunter2") {
				t.Errorf("the secret is in %v", p)
			}
		}
	}
	for url, n := range map[redact.String]int{"https://a.example.com": 0, "http://127.0.0.1:9": 0, "http://a.example.com": 1, "ftp://a": 1, "": 1} {
		if ps := (notify.Webhook{URL: url, Secret: webhookKey}).Problems(); len(ps) != n {
			t.Errorf("%s: %v", url.Reveal(), ps)
		}
	}
}
