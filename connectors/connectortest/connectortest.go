// Package connectortest is the suite that every connector passes: what must hold
// whoever the upstream is. A connector's own tests add what is special about it.
package connectortest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// Trouble is a state of the upstream: unreachable, slow, or talking nonsense.
type Trouble struct {
	Name string
	// Begin puts the upstream into it, End takes it out again.
	Begin, End func()
	// Unavailable: the connector must say that nothing was checked. Otherwise it
	// may call it a fault, but never a refusal and never a sign-in.
	Unavailable bool
}

// slow is how long the suite waits for an upstream that does not answer.
const slow = 300 * time.Millisecond

// identity checks what every identity is.
func identity(t *testing.T, id connectors.Identity, secrets ...string) {
	t.Helper()
	if id.Connector == "" || id.Subject == "" {
		t.Errorf("an identity without connector or subject: %+v", id)
	}
	if id.Subject == id.Email && id.Email != "" {
		t.Error("the subject is an e-mail address (docs/security.md UP-4)")
	}
	if id.AuthTime.After(time.Now().Add(time.Minute)) {
		t.Errorf("signed in in the future: %s", id.AuthTime)
	}
	for _, s := range secrets {
		for k, v := range id.Claims {
			if text, ok := v.(string); ok && s != "" && strings.Contains(text, s) {
				t.Errorf("the claim %s holds a secret", k)
			}
		}
	}
}

// nobody checks that an error came without an identity, and quotes no secret.
func nobody(t *testing.T, id connectors.Identity, err error, secrets ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("signed in: %+v", id)
	}
	if id.Subject != "" {
		t.Errorf("an error with an identity: %+v", id)
	}
	for _, s := range secrets {
		if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("the error quotes what it was given: %v", err)
		}
	}
}

// through runs f in each trouble and checks that it failed as it must.
func through(t *testing.T, troubles []Trouble, f func(ctx context.Context) (connectors.Identity, error)) {
	t.Helper()
	for _, tr := range troubles {
		t.Run(tr.Name, func(t *testing.T) {
			tr.Begin()
			defer tr.End()
			ctx, cancel := context.WithTimeout(t.Context(), slow)
			defer cancel()
			id, err := f(ctx)
			nobody(t, id, err)
			if errors.Is(err, connectors.ErrBadCredentials) || errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("trouble is taken for a refusal: %v", err)
			}
			if tr.Unavailable && !errors.Is(err, connectors.ErrUnavailable) {
				t.Errorf("got %v, want ErrUnavailable", err)
			}
		})
	}
}

// renews checks what Renew must do, if the connector has it.
func renews(t *testing.T, c connectors.Connector, id connectors.Identity, troubles []Trouble) {
	r, ok := c.(connectors.Renewer)
	if !ok || id.Renewal == nil {
		return
	}
	// The broker keeps no more than this.
	kept := connectors.Identity{Connector: id.Connector, Subject: id.Subject, Renewal: id.Renewal}
	fresh, err := r.Renew(t.Context(), kept)
	if err != nil || fresh.Subject != id.Subject || fresh.Connector != id.Connector {
		t.Errorf("renewed as %+v: %v", fresh, err)
	}
	other := kept
	other.Subject = "somebody-else"
	if got, err := r.Renew(t.Context(), other); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("renewed for somebody else: %+v, %v", got, err)
	}
	var down []Trouble
	for _, tr := range troubles {
		tr.Name = "renew, " + tr.Name
		tr.Unavailable = true // neither a yes nor a no keeps the sessions for a while (SE-11)
		down = append(down, tr)
	}
	through(t, down, func(ctx context.Context) (connectors.Identity, error) { return r.Renew(ctx, kept) })
}
