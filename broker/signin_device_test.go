package broker_test

import (
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// A browser that an account was not used in before is told of, once; the first of
// an account is not, nor one that comes back, nor the same browser for another
// account's first time.
func TestNewDevice(t *testing.T) {
	w := &watchedStore{}
	h := startWith(t, &harness{wrap: w.watch})
	want := func(what string, n int) []event.Event {
		t.Helper()
		got := w.named(event.SigninNewDevice)
		if len(got) != n {
			t.Errorf("%s: %d events, want %d: %v", what, len(got), n, got)
		}
		return got
	}
	home, phone := h.browser(), h.browser()
	home.enter("demo", "demo")
	want("the first", 0)
	home.get("/signin")
	home.enterAgain("demo", "demo")
	want("the same again", 0)
	phone.enter("demo", "demo")
	got := want("another", 1)
	if len(got) == 1 && (got[0].Actor != h.userID("demo") || got[0].Target == "" || got[0].Connector != "local" || got[0].IP == "" || got[0].RequestID == "") {
		t.Errorf("%+v", got[0])
	}
	h.wait(48 * time.Hour)
	phone.enterAgain("demo", "demo")
	home.enterAgain("admin", "admin")
	want("both known, and the first time of admin", 1)
	h.restart()
	phone.enterAgain("demo", "demo")
	want("after a restart", 1)
	phone.enterAgain("admin", "admin")
	got = want("known for demo, not for admin", 2)
	if len(got) == 2 && got[1].Actor != h.userID("admin") {
		t.Errorf("%+v", got[1])
	}
	// A cookie that somebody made up is none, and the session is there all the same.
	forged := h.browser()
	forged.put("gatehouse-device", "eyJpIjoiWCJ9", 0)
	forged.enter("demo", "demo")
	want("a forged one", 3)
}

// enterAgain signs out and in.
func (b *browser) enterAgain(user, password string) {
	b.h.t.Helper()
	b.put("gatehouse", "", -1)
	b.enter(user, password)
}

// put sets a cookie of the issuer's, or with a negative maxAge takes it away.
func (b *browser) put(name, value string, maxAge int) {
	b.h.t.Helper()
	u, err := url.Parse(b.h.URL)
	if err != nil {
		b.h.t.Fatal(err)
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{{Name: name, Value: value, Path: "/", MaxAge: maxAge}})
}
