package portal

import (
	"cmp"
	"errors"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ErrorAgain is GET /error/{ref}: an error page once more, for the person whom it
// was shown to and for operators. Everybody else gets what they would get if there
// were none of that reference; nobody is led to sign in.
func (p *Portal) ErrorAgain(w http.ResponseWriter, r *http.Request) error {
	none := web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	s, ok, err := p.signIn.Current(r)
	if err != nil {
		return err
	}
	if !ok {
		return none
	}
	shown, err := p.errorPages.Get(r.Context(), chi.URLParam(r, "ref"))
	if errors.Is(err, store.ErrNotFound) {
		return none
	}
	if err != nil {
		return err
	}
	roles, err := p.rolesOf(r.Context(), s)
	if err != nil {
		return err
	}
	own := shown.User == s.UserID
	if !own && len(roles) == 0 {
		return none
	}
	u, err := p.users.Profile(r.Context(), shown.User)
	if err != nil && !errors.Is(err, user.ErrNotFound) {
		return err
	}
	name, who := cmp.Or(u.Email, u.Username, u.Name, shown.User), ""
	if own {
		who = name
	}
	var op *web.Operator
	if len(roles) > 0 {
		op = &web.Operator{Person: name, User: shown.User, RequestID: shown.RequestID, Handler: cmp.Or(shown.Route, shown.Handler), Status: shown.Status}
	}
	return p.edge.ShowAgain(w, r, shown, who, op)
}
