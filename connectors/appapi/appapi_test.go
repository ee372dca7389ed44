package appapi

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

// No error holds the query of an address, and no redirect takes it along.
func TestNoSecretInErrors(t *testing.T) {
	visited := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/redirect":
			http.Redirect(w, r, "/other?"+r.URL.RawQuery, http.StatusTemporaryRedirect)
		case "/other":
			visited = true
		case "/cut":
			panic(http.ErrAbortHandler)
		case "/500":
			w.WriteHeader(500)
		case "/429":
			w.WriteHeader(429)
		case "/huge":
			_, _ = w.Write(make([]byte, maxBody+1))
		}
	}))
	defer srv.Close()
	srv.Config.ErrorLog = nil
	c := NewClient("vendor", srv.Client())
	do := func(path string) (Answer, error) {
		return c.Do(t.Context(), Call{Method: http.MethodGet, URL: srv.URL + path, Query: url.Values{"corpsecret": {"hunter2"}}})
	}
	for path, unavailable := range map[string]bool{"/cut": true, "/500": true, "/429": true, "/huge": false} {
		_, err := do(path)
		if err == nil || errors.Is(err, connectors.ErrUnavailable) != unavailable || strings.Contains(err.Error(), "hunter2") || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if ans, err := do("/redirect"); err != nil || ans.Status != http.StatusTemporaryRedirect || visited {
		t.Errorf("redirect: %v %v, followed: %v", ans.Status, err, visited)
	}
	srv.Close()
	if _, err := do("/x"); !errors.Is(err, connectors.ErrUnavailable) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("closed: %v", err)
	}
	if _, err := c.Do(t.Context(), Call{Method: "GET", URL: "http://[hunter2"}); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("odd address: %v", err)
	}
}

func TestSecretIsOfOneAttempt(t *testing.T) {
	a, b := connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY2"}, connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY3"}
	s := NewSecret(a)
	if v, err := Verifier(s, a); err != nil || len(v) != 43 || len(Challenge(s)) != 43 || strings.Contains(Challenge(s), v) {
		t.Errorf("%q %v", v, err)
	}
	for _, bad := range [][]byte{nil, {}, s[:43], s[:44], s[1:], append([]byte(nil), s[:len(s)-1]...), []byte("." + a.ID)} {
		if v, err := Verifier(bad, a); err == nil {
			t.Errorf("%q is taken: %q", bad, v)
		}
	}
	if _, err := Verifier(s, b); err == nil {
		t.Error("good for another attempt")
	}
	if _, err := Verifier(s, connectors.Attempt{}); err == nil {
		t.Error("good for no attempt")
	}
	if string(NewSecret(a)) == string(s) {
		t.Error("it repeats")
	}
}

func TestValues(t *testing.T) {
	for in, want := range map[string]string{
		"a@b.example": "a@b.example", "": "", "a@b": "", "a@b@c.example": "", "a b@c.example": "", "a@b.example\r\nBcc: x": "", "<a@b.example>": "",
		`"a"@b.example`: "", "a@[1.2.3.4]": "", "張@b.example": "", "a,b@c.example": "", strings.Repeat("a", 250) + "@b.example": "",
	} {
		if got := Email(in); got != want {
			t.Errorf("e-mail %q: %q", in, got)
		}
	}
	if got := Email("", "nonsense", "x@y.example", "z@y.example"); got != "x@y.example" {
		t.Errorf("first: %q", got)
	}
	for in, want := range map[string]string{" 张三 ": "张三", "a\u202eb\x00c\r\n": "abc", "\xff\xfea": "a", strings.Repeat("张", 100): strings.Repeat("张", 85)} {
		if got := Name(in); got != want {
			t.Errorf("name %q: %q", in, got)
		}
	}
	for in, want := range map[string]bool{"ww0123": true, "": false, "a/b": false, "a b": false, "张三": false, strings.Repeat("a", 129): false} {
		if ID(in) != want {
			t.Errorf("id %q: %v", in, !want)
		}
	}
	for _, s := range []string{"http://x.example/a", "javascript:alert(1)", "https://x.example/a b", "https://" + strings.Repeat("a", 2000)} {
		if Picture(s) != "" {
			t.Errorf("picture %q", s)
		}
	}
	if c := Claims([]byte(`{"a":1,"mobile":"x"}`), nil, []byte(`[`), []byte(`{"b":2,"a":3}`)); fmt.Sprint(c) != "map[a:3 b:2]" {
		t.Errorf("claims %v", c)
	}
}

func TestReturnedCode(t *testing.T) {
	a := connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY2"}
	with := func(p url.Values) url.Values { p.Set("state", a.ID); return p }
	if code, err := ReturnedCode(a, with(url.Values{"b": {"2"}}), "a", "b"); code != "2" || err != nil {
		t.Errorf("%q %v", code, err)
	}
	for name, p := range map[string]url.Values{
		"error wins": with(url.Values{"a": {"1"}, "error": {"x"}}), "no state": {"a": {"1"}}, "other": {"a": {"1"}, "state": {"x"}},
		"empty": with(url.Values{"a": {""}, "b": {"2"}}), "two": with(url.Values{"a": {"1", "2"}}), "none": with(url.Values{}),
	} {
		if code, err := ReturnedCode(a, p, "a", "b"); err == nil {
			t.Errorf("%s: %q", name, code)
		}
	}
	if _, err := ReturnedCode(a, url.Values{"error": {"access_denied"}}, "a"); !errors.Is(err, connectors.ErrCancelled) {
		t.Errorf("%v", err)
	}
}
