//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"
	"time"
)

// visitor is a person who goes wherever a site sends them.
type visitor struct{ person }

func newVisitor(t *testing.T, g *gatehouse) *visitor {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &visitor{person{t: t, issuer: g.URL, client: &http.Client{Jar: jar, Timeout: 30 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}}
}

// visit opens a page and goes on over redirects and hop pages, signing in on the
// way where a form asks for it.
func (v *visitor) visit(u, user, password string) page {
	v.t.Helper()
	a := v.send(http.MethodGet, u, nil)
	for range 25 {
		next := a.Header.Get("Location")
		if r := a.Header.Get("Refresh"); next == "" && r != "" {
			_, next, _ = strings.Cut(r, "url=")
		}
		if next != "" {
			to, err := a.Request.URL.Parse(next)
			if err != nil {
				v.t.Fatal(err)
			}
			a = v.send(http.MethodGet, to.String(), nil)
			continue
		}
		m := attemptField.FindStringSubmatch(a.Body)
		if m == nil || user == "" {
			return a
		}
		a = v.send(http.MethodPost, "/signin/local", url.Values{"username": {user}, "password": {password}, "attempt": {m[1]}})
		user = ""
	}
	v.t.Fatalf("redirects without end, last at %s", a.Request.URL)
	return a
}

// info is what mod_auth_openidc knows of the visitor.
func (v *visitor) info(rp map[string]string) (m struct {
	Access   string         `json:"access_token"`
	Refresh  string         `json:"refresh_token"`
	IDToken  map[string]any `json:"id_token"`
	UserInfo map[string]any `json:"userinfo"`
}) {
	v.t.Helper()
	a := v.send(http.MethodGet, rp["RP_INFO_URL"], nil)
	if err := json.Unmarshal([]byte(a.Body), &m); err != nil {
		v.t.Fatalf("%d %s: %v", a.StatusCode, a.Body, err)
	}
	return m
}

// Debian's libapache2-mod-auth-openidc: code with PKCE, userinfo, groups in a
// Require, refresh, a new signing key while it runs, and signing out.
func TestModAuthOpenIDC(t *testing.T) {
	port := freePorts(t, 3)
	dir := t.TempDir()
	client := `
  - client_id: %s
    client_secret: %s-secret-of-the-test
    redirect_uris: ["http://127.0.0.1:%d/protected/callback"]
    grant_types: [authorization_code, refresh_token]
    token_endpoint_auth_method: %s
    id_token_signed_response_alg: %s
    scope: openid profile email groups offline_access
    trusted: true
`
	write(t, dir, map[string]string{"config/gatehouse.yml": "clients:\n" +
		fmt.Sprintf(client, "rp-basic", "rp-basic", port, "client_secret_basic", "RS256") + fmt.Sprintf(client, "rp-post", "rp-post", port+1, "client_secret_post", "ES256")})
	g := serve(t, dir, []string{"--dev"})
	for i, c := range []struct{ id, auth, alg string }{{"rp-basic", "client_secret_basic", "RS256"}, {"rp-post", "client_secret_post", "ES256"}} {
		t.Run(c.id, func(t *testing.T) {
			rp := startPeer(t, "mod-auth-openidc", port+i, "ISSUER="+g.URL, "CLIENT_ID="+c.id, "CLIENT_SECRET="+c.id+"-secret-of-the-test",
				"SCOPE=openid profile email groups offline_access", "AUTH="+c.auth, "ID_TOKEN_ALG="+c.alg, "ADMIN_GROUP=platform-admins")
			demo := newVisitor(t, g)
			a := demo.visit(rp["RP_URL"], "demo", "demo")
			for _, want := range []string{"REMOTE_USER=", "OIDC_CLAIM_preferred_username=demo", "OIDC_CLAIM_email=demo@", "OIDC_CLAIM_groups=gpu-users"} {
				if a.StatusCode != http.StatusOK || !strings.Contains(a.Body, want) {
					t.Fatalf("the protected page lacks %s: %d\n%s", want, a.StatusCode, a.Body)
				}
			}
			first := demo.info(rp)
			if first.Access == "" || first.UserInfo["sub"] != first.IDToken["sub"] || first.UserInfo["email"] == nil || first.IDToken["nonce"] == nil {
				t.Fatalf("tokens and userinfo: %+v", first)
			}
			// Groups decide.
			if a := demo.visit(rp["RP_ADMINS_URL"], "", ""); a.StatusCode != http.StatusUnauthorized {
				t.Errorf("demo among the administrators: %d", a.StatusCode)
			}
			if a := newVisitor(t, g).visit(rp["RP_ADMINS_URL"], "admin", "admin"); a.StatusCode != http.StatusOK {
				t.Errorf("admin among the administrators: %d\n%s", a.StatusCode, a.Body)
			}
			// Refresh: other tokens, twice in a row.
			for range 2 {
				was := demo.info(rp)
				back := demo.visit(rp["RP_REDIRECT_URI"]+"?"+url.Values{"refresh": {rp["RP_URL"]}, "access_token": {was.Access}}.Encode(), "", "")
				now := demo.info(rp)
				if back.StatusCode != http.StatusOK || back.Request.URL.Query().Get("error_code") != "" || now.Access == was.Access || now.Refresh == was.Refresh {
					t.Fatalf("refresh: %d at %s\n%+v\n%+v", back.StatusCode, back.Request.URL, was, now)
				}
			}
			// A key that it has not seen.
			g.run("keys", "rotate", c.alg)
			if a := newVisitor(t, g).visit(rp["RP_URL"], "demo", "demo"); a.StatusCode != http.StatusOK {
				t.Fatalf("after a rotation of keys: %d\n%s", a.StatusCode, a.Body)
			}
			// Signed out there, the broker's session goes on; signed out here, the
			// next visit is a sign-in page.
			if a := demo.visit(rp["RP_LOGOUT_URL"], "", ""); a.StatusCode != http.StatusOK {
				t.Fatalf("sign-out there: %d", a.StatusCode)
			}
			if a := demo.visit(rp["RP_URL"], "", ""); a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "REMOTE_USER=") {
				t.Fatalf("the broker's session: %d", a.StatusCode)
			}
			demo.visit(rp["RP_LOGOUT_URL"], "", "")
			if r := demo.send(http.MethodPost, "/signout", demo.signOutForm()); r.StatusCode != http.StatusSeeOther {
				t.Fatalf("sign-out here: %d", r.StatusCode)
			}
			if a := demo.visit(rp["RP_URL"], "", ""); !attemptField.MatchString(a.Body) {
				t.Fatalf("after sign-out: %d at %s", a.StatusCode, a.Request.URL)
			}
			// Refused at the broker: the RP says so, and nobody is in.
			if a := newVisitor(t, g).visit(rp["RP_URL"], "demo", "wrong"); strings.Contains(a.Body, "REMOTE_USER=") {
				t.Error("in with a wrong password")
			}
		})
	}
}
