package connectortest

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

type ctx = context.Context

// Redirect is a connector that sends the browser away, and its upstream.
type Redirect struct {
	Connector connectors.RedirectConnector
	// Upstream is what happens there: somebody who may sign in does so, and the
	// browser brings this back.
	Upstream func(connectors.Departure) connectors.Return
	Troubles []Trouble
	// NoPKCE: the upstream takes no parameter that it has not documented, PKCE's
	// among them (WeCom). The answer is bound to its attempt all the same.
	NoPKCE bool
}

const callback = "https://id.example.com/auth/test/callback"

func attempt(id string) connectors.Attempt {
	return connectors.Attempt{ID: id, CallbackURL: callback}
}

const (
	first  = "AAAAAAAAAAAAAAAAAAAAAAAAA2"
	second = "BBBBBBBBBBBBBBBBBBBBBBBBB3"
)

// Run runs the suite.
func (s Redirect) Run(t *testing.T) {
	t.Run("departure", s.departure)
	begin := func(t *testing.T, id string) connectors.Departure {
		t.Helper()
		d, err := s.Connector.Begin(t.Context(), attempt(id))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := begin(t, first)
	back := s.Upstream(d)
	right, err := s.Connector.Finish(t.Context(), attempt(first), d.Secret, back)
	if err != nil {
		t.Fatalf("nobody gets in: %v", err)
	}
	code := back.Params.Get("code")
	identity(t, right, code, string(d.Secret))

	// The same answer again is for the upstream to refuse, and for us to bear.
	t.Run("replay", func(t *testing.T) {
		id, err := s.Connector.Finish(t.Context(), attempt(first), d.Secret, back)
		nobody(t, id, err, code, string(d.Secret))
	})
	// The answer to one departure is no good with the secret of another: whoever
	// slips somebody their own code gets nowhere (docs/security.md UP-1, UP-3).
	t.Run("bound to its attempt", func(t *testing.T) {
		mine, theirs := begin(t, first), begin(t, second)
		back := s.Upstream(theirs)
		for name, secret := range map[string][]byte{"mine": mine.Secret, "none": nil, "empty": {}, "cut": theirs.Secret[:len(theirs.Secret)-1], "nonsense": []byte("nonsense")} {
			id, err := s.Connector.Finish(t.Context(), attempt(second), secret, back)
			if err == nil {
				t.Errorf("%s: signed in as %s", name, id.Subject)
			}
			back = s.Upstream(theirs) // the upstream may have spent the code
		}
	})
	t.Run("odd answers", func(t *testing.T) {
		for name, p := range map[string]url.Values{
			"nothing": {}, "empty code": {"code": {""}}, "two codes": {"code": {code, "another"}}, "code and error": {"code": {code}, "error": {"server_error"}},
			"error": {"error": {"server_error"}}, "markup": {"error": {"<script>alert(1)</script>"}, "error_description": {"<b>forged</b>"}}, "lines": {"error": {"a\r\nb"}},
			"huge": {"code": {strings.Repeat("a", 1<<20)}},
		} {
			p.Set("state", second)
			d := begin(t, second)
			id, err := s.Connector.Finish(t.Context(), attempt(second), d.Secret, connectors.Return{Method: "GET", Params: p})
			if err == nil || id.Subject != "" || errors.Is(err, connectors.ErrCancelled) {
				t.Errorf("%s: %q %v", name, id.Subject, err)
			} else if strings.ContainsAny(err.Error(), "<\r\n") || strings.Contains(err.Error(), "forged") || len(err.Error()) > 1000 {
				t.Errorf("%s: the error quotes a stranger: %.100q", name, err)
			}
		}
		_, err := s.Connector.Finish(t.Context(), attempt(second), begin(t, second).Secret, connectors.Return{Method: "GET", Params: url.Values{"error": {"access_denied"}, "state": {second}}})
		if !errors.Is(err, connectors.ErrCancelled) {
			t.Errorf("turned back: %v", err)
		}
	})
	through(t, s.Troubles, func(ctx ctx) (connectors.Identity, error) {
		d, err := s.Connector.Begin(ctx, attempt(first))
		if err != nil {
			t.Fatalf("a departure needs the upstream: %v", err) // the answer's address is known beforehand
		}
		return s.Connector.Finish(ctx, attempt(first), d.Secret, s.Upstream(d))
	})
	renews(t, s.Connector, right, s.Troubles)
	d = begin(t, first)
	if again, err := s.Connector.Finish(t.Context(), attempt(first), d.Secret, s.Upstream(d)); err != nil || again.Subject != right.Subject {
		t.Errorf("afterwards: %q %v", again.Subject, err)
	}
}

// departure carries the attempt's id and our callback, proves the code by PKCE,
// and tells nobody the secret.
func (s Redirect) departure(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{first, first, second} {
		d, err := s.Connector.Begin(t.Context(), attempt(id))
		if err != nil {
			t.Fatal(err)
		}
		u, err := url.Parse(d.URL)
		if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" && !s.NoPKCE {
			t.Fatalf("%s: %v", d.URL, err)
		}
		q := u.Query()
		if q.Get("state") != id || q.Get("redirect_uri") != callback || q.Get("response_type") != "code" && !s.NoPKCE {
			t.Errorf("departure to %s", d.URL)
		}
		if len(d.Secret) == 0 || strings.Contains(d.URL, string(d.Secret)) || len(d.Secret) > 1024 {
			t.Errorf("a secret of %d bytes, or one in the address", len(d.Secret))
		}
		if s.NoPKCE {
			continue
		}
		challenge := q.Get("code_challenge")
		if q.Get("code_challenge_method") != "S256" || len(challenge) != 43 || seen[challenge] || seen[string(d.Secret)] {
			t.Errorf("PKCE %q %q (docs/security.md UP-3)", q.Get("code_challenge_method"), challenge)
		}
		seen[challenge], seen[string(d.Secret)] = true, true
	}
}
