package broker_test

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func basicAuth(id, secret string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(id+":"+secret))
}

const basicChallenge = `Basic realm="gatehouse", error="invalid_client"`

// Client authentication (RFC 6749 section 2.3, docs/security.md ISS-10), the
// same at the token endpoint and at revocation.
func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	demo := basicAuth("demo-app", "demo-secret")
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		code    string
	}{
		"none at all":                      {"", nil, 401, "invalid_client"},
		"unknown client, none":             {"client_id=nobody", nil, 401, "invalid_client"},
		"unknown client, basic":            {"", []string{"Authorization", basicAuth("nobody", "x")}, 401, "invalid_client"},
		"unknown client, post":             {"client_id=nobody&client_secret=x", nil, 401, "invalid_client"},
		"wrong secret, basic":              {"", []string{"Authorization", basicAuth("demo-app", "wrong")}, 401, "invalid_client"},
		"wrong secret, post":               {"client_id=demo-app&client_secret=wrong", nil, 401, "invalid_client"},
		"another client's secret":          {"client_id=demo-app&client_secret=plain-secret", nil, 401, "invalid_client"},
		"no secret, basic":                 {"", []string{"Authorization", basicAuth("demo-app", "")}, 401, "invalid_client"},
		"no secret, confidential":          {"client_id=demo-app", nil, 401, "invalid_client"},
		"empty secret, confidential":       {"client_id=demo-app&client_secret=", nil, 401, "invalid_client"},
		"secret without client_id":         {"client_secret=demo-secret", nil, 401, "invalid_client"},
		"basic for a client of post":       {"", []string{"Authorization", basicAuth("plain", "plain-secret")}, 401, "invalid_client"},
		"post for a client of basic":       {"client_id=basic&client_secret=" + url.QueryEscape("s:p%a c+e"), nil, 401, "invalid_client"},
		"basic, not form-encoded":          {"", []string{"Authorization", basicAuth("basic", "s:p%a c+e")}, 401, "invalid_client"},
		"secret of a public client, basic": {"", []string{"Authorization", basicAuth("spa", "x")}, 401, "invalid_client"},
		"secret of a public client, post":  {"client_id=spa&client_secret=x", nil, 401, "invalid_client"},
		"basic without a secret, public":   {"", []string{"Authorization", basicAuth("spa", "")}, 401, "invalid_client"},
		"Bearer":                           {"", []string{"Authorization", "Bearer abc"}, 401, "invalid_client"},
		"Basic and nothing":                {"", []string{"Authorization", "Basic"}, 401, "invalid_client"},
		"Basic, no base64":                 {"", []string{"Authorization", "Basic !!!"}, 401, "invalid_client"},
		"Basic, no colon":                  {"", []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("demo-app"))}, 401, "invalid_client"},
		"Basic, bad escape":                {"", []string{"Authorization", basicAuth("demo-app", "%zz")}, 401, "invalid_client"},
		"client_assertion":                 {"client_id=demo-app&client_assertion=a.b.c&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer", nil, 401, "invalid_client"},
		"client_assertion_type alone":      {"client_id=demo-app&client_assertion_type=x", nil, 401, "invalid_client"},
		"basic and post":                   {"client_id=demo-app&client_secret=demo-secret", []string{"Authorization", demo}, 400, "invalid_request"},
		"basic and assertion":              {"client_assertion=a.b.c", []string{"Authorization", demo}, 400, "invalid_request"},
		"post and assertion":               {"client_id=demo-app&client_secret=demo-secret&client_assertion=a.b.c", nil, 400, "invalid_request"},
		"two Authorization headers":        {"", []string{"Authorization", demo, "Authorization", demo}, 400, "invalid_request"},
		"client_id of another in the body": {"client_id=plain", []string{"Authorization", demo}, 400, "invalid_request"},
		"two client_ids":                   {"client_id=spa&client_id=spa", nil, 400, "invalid_request"},
		"two client_secrets":               {"client_id=demo-app&client_secret=demo-secret&client_secret=demo-secret", nil, 400, "invalid_request"},
	} {
		for _, endpoint := range []string{"/oauth2/token", "/oauth2/revoke"} {
			t.Run(name+" at "+endpoint, func(t *testing.T) {
				body := "grant_type=refresh_token&refresh_token=x&token=x"
				if c.body != "" {
					body += "&" + c.body
				}
				a := h.raw(http.MethodPost, endpoint, body, c.headers...)
				oauthError(t, a, c.status, c.code)
				if c.status == 401 { // RFC 9110 section 15.5.2
					challenged(t, a, basicChallenge)
				} else {
					challenged(t, a, "")
				}
			})
		}
	}
	// RFC 6749 section 2.3.1: the query is no place for a secret, and not looked at.
	for _, endpoint := range []string{"/oauth2/token", "/oauth2/revoke"} {
		a := h.raw(http.MethodPost, endpoint+"?client_id=demo-app&client_secret=demo-secret", "grant_type=client_credentials&token=x")
		oauthError(t, a, 401, "invalid_client")
	}
	// And what is right: each method, form-encoded in the header.
	for name, c := range map[string]struct {
		body    string
		headers []string
	}{
		"basic":                       {"", []string{"Authorization", demo}},
		"basic, small letters":        {"", []string{"Authorization", "basic" + strings.TrimPrefix(demo, "Basic")}},
		"basic and the same id":       {"client_id=demo-app", []string{"Authorization", demo}},
		"post":                        {"client_id=demo-app&client_secret=demo-secret", nil},
		"post alone":                  {"client_id=plain&client_secret=plain-secret", nil},
		"basic alone, encoded":        {"", []string{"Authorization", basicAuth("basic", url.QueryEscape("s:p%a c+e"))}},
		"none":                        {"client_id=spa", nil},
		"none, and an empty secret":   {"client_id=spa&client_secret=", nil},
		"basic, and an empty secret":  {"client_secret=", []string{"Authorization", demo}},
		"an unknown parameter":        {"client_id=spa&x=1", nil},
		"an empty parameter, doubled": {"client_id=spa&resource=&resource=", nil},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.raw(http.MethodPost, "/oauth2/revoke", strings.TrimSuffix("token=x&"+c.body, "&"), c.headers...)
			if a.StatusCode != http.StatusOK || a.Body != "" {
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
		})
	}
}

// Every wrong parameter of every grant (RFC 6749 section 5.2).
func TestTokenErrors(t *testing.T) {
	t.Parallel()
	h := start(t, oauthYAML)
	b := h.signedIn()
	code := b.code(authRequest())
	rt := h.tokens()["refresh_token"].(string)
	machine := []string{"Authorization", basicAuth("machine", "machine-secret")}
	demo := []string{"Authorization", basicAuth("demo-app", "demo-secret")}
	esc := url.QueryEscape
	redeem := "grant_type=authorization_code&code=" + code + "&redirect_uri=" + esc(callback) + "&code_verifier=" + verifier
	for name, c := range map[string]struct {
		body    string
		headers []string
		status  int
		code    string
	}{
		"no grant_type":            {"x=1", demo, 400, "invalid_request"},
		"empty grant_type":         {"grant_type=", demo, 400, "invalid_request"},
		"two grant_types":          {"grant_type=client_credentials&grant_type=client_credentials", demo, 400, "invalid_request"},
		"grant_type in the query":  {"x=1", demo, 400, "invalid_request"},
		"grant_type password":      {"grant_type=password&username=demo&password=demo", demo, 400, "unsupported_grant_type"},
		"grant_type implicit":      {"grant_type=implicit", demo, 400, "unsupported_grant_type"},
		"grant_type unknown":       {"grant_type=x", demo, 400, "unsupported_grant_type"},
		"grant_type in capitals":   {"grant_type=Client_Credentials", demo, 400, "unsupported_grant_type"},
		"a device code":            {"grant_type=" + esc("urn:ietf:params:oauth:grant-type:device_code") + "&device_code=x", demo, 400, "unauthorized_client"},
		"a token exchange":         {"grant_type=" + esc("urn:ietf:params:oauth:grant-type:token-exchange"), demo, 400, "unauthorized_client"},
		"a grant the client lacks": {"grant_type=client_credentials&client_id=spa", nil, 400, "unauthorized_client"},
		"a code of a machine":      {redeem, machine, 400, "unauthorized_client"},
		"a refresh of a machine":   {"grant_type=refresh_token&refresh_token=" + rt, machine, 400, "unauthorized_client"},

		"no code":                       {"grant_type=authorization_code&redirect_uri=" + esc(callback), demo, 400, "invalid_request"},
		"no redirect_uri":               {"grant_type=authorization_code&code=" + code, demo, 400, "invalid_request"},
		"two codes":                     {redeem + "&code=" + code, demo, 400, "invalid_request"},
		"two verifiers":                 {redeem + "&code_verifier=" + verifier, demo, 400, "invalid_request"},
		"a code that is none":           {strings.Replace(redeem, code, "nonsense", 1), demo, 400, "invalid_grant"},
		"a code that is long":           {strings.Replace(redeem, code, strings.Repeat("x", 4096), 1), demo, 400, "invalid_grant"},
		"another redirect_uri":          {strings.Replace(redeem, esc(callback), esc("http://localhost:5555/callback"), 1), demo, 400, "invalid_grant"},
		"no verifier":                   {strings.Replace(redeem, "&code_verifier="+verifier, "", 1), demo, 400, "invalid_grant"},
		"another verifier":              {strings.Replace(redeem, verifier, strings.Repeat("a", 43), 1), demo, 400, "invalid_grant"},
		"the challenge as the verifier": {strings.Replace(redeem, verifier, challenge(verifier), 1), demo, 400, "invalid_grant"},
		"a verifier too short":          {strings.Replace(redeem, verifier, verifier[:42], 1), demo, 400, "invalid_grant"},
		"a verifier too long":           {strings.Replace(redeem, verifier, strings.Repeat("a", 129), 1), demo, 400, "invalid_grant"},
		"a verifier of other letters":   {strings.Replace(redeem, verifier, strings.Repeat("*", 43), 1), demo, 400, "invalid_grant"},
		"another client's code":         {redeem + "&client_id=plain&client_secret=plain-secret", nil, 400, "invalid_grant"},
		"another resource":              {redeem + "&resource=other-api", demo, 400, "invalid_target"},
		"an unknown resource":           {redeem + "&resource=x", demo, 400, "invalid_target"},
		"two resources":                 {redeem + "&resource=demo-api&resource=other-api", demo, 400, "invalid_target"},
		"a refresh token as a code":     {strings.Replace(redeem, code, rt, 1), demo, 400, "invalid_grant"},

		"no refresh_token":               {"grant_type=refresh_token", demo, 400, "invalid_request"},
		"two refresh_tokens":             {"grant_type=refresh_token&refresh_token=a&refresh_token=b", demo, 400, "invalid_request"},
		"a refresh_token that is none":   {"grant_type=refresh_token&refresh_token=nonsense", demo, 400, "invalid_grant"},
		"a refresh_token cut off":        {"grant_type=refresh_token&refresh_token=" + rt[:len(rt)-1], demo, 400, "invalid_grant"},
		"a refresh_token that is forged": {"grant_type=refresh_token&refresh_token=" + rt[:len(rt)-4] + "AAAA", demo, 400, "invalid_grant"},
		"a code as a refresh token":      {"grant_type=refresh_token&refresh_token=" + code, demo, 400, "invalid_grant"},
		"another client's refresh_token": {"grant_type=refresh_token&refresh_token=" + rt + "&client_id=plain&client_secret=plain-secret", nil, 400, "invalid_grant"},
		"a wider scope":                  {"grant_type=refresh_token&scope=openid+deployments:write&refresh_token=" + rt, demo, 400, "invalid_scope"},
		"an unknown scope":               {"grant_type=refresh_token&scope=x&refresh_token=" + rt, demo, 400, "invalid_scope"},
		"an unknown resource, refresh":   {"grant_type=refresh_token&resource=x&refresh_token=" + rt, demo, 400, "invalid_target"},
		"two resources, refresh":         {"grant_type=refresh_token&resource=demo-api&resource=other-api&refresh_token=" + rt, demo, 400, "invalid_target"},

		"a scope that it has not":   {"grant_type=client_credentials&scope=jobs:delete", machine, 400, "invalid_scope"},
		"a person's scopes alone":   {"grant_type=client_credentials&scope=openid+email", demo, 400, "invalid_scope"},
		"two scopes":                {"grant_type=client_credentials&scope=jobs:run&scope=jobs:read", machine, 400, "invalid_request"},
		"a resource that is none":   {"grant_type=client_credentials&resource=x", machine, 400, "invalid_target"},
		"a resource of others":      {"grant_type=client_credentials&resource=demo-api", machine, 400, "invalid_target"},
		"two resources, of machine": {"grant_type=client_credentials&resource=x&resource=y", machine, 400, "invalid_target"},

		"JSON":              {`{"grant_type":"client_credentials"}`, append([]string{"Content-Type", "", "Content-Type", "application/json"}, demo...), 400, "invalid_request"},
		"multipart":         {"--x--", append([]string{"Content-Type", "", "Content-Type", "multipart/form-data; boundary=x"}, demo...), 400, "invalid_request"},
		"no content type":   {"grant_type=client_credentials", append([]string{"Content-Type", ""}, demo...), 400, "invalid_request"},
		"a bad escape":      {"grant_type=client_credentials&x=%zz", demo, 400, "invalid_request"},
		"a huge body":       {"grant_type=client_credentials&x=" + strings.Repeat("x", 64<<10), demo, 400, "invalid_request"},
		"101 parameters":    {"grant_type=client_credentials" + strings.Repeat("&x=", 100), demo, 400, "invalid_request"},
		"all in the query":  {"", append([]string{"Content-Type", "application/x-www-form-urlencoded"}, demo...), 400, "invalid_request"},
		"charset is spoken": {"grant_type=x", append([]string{"Content-Type", "", "Content-Type", "application/x-www-form-urlencoded; charset=UTF-8"}, demo...), 400, "unsupported_grant_type"},
	} {
		t.Run(name, func(t *testing.T) {
			a := h.raw(http.MethodPost, "/oauth2/token?grant_type=client_credentials&"+redeem, c.body, c.headers...)
			oauthError(t, a, c.status, c.code)
			challenged(t, a, "")
		})
	}
	// None of it has used anything up (ISS-4): both are still good.
	if a := h.redeem(code); a.StatusCode != http.StatusOK {
		t.Errorf("the code: %d %s", a.StatusCode, a.Body)
	}
	if a := h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {rt}}); a.StatusCode != http.StatusOK {
		t.Errorf("the refresh token: %d %s", a.StatusCode, a.Body)
	}
}
