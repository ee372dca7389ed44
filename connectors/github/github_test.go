package github

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

func refusal(t *testing.T, err error, code string) *connectors.Refusal {
	t.Helper()
	var r *connectors.Refusal
	if !errors.As(err, &r) || r.Code != code || !errors.Is(err, connectors.ErrNotAllowed) {
		t.Fatalf("got %v, want the refusal %s", err, code)
	}
	return r
}

func TestSignIn(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config())
	id, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if id.Connector != "github" || id.Subject != "583231" || id.Username != "octocat" || id.Name != "The Octocat" ||
		id.Email != "octocat@example.com" || !id.EmailVerified || id.Picture == "" {
		t.Errorf("identity: %+v", id)
	}
	if id.Renewal != nil || id.Groups != nil {
		t.Errorf("without organizations there is nothing to renew and no group: %q %v", id.Renewal, id.Groups)
	}
	if got := f.revokedTokens(); !slices.Equal(got, []string{testToken}) {
		t.Errorf("revoked %v, want the token", got)
	}
	if id.Claims["email"] != "octocat@example.com" || id.Claims["email_verified"] != true || id.Claims["id"] != int64(583231) || id.Claims["two_factor_authentication"] != true {
		t.Errorf("claims: %v", id.Claims)
	}
	if f.called("GET /api/v3/user/orgs") {
		t.Error("organizations were read that nobody asked for")
	}
	if f.form.Get("redirect_uri") != callback {
		t.Errorf("redirect_uri %q", f.form.Get("redirect_uri"))
	}
}

func TestSignInSurvivesFailedRevocation(t *testing.T) {
	f := newFake(t)
	f.override["/api/v3/applications/app/token"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	if _, err := f.signIn(t.Context(), f.open(f.config())); err != nil {
		t.Fatal(err)
	}
}

func TestBegin(t *testing.T) {
	f := newFake(t)
	cfg := f.config(Organization{Name: "acme"})
	cfg.RedirectURI = "https://sso.example.com/cb"
	cfg.AuthorizeURL = f.srv.URL + "/authorize?theme=dark"
	c := f.open(cfg)
	d, err := c.Begin(t.Context(), connectors.Attempt{ID: "STATE", CallbackURL: callback, LoginHint: "octocat", ForceAuthn: true})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(d.URL)
	q := u.Query()
	for k, want := range map[string]string{
		"client_id": "app", "state": "STATE", "scope": "read:user user:email read:org", "redirect_uri": cfg.RedirectURI, "response_type": "code",
		"code_challenge_method": "S256", "login": "octocat", "prompt": "select_account", "theme": "dark",
	} {
		if q.Get(k) != want {
			t.Errorf("%s = %q, want %q", k, q.Get(k), want)
		}
	}
	if len(d.Secret) != 43 || len(q.Get("code_challenge")) != 43 || strings.Contains(d.URL, string(d.Secret)) || strings.Contains(d.URL, "s3cret") {
		t.Errorf("PKCE: %d %q", len(d.Secret), q.Get("code_challenge"))
	}
	plain, err := f.open(f.config()).Begin(t.Context(), attempt)
	if err != nil {
		t.Fatal(err)
	}
	for _, absent := range []string{"login=", "prompt=", "read%3Aorg"} {
		if strings.Contains(plain.URL[strings.Index(plain.URL, "?"):], absent) {
			t.Errorf("%s in %s", absent, plain.URL)
		}
	}
	if slices.Equal(plain.Secret, d.Secret) {
		t.Error("the verifier repeats")
	}
}

func TestPKCEIsChecked(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config())
	f.challenge = "of somebody else"
	_, err := c.Finish(t.Context(), attempt, []byte("verifier"), connectors.Return{Params: url.Values{"code": {"good"}}})
	if err == nil || !strings.Contains(err.Error(), "bad_verification_code") {
		t.Fatalf("got %v", err)
	}
	if f.form.Get("code_verifier") != "verifier" {
		t.Error("no verifier was sent")
	}
	if _, err = c.Finish(t.Context(), attempt, nil, connectors.Return{Params: url.Values{"code": {"good"}}}); err == nil {
		t.Error("finished without a verifier")
	}
}

func TestReturnedErrors(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config())
	for name, p := range map[string]url.Values{
		"cancelled": {"error": {"access_denied"}, "error_description": {"The user has denied your application access."}},
		"other":     {"error": {"redirect_uri_mismatch"}},
		"forged":    {"error": {"<script>\n" + strings.Repeat("x", 100)}},
		"none":      {},
		"twice":     {"code": {"good", "good"}},
		"long":      {"code": {strings.Repeat("x", 4096)}},
	} {
		_, err := c.Finish(t.Context(), attempt, []byte("v"), connectors.Return{Params: p})
		if err == nil || errors.Is(err, connectors.ErrCancelled) != (name == "cancelled") || strings.ContainsAny(err.Error(), "<\n") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if f.called("POST /login/oauth/access_token") {
		t.Error("a code was redeemed")
	}
}

func TestExchangeErrors(t *testing.T) {
	for name, tc := range map[string]struct {
		answer any
		want   string
		is     error
	}{
		"error with 200":     {`{"error":"bad_verification_code","error_description":"<b>secret text</b>"}`, "bad_verification_code", nil},
		"unverified e-mail":  {`{"error":"unverified_user_email"}`, "unverified_user_email", connectors.ErrNotAllowed},
		"odd error":          {`{"error":"<b>\u0007"}`, "unreadable", nil},
		"no token":           {`{"token_type":"bearer"}`, errShape.Error(), nil},
		"empty token":        {`{"access_token":"","token_type":"bearer"}`, errShape.Error(), nil},
		"token with newline": {`{"access_token":"a\r\nX: y","token_type":"bearer"}`, errShape.Error(), nil},
		"other type":         {`{"access_token":"a","token_type":"mac"}`, errShape.Error(), nil},
		"form":               {`access_token=a&token_type=bearer`, errShape.Error(), nil},
		"garbage":            {"<html>secret text", errShape.Error(), nil},
		"404":                {status(404, `{"error":"Not Found"}`, nil), "Not Found", nil},
		"404 page":           {status(404, "<html>", nil), "404", nil},
		"token with 404":     {status(404, `{"access_token":"a","token_type":"bearer"}`, nil), "404", nil},
		"redirect":           {status(307, "", map[string]string{"Location": "/api/v3/user"}), "307", nil},
		"500":                {status(500, "", nil), "500", connectors.ErrUnavailable},
		"429":                {status(429, "", nil), "429", connectors.ErrUnavailable},
		"too large":          {strings.Repeat(" ", maxBody+1), "too large", nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.override["/login/oauth/access_token"] = tc.answer
			_, err := f.signIn(t.Context(), f.open(f.config()))
			if err == nil || !strings.Contains(err.Error(), tc.want) || tc.is != nil && !errors.Is(err, tc.is) {
				t.Fatalf("got %v", err)
			}
			if tc.is == nil && (errors.Is(err, connectors.ErrNotAllowed) || errors.Is(err, connectors.ErrUnavailable)) {
				t.Errorf("got %v, want a fault", err)
			}
			if strings.Contains(err.Error(), "secret text") || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("the error quotes: %v", err)
			}
			if len(f.calls) != 1 {
				t.Errorf("went on: %v", f.calls)
			}
		})
	}
}

func status(code int, body string, header map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
	}
}

func TestEmail(t *testing.T) {
	entry := func(email string, primary, verified bool) map[string]any {
		return map[string]any{"email": email, "primary": primary, "verified": verified}
	}
	for name, tc := range map[string]struct {
		emails []map[string]any
		want   string
	}{
		"primary and verified": {[]map[string]any{entry("b@x.example", false, true), entry("a@x.example", true, true)}, "a@x.example"},
		"unverified primary":   {[]map[string]any{entry("a@x.example", true, false), entry("b@x.example", false, true)}, ""},
		"secondary":            {[]map[string]any{entry("b@x.example", false, true)}, ""},
		"none":                 {nil, ""},
		"noreply":              {[]map[string]any{entry("1+o@users.noreply.github.com", true, true)}, ""},
		"two at signs":         {[]map[string]any{entry("a@b@x.example", true, true)}, ""},
		"line break":           {[]map[string]any{entry("a@x.example\r\nBcc: b", true, true)}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.emails = tc.emails
			id, err := f.signIn(t.Context(), f.open(f.config()))
			if err != nil || id.Email != tc.want || id.EmailVerified != (tc.want != "") {
				t.Errorf("got %q %v, %v", id.Email, id.EmailVerified, err)
			}
			if id.Claims["email"] != tc.want || id.Claims["email_verified"] != (tc.want != "") {
				t.Errorf("the profile's own e-mail is a claim: %v", id.Claims)
			}
		})
	}
	t.Run("not granted", func(t *testing.T) {
		f := newFake(t)
		f.scope = "read:user"
		id, err := f.signIn(t.Context(), f.open(f.config()))
		if err != nil || id.Email != "" || f.called("GET /api/v3/user/emails") {
			t.Errorf("got %q, %v, %v", id.Email, err, f.calls)
		}
	})
}

// A server that verifies nothing: its word is taken where the operator says so,
// and goes on as not verified.
func TestUnverifiedEmail(t *testing.T) {
	f := newFake(t)
	f.emails = []map[string]any{{"email": "second@x.example", "primary": false, "verified": false}, {"email": "first@x.example", "primary": true, "verified": false}}
	cfg := f.config()
	cfg.UnverifiedEmail = true
	id, err := f.signIn(t.Context(), f.open(cfg))
	if err != nil || id.Email != "first@x.example" || id.EmailVerified || id.Claims["email_verified"] != false {
		t.Errorf("%q %v %v %v", id.Email, id.EmailVerified, id.Claims["email_verified"], err)
	}
	f.set(func() { f.emails[1]["verified"], f.revoked = true, nil })
	if id, err = f.signIn(t.Context(), f.open(cfg)); err != nil || id.Email != "first@x.example" || !id.EmailVerified {
		t.Errorf("%q %v %v", id.Email, id.EmailVerified, err)
	}
}

func TestRenamedLoginKeepsSubject(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config())
	a, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	f.set(func() { f.user["login"], f.revoked = "hubot", nil })
	b, err := f.signIn(t.Context(), c)
	if err != nil || a.Subject != b.Subject || b.Username != "hubot" {
		t.Errorf("%q %q %q %v", a.Subject, b.Subject, b.Username, err)
	}
}

func TestUpstreamTrouble(t *testing.T) {
	for name, tc := range map[string]struct {
		answer any
		is     error // nil: a fault
	}{
		"500":             {status(500, "", nil), connectors.ErrUnavailable},
		"503":             {status(503, `{"message":"down"}`, nil), connectors.ErrUnavailable},
		"primary limit":   {status(403, `{"message":"x"}`, map[string]string{"X-RateLimit-Remaining": "0"}), connectors.ErrUnavailable},
		"secondary limit": {status(403, `{"message":"x"}`, map[string]string{"Retry-After": "60"}), connectors.ErrUnavailable},
		"limit by words":  {status(403, `{"message":"You have exceeded a secondary rate limit."}`, nil), connectors.ErrUnavailable},
		"429":             {status(429, "", nil), connectors.ErrUnavailable},
		"a proxy's 403":   {status(403, "<html>", nil), connectors.ErrUnavailable},
		"hangs up": {http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}), connectors.ErrUnavailable},
		"suspended":   {status(403, `{"message":"Sorry. Your account was suspended."}`, nil), connectors.ErrNotAllowed},
		"401":         {status(401, `{"message":"Bad credentials"}`, nil), connectors.ErrNotAllowed},
		"404":         {status(404, `{"message":"Not Found"}`, nil), nil},
		"redirect":    {status(302, "", map[string]string{"Location": "/api/v3/user/emails"}), nil},
		"garbage":     {"<html>secret text", nil},
		"no id":       {`{"login":"octocat"}`, nil},
		"zero id":     {`{"id":0,"login":"octocat"}`, nil},
		"text id":     {`{"id":"583231","login":"octocat"}`, nil},
		"half an id":  {`{"id":1.5,"login":"octocat"}`, nil},
		"no login":    {`{"id":1}`, nil},
		"list":        {`[]`, nil},
		"null":        {`null`, nil},
		"deep":        {strings.Repeat("[", 20000), nil},
		"empty":       {status(200, "", nil), nil},
		"login is id": {`{"id":1,"login":7}`, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.override["/api/v3/user"] = tc.answer
			id, err := f.signIn(t.Context(), f.open(f.config()))
			if err == nil || id.Subject != "" {
				t.Fatalf("signed in: %+v", id)
			}
			for _, is := range []error{connectors.ErrUnavailable, connectors.ErrNotAllowed} {
				if errors.Is(err, is) != (is == tc.is) {
					t.Errorf("got %v, want %v", err, tc.is)
				}
			}
			if strings.Contains(err.Error(), "secret text") || strings.Contains(err.Error(), testToken) {
				t.Errorf("the error quotes: %v", err)
			}
			if len(f.revokedTokens()) != 1 {
				t.Error("the token was kept")
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	f := newFake(t)
	f.override["/login/oauth/access_token"] = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := f.signIn(ctx, f.open(f.config())); !errors.Is(err, connectors.ErrUnavailable) || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
}

// What the log says when giving back a token fails names neither it nor the secret.
func TestLogKeepsSecrets(t *testing.T) {
	f := newFake(t)
	f.override["/api/v3/applications/app/token"] = status(422, testToken, nil)
	var log strings.Builder
	c := f.open(f.config())
	c.log = slog.New(slog.NewTextHandler(&log, nil))
	if _, err := f.signIn(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "status 422") || strings.Contains(log.String(), testToken) || strings.Contains(log.String(), "s3cret") {
		t.Errorf("log: %s", log.String())
	}
}
