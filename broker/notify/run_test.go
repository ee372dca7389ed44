package notify

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// More than can be kept for a channel that takes nothing is given up, the oldest
// first, and that is said.
func TestTooManyWait(t *testing.T) {
	r := newRig(t)
	to := r.use(everything, "slack")["slack"]
	down := true
	to.answer = func(int, Message) error {
		if down {
			return errors.New("away")
		}
		return nil
	}
	r.happen(event.Event{Name: event.UserCreated})
	s := r.sender("slack")
	r.work(s)
	r.happen(many(maxWaiting+100, event.UserCreated)...)
	r.clock.Wait(time.Minute)
	r.work(s)
	if n := r.waiting("slack"); n != maxWaiting && n != maxWaiting+1 {
		t.Errorf("%d wait", n)
	}
	down = false
	r.clock.Wait(10 * time.Minute)
	r.work(s)
	if len(to.got) == 0 || !strings.Contains(to.got[0].Text, "100 older events were not told") && !strings.Contains(to.got[0].Text, "101 older events were not told") {
		t.Errorf("%+v", to.got[0])
	}
	r.clock.Wait(time.Minute)
	r.work(s)
	if strings.Contains(to.got[len(to.got)-1].Text, "older events") {
		t.Error("said twice")
	}
}

// Run: what is queued is sent while it runs, by the channels that are in use now,
// and what waits outlives a new configuration.
func TestRunAndReload(t *testing.T) {
	r := newRig(t)
	first := r.use(everything, "webhooks")["webhooks"]
	first.answer = func(int, Message) error { return errors.New("moved") }
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.n.Run(ctx) }()
	r.happen(event.Event{Name: event.UserCreated})
	until(t, "the old address is tried", func() bool { first.mu.Lock(); defer first.mu.Unlock(); return first.tries > 0 })
	r.clock.Wait(0)
	second := &receiver{}
	p := *r.n.plan.Load()
	p.channels = []*channel{{id: "webhooks", name: "webhooks", kind: "webhooks", print: "new", pace: paceOf("webhooks"), sender: second}}
	p.rules = p.compile()
	r.n.Use(&p)
	until(t, "the new address gets it", func() bool { return len(second.titles()) == 1 })
	r.happen(event.Event{Name: event.UserDeleted})
	until(t, "the new address gets the next", func() bool { return len(second.titles()) == 2 })
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatal("it never happened: " + what)
}
