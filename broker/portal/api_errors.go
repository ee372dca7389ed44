package portal

import (
	"errors"
	"net/http"

	"github.com/remotegpu/gatehouse/broker/console"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
)

// apiError gives the domain's errors their status.
func apiError(err error) error {
	var known *web.Error
	switch {
	case errors.As(err, &known):
		return err
	case apiKeyError(err) != nil:
		return apiKeyError(err)
	case trustError(err) != nil:
		return trustError(err)
	case errors.Is(err, store.ErrNotFound), errors.Is(err, session.ErrNoSession), errors.Is(err, session.ErrEnded),
		errors.Is(err, user.ErrNotFound), errors.Is(err, token.ErrUnknownKey):
		return notFound(err)
	case errors.Is(err, console.ErrNoLease), errors.Is(err, console.ErrInvalid):
		return consoleError(err)
	case errors.Is(err, user.ErrLastIdentity):
		return web.Fail(http.StatusConflict, "identity.last", "error.identity_last", err)
	case errors.Is(err, user.ErrMerged), errors.Is(err, user.ErrSuspended):
		return web.Fail(http.StatusConflict, "api.conflict", "error.conflict", err)
	case errors.Is(err, store.ErrUnavailable):
		return web.Fail(http.StatusServiceUnavailable, "store.unavailable", "error.store", err)
	case errors.Is(err, store.ErrConflict):
		return web.Fail(http.StatusConflict, "api.conflict", "error.conflict", err)
	}
	return err
}
