//go:build e2e && full

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// keycloak is its admin API.
type keycloak struct {
	t     *testing.T
	base  string
	token string
}

func (k *keycloak) call(method, path string, body any) []byte {
	k.t.Helper()
	js, err := json.Marshal(body)
	if err != nil {
		k.t.Fatal(err)
	}
	req, err := http.NewRequest(method, k.base+"/admin/realms/test"+path, bytes.NewReader(js))
	if err != nil {
		k.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+k.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		k.t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= 300 {
		k.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, out)
	}
	return out
}

// user returns somebody's id.
func (k *keycloak) user(name string) string {
	k.t.Helper()
	var l []struct{ ID string }
	if err := json.Unmarshal(k.call(http.MethodGet, "/users?exact=true&username="+name, nil), &l); err != nil || len(l) != 1 {
		k.t.Fatalf("user %s: %v %v", name, l, err)
	}
	return l[0].ID
}

func openKeycloak(t *testing.T, vars map[string]string) *keycloak {
	t.Helper()
	resp, err := http.PostForm(vars["KEYCLOAK_URL"]+"/realms/master/protocol/openid-connect/token",
		url.Values{"grant_type": {"password"}, "client_id": {"admin-cli"}, "username": {"admin"}, "password": {"admin-pw"}})
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a struct {
		Token string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil || a.Token == "" {
		t.Fatalf("admin token: %d %v", resp.StatusCode, err)
	}
	return &keycloak{t, vars["KEYCLOAK_URL"], a.Token}
}

var keycloakForm = regexp.MustCompile(`id="kc-form-login"[^>]*action="([^"]+)"`)

// byKeycloak signs in at Keycloak's own page.
func (u *upstream) byKeycloak(p *person, v *traveller, user string) page {
	u.t.Helper()
	to := u.depart(p, "idp")
	if to == nil {
		u.t.Fatalf("no departure\n%s", u.g.out)
	}
	resp, err := v.Get(to.String())
	if err != nil {
		u.t.Fatal(err)
	}
	raw, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		u.t.Fatal(err)
	}
	if m := keycloakForm.FindSubmatch(raw); m != nil {
		if resp, err = v.PostForm(html.UnescapeString(string(m[1])), url.Values{"username": {user}, "password": {user + "-pw"}}); err != nil {
			u.t.Fatal(err)
		}
		resp.Body.Close()
	}
	back, err := resp.Location()
	if err != nil {
		u.t.Fatalf("Keycloak answered %d at %s\n%.2000s", resp.StatusCode, resp.Request.URL, raw)
	}
	return p.follow(p.send(http.MethodGet, back.String(), nil))
}

func (u *upstream) gone(p *person, within time.Duration) bool {
	u.t.Helper()
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if u.me(p) == nil {
			return true
		}
	}
	return false
}

// Keycloak, which ends everything when it sees a refresh token twice: renewals
// in a row, a membership that changes, sign-out by its administrator, and an
// account that is locked. Without offline_access: what Keycloak gives for that
// outlives its own session, so that it tells nobody of a sign-out.
func TestOIDCByKeycloak(t *testing.T) {
	u := startUpstreamAt(t, "keycloak", "/realms/test", `
sessions: {recheck: 1s, recheck_grace: 4h}
connectors:
  - {id: idp, type: oidc, issuer: ISSUER, client_id: broker, client_secret: broker-secret, scopes: [openid, profile, email]}
`)
	k := openKeycloak(t, u.vars)
	alice, browser := newPerson(t, u.g), u.traveller()
	if a := u.byKeycloak(alice, browser, "alice"); a.StatusCode != http.StatusOK {
		t.Fatalf("alice: %d\n%s", a.StatusCode, u.g.out)
	}
	me := u.me(alice)
	if me["email_verified"] != true || !strings.Contains(fmt.Sprint(me["groups"]), "idp:staff") || me["identities"].([]any)[0].(map[string]any)["subject"] != k.user("alice") {
		t.Errorf("me: %v", me)
	}
	for user, groups := range map[string]int{"bob": 1, "nomail": -1, "many": 60, "unverified": -1} {
		p := newPerson(t, u.g)
		if a := u.byKeycloak(p, u.traveller(), user); a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", user, a.StatusCode)
		} else if m := u.me(p); groups >= 0 && len(m["groups"].([]any)) != groups || user == "unverified" && m["email_verified"] == true {
			t.Errorf("%s: %v", user, m)
		}
	}
	for range 3 {
		time.Sleep(1100 * time.Millisecond)
		if u.me(alice) == nil {
			t.Fatalf("alice is out after a renewal\n%s", u.g.out)
		}
	}
	var groups []struct{ ID, Name string }
	if err := json.Unmarshal(k.call(http.MethodGet, "/users/"+k.user("alice")+"/groups", nil), &groups); err != nil {
		t.Fatal(err)
	}
	for _, g := range groups {
		if g.Name == "staff" {
			k.call(http.MethodDelete, "/users/"+k.user("alice")+"/groups/"+g.ID, nil)
		}
	}
	followed := false
	for range 50 {
		if followed = !strings.Contains(fmt.Sprint(u.me(alice)["groups"]), "idp:staff"); followed {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if !followed {
		t.Errorf("the group did not follow: %v", u.me(alice))
	}
	k.call(http.MethodPost, "/users/"+k.user("alice")+"/logout", nil)
	if !u.gone(alice, 5*time.Second) {
		log, _ := os.ReadFile(u.vars["DIR"] + "/server.log")
		t.Errorf("alice is still in after Keycloak signed her out\n%s\n%s", u.g.out, log)
	}
	bob := newPerson(t, u.g)
	u.byKeycloak(bob, u.traveller(), "bob")
	k.call(http.MethodPut, "/users/"+k.user("bob"), map[string]any{"enabled": false})
	if !u.gone(bob, 5*time.Second) {
		t.Errorf("bob is still in although he is locked\n%s", u.g.out)
	}
}
