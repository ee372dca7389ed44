package signin

import (
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// ending is a password that was right and will not be for long. It is told
// between the form and where that leads, because later nobody can sign in to
// read it.
type ending struct {
	Text  string `json:"t"` // message id
	N     int    `json:"n,omitempty"`
	Reset string `json:"r,omitempty"` // the page where it is changed
}

// endsWarning is how long before its end a password is spoken of.
const endsWarning = 7 * 24 * time.Hour

func endsSoon(m *Method, id connectors.Identity, now time.Time) *ending {
	left := id.PasswordEnds.Sub(now)
	if id.PasswordEnds.IsZero() || left > endsWarning {
		return nil
	}
	e := &ending{Text: "ends.days", N: int(left / (24 * time.Hour))}
	switch {
	case left <= 0: // taken all the same
		e.Text, e.N = "ends.grace", id.GraceLogins
	case e.N == 0:
		e.Text = "ends.today"
	}
	if rs, ok := m.Connector.(connectors.PasswordResetter); ok {
		e.Reset = rs.ResetURL()
	}
	return e
}

type endsPage struct {
	ending
	To string
}

func (d *Door) passwordEnds(w http.ResponseWriter, r *http.Request, a attempt) error {
	web.Prefer(r, a.Locales)
	return d.cfg.Edge.Page(w, r, http.StatusOK, "password-ends", endsPage{*a.Ends, a.ReturnTo})
}
