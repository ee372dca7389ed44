package userclient

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// visitor is the browser that comes back to the listener.
type visitor struct {
	t        *testing.T
	redirect *url.URL
	state    string
}

func (v *visitor) get(q url.Values, change func(*http.Request)) (int, string) {
	v.t.Helper()
	u := *v.redirect
	u.RawQuery = q.Encode()
	req, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		v.t.Fatal(err)
	}
	if change != nil {
		change(req)
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		v.t.Error(err)
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Error(err)
	}
	return resp.StatusCode, string(body)
}

// inBrowser signs in, the browser doing as visit says.
func inBrowser(t *testing.T, f *fake, visit func(v *visitor)) (Tokens, error) {
	t.Helper()
	done := make(chan struct{})
	got, err := f.client().InBrowser(t.Context(), Wanted{Scopes: []string{"openid", "email"}, Fresh: true}, Pages{Lang: "en", Title: "T", Done: "close me", Failed: "failed <here>"}, func(p Prompt) error {
		u, err := url.Parse(p.URL)
		if err != nil {
			return err
		}
		q := u.Query()
		if !strings.HasPrefix(p.URL, f.srv.URL+"/authorize?") || q.Get("client_id") != ClientID || q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" ||
			q.Get("scope") != "openid email" || q.Get("prompt") != "login" || len(q.Get("state")) < 40 || len(q.Get("nonce")) < 40 || q.Get("state") == q.Get("nonce") {
			t.Errorf("asked for %s", p.URL)
		}
		to, err := url.Parse(q.Get("redirect_uri"))
		if err != nil || to.Hostname() != "127.0.0.1" || to.Path != "/callback" || to.Port() == "" {
			t.Errorf("redirect_uri %s %v", to, err)
		}
		f.mu.Lock()
		f.challenge, f.nonce = q.Get("code_challenge"), q.Get("nonce")
		f.mu.Unlock()
		go func() {
			defer close(done)
			visit(&visitor{t, to, q.Get("state")})
		}()
		return nil
	})
	<-done
	return got, err
}

func (v *visitor) good(f *fake) url.Values {
	return url.Values{"code": {"the-code"}, "state": {v.state}, "iss": {f.srv.URL}}
}

// RFC 8252: the one right answer signs in; what strangers send to the port
// changes nothing.
func TestInBrowser(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	got, err := inBrowser(t, f, func(v *visitor) {
		for name, c := range map[string]struct {
			q      url.Values
			change func(*http.Request)
		}{
			"no state":      {url.Values{"code": {"x"}, "iss": {f.srv.URL}}, nil},
			"another state": {url.Values{"code": {"x"}, "state": {"guess"}, "iss": {f.srv.URL}}, nil},
			"state twice":   {url.Values{"code": {"x"}, "state": {v.state, v.state}, "iss": {f.srv.URL}}, nil},
			"another host":  {v.good(f), func(r *http.Request) { r.Host = "rebound.example" }},
			"another path":  {v.good(f), func(r *http.Request) { r.URL.Path = "/" }},
			"a POST":        {v.good(f), func(r *http.Request) { r.Method = http.MethodPost }},
		} {
			if status, body := v.get(c.q, c.change); status != 400 && status != 404 || strings.Contains(body, "close me") {
				t.Errorf("%s: %d %s", name, status, body)
			}
		}
		status, body := v.get(v.good(f), nil)
		if status != 200 || !strings.Contains(body, "close me") {
			t.Errorf("the answer: %d %s", status, body)
		}
	})
	if err != nil || got.Access == "" || got.Refresh == "" || got.Who.Subject != "u1" {
		t.Fatalf("%+v %v", got, err)
	}
	if len(f.requests) != 1 || f.requests[0].Get("code") != "the-code" || !strings.HasPrefix(f.requests[0].Get("redirect_uri"), "http://127.0.0.1:") {
		t.Errorf("redeemed: %v", f.requests)
	}
}

// RFC 9207 and what else ends a sign-in: with the right state and a wrong rest it
// is over, and no code goes anywhere.
func TestInBrowserRefused(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change   func(q url.Values)
		err      error
		redeemed int
	}{
		"mix-up: another iss": {func(q url.Values) { q.Set("iss", "https://evil.example") }, ErrHostile, 0},
		"no iss":              {func(q url.Values) { q.Del("iss") }, ErrHostile, 0},
		"iss twice":           {func(q url.Values) { q.Add("iss", "https://evil.example") }, ErrHostile, 0},
		"no code":             {func(q url.Values) { q.Del("code") }, ErrHostile, 0},
		"two codes":           {func(q url.Values) { q.Add("code", "other") }, ErrHostile, 0},
		"code with a line":    {func(q url.Values) { q.Set("code", "a\r\nb") }, ErrHostile, 0},
		"denied":              {func(q url.Values) { q.Del("code"); q.Set("error", "access_denied") }, ErrDenied, 0},
	} {
		f := newFake(t)
		got, err := inBrowser(t, f, func(v *visitor) {
			q := v.good(f)
			c.change(q)
			if status, body := v.get(q, nil); status != 400 || !strings.Contains(body, "failed &lt;here&gt;") {
				t.Errorf("%s: %d %s", name, status, body)
			}
		})
		if !errors.Is(err, c.err) || got.Access != "" || len(f.requests) != c.redeemed {
			t.Errorf("%s: %v, %d requests", name, err, len(f.requests))
		}
	}
	f := newFake(t)
	_, err := inBrowser(t, f, func(v *visitor) {
		f.mu.Lock()
		f.nonce = "of another sign-in"
		f.mu.Unlock()
		v.get(v.good(f), nil)
	})
	if !errors.Is(err, ErrHostile) {
		t.Errorf("an ID token of another sign-in: %v", err)
	}
}

// Whoever shows the address can call it off, and Ctrl-C ends it; the port is
// closed then.
func TestInBrowserEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	enough := errors.New("enough")
	var at string
	_, err := f.client().InBrowser(t.Context(), Wanted{}, Pages{}, func(p Prompt) error {
		u, err := url.Parse(p.URL)
		if err != nil {
			return err
		}
		at = u.Query().Get("redirect_uri")
		return enough
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
	if _, err := (&http.Client{}).Get(at); err == nil {
		t.Error("the port is still open")
	}
	ctx, cancel := context.WithCancel(t.Context())
	_, err = f.client().InBrowser(ctx, Wanted{}, Pages{}, func(Prompt) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Ctrl-C: %v", err)
	}
}
