package sentry_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/sentry"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ingest takes envelopes as Sentry does.
type ingest struct {
	*httptest.Server
	mu     sync.Mutex
	raw    []string
	events []map[string]any
	auth   string
	answer func(http.ResponseWriter) bool // instead of 200
}

func newIngest(t *testing.T) *ingest {
	t.Helper()
	in := &ingest{}
	in.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		in.mu.Lock()
		defer in.mu.Unlock()
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/prefix/api/42/envelope/" || r.Header.Get("Content-Type") != "application/x-sentry-envelope" {
			t.Errorf("%s %s %s: %v", r.Method, r.URL, r.Header, err)
		}
		in.raw, in.auth = append(in.raw, string(body)), r.Header.Get("X-Sentry-Auth")
		if in.answer != nil && in.answer(w) {
			return
		}
		lines := bufio.NewScanner(bytes.NewReader(body))
		lines.Buffer(nil, 1<<20)
		var part []map[string]any
		var size []int
		for lines.Scan() {
			var m map[string]any
			if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
				t.Errorf("not an envelope: %v", err)
			}
			part, size = append(part, m), append(size, len(lines.Bytes()))
		}
		if len(part) != 3 || part[1]["length"] != float64(size[2]) || part[0]["event_id"] != part[2]["event_id"] {
			t.Errorf("not an envelope of one event: %s", body)
			return
		}
		in.events = append(in.events, part[2])
		fmt.Fprint(w, `{"id":"1"}`)
	}))
	t.Cleanup(in.Close)
	return in
}

func (in *ingest) got() []map[string]any {
	in.mu.Lock()
	defer in.mu.Unlock()
	return append([]map[string]any(nil), in.events...)
}

func (in *ingest) text() string {
	in.mu.Lock()
	defer in.mu.Unlock()
	return strings.Join(in.raw, "\n")
}

func (in *ingest) dsn() redact.String {
	return redact.String(strings.Replace(in.URL, "://", "://public-key@", 1) + "/prefix/42")
}

// reporter is a client with its logger; stop lets it send what waits.
type reporter struct {
	*sentry.Client
	log  *slog.Logger
	own  *bytes.Buffer // what the client says of itself
	all  *bytes.Buffer // what is logged
	now  atomic.Int64  // seconds that have gone by
	stop func()
}

func report(t *testing.T, dsn redact.String) *reporter {
	t.Helper()
	hc, err := web.NewClient(web.FetchConfig{AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	r := &reporter{own: &bytes.Buffer{}, all: &bytes.Buffer{}}
	r.Client, err = sentry.New(sentry.Settings{Config: sentry.Config{DSN: dsn, TracesSampleRate: 1}, Client: hc, Version: "1.2.3",
		Log: slog.New(slog.NewTextHandler(r.own, nil)), Now: func() time.Time { return time.Now().Add(time.Duration(r.now.Load()) * time.Second) }})
	if err != nil {
		t.Fatal(err)
	}
	r.log = slog.New(r.Handler(slog.NewJSONHandler(r.all, nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = r.Run(ctx) }()
	r.stop = sync.OnceFunc(func() { cancel(); <-done; r.Close() })
	t.Cleanup(r.stop)
	return r
}

// What a report holds: our own words, the request's id, the release.
func TestReport(t *testing.T) {
	t.Parallel()
	in := newIngest(t)
	r := report(t, in.dsn())
	r.log.Info("all is well")
	r.log.Warn("a connector is unavailable", "connector", "ldap")
	r.log.Error("request failed", "request_id", "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "ref", "GH-2345-6789", "status", 500, "code", "internal", "handler", "signin method",
		"path", "/signin/secret", "err", `internal: put session "x": dial tcp 10.0.0.7:6379: i/o timeout`)
	r.log.Error("request failed", "status", 502, "code", "upstream.down", "err", "no fault of ours")
	r.log.Error("request failed", "status", 503, "code", "store.unavailable", "err", "store unavailable")
	r.log.With("connector", "acme").Error("an event was not recorded", "event", "connector.down", "err", errors.New("the store is read-only"))
	r.stop()
	got := in.got()
	if len(got) != 3 {
		t.Fatalf("%d reports: %v", len(got), got)
	}
	e := got[0]
	x := e["exception"].([]any)[0].(map[string]any)
	if x["type"] != "request failed" || x["value"] != "internal: put session [filtered] dial tcp [filtered] i/o timeout" {
		t.Errorf("%v", x)
	}
	tags := e["tags"].(map[string]any)
	if tags["request_id"] != "ABCDEFGHIJKLMNOPQRSTUVWXYZ" || tags["ref"] != "GH-2345-6789" || tags["handler"] != "signin method" || tags["path"] != nil {
		t.Errorf("%v", tags)
	}
	if e["release"] != "gatehouse@1.2.3" || e["environment"] != "production" || e["transaction"] != "signin method" || e["level"] != "error" || e["server_name"] != nil {
		t.Errorf("%v", e)
	}
	if tags := got[2]["tags"].(map[string]any); tags["connector"] != "acme" || tags["event"] != "connector.down" {
		t.Errorf("%v", tags)
	}
	if !strings.Contains(in.auth, "sentry_version=7") || !strings.Contains(in.auth, "sentry_key=public-key") {
		t.Errorf("auth %q", in.auth)
	}
	if n := strings.Count(r.all.String(), "\n"); n != 6 {
		t.Errorf("%d lines in the log", n)
	}
}

// hostile are secrets and personal data as they may stand in what goes wrong.
var hostile = map[string]string{
	"code": "SplxlOBeZQQYbYS6WxSbIA", "state": "af0ifjsldkj-state", "refresh token": "ghr_k1_G1_7_q8Jd0f", "api key": "rgpu_Ab3dEf6hIj9k_0123456789abcdefABCDEF",
	"jwt": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJsaSJ9.c2lnbmF0dXJl", "cookie": "__Host-gatehouse=9f86d081884c7d65", "password": "correct horse battery", "short password": "hunter2",
	"letters": "swordfishes", "e-mail": "li.wei@acme.example", "chinese name": "李伟", "accented": "Zoë", "saml": "PHNhbWxwOlJlc3BvbnNl", "body": `{"user":"li","pin":"nopenope"}`, "form": "username=li&password=letmeinplease",
	"dn": "uid=lisecret,ou=people", "address": "203.0.113.77", "ipv6": "2001:db8::7:77", "user in url": "rooty:tooty@", "path": "/home/liuser/private", "lines": "second-line-secret", "mixed": "aBcDeFgHiJkLmNoPqR",
}

// texts are errors that carry them, as libraries and vendors write errors.
func texts() []string {
	h := hostile
	return []string{
		`oauth2: cannot fetch token: 400 Bad Request` + "\nResponse: " + h["body"] + h["lines"],
		`Get "https://idp.example/token?code=` + h["code"] + `&state=` + h["state"] + `": context deadline exceeded`,
		`Post https://` + h["user in url"] + `idp.example/cb/` + h["mixed"] + `?SAMLResponse=` + h["saml"] + `: connection refused`,
		`bind as ` + h["dn"] + ` with password: ` + h["letters"] + `: invalid credentials`,
		`user "` + h["password"] + `" <` + h["e-mail"] + `> (` + h["chinese name"] + ` ` + h["accented"] + `) from ` + h["address"] + ` and ` + h["ipv6"],
		`Cookie: ` + h["cookie"] + `; Authorization: Bearer ` + h["jwt"], `authorization: basic ` + h["letters"], `form ` + h["form"] + ` was ` + h["body"],
		`token ` + h["refresh token"] + ` of ` + h["api key"] + ` and ` + h["short password"] + ` in ` + h["path"], `unexpected ` + h["mixed"] + ` ` + h["saml"] + ` '` + h["password"] + `' ` + "`" + h["letters"] + "`",
		`state=` + h["state"] + ` code: ` + h["code"] + ` name: ` + h["letters"],
	}
}

// ST-6: no token, cookie, code, password, address, name or body is in an envelope,
// by whatever way it came: an error's text, a panic's value, an attribute.
func TestNothingHostileIsSent(t *testing.T) {
	t.Parallel()
	in := newIngest(t)
	r := report(t, in.dsn())
	wrapped := func(text string) error {
		return fmt.Errorf("sign-in: %w", &url.Error{Op: "Get", URL: "https://idp.example/?code=" + hostile["code"], Err: errors.New(text)})
	}
	for i, text := range texts() {
		log := r.log.With("request_id", "REQUEST", "code", fmt.Sprint("internal.", i))
		log.Error("request failed", "status", 500, "err", text)
		log.Error("something failed", "err", wrapped(text), "path", text, "body", text, "user", text, "connector", text, slog.Group("code", "err", text))
		log.WithGroup("inner").Error("grouped", "err", text, "code", text)
		func() {
			defer func() {
				log.Error("panic", "request_id", "R", "value", fmt.Sprint(recover()), "stack", text)
			}()
			panic(text)
		}()
	}
	r.stop()
	sent := in.text()
	if n := len(in.got()); n < 30 {
		t.Fatalf("only %d reports", n)
	}
	for name, s := range hostile {
		for _, form := range []string{s, strings.ReplaceAll(s, `"`, `\"`), url.QueryEscape(s)} {
			if strings.Contains(sent, form) {
				t.Errorf("the envelopes hold the %s", name)
			}
		}
		for _, part := range strings.FieldsFunc(s, func(c rune) bool { return strings.ContainsRune(" =&{}\":,", c) }) {
			if len(part) > 5 && !strings.Contains("password username people", part) && strings.Contains(sent, part) {
				t.Errorf("the envelopes hold %q of the %s", part, name)
			}
		}
	}
	if !strings.Contains(sent, "context deadline exceeded") || !strings.Contains(sent, "https://idp.example") || !strings.Contains(sent, "connection refused") {
		t.Errorf("nothing useful is left:\n%s", sent)
	}
}

// A panic comes with its stack, whose innermost frame is where it happened, and
// not with its value.
func TestPanic(t *testing.T) {
	t.Parallel()
	in := newIngest(t)
	r := report(t, in.dsn())
	catch := func(f func()) {
		defer func() {
			r.log.Error("panic", "request_id", "R1", "value", fmt.Sprint(recover()), "stack", "…")
		}()
		f()
	}
	catch(explode)
	catch(func() { _ = make([]int, 0)[len(frameless)] })
	r.log.Error("request failed", "status", 500, "code", "internal", "err", "internal: panic: swordfishes")
	r.stop()
	got := in.got()
	if len(got) != 2 || strings.Contains(in.text(), "swordfish") {
		t.Fatalf("%d reports: %s", len(got), in.text())
	}
	x := got[0]["exception"].([]any)[0].(map[string]any)
	frames := x["stacktrace"].(map[string]any)["frames"].([]any)
	found := false
	for _, f := range frames {
		m := f.(map[string]any)
		found = found || m["function"] == "explode"
		if m["abs_path"] != nil || m["context_line"] != nil || m["vars"] != nil || strings.HasPrefix(fmt.Sprint(m["filename"]), "/") && strings.Contains(fmt.Sprint(m["filename"]), "home") {
			t.Errorf("a frame says too much: %v", m)
		}
	}
	if !found || got[0]["level"] != "fatal" || x["value"] != nil {
		t.Errorf("%v", got[0])
	}
	if x := got[1]["exception"].([]any)[0].(map[string]any); x["value"] != "runtime error: index out of range [filtered] with length 0" {
		t.Errorf("%v", x)
	}
}

// frameless is as long as an index that no empty list has.
var frameless = []int{1, 2, 3}

func explode() { panic("swordfishes") }

// The same fault is reported once a minute, another one at once.
func TestRepeats(t *testing.T) {
	t.Parallel()
	in := newIngest(t)
	r := report(t, in.dsn())
	for range 50 {
		r.log.Error("the disk is full", "err", "no space left")
	}
	r.log.Error("the disk is full", "err", "something else")
	r.now.Add(61)
	r.log.Error("the disk is full", "err", "no space left")
	for i := range 1000 { // kinds of faults are bounded, too
		r.log.Error(fmt.Sprint("kind ", i))
	}
	r.stop()
	if n := len(in.got()); n < 3 || n > 3+256 {
		t.Errorf("%d reports", n)
	}
	if n := strings.Count(in.text(), `"value":"no space left"`); n != 2 {
		t.Errorf("the same fault %d times", n)
	}
}

// Nobody waits for Sentry: not when it hangs, nor when the queue is full.
func TestNeverBlocks(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	}))
	defer srv.Close()
	defer close(release)
	r := report(t, redact.String(strings.Replace(srv.URL, "://", "://k@", 1)+"/1"))
	start := time.Now()
	for i := range 600 {
		if i%200 == 0 {
			r.now.Add(120)
		}
		r.log.Error(fmt.Sprint("kind ", i%200), "err", "x")
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("%v", took)
	}
	stop := time.Now()
	r.stop()
	if took := time.Since(stop); took > 5*time.Second {
		t.Errorf("the end took %v", took)
	}
}

// 429 and X-Sentry-Rate-Limits hold for as long as they say, and only for what
// they name.
func TestRateLimits(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		header map[string]string
		status int
		holds  time.Duration
	}{
		"429":         {map[string]string{"Retry-After": "30"}, 429, 30 * time.Second},
		"nonsense":    {map[string]string{"Retry-After": "soon"}, 429, 60 * time.Second},
		"errors":      {map[string]string{"X-Sentry-Rate-Limits": "40:error;default:organization, 700:transaction:key"}, 200, 40 * time.Second},
		"everything":  {map[string]string{"X-Sentry-Rate-Limits": "50::organization"}, 429, 50 * time.Second},
		"transaction": {map[string]string{"X-Sentry-Rate-Limits": "700:transaction:key"}, 200, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := newIngest(t)
			first := true
			in.answer = func(w http.ResponseWriter) bool {
				if !first {
					return false
				}
				first = false
				for k, v := range c.header {
					w.Header().Set(k, v)
				}
				w.WriteHeader(c.status)
				return true
			}
			r := report(t, in.dsn())
			r.log.Error("one")
			wait(t, func() bool { return in.text() != "" })
			time.Sleep(50 * time.Millisecond) // the answer is read
			r.now.Add(int64(c.holds/time.Second) - 1)
			r.log.Error("two")
			if c.holds == 0 {
				r.stop()
				if !strings.Contains(in.text(), "two") {
					t.Error("held back")
				}
				return
			}
			r.now.Add(2)
			r.log.Error("three")
			r.stop()
			if s := in.text(); strings.Contains(s, `"two"`) || !strings.Contains(s, `"three"`) {
				t.Errorf("sent %s", s)
			}
		})
	}
}

// Sentry's absence is said once, without the DSN.
func TestAway(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.NotFoundHandler())
	dsn := redact.String(strings.Replace(srv.URL, "://", "://s3cret-key@", 1) + "/s3cret-project")
	srv.Close()
	r := report(t, dsn)
	r.log.Error("one")
	r.log.Error("two")
	r.stop()
	if s := r.own.String(); strings.Count(s, "Sentry is not reached") != 1 || strings.Contains(s, "s3cret") {
		t.Errorf("%s", s)
	}
}

func wait(t *testing.T, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never")
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	for dsn, ok := range map[string]bool{
		"https://xxx@sentry.io/yyy": true, "http://k:s@127.0.0.1:9000/base/7": true, "https://k@o1.ingest.sentry.io/1": true,
		"https://sentry.io/yyy": false, "https://swordfish@sentry.io/": false, "https://swordfish@/1": false, "ftp://swordfish@x/1": false, "swordfish": false, "http://swordfish@:9/1": false,
	} {
		ps := sentry.Config{DSN: redact.String(dsn)}.Problems()
		if (len(ps) == 0) != ok {
			t.Errorf("%s: %v", dsn, ps)
		}
		for _, p := range ps {
			if strings.Contains(p.Error(), "swordfish") {
				t.Errorf("the complaint holds the key: %s", p.Error())
			}
		}
		_, err := sentry.New(sentry.Settings{Config: sentry.Config{DSN: redact.String(dsn)}, Client: &http.Client{}, Log: slog.New(slog.DiscardHandler), Now: time.Now})
		if !ok && (err == nil && dsn != "http://swordfish@:9/1" || err != nil && strings.Contains(err.Error(), "swordfish")) {
			t.Errorf("%s: %v", dsn, err)
		}
	}
	for _, rate := range []float64{-0.1, 1.1} {
		if ps := (sentry.Config{TracesSampleRate: rate}).Problems(); len(ps) != 1 {
			t.Errorf("%v: %v", rate, ps)
		}
	}
	if c, err := sentry.New(sentry.Settings{}); c != nil || err != nil {
		t.Errorf("%v, %v", c, err)
	}
}

// Whatever the text, what remains is bounded, of one line, and scrubbing it again
// changes nothing that matters.
func FuzzScrub(f *testing.F) {
	for _, s := range texts() {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		out := sentry.Scrub(s)
		if strings.ContainsAny(out, "\n\r\x00\"@`") || len(out) > 8<<10 {
			t.Errorf("%q of %q", out, s)
		}
		for _, c := range out {
			if c > 126 || c < 32 {
				t.Errorf("%q of %q", out, s)
			}
		}
	})
}
