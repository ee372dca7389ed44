package objectstore

import (
	"fmt"
	"strings"
)

// LendError is why nothing was lent. Its text is for operators: it holds what the
// vendor said.
type LendError struct {
	// Offer is the offer's name, Host whom we asked.
	Offer, Host string
	// Unavailable reports that the token service could not be asked, or has no time:
	// the same may work later. Otherwise somebody has to change something.
	Unavailable bool
	// Code is the vendor's own word; empty if there is none.
	Code  string
	Err   error
	setup bool // it is the wrong service, or does not know the role
}

// Error puts what to do before what the vendor said.
func (e *LendError) Error() string {
	out := "storage_credentials " + e.Offer + ": " + e.Host
	if e.Unavailable {
		out += " cannot be asked"
	} else {
		out += " does not lend"
	}
	if e.Code != "" {
		out += " (" + e.Code + ")"
	}
	return out + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *LendError) Unwrap() error { return e.Err }

func (l *Lender) fail(unavailable bool, no said, err error) *LendError {
	return &LendError{Offer: l.Name, Host: l.endpoint.Host, Unavailable: unavailable, Code: no.Code, Err: err}
}

// refusal is what a vendor's code means.
type refusal struct {
	text        string
	unavailable bool
	setup       bool // whoever asks: it is the wrong one, or has no such role
}

const (
	trust    = "the vendor does not trust this issuer's tokens: the identity provider there must name the issuer and, among its client ids, the offer's audience"
	roleSays = "the role's trust policy refuses: it must let the identity provider's tokens with this aud and this sub assume it"
	noRole   = "there is no such role, or no such identity provider: correct role_arn and oidc_provider"
	noSTS    = "this is a store without a token service: name that one's address in sts_endpoint"
	busy     = "the vendor has too many requests"
)

// refusals are the codes whose meaning the vendors' documents give.
var refusals = map[string]refusal{
	// Amazon
	"InvalidIdentityToken":    {text: trust},
	"IDPCommunicationError":   {text: "the vendor could not fetch this issuer's keys: its discovery document and JWKS must be reachable from the internet, over https on port 443", unavailable: true},
	"IDPRejectedClaim":        {text: trust},
	"ExpiredTokenException":   {text: "the token was too old when it arrived: set this machine's clock by NTP"},
	"AccessDenied":            {text: roleSays},
	"MalformedPolicyDocument": {text: "the vendor does not understand the session policy: correct prefix, or the bucket's name"},
	"PackedPolicyTooLarge":    {text: "session policy and tags are too long: shorten prefix"},
	"RegionDisabledException": {text: "token services are off in this region: turn them on for the account, or name another sts_endpoint"},
	"ValidationError":         {text: "role_arn is no role, or ttl is longer than the role's maximum session duration"},
	// MinIO
	"STSNotInitialized":          {text: "the store is starting", unavailable: true},
	"STSIAMNotInitialized":       {text: "the store is starting", unavailable: true},
	"XMinioIAMNotInitialized":    {text: "the store is starting", unavailable: true},
	"XMinioServerNotInitialized": {text: "the store is starting", unavailable: true},
	"ExpiredToken":               {text: "the token was too old when it arrived: set this machine's clock by NTP"},
	// Stores of Amazon's protocol that do not lend
	"MethodNotAllowed": {text: noSTS, setup: true},
	"NotImplemented":   {text: noSTS, setup: true},
	// Alibaba
	"EntityNotExist.Role":                  {text: noRole, setup: true},
	"AuthenticationFail.NoPermission":      {text: roleSays},
	"AuthenticationFail.OIDCToken.Invalid": {text: trust},
	"AuthenticationFail.OIDCToken.Expired": {text: "the token was too old when it arrived: set this machine's clock by NTP"},
	"InvalidParameter.DurationSeconds":     {text: "ttl is longer than the role's maximum session duration"},
	"InternalError":                        {text: "the vendor has a fault", unavailable: true},
	"InternalFailure":                      {text: "the vendor has a fault", unavailable: true},
	"ServiceUnavailable":                   {text: busy, unavailable: true},
}

// refused says what a refusal means.
func (l *Lender) refused(no said) *LendError {
	m, known := refusals[no.Code]
	if !known {
		for _, word := range []string{"Throttl", "RequestLimitExceeded", "TooManyRequests", "SlowDown", "InternalError"} {
			if strings.Contains(no.Code, word) {
				m = refusal{text: busy, unavailable: true}
			}
		}
	}
	// MinIO has one code for all that is wrong, and looks at the role first.
	if no.Code == "InvalidParameterValue" && strings.Contains(no.Message, "RoleArn") {
		m = refusal{text: noRole, setup: true}
	}
	message := clip(no.Message)
	err := fmt.Errorf("%s; it says %q", m.text, message)
	if m.text == "" {
		err = fmt.Errorf("it says %q", message)
	}
	e := l.fail(m.unavailable, said{Code: clip(no.Code)}, err)
	e.setup = m.setup
	return e
}

// clip bounds what a vendor says, and takes out what moves a terminal's cursor.
func clip(s string) string {
	s = strings.Map(func(c rune) rune {
		if c < ' ' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return -1
		}
		return c
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > 256 {
		s = strings.ToValidUTF8(s[:256], "") + "…"
	}
	return s
}
