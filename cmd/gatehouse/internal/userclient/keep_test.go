package userclient

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/zalando/go-keyring"
)

// ring is a keyring in memory that can hang, fail, or be small.
type ring struct {
	mu    sync.Mutex
	items map[string]string
	hang  chan struct{}
	fail  error
	limit int
	calls int
}

func (r *ring) wait() error {
	r.mu.Lock()
	r.calls++
	hang, fail := r.hang, r.fail
	r.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return fail
}

func (r *ring) Get(service, user string) (string, error) {
	if err := r.wait(); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.items[service+"\n"+user]
	if !ok {
		return "", keyring.ErrNotFound
	}
	return v, nil
}

func (r *ring) Set(service, user, secret string) error {
	if err := r.wait(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.limit > 0 && len(secret) > r.limit {
		return keyring.ErrSetDataTooBig
	}
	r.items[service+"\n"+user] = secret
	return nil
}

func (r *ring) DeleteAll(service string) error {
	if err := r.wait(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for k := range r.items {
		if strings.HasPrefix(k, service+"\n") {
			delete(r.items, k)
		}
	}
	return nil
}

func withRing(s *Session) *ring {
	r := &ring{items: map[string]string{}}
	s.Store.Keyring = &Keyring{Label: "Test keyring", Chosen: true, back: r, timeout: time.Minute}
	return r
}

func (f *fake) tokens() Tokens {
	f.refresh = "refresh-0"
	return Tokens{Access: "access-0", Refresh: f.refresh, Issued: f.clock.now(), Expires: f.clock.now().Add(10 * time.Minute), Who: Identity{Subject: "u1"}}
}

// In the keyring lies what is secret, in the file what is not.
func TestKeyring(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := &Session{Store: &Store{Dir: t.TempDir()}, Client: f.client(), Name: "work"}
	r := withRing(s)
	p, why, err := s.SignIn(t.Context(), f.tokens(), "", Ends{}, true)
	if err != nil || why != nil || p.Kept != KeptKeyring {
		t.Fatalf("%+v %v %v", p, why, err)
	}
	raw, err := os.ReadFile(s.Store.Path("work"))
	if err != nil || strings.Contains(string(raw), "refresh-0") || strings.Contains(string(raw), "access-0") {
		t.Errorf("%s %v", raw, err)
	}
	f.clock.move(time.Hour)
	if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value != "access-1" {
		t.Errorf("%+v %v", tok, err)
	}
	if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value != "access-1" || f.grants("refresh_token") != 1 {
		t.Errorf("not kept: %+v %v", tok, err)
	}
	r.items["gatehouse work\naccess"] = "written by somebody else"
	if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value != "access-2" {
		t.Errorf("what is no secret of ours: %+v %v", tok, err)
	}
	if err := s.SignOut(t.Context()); err != nil || len(r.items) != 0 {
		t.Errorf("left behind: %v %v", r.items, err)
	}
}

// A keyring that is too small for a large token keeps the refresh token; the rest
// is asked for each time.
func TestKeyringSmall(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := &Session{Store: &Store{Dir: t.TempDir()}, Client: f.client(), Name: "work"}
	withRing(s).limit = 200
	tokens := f.tokens()
	tokens.Access = strings.Repeat("x", 300)
	if p, why, err := s.SignIn(t.Context(), tokens, "", Ends{}, true); err != nil || why != nil || p.Kept != KeptKeyring {
		t.Fatal(why, err)
	}
	if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value != "access-1" {
		t.Errorf("%+v %v", tok, err)
	}
}

// A keyring that fails or hangs does not hold up a sign-in: the file takes its
// place, it is said why, and the keyring is not asked a second time.
func TestKeyringFails(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(t *testing.T, k *Keyring, r *ring){
		"locked": func(_ *testing.T, _ *Keyring, r *ring) { r.fail = errors.New("is locked") },
		"hangs": func(t *testing.T, k *Keyring, r *ring) {
			r.hang, k.timeout = make(chan struct{}), time.Millisecond
			t.Cleanup(func() { close(r.hang) })
		},
	} {
		f := newFake(t)
		s := &Session{Store: &Store{Dir: t.TempDir()}, Client: f.client(), Name: "work"}
		r := withRing(s)
		spoil(t, s.Store.Keyring, r)
		p, why, err := s.SignIn(t.Context(), f.tokens(), "", Ends{}, true)
		if err != nil || p.Kept != KeptFile || !errors.Is(why, ErrKeyring) || r.calls != 1 {
			t.Errorf("%s: %+v %v %v, %d calls", name, p, why, err, r.calls)
		}
		if tok, err := s.Token(t.Context(), ""); err != nil || tok.Value != "access-0" {
			t.Errorf("%s: %+v %v", name, tok, err)
		}
	}
	// What lies in a keyring that does not answer any more is an error, not nobody.
	f := newFake(t)
	s := &Session{Store: &Store{Dir: t.TempDir()}, Client: f.client(), Name: "work"}
	r := withRing(s)
	if _, _, err := s.SignIn(t.Context(), f.tokens(), "", Ends{}, true); err != nil {
		t.Fatal(err)
	}
	r.fail = errors.New("is locked")
	if _, err := s.Token(t.Context(), ""); !errors.Is(err, ErrKeyring) || errors.Is(err, ErrSignedOut) {
		t.Errorf("%v", err)
	}
	s.Store.Keyring = nil
	if _, err := s.Token(t.Context(), ""); !errors.Is(err, ErrKeyring) {
		t.Errorf("without one: %v", err)
	}
}

// On a machine without a screen or a session bus the keyring is not tried.
func TestSystemKeyring(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, c := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"a GPU node":          {map[string]string{"DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/0/bus"}, false},
		"a desktop":           {map[string]string{"DISPLAY": ":0", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/run/user/0/bus"}, true},
		"no bus":              {map[string]string{"DISPLAY": ":0"}, false},
		"no bus in its place": {map[string]string{"DISPLAY": ":0", "XDG_RUNTIME_DIR": dir}, false},
	} {
		if got := SystemKeyring(func(k string) string { return c.env[k] }); got.Chosen != c.want {
			t.Errorf("%s: %v", name, got.Chosen)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bus"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := SystemKeyring(func(k string) string { return map[string]string{"DISPLAY": ":0", "XDG_RUNTIME_DIR": dir}[k] }); !got.Chosen {
		t.Error("a bus in its place")
	}
}

// watching is a watch over a fake's session, in its time.
func watching(t *testing.T, f *fake, s *Session) (w *Watch, told *[]error) {
	told = new([]error)
	return &Watch{Path: filepath.Join(t.TempDir(), "token"), Get: func(ctx context.Context) (Secret, error) { return s.Token(ctx, "") },
		Now: f.clock.now, Sleep: f.clock.sleep, Jitter: func() float64 { return 0.5 }, Tell: func(err error) { *told = append(*told, err) }}, told
}

// The file is never older than a token's life, through outages too, is its
// owner's alone, and the watch ends with its context.
func TestWatch(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	s.Early = true
	w, told := watching(t, f, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen []string
	down := false
	f.clock.hook = func(int) {
		raw, err := os.ReadFile(w.Path)
		if err != nil {
			t.Error(err)
		}
		if fi, err := os.Stat(w.Path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", fi.Mode(), err)
		}
		if n := len(seen); n == 0 || seen[n-1] != string(raw) {
			seen = append(seen, string(raw))
		}
		switch {
		case len(seen) == 3 && !down: // ten tries of three requests each find nobody
			down = true
			f.script(slices.Repeat([]answer{{status: 503, body: "<html>"}}, 30)...)
		case len(seen) == 5:
			cancel()
		}
	}
	if err := w.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(seen, []string{"access-0", "access-1", "access-2", "access-3", "access-4"}) {
		t.Errorf("in the file: %q", seen)
	}
	if len(*told) != 2 || !errors.Is((*told)[0], ErrUnreachable) || (*told)[1] != nil {
		t.Errorf("told: %v", *told)
	}
	waits := slices.DeleteFunc(slices.Clone(f.clock.slept), func(d time.Duration) bool { return slices.Contains(retries, d) })
	if waits[0] != 10*time.Minute*2/3-30*time.Second {
		t.Errorf("first wait %s", waits[0])
	}
	if slices.Max(waits) > 10*time.Minute || slices.Min(waits) < firstRetry/2 {
		t.Errorf("waits: %v", waits)
	}
	if entries, err := os.ReadDir(filepath.Dir(w.Path)); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

// A refusal is the end, and leaves the file as it is; so is a file that cannot be
// written.
func TestWatchEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	w, _ := watching(t, f, s)
	f.clock.move(time.Hour)
	f.script(answer{}, oauth("invalid_grant"))
	if err := w.Run(t.Context()); !errors.Is(err, ErrSignedOut) {
		t.Errorf("%v", err)
	}
	if raw, err := os.ReadFile(w.Path); err != nil || string(raw) != "access-1" {
		t.Errorf("%s %v", raw, err)
	}
	s = newFake(t).signedIn()
	w, _ = watching(t, f, s)
	w.Path = filepath.Join(w.Path, "no", "folder")
	if err := w.Run(t.Context()); err == nil {
		t.Error("a file that cannot be written")
	}
	for range 1000 {
		if j := Jitter(); j < 0 || j >= 1 {
			t.Fatal(j)
		}
	}
}

// Bucket credentials are kept until five minutes before their end.
func TestCredentials(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	offer := func(change func(map[string]any)) {
		v := map[string]any{"name": "datasets", "provider": "minio", "access_key_id": "AKIA", "secret_access_key": "secret/+=", "session_token": "session",
			"expiration": f.clock.now().Add(time.Hour).Format(time.RFC3339), "bucket": "b", "region": "r", "endpoint": "https://minio.example", "prefix": "users/u1/"}
		change(v)
		f.api["/api/v1/storage/credentials"] = answer{status: 200, body: v}
	}
	offer(func(map[string]any) {})
	for range 3 {
		c, err := s.Credentials(t.Context(), "datasets")
		if err != nil || c.KeyID != "AKIA" || c.Prefix != "users/u1/" || !c.Expires.Equal(f.clock.now().Add(time.Hour)) {
			t.Fatalf("%+v %v", c, err)
		}
	}
	if len(f.calls) != 1 {
		t.Errorf("asked %d times", len(f.calls))
	}
	f.clock.move(56 * time.Minute)
	if _, err := s.Credentials(t.Context(), "datasets"); err != nil || len(f.calls) != 2 {
		t.Errorf("four minutes before their end: %v, asked %d times", err, len(f.calls))
	}
	for name, change := range map[string]func(map[string]any){
		"no key":             func(v map[string]any) { v["access_key_id"] = "" },
		"key with a line":    func(v map[string]any) { v["secret_access_key"] = "a\nexport PATH=/evil" },
		"escape in session":  func(v map[string]any) { v["session_token"] = "\x1b[2J" },
		"escape in endpoint": func(v map[string]any) { v["endpoint"] = "https://x\x07" },
		"expired":            func(v map[string]any) { v["expiration"] = f.clock.now().Add(-time.Second).Format(time.RFC3339) },
	} {
		offer(change)
		if c, err := s.Credentials(t.Context(), name); !errors.Is(err, ErrHostile) || c.KeyID != "" {
			t.Errorf("%s: %+v %v", name, c, err)
		}
	}
	f.api["/api/v1/storage/credentials"] = answer{status: 403, body: map[string]any{"code": "storage.denied", "message": "no"}}
	if _, err := s.Credentials(t.Context(), "denied"); err == nil || !strings.Contains(err.Error(), "storage.denied") {
		t.Error(err)
	}
}

func TestStorageToken(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	end := f.clock.now().Add(10 * time.Minute)
	for token, ok := range map[string]bool{"ey.J.x": true, "": false, "a b": false, "a\n": false} {
		f.api["/api/v1/storage/token"] = answer{status: 200, body: map[string]any{"token": token, "expiration": end.Format(time.RFC3339), "audience": "sts"}}
		got, err := f.client().StorageToken(t.Context(), "access", "datasets")
		if ok != (err == nil) || ok && (got.Value != token || !got.Expires.Equal(end)) {
			t.Errorf("%q: %+v %v", token, got, err)
		}
	}
}
