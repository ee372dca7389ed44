package issuer

import (
	"errors"
	"net/http"
	"strings"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// oauthError is an error of the protocol. Code is the RFC's.
type oauthError struct {
	code string
	text string // error_description: ASCII without quotes, and nothing the client wrote
	err  error  // for the log
}

func (e *oauthError) Error() string {
	if e.err != nil {
		return e.code + ": " + e.text + ": " + e.err.Error()
	}
	return e.code + ": " + e.text
}

func (e *oauthError) Unwrap() error { return e.err }

func oauth(code, text string, err error) *oauthError { return &oauthError{code, text, err} }

// The errors of the authorization endpoint: RFC 6749 section 4.1.2.1, OpenID
// Connect Core section 3.1.2.6, RFC 8707 section 2. Those of the token endpoint:
// RFC 6749 section 5.2, RFC 8628 section 3.5. Revocation: RFC 7009 section 2.2.1.
const (
	errInvalidRequest          = "invalid_request"
	errUnauthorizedClient      = "unauthorized_client"
	errAccessDenied            = "access_denied"
	errUnsupportedResponseType = "unsupported_response_type"
	errInvalidScope            = "invalid_scope"
	errServerError             = "server_error"
	errTemporarilyUnavailable  = "temporarily_unavailable"
	errLoginRequired           = "login_required"
	errConsentRequired         = "consent_required"
	errRequestNotSupported     = "request_not_supported"
	errRequestURINotSupported  = "request_uri_not_supported"
	errRegistrationUnsupported = "registration_not_supported"
	errInvalidTarget           = "invalid_target"
	errInvalidClient           = "invalid_client"
	errInvalidGrant            = "invalid_grant"
	errUnsupportedGrantType    = "unsupported_grant_type"
	errUnsupportedTokenType    = "unsupported_token_type"
	errAuthorizationPending    = "authorization_pending"
	errSlowDown                = "slow_down"
	errExpiredToken            = "expired_token"
)

type errorBody struct {
	Error       string `json:"error"`
	Description string `json:"error_description,omitempty"`
	Ref         string `json:"ref,omitempty"`
}

// endpoint makes an error of a JSON endpoint what RFC 6749 section 5.2 wants:
// 400, or 401 for a client that did not authenticate.
func (is *Issuer) endpoint(h web.Handler) web.Handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		err := h(w, r)
		if err == nil {
			return nil
		}
		var oe *oauthError
		var we *web.Error
		switch {
		case errors.As(err, &oe):
		case errors.As(err, &we):
			if we.JSON != nil {
				return we
			}
			oe = oauth(errInvalidRequest, "The request is malformed.", err)
			if we.Status >= 500 {
				oe.code = errServerError
			}
		case errors.Is(err, grant.ErrInvalidGrant):
			oe = oauth(errInvalidGrant, "The code or refresh token is not valid, has expired, was used, or is another client's.", err)
		case errors.Is(err, grant.ErrInvalidTarget):
			oe = oauth(errInvalidTarget, "The resource is unknown, not allowed for this client, or there is more than one.", err)
		case errors.Is(err, session.ErrNoSession), errors.Is(err, session.ErrEnded), errors.Is(err, user.ErrNotFound):
			oe = oauth(errInvalidGrant, "The session behind it has ended.", err)
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, connectors.ErrUnavailable):
			e := web.Fail(http.StatusServiceUnavailable, "store.unavailable", "error.store", err)
			e.JSON = errorBody{Error: errTemporarilyUnavailable, Description: "Try again in a moment.", Ref: web.RequestOf(r).Ref()}
			e.Header = http.Header{"Retry-After": {"5"}}
			return e
		default:
			e := web.Fail(http.StatusInternalServerError, "internal", "error.internal", err)
			e.JSON = errorBody{Error: errServerError, Ref: web.RequestOf(r).Ref()}
			return e
		}
		e := web.Fail(http.StatusBadRequest, oe.code, "error.oauth", err)
		e.Header = http.Header{}
		e.Expected = oe.code == errAuthorizationPending
		if oe.code == errInvalidClient {
			// A 401 always says how (RFC 9110 section 15.5.2); RFC 6749 section
			// 5.2 wants it where the header was tried.
			e.Status = http.StatusUnauthorized
			e.Header.Set("WWW-Authenticate", `Basic realm="gatehouse", error="invalid_client"`)
		}
		e.JSON = errorBody{Error: oe.code, Description: oe.text, Ref: web.RequestOf(r).Ref()}
		return e
	}
}

// bearerError is RFC 6750 section 3.1.
func bearerError(status int, code, text string, err error) *web.Error {
	e := web.Fail(status, code, "error.oauth", err)
	challenge := `Bearer realm="gatehouse"`
	if code != "" {
		challenge += `, error="` + code + `", error_description="` + strings.ReplaceAll(text, `"`, "'") + `"`
	}
	e.Header = http.Header{"Www-Authenticate": {challenge}}
	e.JSON = errorBody{Error: code, Description: text}
	if code == "" { // no token: the challenge says how, and nothing else (section 3)
		e.Code = "unauthorized"
		e.JSON = errorBody{Error: "unauthorized", Description: "A bearer token is needed."}
	}
	return e
}

// methodNotAllowed names the methods that an endpoint has.
func methodNotAllowed(allow string) error {
	e := web.Fail(http.StatusMethodNotAllowed, errInvalidRequest, "error.method", nil)
	e.Header = http.Header{"Allow": {allow}}
	e.JSON = errorBody{Error: errInvalidRequest, Description: "Use " + allow + "."}
	return e
}
