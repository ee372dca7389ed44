package ldap

import (
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

// failure is an error whose text tells no DN and nothing that the directory
// wrote: that is in the cause, for the log.
type failure struct {
	what  string
	kind  error // one of the errors of package connectors
	cause error // may be nil
}

// Error returns what failed and, of the cause, what is ours to tell: nothing
// where it would tell an unknown name from a wrong password.
func (f *failure) Error() string {
	s := "ldap: " + f.what + ": " + f.kind.Error()
	if errors.Is(f.kind, connectors.ErrBadCredentials) {
		return s
	}
	if d := summary(f.cause); d != "" {
		s += " (" + d + ")"
	}
	return s
}

// Unwrap returns kind and cause.
func (f *failure) Unwrap() []error {
	if f.cause == nil {
		return []error{f.kind}
	}
	return []error{f.kind, f.cause}
}

// LogValue returns everything, for log/slog.
func (f *failure) LogValue() slog.Value {
	if f.cause == nil {
		return slog.StringValue(f.Error())
	}
	return slog.StringValue(f.Error() + ": " + f.cause.Error())
}

// summary returns the public part of a cause. Diagnostics of directories quote
// filters, names and inner addresses; only the result's own name is kept.
func summary(err error) string {
	var e *goldap.Error
	switch {
	case err == nil:
		return ""
	case !errors.As(err, &e), e.ResultCode == goldap.ErrorNetwork:
		return err.Error()
	case e.ResultCode >= goldap.ErrorNetwork:
		return "the answer is not LDAP"
	}
	return fmt.Sprintf("result %d, %s", e.ResultCode, goldap.LDAPResultCodeMap[e.ResultCode])
}

// unavailable makes the error of an upstream that gave no answer.
func unavailable(what string, cause error) error {
	if goldap.IsErrorAnyOf(cause, goldap.LDAPResultStrongAuthRequired, goldap.LDAPResultConfidentialityRequired) {
		what += ": this directory requires TLS, set use_ssl: true (port 636) or start_tls: true"
	}
	return &failure{what: what, kind: connectors.ErrUnavailable, cause: cause}
}

// notAsked reports an error that came before the operation itself, such as a
// refused StartTLS, whose result must not be taken for the operation's.
func notAsked(err error) bool {
	var f *failure
	return errors.As(err, &f)
}

// answered reports whether an error is the directory's own answer, so that the
// connection still works. The library numbers its own errors from ErrorNetwork.
func answered(err error) bool {
	var e *goldap.Error
	return errors.As(err, &e) && e.ResultCode < goldap.ErrorNetwork
}

// Codes of refusals. All but the last three are proof that the password was
// right, so that telling them gives nothing away.
const (
	codePasswordExpired = "password_expired"
	codeMustChange      = "must_change_password"
	codeLogonHours      = "logon_hours"
	codeWorkstation     = "workstation"
	codeDisabled        = "account_disabled"
	codeAccountExpired  = "account_expired"
	codeLocked          = "account_locked"
)

// subCode finds the reason in a diagnostic of Active Directory, for example
// "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error,
// data 52e, v2580".
var subCode = regexp.MustCompile(`\bdata ([0-9a-fA-F]{1,8})\b`)

// adCodes are the sub-codes of result 49 that mean something of their own.
// 525 (no such user), 52e (wrong password) and all others are neutral.
var adCodes = map[string]string{
	"530": codeLogonHours,
	"531": codeWorkstation,
	"532": codePasswordExpired,
	"533": codeDisabled,
	"701": codeAccountExpired,
	"773": codeMustChange,
	"775": codeLocked,
}

// adReason returns the sub-code of a refused bind, for the log, and the code
// that it means, or "".
func adReason(err error) (data, code string) {
	var e *goldap.Error
	if !errors.As(err, &e) || e.ResultCode != goldap.LDAPResultInvalidCredentials || e.Err == nil {
		return "", ""
	}
	m := subCode.FindStringSubmatch(e.Err.Error())
	if m == nil {
		return "", ""
	}
	data = strings.ToLower(strings.TrimLeft(m[1], "0"))
	return data, adCodes[data]
}

// refusedResults are the results of a bind that mean "not with this name and
// password". Locked and disabled accounts have results of their own on some
// directories; they are not told apart, because they are given without the
// right password too.
var refusedResults = []uint16{
	goldap.LDAPResultInvalidCredentials,
	goldap.LDAPResultInappropriateAuthentication, // the entry has no password
	goldap.LDAPResultNoSuchObject,
	goldap.LDAPResultInvalidDNSyntax,
	goldap.LDAPResultConstraintViolation, // too many wrong passwords (389 DS)
	goldap.LDAPResultUnwillingToPerform,  // account inactivated (389 DS)
	goldap.LDAPResultInsufficientAccessRights,
}

// refuse makes the error of a bind or an account that is refused for code.
func (c *Connector) refuse(code string, cause error) error {
	switch code {
	case codePasswordExpired, codeMustChange, codeLogonHours, codeWorkstation:
	case codeDisabled, codeAccountExpired:
		if !c.cfg.FriendlyErrors {
			code = ""
		}
	default:
		code = ""
	}
	if code == "" {
		return &failure{what: "bind", kind: connectors.ErrBadCredentials, cause: cause}
	}
	r := &connectors.Refusal{Code: code, Err: &failure{what: "bind", kind: connectors.ErrNotAllowed, cause: cause}}
	if code == codePasswordExpired || code == codeMustChange {
		r.Help = c.cfg.ResetURL
	}
	return r
}
