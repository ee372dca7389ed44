package issuer

import (
	"errors"
	"net/http"
	"strings"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// UserInfo is GET and POST /oauth2/userinfo (OpenID Connect Core section 5.3).
// It takes every access token of ours with openid, whatever its aud.
func (is *Issuer) UserInfo(w http.ResponseWriter, r *http.Request) error {
	if is.cors(w, r) {
		return nil
	}
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		return methodNotAllowed("GET, POST")
	}
	raw, err := bearer(w, r)
	if err != nil {
		return err
	}
	c, err := is.cfg.Keys.Verify(r.Context(), token.TypeAccess, raw)
	if err != nil {
		return bearerError(http.StatusUnauthorized, "invalid_token", "The token is not valid or has expired.", err)
	}
	if !hasScope(c, "openid") {
		e := bearerError(http.StatusForbidden, "insufficient_scope", "The token lacks the scope openid.", nil)
		e.Header["Www-Authenticate"][0] += `, scope="openid"`
		return e
	}
	if err := is.cfg.Ledger.Alive(r.Context(), grant.OfToken(c.String("jti"))); err != nil {
		if errors.Is(err, grant.ErrInvalidGrant) {
			return bearerError(http.StatusUnauthorized, "invalid_token", "The token was revoked.", err)
		}
		return unavailable(r, err)
	}
	s, err := is.cfg.Sessions.Get(r.Context(), c.String("sid"))
	if err != nil {
		if errors.Is(err, session.ErrEnded) || errors.Is(err, session.ErrNoSession) {
			return bearerError(http.StatusUnauthorized, "invalid_token", "The session has ended.", err)
		}
		return unavailable(r, err)
	}
	u, err := is.cfg.Users.Profile(r.Context(), c.String("sub"))
	if err != nil {
		if errors.Is(err, user.ErrNotFound) {
			return bearerError(http.StatusUnauthorized, "invalid_token", "The account is gone.", err)
		}
		return unavailable(r, err)
	}
	claims := is.profile(u, s, strings.Fields(c.String("scope")))
	claims["sub"] = u.ID
	return writeJSON(w, claims)
}

func unavailable(r *http.Request, err error) error {
	if !errors.Is(err, store.ErrUnavailable) {
		return err
	}
	e := web.Fail(http.StatusServiceUnavailable, "store.unavailable", "error.store", err)
	e.JSON = errorBody{Error: errTemporarilyUnavailable, Ref: web.RequestOf(r).Ref()}
	e.Header = http.Header{"Retry-After": {"5"}}
	return e
}

// bearer takes the token from the one place where it is: the Authorization
// header or a form body (RFC 6750 section 2); never from the query.
func bearer(w http.ResponseWriter, r *http.Request) (string, error) {
	auth := r.Header.Values("Authorization")
	inForm := ""
	if r.Method == http.MethodPost && strings.HasPrefix(r.Header.Get("Content-Type"), "application/x-www-form-urlencoded") {
		form, err := web.Form(w, r, maxTokenBody)
		if err != nil {
			return "", bearerError(http.StatusBadRequest, errInvalidRequest, "The body is not a form with each parameter once.", err)
		}
		inForm = form.Get("access_token")
	}
	switch {
	case len(auth) > 1, len(auth) == 1 && inForm != "":
		return "", bearerError(http.StatusBadRequest, errInvalidRequest, "More than one token was sent.", nil)
	case inForm != "":
		return inForm, nil
	case len(auth) == 0:
		return "", bearerError(http.StatusUnauthorized, "", "", nil)
	}
	scheme, raw, _ := strings.Cut(auth[0], " ")
	if !strings.EqualFold(scheme, "Bearer") { // as if there were none (RFC 6750 section 3.1)
		return "", bearerError(http.StatusUnauthorized, "", "", nil)
	}
	if raw = strings.TrimSpace(raw); raw == "" {
		return "", bearerError(http.StatusBadRequest, errInvalidRequest, "The Authorization header holds no token.", nil)
	}
	return raw, nil
}
