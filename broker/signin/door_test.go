package signin

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/local"
	"github.com/remotegpu/gatehouse/static"
	"github.com/remotegpu/gatehouse/templates"
)

// newDoor makes a Door with a store of its own, and what it logs.
func newDoor(t testing.TB, issuer string, methods ...Method) (*Door, *bytes.Buffer) {
	t.Helper()
	logged := &bytes.Buffer{}
	log := slog.New(slog.NewJSONHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(t.TempDir(), "g.db"), Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	seal, err := store.NewSealer([][]byte{bytes.Repeat([]byte{1}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(issuer)
	if err != nil {
		t.Fatal(err)
	}
	edge, err := web.New(web.Config{Issuer: u, Templates: templates.FS, Static: static.FS, Sealer: seal, Log: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	users, err := user.New(user.Config{KV: s, Bus: s, Sealer: seal, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	sessions, err := session.New(session.Config{KV: s, Bus: s, Leaser: s, Sealer: seal, Epochs: users, RefreshIdle: time.Hour, RefreshMax: time.Hour, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	events, err := event.New(event.Config{Log: s, Now: time.Now, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Config{Edge: edge, Issuer: issuer, Methods: methods, Sessions: sessions, Users: users, KV: s, Bus: s, Sealer: seal, Events: events, Now: time.Now, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	return d, logged
}

func request(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.URL.Host, r.URL.Scheme, r.Host = "", "", "id.example.com"
	r.Header.Set("Accept", "text/html")
	if body != "" {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r
}

func (d *Door) serve(h web.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	d.cfg.Edge.Middleware(d.cfg.Edge.Handle("test", h)).ServeHTTP(w, r)
	return w
}

func localMethod(t testing.TB) Method {
	t.Helper()
	hash, err := local.HashPassword("correct horse")
	if err != nil {
		t.Fatal(err)
	}
	c, err := local.Open(connectors.Env{ID: "local", Now: time.Now, Log: slog.New(slog.DiscardHandler)}, local.Config{Users: []local.User{{Username: "li", PasswordHash: redact.String(hash)}}})
	if err != nil {
		t.Fatal(err)
	}
	return Method{ID: "local", Type: "local", Name: "Local", Connector: c}
}

// SE-2: every cookie of a sign-in on https.
func TestCookiesOfASignIn(t *testing.T) {
	d, _ := newDoor(t, "https://id.example.com", localMethod(t))
	w := d.serve(func(w http.ResponseWriter, r *http.Request) error { return d.Start(w, r, "/account") }, request(http.MethodGet, "/account", ""))
	u, err := url.Parse(w.Header().Get("Location"))
	if err != nil || w.Code != http.StatusSeeOther {
		t.Fatal(w.Code, err)
	}
	form := url.Values{"username": {"li"}, "password": {"correct horse"}, "attempt": {u.Query().Get("attempt")}}
	r := request(http.MethodPost, "/signin/local", form.Encode())
	cookies := w.Result().Cookies()
	for _, c := range cookies {
		r.AddCookie(c)
	}
	w = d.serve(d.Method, r)
	if w.Code != http.StatusSeeOther || !strings.HasPrefix(w.Header().Get("Location"), "/resume/") {
		t.Fatalf("%d to %s\n%s", w.Code, w.Header().Get("Location"), w.Body)
	}
	names := map[string]bool{}
	for _, c := range append(cookies, w.Result().Cookies()...) {
		names[strings.SplitN(c.Name, "attempt-", 2)[0]] = true
		if !strings.HasPrefix(c.Name, "__Host-gatehouse") || !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("%s", c.Raw)
		}
	}
	for _, want := range []string{"__Host-gatehouse", "__Host-gatehouse-", "__Host-gatehouse-last", "__Host-gatehouse-device"} {
		if !names[want] {
			t.Errorf("no %s among %v", want, names)
		}
	}
}

// ST-5, G8: what was typed into the form is in no line of the log, whatever
// becomes of it.
func TestTypedIsNotLogged(t *testing.T) {
	d, logged := newDoor(t, "https://id.example.com", localMethod(t))
	for _, typed := range []string{"my-secret-1234", "my-secret-1234\n", "\xffmy-secret-1234", strings.Repeat("my-secret-1234", 30)} {
		w := d.serve(d.Choose, request(http.MethodGet, "/signin", ""))
		id := strings.TrimPrefix(w.Result().Cookies()[0].Name, "__Host-gatehouse-attempt-")
		for _, form := range []url.Values{
			{"username": {typed}, "password": {typed}, "attempt": {id}},
			{"username": {"li"}, "password": {typed}, "attempt": {id}},
			{"username": {typed, typed}, "password": {typed}, "attempt": {id}},
			{"username": {"li"}, "password": {"x"}, "attempt": {typed}},
		} {
			r := request(http.MethodPost, "/signin/local", form.Encode())
			r.AddCookie(w.Result().Cookies()[0])
			d.serve(d.Method, r)
		}
	}
	if strings.Contains(logged.String(), "my-secret") {
		t.Errorf("the log has it:\n%s", logged)
	}
	if !strings.Contains(logged.String(), "signin.failed") {
		t.Errorf("nothing was recorded:\n%s", logged)
	}
}

// UP-11: names of groups.
func TestGroups(t *testing.T) {
	bare, own, foreign, plain := "", "acme:", "corp:", "x-"
	for name, c := range map[string]struct {
		m        Method
		upstream string
		want     string // "" = dropped
	}{
		"prefixed by default":         {Method{ID: "acme", Type: "ldap"}, "gpu", "acme:gpu"},
		"a colon changes nothing":     {Method{ID: "acme", Type: "ldap"}, "corp:admins", "acme:corp:admins"},
		"mapped by the operator":      {Method{ID: "acme", Type: "ldap", GroupsMap: map[string]string{"gpu": "gpu-users"}}, "gpu", "gpu-users"},
		"the map is exact":            {Method{ID: "acme", Type: "ldap", GroupsMap: map[string]string{"gpu": "gpu-users"}}, "GPU", "acme:GPU"},
		"local is bare":               {Method{ID: "local", Type: "local"}, "platform-admins", "platform-admins"},
		"a second local is bare":      {Method{ID: "ops", Type: "local"}, "platform-admins", "platform-admins"},
		"local like another's word":   {Method{ID: "local", Type: "local"}, "corp:admins", ""},
		"local like a role":           {Method{ID: "local", Type: "local"}, "group:admins", ""},
		"bare by the file":            {Method{ID: "acme", Type: "ldap", GroupsPrefix: &bare}, "gpu", "gpu"},
		"bare like another's word":    {Method{ID: "acme", Type: "ldap", GroupsPrefix: &bare}, "corp:admins", ""},
		"bare like its own":           {Method{ID: "acme", Type: "ldap", GroupsPrefix: &bare}, "acme:admins", ""},
		"its own prefix, written":     {Method{ID: "acme", Type: "ldap", GroupsPrefix: &own}, "gpu", "acme:gpu"},
		"another connector's prefix":  {Method{ID: "acme", Type: "ldap", GroupsPrefix: &foreign}, "gpu", ""},
		"a prefix that is none's":     {Method{ID: "acme", Type: "ldap", GroupsPrefix: &plain}, "gpu", "x-gpu"},
		"a stranger's platform-admin": {Method{ID: "github", Type: "github"}, "platform-admins", "github:platform-admins"},
	} {
		d, _ := newDoor(t, "https://id.example.com", c.m, Method{ID: "corp", Type: "saml"})
		got := d.groups(t.Context(), &c.m, []string{c.upstream})
		if want := []string{c.want}; c.want == "" && len(got) != 0 || c.want != "" && !slices.Equal(got, want) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// UP-8, SE-11: a connector that is gone, cannot vouch any more, or vouches for
// somebody else refuses.
func TestRenewRefuses(t *testing.T) {
	d, _ := newDoor(t, "https://id.example.com", localMethod(t), Method{ID: "later", Type: "saml"})
	for _, r := range []session.Renewal{{Connector: "gone", Subject: "li"}, {Connector: "later", Subject: "li"}, {Connector: "local", Subject: "nobody"}} {
		if _, err := d.Renew(t.Context(), r); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%v: %v", r, err)
		}
	}
	if r, err := d.Renew(t.Context(), session.Renewal{Connector: "local", Subject: "li", State: []byte("1")}); err != nil || r.Subject != "li" {
		t.Errorf("%v %v", r, err)
	}
}

// LD-9: tries under way are bounded by what may still fail; who waits gets in
// when one leaves, and is refused when none is left.
func TestGate(t *testing.T) {
	g := gate{slots: map[string]*slot{}}
	var left, most, now atomic.Int32
	left.Store(3)
	var wg sync.WaitGroup
	in, refused := atomic.Int32{}, atomic.Int32{}
	for range 50 {
		wg.Go(func() {
			leave, err := g.enter(t.Context(), "k", func() int { return int(left.Load()) })
			if errors.Is(err, connectors.ErrThrottled) {
				refused.Add(1)
				return
			}
			if err != nil {
				t.Error(err)
				return
			}
			n := now.Add(1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			in.Add(1)
			time.Sleep(time.Millisecond)
			now.Add(-1)
			left.Add(-1) // each of them fails
			leave()
		})
	}
	wg.Wait()
	if in.Load() != 3 || refused.Load() != 47 || most.Load() > 3 || len(g.slots) != 0 {
		t.Errorf("%d in, %d refused, %d at once, %d slots kept", in.Load(), refused.Load(), most.Load(), len(g.slots))
	}
	// Another key does not wait; a caller who gives up leaves nothing behind.
	one, err := g.enter(t.Context(), "a", func() int { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.enter(ctx, "a", func() int { return 1 }); !errors.Is(err, connectors.ErrBusy) || !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("gave up: %v", err)
	}
	two, err := g.enter(t.Context(), "b", func() int { return 1 })
	if err != nil {
		t.Fatal(err)
	}
	one()
	two()
	if len(g.slots) != 0 {
		t.Errorf("%d slots are kept", len(g.slots))
	}
}

// UP-1: what is opened as an attempt was sealed by us for this very id.
func FuzzUnseal(f *testing.F) {
	d, _ := newDoor(f, "https://id.example.com")
	// The same in every process of the fuzzer.
	a := attempt{ID: strings.Repeat("A", 26), ReturnTo: "/account", Secret: []byte("verifier"), At: time.Unix(0, 0)}
	value, err := d.sealed(a)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.ID, value)
	f.Add(strings.Repeat("B", 26), value)
	f.Add(a.ID, base64.RawURLEncoding.EncodeToString(d.seal.Seal("device", []byte(`{"r":"/","i":"x"}`))))
	f.Add(a.ID, value[:len(value)-1]+"A")
	f.Add(a.ID, "")
	f.Add("x", value)
	f.Fuzz(func(t *testing.T, id, v string) {
		r := request(http.MethodGet, "/signin", "")
		r.Header.Set("Cookie", "__Host-gatehouse-attempt-"+id+"="+v)
		got, ok := d.open(r, id)
		if ok && (id != a.ID || got.ReturnTo != a.ReturnTo || !bytes.Equal(got.Secret, a.Secret) || got.ID != id) {
			t.Fatalf("%q opened %q as %+v", id, v, got)
		}
	})
}
