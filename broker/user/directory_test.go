package user_test

import (
	"bytes"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/connectors"
)

func directory(t *testing.T) (*user.Directory, store.Store) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	s, err := sqlite.Open(t.Context(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	seal, err := store.NewSealer([][]byte{bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := user.New(user.Config{KV: s, Bus: s, Sealer: seal, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return d, s
}

func li() connectors.Identity {
	return connectors.Identity{Connector: "github", Subject: "7", Username: "li", Name: "Li Wei", Email: "li@acme.example", EmailVerified: true}
}

// UP-4: the key is (connector, subject). Who is renamed stays; who has the name of
// another, at this connector or the next, is another. What an address does is
// link_test.go's.
func TestAdmitByIdentityAlone(t *testing.T) {
	d, _ := directory(t)
	first, created, err := d.Admit(t.Context(), li(), user.Admission{})
	if err != nil || !created || first.ID == "" || first.ID == "7" {
		t.Fatalf("%v %v %v", first, created, err)
	}
	renamed := li()
	renamed.Username, renamed.Email, renamed.Name = "wei", "wei@acme.example", "Wei Li"
	u, created, err := d.Admit(t.Context(), renamed, user.Admission{Signup: "invite"})
	if err != nil || created || u.ID != first.ID || u.Username != "wei" || u.Email != "wei@acme.example" {
		t.Errorf("renamed: %v %v %v", u, created, err)
	}
	for name, change := range map[string]func(*connectors.Identity){
		"another subject of that name":  func(i *connectors.Identity) { i.Subject = "8" },
		"the same subject elsewhere":    func(i *connectors.Identity) { i.Connector = "gitlab" },
		"parts that join to the same":   func(i *connectors.Identity) { i.Connector, i.Subject = "githu", "b7" },
		"a subject that looks the same": func(i *connectors.Identity) { i.Subject = "7 " },
	} {
		id := li()
		id.Email = ""
		change(&id)
		if u, created, err := d.Admit(t.Context(), id, user.Admission{}); err != nil || !created || u.ID == first.ID {
			t.Errorf("%s: %v %v %v", name, u.ID, created, err)
		}
	}
	for _, id := range []connectors.Identity{{Connector: "github"}, {Subject: "7"}} {
		if _, _, err := d.Admit(t.Context(), id, user.Admission{}); err == nil {
			t.Errorf("an identity without a part was admitted: %v", id)
		}
	}
	if id, err := d.ByIdentity(t.Context(), "github", "7"); err != nil || id != first.ID {
		t.Errorf("by identity: %v %v", id, err)
	}
	if _, err := d.ByIdentity(t.Context(), "github", "x"); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("nobody's identity: %v", err)
	}
}

// Sixty-four first sign-ins of one person at once make one account.
func TestAdmitAtOnce(t *testing.T) {
	d, s := directory(t)
	var wg sync.WaitGroup
	ids := make([]string, 64)
	news := make([]bool, 64)
	for i := range ids {
		wg.Go(func() {
			u, created, err := d.Admit(t.Context(), li(), user.Admission{})
			if err != nil {
				t.Error(err)
			}
			ids[i], news[i] = u.ID, created
		})
	}
	wg.Wait()
	n := 0
	for i := range ids {
		if ids[i] != ids[0] {
			t.Fatalf("accounts %s and %s", ids[0], ids[i])
		}
		if news[i] {
			n++
		}
	}
	users, err := s.List(t.Context(), "user", "", "", "", 10)
	if n != 1 || err != nil || len(users) != 1 {
		t.Errorf("created %d times, %d users (%v)", n, len(users), err)
	}
}

// UP-7: sign-up by domain looks at the verified address, parsed by our own
// grammar; whoever has an account needs no sign-up.
func TestSignup(t *testing.T) {
	for _, c := range []struct {
		signup, email string
		verified, ok  bool
	}{
		{"", "", false, true},
		{"open", "x@elsewhere.example", false, true},
		{"invite", "li@acme.example", true, false},
		{"made up", "li@acme.example", true, false},
		{"domains", "li@acme.example", true, true},
		{"domains", "li@ACME.example", true, true},
		{"domains", "li@acme.example", false, false},
		{"domains", "", true, false},
		{"domains", "li@evil.example", true, false},
		{"domains", "li@sub.acme.example", true, false},
		{"domains", "li@acme.example.evil.example", true, false},
		{"domains", "li@evil.example@acme.example", true, false},
		{"domains", "li@acme.example@evil.example", true, false},
		{"domains", "li@acme.example.", true, false},
		{"domains", `"li"@acme.example`, true, false},
		{"domains", "li@acme.example (evil)", true, false},
		{"domains", "li@kde.example", true, true},
		{"domains", "li@\u212ade.example", true, false}, // a Kelvin sign, which lower case makes a k
		{"domains", "li@xn--kde-.example", true, false},
	} {
		d, s := directory(t)
		id := li()
		id.Email, id.EmailVerified = c.email, c.verified
		_, created, err := d.Admit(t.Context(), id, user.Admission{Signup: c.signup, Domains: []string{"acme.example", "kde.example"}})
		if (err == nil) != c.ok || created != c.ok || !c.ok && !errors.Is(err, user.ErrSignupClosed) {
			t.Errorf("signup %q, %q verified %v: %v", c.signup, c.email, c.verified, err)
		}
		if items, err := s.List(t.Context(), "identity", "", "", "", 10); err != nil || (len(items) > 0) != c.ok {
			t.Errorf("signup %q, %q: %d identities were kept (%v)", c.signup, c.email, len(items), err)
		}
	}
}

// A suspended user is refused by name; epoch and suspension are one write each,
// told to whoever asked.
func TestSuspendAndEpoch(t *testing.T) {
	d, _ := directory(t)
	u, _, err := d.Admit(t.Context(), li(), user.Admission{})
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	d.OnChange(func(id string) { told = append(told, id) })
	if err := d.BumpEpoch(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	if e, err := d.Epoch(t.Context(), u.ID); err != nil || e != u.Epoch+1 {
		t.Errorf("epoch %d, was %d (%v)", e, u.Epoch, err)
	}
	if err := d.Suspend(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Epoch(t.Context(), u.ID); !errors.Is(err, user.ErrSuspended) {
		t.Errorf("the epoch of a suspended user: %v", err)
	}
	changed := li()
	changed.Name = "Somebody Else"
	if s, _, err := d.Admit(t.Context(), changed, user.Admission{}); !errors.Is(err, user.ErrSuspended) || s.ID != u.ID {
		t.Errorf("a suspended user: %v %v", s.ID, err)
	}
	if got, err := d.Get(t.Context(), u.ID); err != nil || got.Name != "Li Wei" {
		t.Errorf("the refused sign-in changed the account: %v %v", got.Name, err)
	}
	if err := d.Resume(t.Context(), u.ID); err != nil {
		t.Fatal(err)
	}
	if e, err := d.Epoch(t.Context(), u.ID); err != nil || e != u.Epoch+3 { // what was ended stays ended
		t.Errorf("epoch %d after resuming, was %d (%v)", e, u.Epoch, err)
	}
	if len(told) != 3 || told[0] != u.ID {
		t.Errorf("told of %v", told)
	}
	if err := d.Suspend(t.Context(), "nobody"); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
}
