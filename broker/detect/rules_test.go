package detect

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// A burst of refusals of one kind to one caller.
func TestDenials(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	for i := range 29 {
		r.record(event.Event{Name: event.ConsoleDenied, Actor: "u1", Target: fmt.Sprint("node", i), IP: "203.0.113.7", Connector: "local"})
		r.record(event.Event{Name: event.ConsoleDenied, Actor: "u2", Target: "node", IP: "203.0.113.7"})
	}
	a.run()
	r.want("below the bound")
	r.record(event.Event{Name: event.ConsoleDenied, Actor: "u1", Target: "node30", IP: "203.0.113.7", Connector: "local"})
	a.run()
	got := r.want("one of two", "denials node30")
	facts(t, got[0], map[string]string{"event": "console.denied", "count": "30", "window": "5m0s"})
	if got[0].Actor != "u1" || got[0].Connector != "local" || got[0].Severity != event.Warning {
		t.Errorf("%+v", got[0])
	}
	for range 40 {
		r.record(event.Event{Name: event.SigninFailed, IP: "198.51.100.9", Connector: "acme", Details: map[string]string{"reason": "policy"}})
	}
	a.run()
	for range 40 {
		r.record(event.Event{Name: event.WorkloadDenied, Connector: "github_actions", Client: "ci"})
	}
	a.run()
	for i := range 300 { // many, but slowly
		if i%20 == 0 {
			r.Wait(5 * minute)
		}
		r.record(event.Event{Name: event.ConsoleDenied, Actor: "slow", Target: "n"})
		a.run()
	}
	r.want("each caller by itself", "denials node30", "denials 198.51.100.9/32", "denials ci")
}

// An office of many people may have as many failures as people who get in.
func TestDenialsOffice(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	for i := range 100 {
		r.succeed("203.0.113.7", fmt.Sprint("u", i))
		r.record(event.Event{Name: event.SigninFailed, IP: "203.0.113.7", Connector: "acme", Details: map[string]string{"reason": "answer"}})
		if i%2 == 0 {
			r.fail("203.0.113.7", fmt.Sprint("u", i), fmt.Sprint("u", i))
		}
	}
	a.run()
	r.want("an office")
}

// An archive that fails is told of when it has failed for long, without a success
// in between.
func TestArchiveBehind(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	every := func(n int, name event.Name, target string) {
		for range n {
			r.record(event.Event{Name: name, Target: target})
			a.run()
			r.Wait(5 * minute)
		}
	}
	for range 3 {
		every(5, event.AuditArchiveFailed, "s3")
		every(1, event.AuditArchived, "s3")
	}
	r.want("now and then")
	every(5, event.AuditArchiveFailed, "s3")
	every(20, event.AuditArchived, "oss")
	every(1, event.AuditArchiveFailed, "s3")
	r.want("for long", "archive_behind s3")
	every(1, event.AuditArchived, "s3")
	every(8, event.AuditArchiveFailed, "s3")
	r.want("anew", "archive_behind s3", "archive_behind s3")
}

// A rule that is disabled raises nothing, and one that is enabled by a reload does.
func TestDisabled(t *testing.T) {
	r := newRig(t, Config{Disabled: []string{RuleSpraying}})
	a := r.replica()
	for i := range 20 {
		r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
	}
	a.run()
	r.want("disabled")
	r.cfg.Disabled = nil
	r.fail("203.0.113.7", "one more", "")
	a.run()
	r.want("enabled", "password_spraying 203.0.113.7/32")
}

// Each threshold before an end is told once; what lives for a short time is not
// spoken of from its beginning.
func TestEndings(t *testing.T) {
	r := newRig(t, Config{})
	first, second := r.raiser(), r.raiser()
	start := r.Now()
	all := []Ending{
		{Kind: "tls_certificate", ID: "tls.pem", Begins: start.Add(-60 * day), Ends: start.Add(30*day + time.Hour)},
		{Kind: "api_key", ID: "weekly", Owner: "ci", Begins: start, Ends: start.Add(7 * day)},
		{Kind: "upstream_certificate", ID: "far", Ends: start.Add(400 * day)},
	}
	got := map[string][]string{}
	for range 33 * 24 {
		for _, x := range []*Raiser{first, second} {
			if err := endings(t.Context(), x, all, r.Now()); err != nil {
				t.Fatal(err)
			}
		}
		r.Wait(time.Hour)
	}
	for _, e := range r.raised() {
		got[e.Details["id"]] = append(got[e.Details["id"]], e.Details["days"]+string(e.Severity[:1]))
	}
	for id, want := range map[string]string{"tls.pem": "[30w 14w 7w 3c 1c 0c]", "weekly": "[3c 1c 0c]", "far": "[]"} {
		if fmt.Sprint(got[id]) != want {
			t.Errorf("%s: %v, want %s", id, got[id], want)
		}
	}
}

// An upstream's clock is told of when several answers agree, ours when most
// upstreams do, and neither for answers that were late or came from a cache.
func TestClocks(t *testing.T) {
	r := newRig(t, Config{})
	x, c := r.raiser(), NewClocks()
	answer := func(n int, host string, ahead, took time.Duration, more ...string) {
		for range n {
			now := r.Now().Truncate(time.Second)
			h := http.Header{"Date": {now.Add(ahead).UTC().Format(http.TimeFormat)}}
			for i := 0; i+1 < len(more); i += 2 {
				h.Set(more[i], more[i+1])
			}
			c.Answer(host, h, now.Add(-took), now)
		}
	}
	judge := func() {
		t.Helper()
		for range 2 {
			if err := c.judge(t.Context(), x, "replica-1", 30*time.Second); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 5 {
		answer(9, fmt.Sprintf("right-%d.example", i), 0, 0)
	}
	answer(2, "idp.example", 5*minute, 0)
	answer(1, "idp.example", 0, 0)
	answer(2, "idp.example", 5*minute, 0)
	answer(9, "slow.example", -40*time.Second, minute)
	answer(9, "cached.example", -5*minute, 0, "Age", "300")
	answer(9, "none.example", 5*minute, 0, "Date", "yesterday")
	answer(9, "near.example", 29*time.Second, 0)
	judge()
	r.want("nothing is certain")
	answer(1, "IDP.example", 5*minute, 0)
	judge()
	got := r.want("one of many", "clock_skew idp.example")
	facts(t, got[0], map[string]string{"replica": "replica-1", "whose": "theirs", "ahead": "5m0s"})
	answer(3, "idp.example", 0, 0)
	judge()
	answer(3, "idp.example", 5*minute, 0)
	judge()
	r.want("it came back", "clock_skew idp.example", "clock_skew idp.example")

	ours := NewClocks()
	for range 3 {
		for _, h := range []string{"a", "b"} {
			ours.Answer(h, http.Header{"Date": {r.Now().Add(-2 * minute).UTC().Format(http.TimeFormat)}}, r.Now(), r.Now())
		}
		ours.Saw("store", r.Now().Add(-2*minute), r.Now().Add(-2*minute), r.Now(), r.Now())
	}
	if err := ours.judge(t.Context(), x, "replica-2", 30*time.Second); err != nil {
		t.Fatal(err)
	}
	for _, e := range r.raised()[2:] {
		if e.Severity != event.Critical || e.Details["whose"] != "ours" {
			t.Errorf("%+v", e)
		}
	}
	if len(r.raised()) != 5 {
		t.Errorf("%v", r.raised())
	}
}

// Clocks remember so many hosts and no more.
func TestClocksBound(t *testing.T) {
	c := NewClocks()
	now := time.Now()
	for i := range 2 * clocksMost {
		c.Saw(fmt.Sprint(i), now, now, now.Add(time.Duration(i)), now.Add(time.Duration(i)))
	}
	if len(c.hosts) != clocksMost || c.hosts[fmt.Sprint(2*clocksMost-1)] == nil || c.hosts["0"] != nil {
		t.Errorf("%d hosts", len(c.hosts))
	}
}

// A store is slow when a part of two minutes' operations was, and good again
// after two good ones.
func TestOperations(t *testing.T) {
	r := newRig(t, Config{})
	x, o := r.raiser(), &Operations{}
	cfg := r.cfg.WithDefaults().Store
	minuteOf := func(fast, slow int) {
		t.Helper()
		for range fast {
			o.Observe("get", time.Millisecond)
		}
		for range slow {
			o.Observe("put", time.Second)
		}
		o.Observe("lease", minute)
		if err := o.judge(t.Context(), x, "replica-1", cfg); err != nil {
			t.Fatal(err)
		}
	}
	minuteOf(0, 0)
	minuteOf(1000, 99)
	minuteOf(900, 100)
	minuteOf(1000, 10)
	minuteOf(900, 100)
	minuteOf(3, 2) // too few to say anything is still good
	r.want("not for long")
	for range 5 {
		minuteOf(800, 200)
	}
	got := r.want("slow", "store_slow store")
	facts(t, got[0], map[string]string{"replica": "replica-1", "operations": "1000", "slow": "200", "over": "250ms"})
	minuteOf(1000, 0)
	minuteOf(1000, 0)
	for range 5 {
		minuteOf(800, 200)
	}
	r.want("again", "store_slow store", "store_slow store")
}

// What cannot be kept is an error, and said by whoever comes next.
func TestRaiseFails(t *testing.T) {
	r := newRig(t, Config{})
	a, b := r.raiser(), r.raiser()
	f := Finding{Rule: RuleExpiring, Subject: "x", Target: "x"}
	r.full = errors.New("full")
	if err := a.Raise(t.Context(), f); !errors.Is(err, r.full) {
		t.Fatalf("%v", err)
	}
	r.full = nil
	for _, x := range []*Raiser{b, a, b} {
		if err := x.Raise(t.Context(), f); err != nil {
			t.Fatal(err)
		}
	}
	r.want("once", "expiring x")
}

// Bounds that cannot be are told with their field.
func TestProblems(t *testing.T) {
	if ps := (Config{}).Problems(); len(ps) != 0 {
		t.Errorf("%v", ps)
	}
	for field, c := range map[string]Config{
		"Disabled[0]":            {Disabled: []string{"x"}},
		"Repeat":                 {Repeat: -1},
		"Spraying.Accounts":      {Spraying: SprayingConfig{Accounts: -1}},
		"Spraying.Window":        {Spraying: SprayingConfig{Window: time.Second}},
		"Denials.Window":         {Denials: DenialsConfig{Window: 48 * time.Hour}},
		"Store.Percent":          {Store: StoreConfig{Percent: 101}},
		"ClockSkew":              {ClockSkew: time.Second},
		"Moved.KnownNetworks[0]": {Moved: MovedConfig{KnownNetworks: []string{"office"}}},
	} {
		if ps := c.Problems(); len(ps) != 1 || ps[0].Field != field {
			t.Errorf("%s: %v", field, ps)
		}
	}
}
