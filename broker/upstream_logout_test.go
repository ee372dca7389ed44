package broker_test

import (
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// notice is a logout token of the provider's; pairs change its claims.
func (p provider) notice(pairs ...any) string {
	now := p.now()
	c := map[string]any{"iss": p.op.URL, "aud": p.op.ClientID, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "jti": "j" + now.Format(time.RFC3339Nano),
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}}
	for i := 0; i+1 < len(pairs); i += 2 {
		c[pairs[i].(string)] = pairs[i+1]
	}
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return p.op.Token("logout+jwt", c)
}

// tell sends a notice as the provider does: from server to server.
func (p provider) tell(connector, token string) answer {
	p.t.Helper()
	req, err := http.NewRequest(http.MethodPost, p.URL+"/auth/"+connector+"/backchannel-logout", strings.NewReader(url.Values{"logout_token": {token}}.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	b := p.browser()
	b.Header = http.Header{}
	return b.do(req)
}

// Who signs out at the provider is out here, in that browser, and nobody else
// is; what was granted for offline use goes on (OpenID Connect Back-Channel
// Logout 1.0 section 2.7).
func TestBackchannelLogout(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	laptop, phone, other := p.browser(), p.browser(), p.browser()
	p.enterAs(laptop, connectortest.Person("p1", "sid", "laptop"))
	p.enterAs(phone, connectortest.Person("p1", "sid", "phone"))
	p.enterAs(other, connectortest.Person("p2", "sid", "other"))
	online := p.redeem(laptop.code(online())).json(t)
	offline := p.redeem(laptop.code(authRequest())).json(t)
	// A sid with somebody else's sub names no session.
	if a := p.tell("idp", p.notice("sid", "laptop", "sub", "p2")); a.StatusCode != http.StatusOK || !laptop.in() || !other.in() {
		t.Errorf("a mismatch: %d, laptop in: %v, other in: %v", a.StatusCode, laptop.in(), other.in())
	}
	a := p.tell("idp", p.notice("sid", "laptop", "sub", "p1"))
	if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "no-store" || a.Body != "" {
		t.Errorf("a good notice: %d %q %q", a.StatusCode, a.Header.Get("Cache-Control"), a.Body)
	}
	if laptop.in() || !phone.in() || !other.in() {
		t.Errorf("by sid: laptop in: %v, phone in: %v, other in: %v", laptop.in(), phone.in(), other.in())
	}
	if a := p.bearer(p.URL+"/oauth2/userinfo", online["access_token"]); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("the browser's online token: %d", a.StatusCode)
	}
	if a := p.refreshed(offline["refresh_token"]); a.StatusCode != http.StatusOK {
		t.Errorf("the offline grant: %d %s", a.StatusCode, a.Body)
	}
	if a := p.tell("idp", p.notice("sub", "p1")); a.StatusCode != http.StatusOK || phone.in() || !other.in() {
		t.Errorf("by sub: %d, phone in: %v, other in: %v", a.StatusCode, phone.in(), other.in())
	}
	for name, n := range map[string]string{"unknown sid": p.notice("sid", "nobody's"), "unknown sub": p.notice("sub", "nobody")} {
		if a := p.tell("idp", n); a.StatusCode != http.StatusOK || !other.in() {
			t.Errorf("%s: %d, other in: %v", name, a.StatusCode, other.in())
		}
	}
}

// What is no notice of that provider's for us ends nothing and writes nothing;
// a good one counts once, of many at the same time too.
func TestBackchannelLogoutRefusals(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	b := p.browser()
	p.enterAs(b, connectortest.Person("p1", "sid", "s"))
	once := p.notice("sid", "s")
	idToken := p.op.Token("JWT", map[string]any{"iss": p.op.URL, "aud": p.op.ClientID, "sub": "p1", "sid": "s", "iat": p.now().Unix(), "exp": p.now().Unix() + 300, "jti": "x"})
	before := p.rows()
	for name, token := range map[string]string{
		"nothing": "", "nonsense": "a.b.c", "an ID token": idToken, "with a nonce": p.notice("sid", "s", "nonce", "n"), "for another": p.notice("sid", "s", "aud", "x"),
		"of another": p.notice("sid", "s", "iss", "https://evil.example"), "old": p.notice("sid", "s", "iat", p.now().Add(-time.Hour).Unix()), "no jti": p.notice("sid", "s", "jti", nil),
		"nobody": p.notice(), "foreign key": p.op.Foreign(map[string]any{"alg": "ES256", "kid": "k1"}, map[string]any{"sid": "s"}), "huge": strings.Repeat("a", 20<<10),
	} {
		if a := p.tell("idp", token); a.StatusCode != http.StatusBadRequest || a.json(t)["error"] != "invalid_request" || !b.in() {
			t.Errorf("%s: %d %s, in: %v", name, a.StatusCode, a.Body, b.in())
		}
	}
	if after := p.rows(); after["tombstone"] != before["tombstone"] || after["log of events"] != before["log of events"] {
		t.Errorf("refusals wrote: %v, then %v", before, after)
	}
	for _, connector := range []string{"local", "nobody"} {
		if a := p.tell(connector, once); a.StatusCode != http.StatusNotFound || !b.in() {
			t.Errorf("%s: %d, in: %v", connector, a.StatusCode, b.in())
		}
	}
	if a := p.browser().get("/auth/idp/backchannel-logout?logout_token=" + once); a.StatusCode != http.StatusMethodNotAllowed || !b.in() {
		t.Errorf("by GET: %d, in: %v", a.StatusCode, b.in())
	}
	// The keys away: the provider may come again with the same one.
	p.op.Set(func() {
		p.op.Override["/jwks"] = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	})
	p.restart()
	p.op.Set(func() { p.op.Now = p.now })
	if a := p.tell("idp", once); a.StatusCode != http.StatusServiceUnavailable || !b.in() {
		t.Errorf("without keys: %d, in: %v", a.StatusCode, b.in())
	}
	p.op.Behave()
	var mu sync.Mutex
	var wg sync.WaitGroup
	answers := map[int]int{}
	for range 8 {
		wg.Go(func() {
			a := p.tell("idp", once)
			mu.Lock()
			defer mu.Unlock()
			answers[a.StatusCode]++
		})
	}
	wg.Wait()
	if answers[http.StatusOK] != 1 || answers[http.StatusBadRequest] != 7 || b.in() {
		t.Errorf("the same notice 8 times: %v, in: %v", answers, b.in())
	}
	// Signed in again, the old notice ends nothing.
	p.enterAs(b, connectortest.Person("p1", "sid", "s"))
	if a := p.tell("idp", once); a.StatusCode != http.StatusBadRequest || !b.in() {
		t.Errorf("a replay: %d, in: %v", a.StatusCode, b.in())
	}
}

// A connector that may only be linked refuses here as everywhere (UP-8).
func TestBackchannelLogoutOfALinkOnlyConnector(t *testing.T) {
	t.Parallel()
	p := startOP(t, "", "link_only: true")
	if a := p.tell("idp", p.notice("sub", "p1")); a.StatusCode != http.StatusNotFound {
		t.Errorf("a notice: %d", a.StatusCode)
	}
}
