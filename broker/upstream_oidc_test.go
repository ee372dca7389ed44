package broker_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// provider is an OpenID provider beside a whole broker, whose connector `idp`
// it is; more are lines below the connector, indented by four.
type provider struct {
	*harness
	op *connectortest.OP
}

func startOP(t testing.TB, top string, more ...string) provider {
	t.Helper()
	op := connectortest.NewOP(t)
	yaml := fmt.Sprintf("%s\nconnectors:\n  - id: idp\n    type: oidc\n    issuer: %s\n    client_id: %s\n    client_secret: %s\n", top, op.URL, op.ClientID, op.ClientSecret)
	for _, l := range more {
		yaml += "    " + l + "\n"
	}
	h := start(t, yaml)
	op.Set(func() { op.Now = h.now })
	return provider{h, op}
}

// departs goes to a page that wants a sign-in and on to the provider.
func (b *browser) departs(connector string) (departure string) {
	b.h.t.Helper()
	a := b.follow(b.get("/account"))
	a = b.get("/signin/" + connector + "?attempt=" + field(b.h.t, attemptField, a))
	if a.StatusCode != http.StatusSeeOther {
		b.h.t.Fatalf("no departure: %d\n%s", a.StatusCode, a.Body)
	}
	return a.location().String()
}

func backTo(connector string, v url.Values) string {
	return "/auth/" + connector + "/callback?" + v.Encode()
}

// enterAs signs a person in by the provider.
func (p provider) enterAs(b *browser, person map[string]any) {
	p.t.Helper()
	if a := b.follow(b.get(backTo("idp", p.op.Approve(b.departs("idp"), person)))); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/account" {
		p.t.Fatalf("sign-in ended at %s with %d\n%s", a.Request.URL, a.StatusCode, a.Body)
	}
}

// groupsOf are the groups in a fresh token of the browser's.
func (b *browser) groupsOf() []string {
	b.h.t.Helper()
	var out []string
	gs, _ := claims(b.h.t, b.h.redeem(b.code(authRequest())).json(b.h.t)["access_token"])["groups"].([]any)
	for _, g := range gs {
		out = append(out, fmt.Sprint(g))
	}
	slices.Sort(out)
	return out
}

// A person comes by a provider whose claims have other names: CEL says where
// they are, groups are the connector's own, and one named like ours gives no
// right of ours (docs/security.md UP-11).
func TestOIDCSignIn(t *testing.T) {
	t.Parallel()
	p := startOP(t, `roles: {admin: ["group:platform-admins", "local:admin"]}`,
		"domains: [example.org]", "allow: '\"everybody\" in identity.groups && identity.claims.tenant == \"acme\"'",
		"claims: {groups: 'claims.roles', email: claims.mail, email_verified: 'claims.mail_ok == \"yes\"'}")
	b := p.browser()
	person := connectortest.Person("p1", "roles", []any{"everybody", "platform-admins", "local:admin"}, "mail", "p1@example.org", "mail_ok", "yes", "tenant", "acme", "email", nil, "email_verified", nil)
	p.enterAs(b, person)
	if got := b.groupsOf(); !slices.Equal(got, []string{"idp:everybody", "idp:local:admin", "idp:platform-admins"}) {
		t.Errorf("groups %v", got)
	}
	c := claims(t, p.redeem(b.code(authRequest())).json(t)["id_token"])
	if c["email"] != "p1@example.org" || c["email_verified"] != true || c["name"] != "Person p1" || c["gatehouse:connector"] != "idp" || c["sub"] == "p1" {
		t.Errorf("claims %v", c)
	}
	if roles, _ := b.me()["roles"].([]any); len(roles) != 0 {
		t.Errorf("a group named like ours gives %v", roles)
	}
	if a := b.get("/api/v1/users", "Sec-Fetch-Site", "same-origin", "Accept", "application/json"); a.StatusCode != http.StatusForbidden {
		t.Errorf("the list of users: %d", a.StatusCode)
	}
	// The rule, and an expression that fails, let nobody in.
	for name, change := range map[string]any{"tenant": "other", "roles": nil} {
		b := p.browser()
		a := b.follow(b.get(backTo("idp", p.op.Approve(b.departs("idp"), connectortest.Person("p2", "mail", "p2@example.org", "mail_ok", "yes", "roles", []any{"everybody"}, "tenant", "acme", name, change)))))
		if a.StatusCode != http.StatusForbidden || b.in() {
			t.Errorf("%s: %d", name, a.StatusCode)
		}
	}
}

// What an attacker or a broken provider brings is refused, and no account is
// touched: not made, not changed, not signed in.
func TestOIDCRefusals(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	victim := p.browser()
	p.enterAs(victim, connectortest.Person("victim"))
	pub, err := x509.MarshalPKIXPublicKey(p.op.PublicJWK().Key)
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub})
	now := func() int64 { return p.now().Unix() }
	set := func(f func(c map[string]any)) func() { return func() { p.op.Claims = f } }
	before := p.rows()
	for name, tc := range map[string]struct {
		set    func()
		change func(v url.Values)
	}{
		"wrong issuer in the answer": {nil, func(v url.Values) { v.Set("iss", "https://evil.example") }},
		"wrong issuer in the token":  {set(func(c map[string]any) { c["iss"] = "https://evil.example" }), nil},
		"another client's token":     {set(func(c map[string]any) { c["aud"] = "other" }), nil},
		"wrong nonce":                {set(func(c map[string]any) { c["nonce"] = "other" }), nil},
		"no nonce":                   {set(func(c map[string]any) { delete(c, "nonce") }), nil},
		"expired":                    {set(func(c map[string]any) { c["exp"], c["iat"] = now()-600, now()-700 }), nil},
		"alg none": {func() {
			p.op.Sign = func(h, c map[string]any) string {
				h["alg"] = "none"
				s := p.op.Own(h, c)
				return s[:strings.LastIndex(s, ".")+1]
			}
		}, nil},
		"HS256 with the public key": {func() {
			p.op.Sign = func(h, c map[string]any) string {
				h["alg"] = "HS256"
				hj, _ := json.Marshal(h)
				cj, _ := json.Marshal(c)
				in := base64.RawURLEncoding.EncodeToString(hj) + "." + base64.RawURLEncoding.EncodeToString(cj)
				m := hmac.New(sha256.New, public)
				m.Write([]byte(in))
				return in + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil))
			}
		}, nil},
		"another key":     {func() { p.op.Sign = p.op.Foreign }, nil},
		"somebody else's": {func() { p.op.UserInfo = func(c map[string]any) { c["sub"] = "victim" } }, nil},
		"forged code":     {nil, func(v url.Values) { v.Set("code", "code-0") }},
		"another's state": {nil, func(v url.Values) { v.Set("state", "AAAAAAAAAAAAAAAAAAAAAAAAA2") }},
	} {
		b := p.browser()
		v := p.op.Approve(b.departs("idp"), connectortest.Person("mallory", "email", "victim@example.org"))
		if tc.set != nil {
			p.op.Set(tc.set)
		}
		if tc.change != nil {
			tc.change(v)
		}
		a := b.get(backTo("idp", v))
		p.op.Behave()
		if b.in() || a.StatusCode == http.StatusSeeOther {
			t.Errorf("%s: %d, in: %v", name, a.StatusCode, b.in())
		}
		if tc.change == nil && strings.Contains(a.Body, "evil.example") {
			t.Errorf("%s: the page quotes the answer", name)
		}
	}
	// Codes between flows: mallory's in the victim's browser, and the victim's own
	// a second time.
	m, b := p.browser(), p.browser()
	theirs := p.op.Approve(m.departs("idp"), connectortest.Person("mallory"))
	u, err := url.Parse(b.departs("idp"))
	if err != nil {
		t.Fatal(err)
	}
	if b.get(backTo("idp", url.Values{"state": {u.Query().Get("state")}, "code": {theirs.Get("code")}})); b.in() {
		t.Error("a code of another flow signs in")
	}
	if b.get(backTo("idp", theirs)); b.in() {
		t.Error("another browser's answer signs in")
	}
	after := p.rows()
	for _, kind := range []string{"user", "identity", "session", "renewal"} {
		if before[kind] != after[kind] || kind == "user" && before[kind] == 0 {
			t.Errorf("%s: %d before, %d after", kind, before[kind], after[kind])
		}
	}
	v := p.op.Approve(b.departs("idp"), connectortest.Person("b"))
	b.get(backTo("idp", v))
	calls := p.op.Calls("/token")
	if a := p.browser().get(backTo("idp", v)); a.StatusCode != http.StatusOK || p.op.Calls("/token") != calls {
		t.Errorf("the same answer in another browser: %d, %d more redemptions", a.StatusCode, p.op.Calls("/token")-calls)
	}
	if b.get(backTo("idp", v)); p.op.Calls("/token") != calls {
		t.Error("an answer is redeemed twice")
	}
	if !victim.in() {
		t.Error("the victim was signed out by it")
	}
}

// An address that is not verified, and is another person's, leads to no account
// of theirs (docs/security.md UP-5).
func TestOIDCUnverifiedAddressOfAnother(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	victim, mallory := p.browser(), p.browser()
	p.enterAs(victim, connectortest.Person("victim", "groups", []any{"staff"}))
	v := p.op.Approve(mallory.departs("idp"), connectortest.Person("mallory", "email", "victim@example.org", "email_verified", false))
	mallory.follow(mallory.get(backTo("idp", v)))
	if mallory.in() && mallory.me()["id"] == victim.me()["id"] {
		t.Fatal("an unverified address opens another's account")
	}
	if c := claims(t, p.redeem(victim.code(authRequest())).json(t)["id_token"]); c["name"] != "Person victim" {
		t.Errorf("the victim is %v now", c["name"])
	}
}

// Groups follow at the next recheck, a locked account is out everywhere, and a
// provider that rotates its refresh tokens and then fails costs nobody the
// session (docs/security.md UP-9, SE-11).
func TestOIDCRecheck(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	p.op.Set(func() { p.op.Rotate = true })
	b := p.browser()
	p.enterAs(b, connectortest.Person("p1"))
	first := p.redeem(b.code(authRequest())).json(t)
	p.op.Change("p1", func(c map[string]any) { c["groups"] = []any{"new"} })
	p.wait(16 * time.Minute)
	second := p.refreshed(first["refresh_token"]).json(t)
	if got := fmt.Sprint(claims(t, second["access_token"])["groups"]); got != "[idp:new]" {
		t.Errorf("groups after the recheck: %s", got)
	}
	// Spent, and then userinfo is away: kept, with the new refresh token.
	p.op.Set(func() {
		p.op.Override["/userinfo"] = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	})
	p.wait(16 * time.Minute)
	a := p.refreshed(second["refresh_token"])
	if a.StatusCode != http.StatusOK {
		t.Fatalf("while the provider is away: %d %s", a.StatusCode, a.Body)
	}
	p.op.Behave()
	p.op.Change("p1", func(c map[string]any) { c["groups"] = []any{"newer"} })
	p.wait(16 * time.Minute)
	third := p.refreshed(a.json(t)["refresh_token"])
	if got := fmt.Sprint(claims(t, third.json(t)["access_token"])["groups"]); got != "[idp:newer]" {
		t.Errorf("groups after the provider came back: %s", got)
	}
	p.op.Withdraw()
	p.wait(16 * time.Minute)
	if a := p.refreshed(third.json(t)["refresh_token"]); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a locked account's refresh: %d", a.StatusCode)
	}
	if b.in() {
		t.Error("a locked account's browser is still in")
	}
}

// A provider that is away when we start is no reason not to start; its button
// leads to a page that says so, and works when it is back.
func TestOIDCProviderAway(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	p.op.Set(func() {
		p.op.Override["/.well-known/openid-configuration"] = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	})
	b := p.browser()
	a := b.follow(b.get("/account"))
	attempt := field(t, attemptField, a)
	if a = b.get("/signin/idp?attempt=" + attempt); a.StatusCode != http.StatusServiceUnavailable && a.StatusCode != http.StatusSeeOther {
		t.Errorf("away: %d", a.StatusCode)
	}
	p.op.Behave()
	p.wait(5 * time.Second)
	p.enterAs(b, connectortest.Person("p1"))
}
