package uptimekuma_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/uptimekuma"
	"github.com/remotegpu/gatehouse/broker/web"
)

const token = "SeCrEtToKeN0123456789"

// beat is what a push monitor notes.
type beat struct {
	up   bool
	msg  string
	ping int // 0: not measured
}

// kuma answers as Uptime Kuma 2.5 does: by the token in the path, any method, and
// any status but "up" means down.
type kuma struct {
	mu    sync.Mutex
	beats []beat
	say   func(http.ResponseWriter) bool // instead of an answer of its own
}

func (k *kuma) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.say != nil && k.say(w) {
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if r.URL.Path != "/api/push/"+token {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"ok":false,"msg":"Monitor not found or not active."}`)
		return
	}
	q := r.URL.Query()
	status, msg := q.Get("status"), q.Get("msg")
	if !q.Has("status") {
		status = "up"
	}
	if msg == "" {
		msg = "OK"
	}
	ping, _ := strconv.Atoi(q.Get("ping"))
	k.beats = append(k.beats, beat{status == "up", msg, ping})
	fmt.Fprint(w, `{"ok":true}`)
}

func (k *kuma) got() []beat {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]beat(nil), k.beats...)
}

func client(t *testing.T) *http.Client {
	t.Helper()
	c, err := web.NewClient(web.FetchConfig{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 2 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPush(t *testing.T) {
	t.Parallel()
	k := &kuma{}
	srv := httptest.NewServer(k)
	defer srv.Close()
	at := redact.String(srv.URL + "/api/push/" + token + "?status=up&msg=OK&ping=") // as the monitor shows it
	for _, c := range []struct {
		state uptimekuma.State
		want  beat
	}{
		{uptimekuma.State{Up: true, Message: "ready", Took: 12 * time.Millisecond}, beat{true, "ready", 12}},
		{uptimekuma.State{Up: true, Message: "ready", Took: 10 * time.Microsecond}, beat{true, "ready", 1}},
		{uptimekuma.State{Message: "store & keys: failed", Took: time.Second}, beat{false, "store & keys: failed", 1000}},
	} {
		if err := uptimekuma.Push(t.Context(), client(t), at, c.state); err != nil {
			t.Fatal(err)
		}
		all := k.got()
		if got := all[len(all)-1]; got != c.want {
			t.Errorf("noted %+v, want %+v", got, c.want)
		}
	}
}

// What goes wrong is told without the token (NO-1), and says what to do.
func TestPushErrors(t *testing.T) {
	t.Parallel()
	k := &kuma{}
	srv := httptest.NewServer(k)
	defer srv.Close()
	gone := httptest.NewServer(k)
	gone.Close()
	answers := func(code int, body string) func(http.ResponseWriter) bool {
		return func(w http.ResponseWriter) bool { w.WriteHeader(code); fmt.Fprint(w, body); return true }
	}
	for _, c := range []struct {
		url, want string
		say       func(http.ResponseWriter) bool
	}{
		{srv.URL + "/api/push/" + token + "x", "copy its push URL again", nil},
		{srv.URL + "/api/push/" + token, "answers 502", answers(502, "bad gateway "+token)},
		{srv.URL + "/api/push/" + token, "not as Uptime Kuma does", answers(200, "<html>sign in</html>")},
		{srv.URL + "/api/push/" + token, "not as Uptime Kuma does", answers(200, `{"ok":false,"msg":"`+token+`"}`)},
		{srv.URL + "/api/push/" + token, "answers 302", func(w http.ResponseWriter) bool {
			w.Header().Set("Location", "https://sso.example/"+token)
			w.WriteHeader(http.StatusFound)
			return true
		}},
		{gone.URL + "/api/push/" + token, "refused", nil},
		{"http://192.0.2.1/api/push/" + token, "outgoing.allow_private", nil},
		{"http://[::1/api/push/" + token, "is no URL", nil},
	} {
		k.say = c.say
		err := uptimekuma.Push(t.Context(), client(t), redact.String(c.url), uptimekuma.State{Up: true, Message: "ready"})
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), token) {
			t.Errorf("%q: %v", c.want, err)
		}
	}
}

// roundTrip is a client without a network, for a clock that is not real.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// It pushes at once, then every so often; a failure is logged once, and so is its
// end; a look that hangs holds one push and not the next.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &kuma{}
		var log bytes.Buffer
		looks := 0
		p, err := uptimekuma.New(uptimekuma.Settings{
			Config: uptimekuma.Config{PushURL: redact.String("https://kuma.example/api/push/" + token), Every: 30 * time.Second},
			Client: &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				k.ServeHTTP(w, r)
				return w.Result(), r.Context().Err()
			})},
			Look: func(ctx context.Context) uptimekuma.State {
				if looks++; looks == 3 {
					<-ctx.Done()
				}
				return uptimekuma.State{Up: looks != 2, Message: strconv.Itoa(looks)}
			},
			Log: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		time.Sleep(31 * time.Second)
		if got := k.got(); len(got) != 2 || !got[0].up || got[1].up || got[1].msg != "2" {
			t.Errorf("noted %+v", got)
		}
		time.Sleep(60 * time.Second) // the third look hangs, the fourth push comes all the same
		synctest.Wait()
		if n := strings.Count(log.String(), "was not told"); n != 1 || strings.Contains(log.String(), token) {
			t.Errorf("the failure was logged %d times:\n%s", n, log.String())
		}
		time.Sleep(60 * time.Second)
		cancel()
		<-done
		if got := k.got(); len(got) < 4 || !got[len(got)-1].up {
			t.Errorf("noted %+v", got)
		}
		if strings.Count(log.String(), "is told again") != 1 {
			t.Errorf("the end of the failure was not logged once:\n%s", log.String())
		}
	})
}

func TestNothingConfigured(t *testing.T) {
	t.Parallel()
	p, err := uptimekuma.New(uptimekuma.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	p.Run(t.Context()) // returns at once: the context does not end
	if _, err := uptimekuma.New(uptimekuma.Settings{Config: uptimekuma.Config{PushURL: "https://kuma.example/api/push/x"}}); err == nil {
		t.Error("made without a client")
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for url, ok := range map[string]bool{
		"https://kuma.example/api/push/" + token: true, "http://kuma:3001/base/api/push/" + token + "?status=up": true,
		"https://kuma.example/" + token: false, "ftp://kuma.example/api/push/" + token: false, "/api/push/" + token: false, "https://u:p@kuma.example/api/push/" + token: false,
	} {
		ps := uptimekuma.Config{PushURL: redact.String(url)}.Problems()
		if (len(ps) == 0) != ok {
			t.Errorf("%s: %v", url, ps)
		}
		for _, p := range ps {
			if strings.Contains(p.Error(), token) {
				t.Errorf("the complaint holds the token: %s", p.Error())
			}
		}
	}
	if ps := (uptimekuma.Config{Every: time.Second}).Problems(); len(ps) != 1 {
		t.Errorf("every second: %v", ps)
	}
}
