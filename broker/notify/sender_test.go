package notify

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

func many(n int, name event.Name) []event.Event {
	var out []event.Event
	for i := range n {
		out = append(out, event.Event{Name: name, Target: fmt.Sprintf("u%d", i)})
	}
	return out
}

var everything = []Rule{{Events: []string{"*"}, To: []string{"webhooks", "dingtalk", "slack"}}}

// A webhook gets every event by itself, in order, each with the event's id.
func TestWebhookGetsEach(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "webhooks")["webhooks"]
	r.happen(many(50, event.UserCreated)...)
	s := r.sender("webhooks")
	r.work(s)
	if len(to.got) != 50 || r.waiting("webhooks") != 0 {
		t.Fatalf("%d arrived, %d wait", len(to.got), r.waiting("webhooks"))
	}
	for i, m := range to.got {
		if m.ID != fmt.Sprintf("E%d", i+1) || m.Events[0].ID != m.ID || len(m.Events) != 1 {
			t.Fatalf("message %d is %q with %v", i, m.ID, m.Events)
		}
	}
}

// The log is read at least once; what it tells is queued once, whether the first
// copy waits still or was sent.
func TestReadTwiceToldOnce(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "webhooks")["webhooks"]
	e := event.Entry{Position: 7, Event: event.Event{ID: "E7", Name: event.UserCreated}}
	consume := func() {
		t.Helper()
		if err := r.n.Consume(t.Context(), []event.Entry{e}); err != nil {
			t.Fatal(err)
		}
	}
	consume()
	consume()
	s := r.sender("webhooks")
	r.work(s)
	consume()
	r.work(s)
	// A replica that lost the lease in the middle may queue it still.
	if err := r.n.queues.add(t.Context(), item{ID: itemID("webhooks", 7), Channel: "webhooks", Position: 7, Event: e.Event, Queued: r.clock.Now()}); err != nil {
		t.Fatal(err)
	}
	r.work(s)
	if len(to.got) != 1 || r.waiting("webhooks") != 0 {
		t.Errorf("arrived %d times, %d wait", len(to.got), r.waiting("webhooks"))
	}
}

// A burst reaches a chat as few messages that count it, below the vendor's limit.
func TestBurstBecomesDigest(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "dingtalk")["dingtalk"]
	r.happen(many(1000, event.UserCreated)...)
	s := r.sender("dingtalk")
	for range 4 {
		r.work(s)
		r.clock.Wait(time.Minute)
	}
	told := 0
	for _, m := range to.got {
		told += m.Count
	}
	if told != 1000 || len(to.got) > 4 || r.waiting("dingtalk") != 0 {
		t.Errorf("%d events told in %d messages, %d wait: %q", told, len(to.got), r.waiting("dingtalk"), to.titles())
	}
	if m := to.got[0]; m.Title != "500 events" || len(m.Fields) != 1 || m.Fields[0].Label != "Account created" || m.Fields[0].Value != "×500  u0, u1, u2 …" {
		t.Errorf("%q %v", m.Title, m.Fields)
	}
}

// Whatever happens, no window of a vendor's limit holds more messages than it
// allows; something critical does not wait for the digest.
func TestPaceHolds(t *testing.T) {
	for kind, limit := range map[string]window{"dingtalk": {20, time.Minute}, "slack": {1, time.Second}, "wechat": {20, time.Minute}, "feishu": {5, time.Second}} {
		r := newRig(t)
		var at []time.Time
		to := r.use([]Rule{{Events: []string{"*"}, To: []string{kind}}}, kind)[kind]
		to.answer = func(int, Message) error { at = append(at, r.clock.Now()); return nil }
		s := r.sender(kind)
		for i := range 100 {
			r.happen(event.Event{Name: event.KeyRevoked, Target: fmt.Sprint("k", i)})
			r.work(s)
			r.clock.Wait(500 * time.Millisecond)
		}
		if len(at) < 5 {
			t.Errorf("%s: only %d messages: critical ones waited", kind, len(at))
		}
		for i := range at {
			if j := i + limit.N; j < len(at) && at[j].Sub(at[i]) < limit.Per {
				t.Fatalf("%s: %d messages in %s", kind, limit.N+1, at[j].Sub(at[i]))
			}
		}
	}
}

// NO-4: the same news about the same thing is told once, then counted.
func TestRepeatsAreCounted(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "slack")["slack"]
	s := r.sender("slack")
	flood := event.Event{Name: event.SigninFailed, Target: "u1", Details: map[string]string{"reason": "credentials"}}
	for range 30 {
		r.happen(flood)
		r.work(s)
		r.clock.Wait(2 * time.Second)
	}
	if len(to.got) != 1 {
		t.Fatalf("told %q", to.titles())
	}
	other := flood
	other.Target = "u2"
	r.happen(other)
	r.work(s)
	if len(to.got) != 2 {
		t.Errorf("somebody else's is no repeat: %q", to.titles())
	}
	// Another replica goes on counting.
	s = r.sender("slack")
	r.happen(flood)
	r.work(s)
	r.clock.Wait(quietFor)
	r.work(s)
	if len(to.got) != 3 || to.got[2].Count != 30 || !strings.Contains(to.got[2].Text, "30 more times in the last 10 minutes") {
		t.Fatalf("%q %+v", to.titles(), to.got[len(to.got)-1])
	}
	r.clock.Wait(2 * quietFor)
	r.work(s)
	if len(to.got) != 3 {
		t.Errorf("told of nothing: %q", to.titles())
	}
	r.happen(flood)
	r.work(s)
	if len(to.got) != 4 || to.got[3].Count != 1 {
		t.Errorf("after the quiet it is news again: %q", to.titles())
	}
}

// What fails is tried again, the same message, ever more slowly; what comes after
// it waits.
func TestRetryKeepsOrderAndID(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "webhooks")["webhooks"]
	var ids []string
	to.answer = func(n int, m Message) error {
		ids = append(ids, m.ID)
		if n <= 4 {
			return errors.New("the other side is away")
		}
		return nil
	}
	r.happen(many(3, event.UserCreated)...)
	s := r.sender("webhooks")
	r.work(s)
	if to.tries != 1 {
		t.Fatalf("%d tries at once", to.tries)
	}
	for range 60 {
		r.clock.Wait(time.Second)
		r.work(s)
	}
	if want := []string{"E1", "E1", "E1", "E1", "E1", "E2", "E3"}; !slices.Equal(ids, want) {
		t.Errorf("tried %q", ids)
	}
	if r.counts["webhooks retried"] != 4 || r.counts["webhooks delivered"] != 3 {
		t.Errorf("counted %v", r.counts)
	}
}

// A channel that is down is asked seldom, said once, and gets everything when it
// is up again.
func TestBreaker(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "slack")["slack"]
	down := true
	to.answer = func(int, Message) error {
		if down {
			return errors.New("connection refused")
		}
		return nil
	}
	r.happen(many(3, event.UserCreated)...)
	s := r.sender("slack")
	for range 3600 {
		r.clock.Wait(time.Second)
		r.work(s)
	}
	if to.tries > 30 {
		t.Errorf("asked %d times in an hour", to.tries)
	}
	if len(r.failed) != 1 || r.failed[0].Target != "slack" || r.failed[0].Name != event.NotifyFailed || r.failed[0].Details["error"] != "connection refused" {
		t.Fatalf("notify.failed: %+v", r.failed)
	}
	if cs, err := r.n.Channels(t.Context()); err != nil || cs[0].State != "down" || cs[0].Waiting != 3 || cs[0].Error != "connection refused" {
		t.Errorf("%+v %v", cs, err)
	}
	down = false
	for range 600 {
		r.clock.Wait(time.Second)
		r.work(s)
	}
	if len(to.got) != 3 || r.waiting("slack") != 0 {
		t.Errorf("arrived %q", to.titles())
	}
	if cs, err := r.n.Channels(t.Context()); err != nil || cs[0].State != "ok" || cs[0].Error != "" {
		t.Errorf("%+v %v", cs, err)
	}
}

// What the vendor's own limit refuses is neither failed nor lost.
func TestRateLimited(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "dingtalk")["dingtalk"]
	to.answer = func(n int, _ Message) error {
		if n == 1 {
			return RateLimited{After: 5 * time.Minute}
		}
		return nil
	}
	r.happen(event.Event{Name: event.UserCreated})
	s := r.sender("dingtalk")
	r.work(s)
	r.clock.Wait(4 * time.Minute)
	r.work(s)
	if to.tries != 1 {
		t.Fatal("it was not left alone")
	}
	r.clock.Wait(2 * time.Minute)
	r.work(s)
	if len(to.got) != 1 || len(r.failed) != 0 || r.counts["dingtalk rate_limited"] != 1 {
		t.Errorf("%d arrived, counted %v", len(to.got), r.counts)
	}
}

// What is refused for good is put aside, told once, and can be tried again or
// dropped; a channel that refuses everything is left alone.
func TestDeadLetters(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "webhooks")["webhooks"]
	bad := true
	to.answer = func(_ int, m Message) error {
		if bad {
			return Permanent{errors.New("the robot was removed: make another")}
		}
		return nil
	}
	r.happen(many(5, event.UserCreated)...)
	s := r.sender("webhooks")
	r.work(s)
	letters, _, err := r.n.Letters(t.Context(), "webhooks", "", 10)
	if err != nil || len(letters) != refusedAt || letters[0].Error != "the robot was removed: make another" || letters[0].Events != 1 || letters[0].Names[0] != "user.created" {
		t.Fatalf("%+v %v", letters, err)
	}
	if r.waiting("webhooks") != 2 || to.tries != refusedAt || len(r.failed) != 1 || r.failed[0].Details["dead_letter"] != letters[0].ID {
		t.Errorf("%d wait after %d tries, told %+v", r.waiting("webhooks"), to.tries, r.failed)
	}
	if err := r.n.Drop(t.Context(), letters[2].ID); err != nil {
		t.Fatal(err)
	}
	// Tried again while it refuses still: the letter stays.
	if err := r.n.Retry(t.Context(), letters[1].ID); err != nil {
		t.Fatal(err)
	}
	r.work(s)
	if again, _, err := r.n.Letters(t.Context(), "", "", 10); err != nil || len(again) < 2 || again[1].Tries != 2 || again[1].Retrying {
		t.Fatalf("%+v %v", again, err)
	}
	bad = false
	for _, l := range letters[:2] {
		if err := r.n.Retry(t.Context(), l.ID); err != nil {
			t.Fatal(err)
		}
	}
	r.work(s)
	var ids []string
	for _, m := range to.got {
		ids = append(ids, m.ID)
	}
	if want := []string{"E1", "E2", "E4", "E5"}; !slices.Equal(ids, want) {
		t.Errorf("arrived %q, want %q", ids, want)
	}
	if again, _, err := r.n.Letters(t.Context(), "", "", 10); err != nil || len(again) != 0 || r.waiting("webhooks") != 0 {
		t.Errorf("%+v %v, %d wait", again, err, r.waiting("webhooks"))
	}
}

// The failure of a channel is never told to that channel.
func TestFailureGoesElsewhere(t *testing.T) {
	r := newRig(t)
	to := r.use(nil, "slack", "dingtalk")
	r.happen(event.Event{Name: event.NotifyFailed, Target: "slack", Details: map[string]string{"channel": "slack", "error": "x"}})
	r.work(r.sender("slack"))
	r.work(r.sender("dingtalk"))
	if len(to["slack"].got) != 0 || len(to["dingtalk"].got) != 1 {
		t.Errorf("slack %q, dingtalk %q", to["slack"].titles(), to["dingtalk"].titles())
	}
}

// A message is tried for a day, and then put aside.
func TestGivesUp(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "slack")["slack"]
	to.answer = func(int, Message) error { return errors.New("away") }
	r.happen(event.Event{Name: event.UserCreated})
	s := r.sender("slack")
	for range 26 * 12 {
		r.clock.Wait(5 * time.Minute)
		r.work(s)
	}
	if ls, _, err := r.n.Letters(t.Context(), "", "", 10); err != nil || len(ls) != 1 || r.waiting("slack") != 0 || len(r.failed) != 1 {
		t.Errorf("%+v %v, %d wait, told %d times", ls, err, r.waiting("slack"), len(r.failed))
	}
}

// Killed between the vendor's answer and our note: that message, the very same,
// comes once more, and none is lost.
func TestKilledBeforeTheNote(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "webhooks")["webhooks"]
	r.happen(many(3, event.UserCreated)...)
	s := r.sender("webhooks")
	st, err := r.n.queues.state(t.Context(), "webhooks")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.choose(t.Context(), st, r.clock.Now())
	if err != nil {
		t.Fatal(err)
	}
	if st, err = r.n.queues.change(t.Context(), "webhooks", func(p *progress) error { p.Batch = b; return nil }); err != nil {
		t.Fatal(err)
	}
	items, sums, err := s.resolve(t.Context(), st)
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := s.message(t.Context(), st, items, sums)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.send(t.Context(), m); err != nil { // and here the power goes
		t.Fatal(err)
	}
	r.work(r.sender("webhooks"))
	var ids []string
	for _, m := range to.got {
		ids = append(ids, m.ID)
	}
	if want := []string{"E1", "E1", "E2", "E3"}; !slices.Equal(ids, want) {
		t.Errorf("arrived %q", ids)
	}
}
