package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

const bearerChallenge = `Bearer realm="gatehouse"`

// RFC 6750 section 3.1, OpenID Connect Core section 5.3.3.
func TestUserInfoErrors(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	tok := h.tokens()
	access, id := tok["access_token"].(string), tok["id_token"].(string)
	noOpenID := h.grantOf(h.signedIn(), "plain-secret", requestOf("plain", "https://rp.example/cb", "scope", "profile"))["access_token"].(string)
	machine := h.raw(http.MethodPost, "/oauth2/token", "grant_type=client_credentials", "Authorization", basicAuth("machine", "machine-secret")).json(t)["access_token"].(string)
	parts := strings.Split(access, ".")
	invalid := func(text string) string {
		return bearerChallenge + `, error="invalid_token", error_description="` + text + `"`
	}
	request := func(text string) string {
		return bearerChallenge + `, error="invalid_request", error_description="` + text + `"`
	}
	notValid := invalid("The token is not valid or has expired.")
	twice := request("More than one token was sent.")
	scope := bearerChallenge + `, error="insufficient_scope", error_description="The token lacks the scope openid.", scope="openid"`
	for name, c := range map[string]struct {
		method, body  string
		headers       []string
		status        int
		code, wantWWW string
	}{
		"no token":                    {"GET", "", nil, 401, "unauthorized", bearerChallenge},
		"no token, POST":              {"POST", "x=1", nil, 401, "unauthorized", bearerChallenge},
		"another scheme":              {"GET", "", []string{"Authorization", "Basic abc"}, 401, "unauthorized", bearerChallenge},
		"token in the query":          {"GET", "", nil, 401, "unauthorized", bearerChallenge},
		"token in a GET's body":       {"GET", "access_token=" + access, nil, 401, "unauthorized", bearerChallenge},
		"token in JSON":               {"POST", `{"access_token":"` + access + `"}`, []string{"Content-Type", "", "Content-Type", "application/json"}, 401, "unauthorized", bearerChallenge},
		"Bearer alone":                {"GET", "", []string{"Authorization", "Bearer "}, 400, "invalid_request", request("The Authorization header holds no token.")},
		"two headers":                 {"GET", "", []string{"Authorization", "Bearer " + access, "Authorization", "Bearer " + access}, 400, "invalid_request", twice},
		"header and body":             {"POST", "access_token=" + access, []string{"Authorization", "Bearer " + access}, 400, "invalid_request", twice},
		"two in the body":             {"POST", "access_token=" + access + "&access_token=" + access, nil, 400, "invalid_request", request("The body is not a form with each parameter once.")},
		"a huge body":                 {"POST", "access_token=" + strings.Repeat("x", 65<<10), nil, 400, "invalid_request", request("The body is not a form with each parameter once.")},
		"nonsense":                    {"GET", "", []string{"Authorization", "Bearer x"}, 401, "invalid_token", notValid},
		"a cut signature":             {"GET", "", []string{"Authorization", "Bearer " + access[:len(access)-2]}, 401, "invalid_token", notValid},
		"no signature":                {"GET", "", []string{"Authorization", "Bearer " + parts[0] + "." + parts[1] + "."}, 401, "invalid_token", notValid},
		"an ID token":                 {"GET", "", []string{"Authorization", "Bearer " + id}, 401, "invalid_token", notValid},
		"a refresh token":             {"GET", "", []string{"Authorization", "Bearer " + tok["refresh_token"].(string)}, 401, "invalid_token", notValid},
		"a token without openid":      {"GET", "", []string{"Authorization", "Bearer " + noOpenID}, 403, "insufficient_scope", scope},
		"a client_credentials token":  {"GET", "", []string{"Authorization", "Bearer " + machine}, 403, "insufficient_scope", scope},
		"an ID token in the body":     {"POST", "access_token=" + id, nil, 401, "invalid_token", notValid},
		"PUT":                         {"PUT", "", []string{"Authorization", "Bearer " + access}, 405, "invalid_request", ""},
		"DELETE":                      {"DELETE", "", []string{"Authorization", "Bearer " + access}, 405, "invalid_request", ""},
		"HEAD is no way to ask":       {"HEAD", "", []string{"Authorization", "Bearer " + access}, 405, "", ""},
		"a token of another's realm":  {"GET", "", []string{"Authorization", "Bearer " + strings.Replace(access, parts[0], "eyJhbGciOiJub25lIn0", 1)}, 401, "invalid_token", notValid},
		"a token with spaces, twice":  {"GET", "", []string{"Authorization", "Bearer " + access + " " + access}, 401, "invalid_token", notValid},
		"a token of 17 KiB of header": {"POST", "access_token=" + strings.Repeat("x.", 9<<10), nil, 401, "invalid_token", notValid},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.raw(c.method, "/oauth2/userinfo?access_token="+access, c.body, c.headers...)
			challenged(t, a, c.wantWWW)
			if c.status == 405 && a.Header.Get("Allow") != "GET, POST" {
				t.Errorf("Allow: %q", a.Header.Get("Allow"))
			}
			if c.method == "HEAD" {
				if a.StatusCode != c.status {
					t.Error(a.StatusCode)
				}
				return
			}
			oauthError(t, a, c.status, c.code)
		})
	}
	t.Run("expired", func(t *testing.T) {
		h.wait(11 * time.Minute)
		a := h.bearer("/oauth2/userinfo", access)
		oauthError(t, a, 401, "invalid_token")
		challenged(t, a, notValid)
	})
}

// RFC 7009 section 2.2.1 and the methods of the endpoints that give JSON.
func TestRevocationErrorsAndMethods(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	demo := []string{"Authorization", basicAuth("demo-app", "demo-secret")}
	machine := h.raw(http.MethodPost, "/oauth2/token", "grant_type=client_credentials", "Authorization", basicAuth("machine", "machine-secret")).json(t)["access_token"].(string)
	for name, c := range map[string]struct {
		method, body string
		headers      []string
		status       int
		code         string
	}{
		"no token":            {"POST", "x=1", demo, 400, "invalid_request"},
		"an empty token":      {"POST", "token=", demo, 400, "invalid_request"},
		"two tokens":          {"POST", "token=a&token=b", demo, 400, "invalid_request"},
		"token in the query":  {"POST", "x=1", demo, 400, "invalid_request"},
		"JSON":                {"POST", `{"token":"x"}`, append([]string{"Content-Type", "", "Content-Type", "application/json"}, demo...), 400, "invalid_request"},
		"a huge body":         {"POST", "token=" + strings.Repeat("x", 65<<10), demo, 400, "invalid_request"},
		"a machine's token":   {"POST", "token=" + machine, []string{"Authorization", basicAuth("machine", "machine-secret")}, 400, "unsupported_token_type"},
		"GET":                 {"GET", "", demo, 405, "invalid_request"},
		"PUT":                 {"PUT", "token=x", demo, 405, "invalid_request"},
		"OPTIONS":             {"OPTIONS", "", []string{"Origin", "https://spa.example"}, 405, "invalid_request"},
		"GET of a token":      {"GET", "", demo, 405, "invalid_request"},
		"unauthenticated GET": {"GET", "", nil, 405, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.raw(c.method, "/oauth2/revoke?token=x", c.body, c.headers...)
			oauthError(t, a, c.status, c.code)
			if c.status == 405 && a.Header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", a.Header.Get("Allow"))
			}
			if a.Header.Get("Access-Control-Allow-Origin") != "" { // ISS-17
				t.Error("revocation answers other origins")
			}
		})
	}
	// What is nobody's, somebody else's or over is answered alike (RFC 7009 section 2.2).
	for name, token := range map[string]string{"nonsense": "x", "a machine's": machine, "a JWT of nobody": "a.b.c", "a refresh token of nobody": "ghr_" + strings.Repeat("A", 81)} {
		if a := h.raw("POST", "/oauth2/revoke", "token="+token, demo...); a.StatusCode != 200 || a.Body != "" || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s %v", name, a.StatusCode, a.Body, a.Header)
		}
	}
	for _, hint := range []string{"access_token", "refresh_token", "something"} { // a hint is a hint
		if a := h.raw("POST", "/oauth2/revoke", "token=x&token_type_hint="+hint, demo...); a.StatusCode != 200 {
			t.Errorf("token_type_hint %s: %d %s", hint, a.StatusCode, a.Body)
		}
	}
	for _, m := range []string{"GET", "PUT", "DELETE", "PATCH"} {
		a := h.raw(m, "/oauth2/token", "", demo...)
		oauthError(t, a, 405, "invalid_request")
		if a.Header.Get("Allow") != "POST" {
			t.Errorf("%s token: Allow %q", m, a.Header.Get("Allow"))
		}
	}
	for _, path := range []string{"/.well-known/openid-configuration", "/.well-known/oauth-authorization-server", "/oauth2/jwks"} {
		for _, m := range []string{"POST", "PUT", "DELETE", "OPTIONS"} {
			a := h.raw(m, path, "")
			if a.StatusCode != 405 || strings.Join(a.Header.Values("Allow"), ", ") != "GET, HEAD" {
				t.Errorf("%s %s: %d, Allow %q", m, path, a.StatusCode, a.Header.Values("Allow"))
			}
		}
		if a := h.raw("HEAD", path, ""); a.StatusCode != 200 || a.Body != "" {
			t.Errorf("HEAD %s: %d", path, a.StatusCode)
		}
	}
}

// Every wrong way to answer the consent page (docs/security.md ISS-12).
func TestConsentErrors(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	third := requestOf("third", "https://third.example/cb")
	page := b.follow(b.get("/oauth2/authorize?" + third.Encode()))
	path := page.Request.URL.Path
	if !strings.HasPrefix(path, "/consent/") {
		t.Fatalf("no consent page but %s", path)
	}
	token := field(t, tokenField, page)
	other := b.follow(b.get("/oauth2/authorize?" + with(third, "state", "2").Encode()))
	admin := h.browser()
	admin.enter("admin", "admin")
	good := url.Values{"token": {token}, "answer": {"allow"}}
	for name, c := range map[string]struct {
		b       *browser
		path    string
		form    url.Values
		headers []string
		status  int
		code    string
	}{
		"no token":                 {b, path, with(good, "token", ""), nil, 403, "request.form_token"},
		"a token that is none":     {b, path, with(good, "token", "x"), nil, 403, "request.form_token"},
		"a token of another page":  {b, path, with(good, "token", field(t, tokenField, other)), nil, 403, "request.form_token"},
		"no answer":                {b, path, with(good, "answer", ""), nil, 400, "invalid_request"},
		"another answer":           {b, path, with(good, "answer", "perhaps"), nil, 400, "invalid_request"},
		"two answers":              {b, path, url.Values{"token": {token}, "answer": {"deny", "allow"}}, nil, 400, "invalid_request"},
		"an unknown request":       {b, "/consent/AAAAAAAAAAAAAAAAAAAAAAAAAA", good, nil, 404, "consent.gone"},
		"no id":                    {b, "/consent/x", good, nil, 404, "consent.gone"},
		"another person":           {admin, path, good, nil, 404, "consent.gone"},
		"nobody":                   {h.browser(), path, good, nil, 404, "consent.gone"},
		"from another site":        {b, path, good, []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403, "request.cross_origin"},
		"from a sandboxed frame":   {b, path, good, []string{"Origin", "null", "Sec-Fetch-Site", ""}, 403, "request.cross_origin"},
		"a form of another type":   {b, path, good, []string{"Content-Type", "text/plain"}, 400, "invalid_request"},
		"a huge form":              {b, path, with(good, "x", strings.Repeat("x", 9<<10)), nil, 400, "invalid_request"},
		"a token of another's own": {admin, path, with(good, "token", token), nil, 404, "consent.gone"},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.b.post(c.path, c.form, append([]string{"Accept", "application/json"}, c.headers...)...)
			if a.StatusCode != c.status || a.json(t)["code"] != c.code {
				t.Errorf("%d %s, want %d %s", a.StatusCode, a.Body, c.status, c.code)
			}
		})
	}
	for _, m := range []string{"PUT", "DELETE"} {
		if a := h.raw(m, path, ""); a.StatusCode != 405 {
			t.Errorf("%s: %d", m, a.StatusCode)
		}
	}
	// After all that the answer still counts, once.
	if a := b.follow(b.post(path, good)); h.back(a, "https://third.example/cb", "st&ate=").Get("code") == "" {
		t.Error("no code")
	}
	if a := b.post(path, good, "Accept", "application/json"); a.StatusCode != 404 || a.json(t)["code"] != "consent.gone" {
		t.Errorf("a second answer: %d %s", a.StatusCode, a.Body)
	}
	if a := b.get(path); a.StatusCode != 404 {
		t.Errorf("the page of an answered request: %d", a.StatusCode)
	}
	// The second page was not answered, and is too old after ten minutes.
	h.wait(11 * time.Minute)
	if a := b.get(other.Request.URL.Path); a.StatusCode != 404 {
		t.Errorf("an old page: %d", a.StatusCode)
	}
}
