package signin

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// askedLogout is a request of ours to end an upstream's session. Its answer
// comes without a cookie when it is a cross-site POST, so that the store, and not
// the browser, remembers what was asked (docs/security.md SP-12).
type askedLogout struct {
	At       time.Time `json:"t"`
	Answered bool      `json:"a,omitempty"`
}

// askedTTL is how long a person may take at the upstream to sign out.
const askedTTL = 15 * time.Minute

func (d *Door) newLogouts() *store.Collection[askedLogout] {
	return store.NewCollection(d.cfg.KV, store.CollectionConfig[askedLogout]{Kind: "logout", Sealer: d.cfg.Sealer, Now: d.cfg.Now,
		Expires: func(a askedLogout) time.Time { return a.At.Add(askedTTL) }})
}

func askedID(m *Method, request string) string { return store.HashID(m.ID + "\x00" + request) }

// answered takes the answer to a request of ours, the first one alone.
func (d *Door) answered(r *http.Request, m *Method, request string) error {
	_, err := d.logouts.Update(r.Context(), askedID(m, request), func(a *askedLogout) error {
		if a.Answered {
			return errUsed
		}
		a.Answered = true
		return nil
	})
	if errors.Is(err, errUsed) || errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("the answer is to %q, which this connector did not ask or which was answered: %w", request, connectors.ErrNotEnded)
	}
	return err
}
