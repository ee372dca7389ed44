package broker_test

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
)

// ISS-2: until client and redirect URI are right nothing is sent anywhere; the
// error is a page of ours.
func TestAuthorizeErrorsThatStayHere(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	double := func(k, v string) string { return authRequest().Encode() + "&" + k + "=" + url.QueryEscape(v) }
	for name, c := range map[string]struct{ query, code string }{
		"nothing":                                    {"", "client.missing"},
		"no client_id":                               {with(authRequest(), "client_id", "").Encode(), "client.missing"},
		"two client_ids":                             {double("client_id", "demo-app"), "client.missing"},
		"unknown client":                             {with(authRequest(), "client_id", "<b>nobody").Encode(), "client.unknown"},
		"client_id in capitals":                      {with(authRequest(), "client_id", "Demo-App").Encode(), "client.unknown"},
		"no redirect_uri":                            {with(authRequest(), "redirect_uri", "").Encode(), "client.redirect"},
		"two redirect_uris":                          {double("redirect_uri", callback), "client.redirect"},
		"unregistered redirect_uri":                  {with(authRequest(), "redirect_uri", "https://evil.example/").Encode(), "client.redirect"},
		"redirect_uri of another client":             {with(authRequest(), "redirect_uri", "https://rp.example/cb").Encode(), "client.redirect"},
		"redirect_uri with more path":                {with(authRequest(), "redirect_uri", callback+"/x").Encode(), "client.redirect"},
		"redirect_uri with a query":                  {with(authRequest(), "redirect_uri", callback+"?x=1").Encode(), "client.redirect"},
		"redirect_uri with a fragment":               {with(authRequest(), "redirect_uri", callback+"#x").Encode(), "client.redirect"},
		"redirect_uri with dots":                     {with(authRequest(), "redirect_uri", "http://127.0.0.1:5555/x/../callback").Encode(), "client.redirect"},
		"redirect_uri in capitals":                   {with(authRequest(), "redirect_uri", "HTTP://127.0.0.1:5555/callback").Encode(), "client.redirect"},
		"redirect_uri with user":                     {with(authRequest(), "redirect_uri", "http://127.0.0.1:5555@evil.example/callback").Encode(), "client.redirect"},
		"another port, confidential":                 {with(authRequest(), "redirect_uri", "http://127.0.0.1:6666/callback").Encode(), "client.redirect"},
		"another port of localhost":                  {requestOf("spa", "http://localhost:6666/cb").Encode(), "client.redirect"},
		"client without redirect URIs":               {requestOf("machine", "https://machine.example/cb").Encode(), "client.redirect"},
		"bad escape":                                 {authRequest().Encode() + "&x=%zz", "invalid_request"},
		"semicolons":                                 {authRequest().Encode() + ";x=1", "invalid_request"},
		"too long":                                   {authRequest().Encode() + "&x=" + strings.Repeat("x", 8<<10), "invalid_request"},
		"error of ours even for a bad response_type": {with(authRequest(), "client_id", "nobody", "response_type", "token").Encode(), "client.unknown"},
		"error of ours even for prompt=none":         {with(authRequest(), "redirect_uri", "https://evil.example/", "prompt", "none").Encode(), "client.redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			b := h.browser()
			a := b.get("/oauth2/authorize?" + c.query)
			if a.StatusCode != http.StatusBadRequest || a.Header.Get("Location") != "" || a.Header.Get("Refresh") != "" || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || a.Header.Get("Cache-Control") != "no-store" {
				t.Fatalf("%d %v", a.StatusCode, a.Header)
			}
			if !strings.Contains(a.Body, c.code) {
				t.Errorf("the page does not say %s:\n%s", c.code, a.Body)
			}
			// The form that changes the language carries the page's own address.
			shown := backField.ReplaceAllString(a.Body, "")
			if strings.Contains(shown, "<b>nobody") || strings.Contains(shown, "evil.example") {
				t.Error("the page shows what a stranger wrote (ISS-19)")
			}
			if len(a.Header.Values("Set-Cookie")) != 0 {
				t.Errorf("a request that ended set %v", a.Header.Values("Set-Cookie"))
			}
			// The same for a program, and for a POST, by way of the GET.
			if j := h.raw(http.MethodGet, "/oauth2/authorize?"+c.query, ""); j.StatusCode != http.StatusBadRequest || j.json(t)["code"] != c.code {
				t.Errorf("as JSON: %d %s", j.StatusCode, j.Body)
			}
		})
	}
}

// RFC 6749 section 4.1.2.1, OpenID Connect Core section 3.1.2.6: everything else
// goes back to the client, with state and iss.
func TestAuthorizeErrorsThatGoBack(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.browser() // nobody is signed in, and nobody is asked
	good := authRequest().Encode()
	rep := func(k, v string) string { return with(authRequest(), k, v).Encode() }
	for name, c := range map[string]struct{ query, code string }{
		"no response_type":         {rep("response_type", ""), "invalid_request"},
		"response_type token":      {rep("response_type", "token"), "unsupported_response_type"},
		"response_type id_token":   {rep("response_type", "id_token"), "unsupported_response_type"},
		"response_type hybrid":     {rep("response_type", "code id_token"), "unsupported_response_type"},
		"response_type none":       {rep("response_type", "none"), "unsupported_response_type"},
		"two response_types":       {good + "&response_type=code", "invalid_request"},
		"response_mode fragment":   {rep("response_mode", "fragment"), "invalid_request"},
		"response_mode form_post":  {rep("response_mode", "form_post"), "invalid_request"},
		"request":                  {rep("request", "eyJhbGciOiJub25lIn0.e30."), "request_not_supported"},
		"request_uri":              {rep("request_uri", "https://rp.example/r"), "request_uri_not_supported"},
		"a PAR URN":                {rep("request_uri", "urn:ietf:params:oauth:request_uri:x"), "request_uri_not_supported"},
		"registration":             {rep("registration", "{}"), "registration_not_supported"},
		"no scope":                 {rep("scope", ""), "invalid_scope"},
		"scopes of another client": {rep("scope", "jobs:run address"), "invalid_scope"},
		"two scopes parameters":    {good + "&scope=openid", "invalid_request"},
		"two nonces":               {good + "&nonce=n-2", "invalid_request"},
		"two unknown parameters":   {good + "&x=1&x=2", "invalid_request"},
		"an empty one and another": {good + "&prompt=&prompt=login", "invalid_request"},
		"nonce too long":           {rep("nonce", strings.Repeat("n", 513)), "invalid_request"},
		"no code_challenge":        {with(authRequest(), "code_challenge", "", "code_challenge_method", "").Encode(), "invalid_request"},
		"method without challenge": {rep("code_challenge", ""), "invalid_request"},
		"no method, that is plain": {rep("code_challenge_method", ""), "invalid_request"},
		"method plain":             {rep("code_challenge_method", "plain"), "invalid_request"},
		"method in small letters":  {rep("code_challenge_method", "s256"), "invalid_request"},
		"challenge too short":      {rep("code_challenge", challenge(verifier)[:42]), "invalid_request"},
		"challenge too long":       {rep("code_challenge", challenge(verifier)+"A"), "invalid_request"},
		"challenge with padding":   {rep("code_challenge", challenge(verifier)+"="), "invalid_request"},
		"prompt none login":        {rep("prompt", "none login"), "invalid_request"},
		"prompt unknown":           {rep("prompt", "create"), "invalid_request"},
		"max_age negative":         {rep("max_age", "-1"), "invalid_request"},
		"max_age a word":           {rep("max_age", "soon"), "invalid_request"},
		"max_age too large":        {rep("max_age", "99999999999"), "invalid_request"},
		"resource unknown":         {rep("resource", "https://evil.example"), "invalid_target"},
		"resource not ours to ask": {rep("resource", h.URL), "invalid_target"},
		"two resources":            {good + "&resource=demo-api&resource=other-api", "invalid_target"},
		"id_token_hint nonsense":   {rep("id_token_hint", "x.y.z"), "invalid_request"},
		"prompt none":              {rep("prompt", "none"), "login_required"},
	} {
		t.Run(name, func(t *testing.T) {
			a := b.get("/oauth2/authorize?" + c.query)
			q := h.back(a, callback, "st&ate=")
			if q.Get("error") != c.code || q.Get("error_description") == "" || q.Has("code") {
				t.Errorf("%v, want %s", q, c.code)
			}
			for _, r := range q.Get("error_description") { // RFC 6749 section 4.1.2.1
				if r < 0x20 || r > 0x7e || r == '"' || r == '\\' {
					t.Errorf("error_description holds %q", r)
				}
			}
			// A POST ends the same way by its GET.
			p := h.raw(http.MethodPost, "/oauth2/authorize", c.query)
			if p.StatusCode != http.StatusSeeOther || !strings.HasPrefix(p.Header.Get("Location"), "/oauth2/authorize?") {
				t.Fatalf("POST: %d %v", p.StatusCode, p.Header)
			}
			if q := h.back(b.get(p.Header.Get("Location")), callback, "st&ate="); q.Get("error") != c.code {
				t.Errorf("by POST: %v, want %s", q, c.code)
			}
		})
	}
	t.Run("two states", func(t *testing.T) { // which one would be verbatim?
		if q := h.back(b.get("/oauth2/authorize?"+good+"&state=x"), callback, ""); q.Get("error") != "invalid_request" {
			t.Errorf("%v", q)
		}
	})
	t.Run("state too long", func(t *testing.T) {
		if q := h.back(b.get("/oauth2/authorize?"+rep("state", strings.Repeat("s", 2049))), callback, ""); q.Get("error") != "invalid_request" {
			t.Errorf("%v", q)
		}
	})
	t.Run("a redirect URI with a query", func(t *testing.T) {
		uri := "https://rp.example/cb?keep=1"
		q := with(authRequest(), "client_id", "plain", "redirect_uri", uri, "prompt", "none")
		if got := h.back(b.get("/oauth2/authorize?"+q.Encode()), uri, "st&ate="); got.Get("error") != "login_required" {
			t.Errorf("%v", got)
		}
	})
}

// The methods and bodies of the authorization endpoint.
func TestAuthorizeMethodsAndBodies(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	form := authRequest().Encode()
	for name, c := range map[string]struct {
		method, body string
		headers      []string
		status       int
	}{
		"PUT":                {"PUT", form, nil, http.StatusMethodNotAllowed},
		"DELETE":             {"DELETE", "", nil, http.StatusMethodNotAllowed},
		"HEAD":               {"HEAD", "", nil, http.StatusMethodNotAllowed},
		"OPTIONS":            {"OPTIONS", "", []string{"Origin", "https://spa.example"}, http.StatusMethodNotAllowed},
		"POST of JSON":       {"POST", `{"client_id":"demo-app"}`, []string{"Content-Type", "", "Content-Type", "application/json"}, http.StatusBadRequest},
		"POST of no type":    {"POST", form, []string{"Content-Type", ""}, http.StatusBadRequest},
		"POST, body huge":    {"POST", form + "&x=" + strings.Repeat("x", 65<<10), nil, http.StatusBadRequest},
		"POST, much of ours": {"POST", form + "&login_hint=" + strings.Repeat("x", 9<<10), nil, http.StatusBadRequest},
		"POST, bad escape":   {"POST", form + "&x=%zz", nil, http.StatusBadRequest},
		"POST, query alone":  {"POST", "", []string{"Content-Type", "application/x-www-form-urlencoded"}, http.StatusSeeOther},
	} {
		t.Run(name, func(t *testing.T) {
			path := "/oauth2/authorize"
			if c.status != http.StatusBadRequest {
				path += "?" + form
			}
			a := h.raw(c.method, path, c.body, c.headers...)
			if a.StatusCode != c.status {
				t.Fatalf("%d, want %d: %s", a.StatusCode, c.status, a.Body)
			}
			switch c.status {
			case http.StatusMethodNotAllowed:
				if got := strings.Join(a.Header.Values("Allow"), ", "); got != "GET, POST" {
					t.Errorf("Allow: %q", got)
				}
				if a.Header.Get("Access-Control-Allow-Origin") != "" { // ISS-17
					t.Error("the authorization endpoint answers other origins")
				}
			case http.StatusSeeOther: // the query of a POST is not looked at
				if a.Header.Get("Location") != "/oauth2/authorize?" {
					t.Errorf("to %s", a.Header.Get("Location"))
				}
			}
		})
	}
	// What a client sends for others does not count: the GET has all that is read, and no more.
	long := authRequest()
	long.Set("claims", strings.Repeat("{}", 5<<10))
	long.Add("resource", "demo-api")
	long.Add("resource", "demo-api")
	if a := h.raw("POST", "/oauth2/authorize", long.Encode()); a.StatusCode != http.StatusSeeOther {
		t.Errorf("a long POST: %d %s", a.StatusCode, a.Body)
	} else {
		got := a.location().Query()
		long.Del("claims")
		if got.Encode() != long.Encode() {
			t.Errorf("a long POST leads to %v, want %v", got, long)
		}
	}
	// SE-4: a POST reads no cookie, though there is a session.
	b := h.signedIn()
	if a := b.post("/oauth2/authorize", authRequest(), "Origin", "https://rp.example", "Sec-Fetch-Site", "cross-site"); a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(a.Header.Get("Location"), "/oauth2/authorize?") {
		t.Fatalf("a cross-site POST: %d %s", a.StatusCode, a.Header.Get("Location"))
	} else if q := h.back(b.follow(a), callback, "st&ate="); q.Get("code") == "" {
		t.Errorf("no code: %v", q)
	}
}

var backField = regexp.MustCompile(`<input type="hidden" name="back" value="/[^"<>]*">`)
