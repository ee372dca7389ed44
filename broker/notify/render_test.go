package notify

import (
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Every event has words of its own in both languages, and every detail that one
// shows has a label.
func TestEveryEventInWords(t *testing.T) {
	r := newRig(t)
	r.people["u1"] = Person{Name: "Li Wei", Email: "liwei@acme.com"}
	r.use(nil, "slack")
	for _, locale := range []string{"en", "zh-CN"} {
		seen := map[string]event.Name{}
		w := &writer{n: r.n, set: r.n.plan.Load().set, locale: locale, known: map[string]string{}}
		for _, n := range event.All() {
			sh, there := shapes()[n]
			if !there {
				t.Errorf("%s has no shape: say in shapes what of it is worth reading", n)
			}
			e := event.Event{ID: "E1", Name: n, Time: time.Now(), Severity: n.Severity(), Actor: "u1", Target: "u1", Connector: "acme", Client: "app", IP: "192.0.2.7", Agent: "curl", Details: map[string]string{}}
			for _, k := range sh.details {
				e.Details[k] = "detail-" + k
			}
			m := w.single(t.Context(), e)
			if m.Title == "" || m.Text == "" || strings.ContainsAny(m.Title, "{}\n") || strings.Contains(m.Text, "{") {
				t.Errorf("%s in %s: %q %q", n, locale, m.Title, m.Text)
			}
			if other := seen[m.Text]; other != "" {
				t.Errorf("%s says in %s what %s says", n, locale, other)
			}
			seen[m.Text] = n
			var all strings.Builder
			for _, f := range m.Fields {
				if f.Label == "" {
					t.Errorf("%s in %s: %q has no label", n, locale, f.Value)
				}
				all.WriteString(f.Value + "\n")
			}
			for _, k := range sh.details {
				if !strings.Contains(all.String(), "detail-"+k+"\n") {
					t.Errorf("%s does not show %s", n, k)
				}
			}
			if !strings.Contains(all.String(), "192.0.2.7") || !strings.Contains(all.String(), string(n)+" E1") {
				t.Errorf("%s: %s", n, all.String())
			}
		}
	}
}

// NO-5: names and masked addresses, wherever an address stands.
func TestPeopleAreMasked(t *testing.T) {
	for _, c := range []struct {
		p    Person
		want string
	}{
		{Person{Name: "Li Wei", Email: "liwei@acme.com"}, "Li Wei (li…@acme.com)"},
		{Person{Name: "liwei@acme.com", Email: "liwei@acme.com"}, "li…@acme.com"},
		{Person{Username: "liwei@acme.com"}, "li…@acme.com"},
		{Person{Username: "liwei"}, "liwei"},
		{Person{Email: "a@acme.com"}, "…@acme.com"},
		{Person{Email: "李伟明明@acme.com"}, "李伟…@acme.com"},
		{Person{}, "u1"},
	} {
		if got := nameOf(c.p, "u1"); got != c.want {
			t.Errorf("%+v is shown as %q, not %q", c.p, got, c.want)
		}
	}
	r := newRig(t)
	r.people["u1"] = Person{Name: "Li Wei", Email: "liwei@acme.com"}
	to := r.use(nil, "slack")["slack"]
	r.happen(event.Event{Name: event.SigninLockout, Target: "u1"}, event.Event{Name: event.UserSuspended, Target: "u1", Actor: "operator"})
	r.work(r.sender("slack"))
	r.clock.Wait(10 * time.Second)
	r.work(r.sender("slack"))
	if len(to.got) == 0 {
		t.Fatal("nothing arrived")
	}
	for _, m := range to.got {
		if strings.Contains(m.Title+m.Text, "liwei@") || !strings.Contains(m.Title, "Li Wei (li…@acme.com)") {
			t.Errorf("%q %q", m.Title, m.Text)
		}
		for _, f := range m.Fields {
			if strings.Contains(f.Value, "liwei@") {
				t.Errorf("%s: %s", f.Label, f.Value)
			}
		}
	}
}

// Who is written to, in which language, to which address, and what of.
func TestMailToThePerson(t *testing.T) {
	r := newRig(t)
	r.people["zh"] = Person{Name: "李伟", Email: "liwei@acme.com", Locale: "zh-CN"}
	r.people["en"] = Person{Name: "Ann", Email: "ann@acme.com", Locale: "en"}
	r.people["none"] = Person{Name: "No address"}
	to := r.use([]Rule{}, "people")["people"]
	r.happen(
		event.Event{Name: event.APIKeyCreated, Actor: "zh", Target: "zh", IP: "192.0.2.7"},
		event.Event{Name: event.SigninNewDevice, Actor: "en", Target: "session", Details: map[string]string{"place": "Berlin"}},
		event.Event{Name: event.UserSuspended, Actor: "boss", Target: "en", Details: map[string]string{"reason": "the operator's own words"}},
		event.Event{Name: event.IdentityLinked, Target: "none"},
		event.Event{Name: event.DeviceApproved, Actor: "en", Target: "gatehouse-cli", IP: "192.0.2.7", Details: map[string]string{"name": "gpu-a100-07", "device_ip": "203.0.113.20"}},
		event.Event{Name: event.DeviceDenied, Actor: "en", Target: "gatehouse-cli", IP: "192.0.2.7"}, // they know
		event.Event{Name: event.APIKeyCreated, Target: "acme-deployer"},                              // a service account
		event.Event{Name: event.SigninSucceeded, Actor: "en", Target: "en"},
	)
	s := r.sender(peopleID)
	r.work(s)
	if len(to.got) != 4 || r.waiting(peopleID) != 0 {
		t.Fatalf("%q, %d wait", to.titles(), r.waiting(peopleID))
	}
	for i, want := range []struct{ to, locale, title, link string }{
		{"liwei@acme.com", "zh-CN", "您的 RemoteGPU 账号新建了 API 密钥", "https://id.example.com/account/keys"},
		{"ann@acme.com", "en", "New sign-in to your RemoteGPU account", "https://id.example.com/account/sessions"},
		{"ann@acme.com", "en", "Your RemoteGPU account is suspended", ""},
		{"ann@acme.com", "en", "A device was signed in to your RemoteGPU account", "https://id.example.com/account/sessions"},
	} {
		m := to.got[i]
		if len(m.To) != 1 || m.To[0] != want.to || m.Locale != want.locale || m.Title != want.title || m.Link != want.link || (m.Link == "") != (m.LinkText == "") || m.Text == "" {
			t.Errorf("mail %d: %+v", i, m)
		}
		for _, f := range m.Fields {
			if f.Value == "boss" || strings.Contains(f.Value, "own words") {
				t.Errorf("mail %d tells %s: %s", i, f.Label, f.Value)
			}
		}
	}
	// The address is the one of now.
	r.happen(event.Event{Name: event.UserResumed, Target: "en"})
	r.people["en"] = Person{Email: "ann@new.example.com", Locale: "en"}
	r.work(s)
	if m := to.got[len(to.got)-1]; m.To[0] != "ann@new.example.com" {
		t.Errorf("written to %q", m.To)
	}
	if r.counts["people skipped"] != 2 {
		t.Errorf("counted %v", r.counts)
	}
}
