package detect

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// One password on many accounts from one address is told once, with numbers and
// without names; another address is another finding.
func TestSprayingFromOneAddress(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	for i := range 14 {
		r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
		r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
	}
	a.run()
	r.want("below the bound")
	for i := range 40 {
		r.fail("203.0.113.7", fmt.Sprint("more", i), fmt.Sprint("u", i))
		a.run()
	}
	got := r.want("over it", "password_spraying 203.0.113.7/32")
	facts(t, got[0], map[string]string{"scope": "address", "accounts": "15", "tries": "29", "addresses": "1", "network": "203.0.113.7/32", "window": "30m0s"})
	if got[0].Severity != event.Critical || got[0].IP != "203.0.113.7" {
		t.Errorf("%+v", got[0])
	}
	for i := range 15 {
		r.fail("2001:db8:1:2:"+fmt.Sprintf("%x", i)+"::1", fmt.Sprint("hash", i), "")
	}
	a.run()
	r.want("a /64 of one host", "password_spraying 203.0.113.7/32", "password_spraying 2001:db8:1:2::/64")
}

// It is said again when it came back after it had gone, and when it goes on for
// longer than repeat.
func TestSprayingAgain(t *testing.T) {
	r := newRig(t, Config{Repeat: 2 * time.Hour})
	a := r.replica()
	burst := func(n int) {
		for i := range n {
			r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
		}
		a.run()
	}
	burst(20)
	r.Wait(20 * minute)
	burst(20)
	one := "password_spraying 203.0.113.7/32"
	r.want("it goes on", one)
	for range 6 { // the window empties
		r.Wait(10 * minute)
		for range 2 {
			r.succeed("198.51.100.1", "somebody")
			a.run()
			r.Wait(3 * time.Second)
		}
	}
	burst(20)
	r.want("it came back", one, one)
	for range 10 { // and goes on without a pause
		r.Wait(15 * minute)
		burst(20)
	}
	r.want("for hours", one, one, one)
}

// Many addresses, each of which tries hardly anything: the wider network and all
// together are looked at too.
func TestSprayingOverManyAddresses(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	for i := range 30 {
		r.fail(fmt.Sprintf("203.0.113.%d", i), fmt.Sprint("hash", i), "")
	}
	a.run()
	got := r.want("one /24", "password_spraying 203.0.113.0/24")
	facts(t, got[0], map[string]string{"scope": "network", "addresses": "30"})
	for i := range 100 {
		r.fail(fmt.Sprintf("198.%d.100.9", i), fmt.Sprint("other", i), "")
	}
	a.run()
	got = r.want("everywhere", "password_spraying 203.0.113.0/24", "password_spraying everywhere")
	facts(t, got[1], map[string]string{"scope": "everywhere", "accounts": "130", "addresses": "130"})
}

// A big office behind one address: people who get in, people who mistype first,
// and somebody who insists on one account are no spraying.
func TestSprayingOffice(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	const office = "203.0.113.7"
	for i := range 600 {
		u := fmt.Sprint("u", i)
		if i%4 == 0 { // a quarter mistypes the password
			r.fail(office, "hash-"+u, u)
		}
		if i%12 == 0 { // some their name, which is nobody's
			r.fail(office, "typo-"+u, "")
		}
		r.succeed(office, u)
	}
	for range 200 {
		r.fail(office, "hash-victim", "victim")
	}
	a.run()
	r.want("an office in the morning")
}

// What was not recorded is tried again, and counted once.
func TestSprayingRecordedLater(t *testing.T) {
	r := newRig(t, Config{})
	a := r.replica()
	for i := range 14 {
		r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
	}
	a.run()
	r.fail("203.0.113.7", "hash14", "")
	r.full = errors.New("full")
	for range 3 {
		if err := a.try(); !errors.Is(err, r.full) {
			t.Fatalf("%v", err)
		}
	}
	r.full = nil
	a.run()
	got := r.want("later", "password_spraying 203.0.113.7/32")
	facts(t, got[0], map[string]string{"accounts": "15", "tries": "15"})
}

// Another replica that takes over in the middle, and the first one after it, know
// the window; neither says it twice. What is older than the window is not counted.
func TestTakeover(t *testing.T) {
	r := newRig(t, Config{})
	a, b := r.replica(), r.replica()
	for i := range 14 {
		r.fail("192.0.2.1", fmt.Sprint("old", i), "")
	}
	a.run()
	r.Wait(40 * minute)
	for i := range 5 {
		r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
		r.fail("192.0.2.1", fmt.Sprint("new", i), "")
		r.Wait(minute)
		a.run()
	}
	r.Wait(minute)
	for i := range 5 {
		r.fail("203.0.113.7", fmt.Sprint("second", i), "")
		b.run()
		r.Wait(time.Second)
	}
	r.want("not yet")
	r.Wait(10 * time.Second)
	for i := range 5 {
		r.fail("203.0.113.7", fmt.Sprint("third", i), "")
	}
	a.run()
	one := "password_spraying 203.0.113.7/32"
	got := r.want("after two takeovers", one)
	facts(t, got[0], map[string]string{"accounts": "15", "tries": "15"})
	r.Wait(10 * time.Second)
	for i := range 5 {
		r.fail("203.0.113.7", fmt.Sprint("fourth", i), "")
	}
	c := r.replica()
	c.run()
	r.want("by a third", one)
}

// A reader that begins with an old log raises nothing about the past.
func TestFirstStart(t *testing.T) {
	r := newRig(t, Config{})
	for i := range 200 {
		r.fail("203.0.113.7", fmt.Sprint("hash", i), "")
	}
	r.Wait(time.Hour)
	r.replica().run()
	r.want("the past")
}
