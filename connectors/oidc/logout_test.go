package oidc

import (
	"maps"
	"net/url"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestBeginLogout(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	id, err := signIn(t, c, op, connectortest.Person("p1"))
	must(t, id, err)
	d, err := c.BeginLogout(t.Context(), id, "https://id.example.com/signed-out")
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(d.URL)
	if err != nil {
		t.Fatal(err)
	}
	q := u.Query()
	if u.Path != "/logout" || q.Get("client_id") != op.ClientID || q.Get("post_logout_redirect_uri") != "https://id.example.com/signed-out" {
		t.Errorf("departure to %s", d.URL)
	}
	if hint, err := unverified(q.Get("id_token_hint")); err != nil || hint.subject != "p1" {
		t.Errorf("hint of %q, %v", hint.subject, err)
	}
	id.Renewal = nil
	if d, err = c.BeginLogout(t.Context(), id, ""); err != nil || d.URL == "" {
		t.Errorf("without a renewal: %q %v", d.URL, err)
	}
	op.Set(func() { op.Metadata = func(m map[string]any) { delete(m, "end_session_endpoint") } })
	if d, err = open(t, op, nil, nil).BeginLogout(t.Context(), id, ""); err != nil || d.URL != "" {
		t.Errorf("a provider without sign-out: %q %v", d.URL, err)
	}
}

const logoutEvent = "http://schemas.openid.net/event/backchannel-logout"

// OpenID Connect Back-Channel Logout 1.0 section 2.6, a check by a case.
func TestVerifyLogout(t *testing.T) {
	op := connectortest.NewOP(t)
	c := open(t, op, nil, nil)
	now := time.Now()
	good := map[string]any{"iss": op.URL, "aud": op.ClientID, "iat": now.Unix(), "exp": now.Add(2 * time.Minute).Unix(), "jti": "j1", "sub": "p1", "sid": "s-p1",
		"events": map[string]any{logoutEvent: map[string]any{}}}
	n, err := c.VerifyLogout(t.Context(), op.Token("logout+jwt", good))
	if err != nil || n.ID != "j1" || n.Subject != "p1" || n.Session != "s-p1" || n.Expires.Before(now) {
		t.Fatalf("notice %+v %v", n, err)
	}
	with := func(pairs ...any) map[string]any {
		m := maps.Clone(good)
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i+1] == nil {
				delete(m, pairs[i].(string))
			} else {
				m[pairs[i].(string)] = pairs[i+1]
			}
		}
		return m
	}
	for name, m := range map[string]map[string]any{"sid alone": with("sub", nil), "sub alone": with("sid", nil), "aud a list": with("aud", []string{op.ClientID})} {
		if _, err := c.VerifyLogout(t.Context(), op.Token("logout+jwt", m)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, m := range map[string]map[string]any{
		"another iss": with("iss", "https://evil.example"), "another aud": with("aud", "x"), "no aud": with("aud", nil), "no iat": with("iat", nil),
		"old": with("iat", now.Add(-time.Hour).Unix()), "to come": with("iat", now.Add(time.Hour).Unix()), "expired": with("exp", now.Add(-2*time.Minute).Unix()),
		"no exp": with("exp", nil), "for a year": with("exp", now.Add(365*24*time.Hour).Unix()), "no jti": with("jti", nil), "nobody": with("sub", nil, "sid", nil),
		"nonce": with("nonce", "n"), "empty nonce": with("nonce", ""), "no events": with("events", nil), "another event": with("events", map[string]any{"x": map[string]any{}}),
	} {
		if n, err := c.VerifyLogout(t.Context(), op.Token("logout+jwt", m)); err == nil {
			t.Errorf("%s: %+v", name, n)
		}
	}
	for name, raw := range map[string]string{
		"an access token": op.Token("at+jwt", good), "a foreign key": op.Foreign(map[string]any{"alg": "ES256", "kid": op.PublicJWK().KeyID}, good),
		"nothing": "", "nonsense": "a.b.c", "none": op.Own(map[string]any{"alg": "none"}, good),
	} {
		if n, err := c.VerifyLogout(t.Context(), raw); err == nil {
			t.Errorf("%s: %+v", name, n)
		}
	}
	// An ID token is no logout token, and the reverse.
	if _, err := c.verify(t.Context(), &provider{Issuer: op.URL, JWKS: op.URL + "/jwks"}, op.Token("logout+jwt", good), expect{mustNonce: true, nonce: "n"}); err == nil {
		t.Error("a logout token signs somebody in")
	}
}
