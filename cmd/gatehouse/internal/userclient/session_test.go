package userclient

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Twenty processes that ask at once for a token that has run out: one refresh,
// since each would end the family of the others, and one token for all.
func TestTokenConcurrent(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	for round := range 3 {
		f.clock.move(time.Hour)
		before := f.grants("refresh_token")
		var wg sync.WaitGroup
		got := make([]string, 20)
		for i := range got {
			wg.Go(func() {
				// As a process of its own: another store, another lock, another client.
				own := &Session{Store: &Store{Dir: s.Store.Dir}, Client: f.client(), Name: s.Name}
				tok, err := own.Token(t.Context(), "")
				if err != nil {
					t.Error(err)
				}
				got[i] = tok.Value
			})
		}
		wg.Wait()
		if n := f.grants("refresh_token") - before; n != 1 {
			t.Errorf("round %d: %d refreshes", round, n)
		}
		if slices.Sort(got); got[0] == "" || got[0] != got[19] {
			t.Errorf("round %d: different tokens: %q", round, got)
		}
	}
	if f.refresh == "" {
		t.Error("the family has ended")
	}
}

// A token is renewed in its last minute, or the last third of a short life, and
// earlier for those who hand it on.
func TestTokenFresh(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		life  int
		after time.Duration
		early bool
		renew bool
	}{
		"new":                   {600, 0, false, false},
		"nine minutes old":      {600, 9*time.Minute - time.Second, false, false},
		"last minute":           {600, 9*time.Minute + time.Second, false, true},
		"half, for a file":      {600, 5*time.Minute + time.Second, true, true},
		"before half, for file": {600, 5*time.Minute - time.Second, true, false},
		"short life":            {30, 19 * time.Second, false, false},
		"end of a short life":   {30, 21 * time.Second, false, true},
	} {
		f := newFake(t)
		s := f.signedIn()
		f.life = c.life
		f.clock.move(time.Hour)
		first, err := s.Token(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		f.clock.move(c.after)
		s.Early = c.early
		second, err := s.Token(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if renewed := first.Value != second.Value; renewed != c.renew {
			t.Errorf("%s: renewed %v", name, renewed)
		}
	}
}

// An answer that got lost is asked for again within the grace, with the same
// token; an outage leaves everything as it was.
func TestRefreshOutage(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	f.clock.move(time.Hour)
	f.script(answer{status: 502, body: "<html>"}, answer{status: 503, body: map[string]any{"error": "temporarily_unavailable"}})
	tok, err := s.Token(t.Context(), "")
	if err != nil || tok.Value != "access-1" {
		t.Fatalf("%+v %v", tok, err)
	}
	if waited := f.clock.slept; !slices.Equal(waited, retries) || waited[0]+waited[1] >= 10*time.Second {
		t.Errorf("waited %v", waited)
	}
	f.clock.move(time.Hour)
	f.script(slices.Repeat([]answer{{status: 502, body: "<html>"}}, 3)...)
	if _, err := s.Token(t.Context(), ""); !errors.Is(err, ErrUnreachable) {
		t.Errorf("an outage: %v", err)
	}
	if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value == "" {
		t.Errorf("after the outage: %v", err)
	}
}

// When the issuer says that the session is over, the tokens go, the profile stays
// for the next sign-in, and nobody asks again and again.
func TestSessionOver(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	f.clock.move(time.Hour)
	f.script(oauth("invalid_grant"))
	if _, err := s.Token(t.Context(), ""); !errors.Is(err, ErrSignedOut) {
		t.Fatal(err)
	}
	p, err := s.Store.Load("work")
	if err != nil || p.Issuer != f.srv.URL || len(p.Secrets) != 0 {
		t.Errorf("%+v %v", p, err)
	}
	if _, err := s.Token(t.Context(), ""); !errors.Is(err, ErrSignedOut) {
		t.Error(err)
	}
	if n := f.grants("refresh_token"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// A home on a network without working locks: another machine has renewed while
// this one asked; its token is taken and not thrown away.
func TestRenewedElsewhere(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	f.clock.move(time.Hour)
	f.script(answer{status: 400, body: map[string]any{"error": "invalid_grant"}, after: func() {
		p, err := s.Store.Load("work")
		if err != nil {
			t.Error(err)
			return
		}
		f.refresh = "refresh-of-another"
		p.Secrets["refresh"] = Secret{Value: f.refresh}
		if err := s.Store.Save(p); err != nil {
			t.Error(err)
		}
	}})
	tok, err := s.Token(t.Context(), "")
	if err != nil || tok.Value == "" {
		t.Fatal(err)
	}
	if r := f.requests[1].Get("refresh_token"); r != "refresh-of-another" {
		t.Errorf("asked with %s", r)
	}
}

// Where the successor could not be written down, the refresh token is not used.
func TestRefreshUnwritable(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	f.clock.move(time.Hour)
	p, err := s.Store.Load("work")
	if err != nil {
		t.Fatal(err)
	}
	gone := &Session{Store: &Store{Dir: filepath.Join(s.Store.Dir, "work.json", "no-folder")}, Client: s.Client, Name: "work"}
	if _, err := gone.renew(t.Context(), p, "", accessToken); err == nil || f.grants("refresh_token") != 0 {
		t.Errorf("%v, %d refreshes", err, f.grants("refresh_token"))
	}
}

// Another audience: by token exchange, which leaves the refresh token alone; where
// that is not offered or not allowed, by a refresh with resource.
func TestAudience(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	tok, err := s.Token(t.Context(), "remotegpu-api")
	if err != nil || tok.Value != "exchanged-for-remotegpu-api" || f.grants("refresh_token") != 0 {
		t.Fatalf("%+v %v", tok, err)
	}
	r := f.requests[0]
	if r.Get("subject_token") != "access-0" || r.Get("subject_token_type") != typeAccess || r.Get("audience") != "remotegpu-api" {
		t.Errorf("asked %v", r)
	}
	if _, err := s.Token(t.Context(), "remotegpu-api"); err != nil || f.grants(grantExchange) != 1 {
		t.Errorf("not kept: %v", err)
	}
	if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value != "access-0" {
		t.Errorf("the issuer's own: %+v %v", tok, err)
	}
	f.script(oauth("unauthorized_client"))
	if tok, err := s.Token(t.Context(), "other"); err != nil || tok.Value != "for-other" || f.grants("refresh_token") != 1 {
		t.Errorf("not allowed: %+v %v", tok, err)
	}
	f.script(oauth("invalid_target"))
	if _, err := s.Token(t.Context(), "nobody's"); !refused(err, "invalid_target") {
		t.Errorf("an unknown audience: %v", err)
	}
	f.meta["grant_types_supported"] = []string{"refresh_token"}
	s.Client = f.client()
	if tok, err := s.Token(t.Context(), "third"); err != nil || tok.Value != "for-third" {
		t.Errorf("not offered: %+v %v", tok, err)
	}
	f.clock.move(time.Hour)
	if _, err := s.Token(t.Context(), ""); err != nil {
		t.Fatal(err)
	}
	if p, err := s.Store.Load("work"); err != nil || len(p.Secrets) != 2 {
		t.Errorf("what ran out is still kept: %v %v", p.Secrets, err)
	}
}

// Signing out tells the issuer (RFC 7009), and forgets also if that fails.
func TestSignOut(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	if err := s.SignOut(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.revoked, []string{"refresh-0"}) {
		t.Errorf("revoked %v", f.revoked)
	}
	if _, err := s.Store.Load("work"); !errors.Is(err, ErrSignedOut) {
		t.Errorf("still there: %v", err)
	}
	s = f.signedIn()
	s.Client = f.client()
	f.srv.Close()
	if err := s.SignOut(t.Context()); !errors.Is(err, ErrNotRevoked) {
		t.Errorf("nobody there: %v", err)
	}
	if _, err := s.Store.Load("work"); !errors.Is(err, ErrSignedOut) {
		t.Errorf("still there: %v", err)
	}
}

// Signing in again ends the session that was there before.
func TestSignInAgain(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	again := Tokens{Access: "a", Refresh: "refresh-new", Issued: f.clock.now(), Expires: f.clock.now().Add(time.Minute)}
	if _, _, err := s.SignIn(t.Context(), again, "", Ends{}, false); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(f.revoked, []string{"refresh-0"}) {
		t.Errorf("revoked %v", f.revoked)
	}
	again.Refresh = ""
	if _, _, err := s.SignIn(t.Context(), again, "", Ends{}, false); err == nil {
		t.Error("a sign-in without a refresh token was kept")
	}
}

// Whoever waits for the lock gives up with the context, and a lock that is held
// is not taken.
func TestLock(t *testing.T) {
	t.Parallel()
	s := &Store{Dir: t.TempDir()}
	unlock, err := s.Lock(t.Context(), "work")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Lock(ctx, "work"); !errors.Is(err, context.Canceled) {
		t.Errorf("a second holder: %v", err)
	}
	if _, err := s.Lock(t.Context(), "other"); err != nil {
		t.Errorf("another profile: %v", err)
	}
	unlock()
	if _, err := s.Lock(t.Context(), "work"); err != nil {
		t.Errorf("after it was free: %v", err)
	}
}

func TestEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	end := Ends{time.Date(2026, 12, 7, 0, 0, 0, 0, time.UTC), time.Date(2027, 2, 21, 0, 0, 0, 0, time.UTC)}
	f.api["/api/v1/me/sessions"] = answer{status: 200, body: map[string]any{"items": []map[string]any{{"current": false, "expires": end.Unused}, {"current": true, "idle_until": end.Unused, "expires": end.Last}}}}
	if got := f.client().Ends(t.Context(), "access"); got != end {
		t.Errorf("%s", got)
	}
	f.api["/api/v1/me/sessions"] = answer{status: http.StatusForbidden, body: map[string]any{}}
	if got := f.client().Ends(t.Context(), "access"); got != (Ends{}) {
		t.Errorf("refused: %s", got)
	}
}

// The file of a profile is its owner's alone, and what others could have read or
// written is not used.
func TestStore(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	path := s.Store.Path("work")
	mode := func(path string) os.FileMode {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	if mode(path) != 0o600 {
		t.Errorf("mode %o", mode(path))
	}
	for _, m := range []os.FileMode{0o640, 0o604, 0o620, 0o660} {
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Token(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%o: %v", m, err)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Store.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f.clock.move(time.Hour)
	if _, err := s.Token(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a folder of everybody's: %v", err)
	}
	if err := os.Chmod(s.Store.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	deep := &Store{Dir: filepath.Join(t.TempDir(), "a", "gatehouse")}
	if err := deep.Save(&Profile{Name: "x", Issuer: "https://id.example.com", Kept: KeptFile}); err != nil || mode(deep.Dir) != 0o700 {
		t.Errorf("a new folder: %v %o", err, mode(deep.Dir))
	}
	for _, bad := range []string{"", "..", "../x", "a/b", ".hidden", "a b", "-x", strings.Repeat("x", 65), "\x1b"} {
		if err := s.Store.Save(&Profile{Name: bad}); err == nil {
			t.Errorf("a profile of the name %q", bad)
		}
		if _, err := s.Store.Load(bad); err == nil || errors.Is(err, ErrSignedOut) {
			t.Errorf("a profile of the name %q: %v", bad, err)
		}
	}
	for name, text := range map[string]string{"broken": "{", "foreign": `{"issuer":"https://id.example.com","kept":"elsewhere"}`, "plain": `{"issuer":"http://id.example.com","kept":"file"}`} {
		if err := os.WriteFile(s.Store.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Store.Load(name); err == nil || errors.Is(err, ErrSignedOut) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Which sign-in is meant.
func TestFind(t *testing.T) {
	t.Parallel()
	s := &Store{Dir: filepath.Join(t.TempDir(), "gatehouse")}
	if _, err := s.Find("", ""); !errors.Is(err, ErrSignedOut) {
		t.Errorf("without any: %v", err)
	}
	add := func(name, issuer string) {
		t.Helper()
		if err := s.Save(&Profile{Name: name, Issuer: issuer, Kept: KeptFile}); err != nil {
			t.Fatal(err)
		}
	}
	add("one", "https://one.example")
	if p, err := s.Find("", ""); err != nil || p.Name != "one" {
		t.Errorf("the only one: %+v %v", p, err)
	}
	add("two", "https://two.example")
	add("two-admin", "https://two.example")
	for _, c := range []struct {
		name, issuer, want string
		err                error
	}{
		{"", "", "", ErrAmbiguous}, {"two", "", "two", nil}, {"", "one.example", "one", nil}, {"", "HTTPS://One.Example/", "one", nil},
		{"", "https://two.example", "", ErrAmbiguous}, {"three", "", "", ErrSignedOut}, {"", "https://three.example", "", ErrSignedOut}, {"", "http://one.example", "", ErrIssuer},
	} {
		p, err := s.Find(c.name, c.issuer)
		if !errors.Is(err, c.err) || c.want != "" && (err != nil || p.Name != c.want) {
			t.Errorf("%q %q: %+v %v", c.name, c.issuer, p, err)
		}
	}
}

func TestNameFor(t *testing.T) {
	t.Parallel()
	for issuer, want := range map[string]string{"https://id.example.com": "id.example.com", "http://127.0.0.1:8080": "127.0.0.1-8080", "https://id.example.com/a/b": "id.example.com-a-b", "http://[::1]:80": "1-80"} {
		if got := NameFor(issuer); got != want || !validName.MatchString(got) {
			t.Errorf("%s: %s", issuer, got)
		}
	}
}
