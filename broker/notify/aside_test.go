package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/test/peers/mailbox"
)

// post is the mail to people whom tests name by their id: u1 reads at
// u1@example.com. refuse says whose server refuses what.
func (r *rig) post(refuse func(to string) error) *receiver {
	r.t.Helper()
	to := r.use([]Rule{}, "people")["people"]
	to.answer = func(_ int, m Message) error { return refuse(m.To[0]) }
	for i := range 2000 {
		id := fmt.Sprintf("u%d", i)
		r.people[id] = Person{Email: id + "@example.com"}
	}
	return to
}

func (r *receiver) ids() []string {
	var out []string
	for _, m := range r.got {
		out = append(out, m.ID)
	}
	return out
}

func linked(who ...string) (es []event.Event) {
	for _, w := range who {
		es = append(es, event.Event{Name: event.IdentityLinked, Target: w})
	}
	return es
}

var greylisted = refusedReader{errors.New("450 4.2.0 come again")}

// Whom a server refuses for now keeps nobody else waiting, gets their own mails
// in order, and nothing twice, whichever replica goes on and whatever the sink
// reads again.
func TestOneReaderRefused(t *testing.T) {
	r := newRig(t)
	full := true
	to := r.post(func(who string) error {
		if who == "u1@example.com" && full {
			return greylisted
		}
		return nil
	})
	es := linked("u1", "u2", "u1", "u3", "u1", "u2")
	r.happen(es...)
	r.work(r.sender(peopleID))
	if got, want := to.ids(), []string{"E2", "E4", "E6"}; !slices.Equal(got, want) {
		t.Fatalf("the others got %v, want %v", got, want)
	}
	if r.waiting(peopleID) != 3 || to.tries != 4 {
		t.Errorf("%d wait after %d tries", r.waiting(peopleID), to.tries)
	}
	if cs, err := r.n.Channels(t.Context()); err != nil || cs[0].State == "down" || cs[0].Waiting != 3 {
		t.Errorf("%+v %v", cs, err)
	}
	r.clock.Wait(2 * time.Hour)
	r.work(r.sender(peopleID)) // another replica
	if to.tries != 5 || len(to.got) != 3 {
		t.Errorf("%d tries, got %v", to.tries, to.ids())
	}
	full = false
	r.next = 0
	r.happen(es...) // the sink died before it wrote down how far it was
	r.clock.Wait(2 * time.Hour)
	r.work(r.sender(peopleID))
	if got, want := to.ids(), []string{"E2", "E4", "E6", "E1", "E3", "E5"}; !slices.Equal(got, want) || r.waiting(peopleID) != 0 {
		t.Errorf("got %v, want %v; %d wait", got, want, r.waiting(peopleID))
	}
	r.next = 0
	r.happen(es...)
	r.work(r.sender(peopleID))
	if len(to.got) != 6 {
		t.Errorf("told again: %v", to.ids())
	}
	if len(r.failed) != 0 {
		t.Errorf("operators were told: %+v", r.failed)
	}
}

// A server that refuses every reader is told of once.
func TestEveryReaderRefused(t *testing.T) {
	r := newRig(t)
	to := r.post(func(string) error { return greylisted })
	r.happen(linked("u1", "u2", "u3", "u4", "u5", "u6", "u7")...)
	s := r.sender(peopleID)
	for range 3 {
		r.work(s)
		r.clock.Wait(time.Minute)
	}
	if len(r.failed) != 1 || r.failed[0].Name != event.NotifyFailed || len(to.got) != 0 {
		t.Errorf("told of %+v", r.failed)
	}
}

// More mails are put aside than one look at the queue holds: others pass them at
// once, and those that are due and those in line take turns.
func TestManyPutAside(t *testing.T) {
	r := newRig(t)
	to := r.post(func(string) error { return nil })
	const many = maxBatch + 20
	now := r.clock.Now()
	for i := range uint64(many) {
		e := linked(fmt.Sprint("u", i))[0]
		e.ID = fmt.Sprintf("E%d", i+1)
		if err := r.n.queues.add(t.Context(), item{ID: itemID(peopleID, i+1), Channel: peopleID, Position: i + 1, Event: e, Person: e.Target, Queued: now,
			Aside: &aside{After: now.Add(time.Hour), First: now, Tries: 3}}); err != nil {
			t.Fatal(err)
		}
	}
	r.next = many
	r.happen(linked("u1999")...)
	s := r.sender(peopleID)
	r.work(s)
	if len(to.got) != 1 || to.got[0].To[0] != "u1999@example.com" {
		t.Fatalf("got %v: what is put aside keeps others waiting", to.ids())
	}
	r.clock.Wait(2 * time.Hour)
	r.happen(linked("u1998", "u1997")...)
	for range 4 {
		if _, err := s.step(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := to.ids()[1:], []string{"E1", "E522", "E2", "E523"}; !slices.Equal(got, want) {
		t.Errorf("in turns came %v, want %v", got, want)
	}
}

// Killed between putting a mail aside and noting it, or while its person's next
// one is put behind it: each is told once.
func TestKilledWhilePuttingAside(t *testing.T) {
	for _, which := range []string{"E1", "E2"} {
		r := newRig(t)
		full := true
		to := r.post(func(who string) error {
			if full {
				return greylisted
			}
			return nil
		})
		es := linked("u1", "u1")
		r.happen(es...)
		s := r.sender(peopleID)
		if which == "E1" { // the message is at hand, and the item says so; the channel does not know
			st, err := r.n.queues.state(t.Context(), peopleID)
			if err != nil {
				t.Fatal(err)
			}
			b, err := s.choose(t.Context(), st, r.clock.Now())
			if err != nil || b == nil {
				t.Fatal(b, err)
			}
			if _, err = r.n.queues.change(t.Context(), peopleID, func(p *progress) error { p.Batch = b; return nil }); err != nil {
				t.Fatal(err)
			}
			if err := s.setAside(t.Context(), itemID(peopleID, 1), aside{After: r.clock.Now(), First: r.clock.Now()}); err != nil {
				t.Fatal(err)
			}
		} else {
			if _, err := s.step(t.Context()); err != nil { // E1 is put aside
				t.Fatal(err)
			}
			if err := s.setAside(t.Context(), itemID(peopleID, 2), aside{After: r.clock.Now(), First: r.clock.Now()}); err != nil {
				t.Fatal(err)
			}
		}
		full = false
		for range 3 {
			r.clock.Wait(time.Hour)
			r.work(r.sender(peopleID))
		}
		r.next = 0
		r.happen(es...)
		r.work(r.sender(peopleID))
		if got, want := to.ids(), []string{"E1", "E2"}; !slices.Equal(got, want) || r.waiting(peopleID) != 0 {
			t.Errorf("killed at %s: got %v, %d wait", which, got, r.waiting(peopleID))
		}
	}
}

// Who has no mailbox at all, one after another, stops nobody's mail; what was
// refused for a day is a dead letter, and its second try waits aside too.
func TestReadersWithoutMailbox(t *testing.T) {
	r := newRig(t)
	state := "gone"
	to := r.post(func(who string) error {
		switch {
		case who == "u9@example.com":
			return nil
		case state == "gone":
			return Permanent{refusedReader{errors.New("550 5.1.1 no such user")}}
		case state == "busy":
			return greylisted
		}
		return nil
	})
	r.happen(linked("u1", "u2", "u3", "u4", "u9")...)
	s := r.sender(peopleID)
	r.work(s)
	if got := to.ids(); !slices.Equal(got, []string{"E5"}) {
		t.Fatalf("got %v: addresses that do not exist paused the mail", got)
	}
	state = "busy"
	r.happen(linked("u5")...)
	for range 26 {
		r.work(s)
		r.clock.Wait(time.Hour)
	}
	ls, _, err := r.n.Letters(t.Context(), peopleID, "", 10)
	if err != nil || len(ls) != 5 || r.waiting(peopleID) != 0 {
		t.Fatalf("%+v %v, %d wait", ls, err, r.waiting(peopleID))
	}
	if err := r.n.Retry(t.Context(), ls[4].ID); err != nil {
		t.Fatal(err)
	}
	r.work(s)
	r.happen(linked("u9")...)
	r.work(s)
	if got := to.ids(); !slices.Equal(got, []string{"E5", "E7"}) {
		t.Errorf("got %v: a dead letter that is refused again keeps others waiting", got)
	}
	state = ""
	r.clock.Wait(time.Hour)
	r.work(s)
	if got := to.ids(); !slices.Equal(got, []string{"E5", "E7", "E6"}) || r.waiting(peopleID) != 0 {
		t.Errorf("got %v, %d wait", got, r.waiting(peopleID))
	}
}

// What a mail server says of one reader is told apart from what it says of us, of
// the message, or of the connection.
func TestWhoIsRefused(t *testing.T) {
	for answer, want := range map[string]bool{
		"451 4.3.0 busy": true, "450 4.2.0 greylisted": true, "452 4.2.2 mailbox full": true, "550 5.1.1 no such user": true,
		"421 4.7.0 too many connections": false, "": false,
	} {
		s, err := mailbox.Start(mailbox.Config{TLS: "none", Hostile: answer, Mute: answer == ""})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.Close)
		sender, err := NewSMTP(SMTP{Host: s.Host, Port: s.Port, TLS: "none", From: "a@example.com"}, Env{Now: time.Now, HTTP: func(string, string, ...string) (*http.Client, error) { return nil, errors.New("not by HTTP") }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if answer != "" {
			ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
		}
		err = sender.Send(ctx, Message{ID: "E1", Title: "t", To: []string{"u1@example.com"}})
		cancel()
		_, theirs := errors.AsType[refusedReader](err)
		_, permanent := errors.AsType[Permanent](err)
		if err == nil || theirs != want || permanent != strings.HasPrefix(answer, "5") {
			t.Errorf("%q: %v, the reader's: %v", answer, err, theirs)
		}
	}
}
