package userclient

import (
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"
)

// An issuer is https, or http on loopback, and has one spelling.
func TestNormal(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"https://id.example.com":       "https://id.example.com",
		"id.example.com":               "https://id.example.com",
		" https://ID.example.com/ ":    "https://id.example.com",
		"https://id.example.com/sso//": "https://id.example.com/sso",
		"http://127.0.0.1:8080":        "http://127.0.0.1:8080",
		"http://localhost:8080/":       "http://localhost:8080",
		"http://[::1]:8080":            "http://[::1]:8080",
	} {
		if got, err := Normal(in); err != nil || got != want {
			t.Errorf("%q: %q %v", in, got, err)
		}
	}
	for _, in := range []string{"", "http://id.example.com", "http://127.0.0.1.example.com", "http://10.0.0.1", "ftp://id.example.com", "https://", "https://u:p@id.example.com", "https://id.example.com?x=1",
		"https://id.example.com#x", "https:id.example.com", "javascript://x", "https://id.example.com/\x1b[2J", "file:///etc/passwd"} {
		if got, err := Normal(in); !errors.Is(err, ErrIssuer) {
			t.Errorf("%q: %q %v", in, got, err)
		} else if strings.Contains(err.Error(), "\x1b") {
			t.Errorf("the error itself: %q", err)
		}
	}
}

// What is normal stays so, and nothing leaves this machine in clear.
func FuzzNormal(f *testing.F) {
	for _, s := range []string{"https://id.example.com/", "http://127.0.0.1:8080", "http://localhost", "id.example.com:8443/a", "http://[::1%25lo]:1", "https://é.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := Normal(s)
		if err != nil {
			return
		}
		if again, err := Normal(got); err != nil || again != got {
			t.Fatalf("%q became %q and then %q (%v)", s, got, again, err)
		}
		u, err := url.Parse(got)
		if err != nil || u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) || strings.HasSuffix(got, "/") {
			t.Fatalf("%q became %q", s, got)
		}
	})
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"plain":                         "plain",
		"a\x1b[31mred\x1b[0m":           "a[31mred[0m",
		"\x1b]0;title\x07x":             "]0;titlex",
		"two\r\nlines":                  "two  lines",
		"turned\u202egnp.exe":           "turnedgnp.exe",
		"zero\u200bwidth\ufeff":         "zerowidth",
		"c1\u009b31m":                   "c131m",
		"bad\xff\xfebytes":              "badbytes",
		"汉字 é":                          "汉字 é",
		strings.Repeat("x", 30) + "end": strings.Repeat("x", 20) + "…",
	} {
		if got := Printable(in, 20); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u202e\n", 5)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		got := Printable(s, limit)
		if strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) || limit >= 0 && len([]rune(got)) > limit+1 {
			t.Fatalf("%q", got)
		}
	})
}

// The certificate is checked; --ca-file adds an authority and takes none away.
func TestTLS(t *testing.T) {
	t.Parallel()
	var srv *httptest.Server
	srv = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reply(w, answer{status: 200, body: map[string]any{"issuer": srv.URL, "token_endpoint": srv.URL + "/token"}})
	}))
	defer srv.Close()
	srv.Config.ErrorLog = nil
	ask := func(ca string) error {
		c, err := New(Options{Issuer: srv.URL, CAFile: ca})
		if err != nil {
			return err
		}
		_, err = c.discover(t.Context())
		return err
	}
	if err := ask(""); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := ask(ca); err != nil {
		t.Errorf("a known one: %v", err)
	}
	if err := ask(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a missing file was taken for none")
	}
}

// An error of the server is one line without control characters, with the
// reference that finds it in the log.
func TestAnswerError(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.api["/api/v1/x"] = answer{status: 403, body: map[string]any{"error": "forbidden", "code": "policy.denied", "message": "No\x1b[31m.\nNothing", "ref": "GH-7F3K-29QD"}}
	err := f.client().API(t.Context(), "tok", http.MethodPost, "/x", map[string]string{"a": "b"}, nil)
	if err == nil || err.Error() != "No[31m. Nothing (policy.denied, reference GH-7F3K-29QD)" || errors.Is(err, ErrUnreachable) {
		t.Errorf("%v", err)
	}
	f.api["/api/v1/y"] = answer{status: 404, body: "<html>"}
	if err := f.client().API(t.Context(), "tok", http.MethodGet, "/y", nil, nil); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("%v", err)
	}
}

// A headless machine is one without a screen, or that somebody reaches from
// elsewhere.
func TestHeadless(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  map[string]string
		want bool
	}{
		"a GPU node":    {map[string]string{}, true},
		"a desktop":     {map[string]string{"DISPLAY": ":0"}, false},
		"Wayland":       {map[string]string{"WAYLAND_DISPLAY": "wayland-0"}, false},
		"X over SSH":    {map[string]string{"DISPLAY": "localhost:10.0", "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"}, true},
		"CI with xvfb":  {map[string]string{"DISPLAY": ":99", "CI": "true"}, true},
		"SSH, terminal": {map[string]string{"DISPLAY": ":0", "SSH_TTY": "/dev/pts/1"}, true},
	} {
		if got := Headless(func(k string) string { return c.env[k] }); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// A browser that fails at once is an error, one that runs is not; what is no web
// address is given to none.
func TestOpenBrowser(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, script := range map[string]string{"good": "#!/bin/sh\nprintf %s \"$1\" > " + dir + "/opened\n", "bad": "#!/bin/sh\nexit 3\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	env := func(name string) func(string) string {
		return func(k string) string {
			if k == "BROWSER" {
				return filepath.Join(dir, name)
			}
			return ""
		}
	}
	if err := OpenBrowser(t.Context(), env("good"), "https://id.example.com/device?user_code=A"); err != nil {
		t.Fatal(err)
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "opened")); err != nil || string(raw) != "https://id.example.com/device?user_code=A" {
		t.Errorf("%s %v", raw, err)
	}
	if err := OpenBrowser(t.Context(), env("bad"), "https://id.example.com/"); err == nil {
		t.Error("a browser that failed")
	}
	for _, u := range []string{"file:///etc/passwd", "--help", "javascript:alert(1)", ""} {
		if err := OpenBrowser(t.Context(), env("good"), u); !errors.Is(err, ErrHostile) {
			t.Errorf("%q: %v", u, err)
		}
	}
}
