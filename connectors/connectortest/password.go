package connectortest

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

// Password is a password connector and its upstream.
type Password struct {
	Connector connectors.PasswordConnector
	// Username and Password are of somebody who may sign in; Other is the name of
	// somebody else who exists.
	Username, Password, Other string
	Troubles                  []Trouble
}

// Run runs the suite.
func (p Password) Run(t *testing.T) {
	right, err := p.Connector.Authenticate(t.Context(), p.Username, p.Password)
	if err != nil {
		t.Fatalf("%s does not get in: %v", p.Username, err)
	}
	identity(t, right, p.Password)
	if strings.Contains(string(right.Renewal), p.Password) {
		t.Error("the renewal holds the password")
	}
	if err := p.Connector.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	t.Run("refused", p.refused)
	t.Run("at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				user, password := p.Username, p.Password
				if i%2 == 1 {
					password = "not-" + password
				}
				id, err := p.Connector.Authenticate(t.Context(), user, password)
				if i%2 == 0 && (err != nil || id.Subject != right.Subject) || i%2 == 1 && !errors.Is(err, connectors.ErrBadCredentials) {
					t.Errorf("%d: %q %v", i, id.Subject, err)
				}
			})
		}
		wg.Wait()
	})
	through(t, p.Troubles, func(ctx ctx) (connectors.Identity, error) {
		return p.Connector.Authenticate(ctx, p.Username, p.Password)
	})
	renews(t, p.Connector, right, p.Troubles)
	// And after all that it works again.
	if again, err := p.Connector.Authenticate(t.Context(), p.Username, p.Password); err != nil || again.Subject != right.Subject {
		t.Errorf("afterwards: %q %v", again.Subject, err)
	}
}

// refused: one error for whatever is wrong, so that the broker has one answer,
// without a hint and without an echo (docs/security.md LD-1, LD-2, LD-8).
func (p Password) refused(t *testing.T) {
	for name, c := range map[string][2]string{
		"wrong password": {p.Username, "wrong"}, "unknown user": {"nobody-here", p.Password}, "somebody else's password": {p.Other, p.Password},
		"empty password": {p.Username, ""}, "blank password": {p.Username, "   "}, "NUL": {p.Username, p.Password + "\x00"}, "space": {p.Username, p.Password + " "},
		"another case": {p.Username, strings.ToUpper(p.Password)}, "long password": {p.Username, strings.Repeat("a", 4096)}, "not UTF-8": {p.Username, "\xff\xfe"},
		"no user": {"", p.Password}, "star": {"*", p.Password}, "filter": {p.Username + ")(uid=*", p.Password}, "or": {"*)(|(uid=*", p.Password},
		"long user": {strings.Repeat("a", 4096), p.Password}, "user not UTF-8": {p.Username + "\xff", p.Password}, "control": {p.Username + "\r\n", p.Password},
		"format": {"%s%n", "%s%n"},
	} {
		id, err := p.Connector.Authenticate(t.Context(), c[0], c[1])
		t.Run(name, func(t *testing.T) {
			nobody(t, id, err, p.Password)
			if !errors.Is(err, connectors.ErrBadCredentials) || errors.Is(err, connectors.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
			if r, ok := errors.AsType[*connectors.Refusal](err); ok {
				t.Errorf("a stranger is told %s", r.Code)
			}
		})
	}
}
