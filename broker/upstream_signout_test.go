package broker_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// Who signs out here goes on to the provider's own sign-out, which learns by the
// ID token whom it signs out and where they come back to; and back here they see
// that they are signed out (OpenID Connect RP-Initiated Logout 1.0).
func TestOIDCSignOutThere(t *testing.T) {
	t.Parallel()
	p := startOP(t, "")
	b := p.browser()
	p.enterAs(b, connectortest.Person("p1"))
	a := b.post("/signout", url.Values{"token": {field(t, tokenField, b.get("/signout"))}, "here": {"1"}})
	to := a.location().String()
	if to == "" { // a page that goes on by itself: a form's answer may not lead to another site
		_, to, _ = strings.Cut(a.Header.Get("Refresh"), "url=")
	}
	u, err := url.Parse(to)
	if err != nil || !strings.HasPrefix(to, p.op.URL+"/logout?") {
		t.Fatalf("signed out with %d to %q (%v)\n%s", a.StatusCode, to, err, a.Body)
	}
	if b.in() {
		t.Error("still in")
	}
	q := u.Query()
	if hint := claims(t, q.Get("id_token_hint")); hint["sub"] != "p1" || hint["aud"] != p.op.ClientID {
		t.Errorf("hint %v", hint)
	}
	back := q.Get("post_logout_redirect_uri")
	if back != p.URL+"/auth/idp/slo" {
		t.Errorf("back to %s", back)
	}
	if a := b.follow(b.get(back)); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/signed-out" {
		t.Errorf("back at %s with %d", a.Request.URL, a.StatusCode)
	}
}
