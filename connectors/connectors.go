// Package connectors holds the contracts between the broker and the plug-ins
// that turn somebody else's proof of identity into an Identity. It knows no
// vendor, no store, no user and no HTTP request: a connector is a function of
// values.
package connectors

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"time"
)

// Identity is what an upstream proved about somebody. No id of Gatehouse's own
// is in it.
type Identity struct {
	// Connector is the id of the configured instance.
	Connector string
	// Subject is the upstream's own stable id: never a login name or an e-mail
	// address, which can be renamed and given to somebody else (docs/security.md UP-4).
	Subject string

	Username, Name, Email, Picture, Locale string
	// EmailVerified is true only if the upstream itself said so.
	EmailVerified bool
	// Groups are the upstream's own names, unprefixed.
	Groups []string

	// AuthTime, ACR and AMR describe the proof, where the upstream tells.
	AuthTime time.Time
	ACR      string
	AMR      []string

	// Claims is all that the upstream said, for the connector's allow
	// expression alone. It is never stored.
	Claims map[string]any
	// PasswordEnds is when the password that was just used expires, where the
	// upstream tells; the person is warned in time. A password that has expired
	// already was taken as one of a few exceptions, of which GraceLogins are left.
	PasswordEnds time.Time
	GraceLogins  int
	// Session is what BeginLogout needs to end the upstream's own session (OIDC
	// sid; SAML NameID and SessionIndex), opaque to everybody else.
	Session string
	// SessionKey is the name under which the upstream may end that session
	// itself, see Logout. Empty means Session.
	SessionKey string
	// SessionEnds limits our session, where the upstream limits its own.
	SessionEnds time.Time
	// Renewal is what the connector needs to vouch again without the person;
	// opaque to everybody else, kept sealed. Nil: cannot be renewed.
	Renewal []byte
	// Once are ids inside the proof that may be brought once. The broker keeps
	// them across replicas and refuses a second sight (docs/security.md SP-7).
	Once []OneTime
	// OneRenewal says that a new Renewal replaces that of every earlier sign-in
	// of this identity: the upstream keeps only so many (docs/security.md UP-9).
	OneRenewal bool
}

// OneTime is an id that counts once until then.
type OneTime struct {
	ID    string
	Until time.Time
}

// Errors that connectors wrap. Whatever else comes out of one is a fault of
// ours or the upstream's and is shown as such.
var (
	// ErrBadCredentials: user name and password do not match, or there is no
	// such user. The caller cannot tell which, and must not.
	ErrBadCredentials = errors.New("bad credentials")
	// ErrNotAllowed: the upstream knows the person and refuses, or a rule of
	// this connector does.
	ErrNotAllowed = errors.New("not allowed")
	// ErrUnavailable: the upstream did not answer. Nothing was checked.
	ErrUnavailable = errors.New("upstream unavailable")
	// ErrBusy is ErrUnavailable because of us, not of the upstream: too much is
	// asked at once.
	ErrBusy = fmt.Errorf("busy: %w", ErrUnavailable)
	// ErrThrottled: MayTry said no. Nothing was checked.
	ErrThrottled = errors.New("too many failed tries")
	// ErrNotEnded: the answer to our BeginLogout does not say that the upstream's
	// session is over. Ours is.
	ErrNotEnded = errors.New("not signed out upstream")
	// ErrCancelled: the person turned back at the upstream.
	ErrCancelled = errors.New("cancelled by the user")
)

// Refusal is a refusal with a reason that the person may see. Code is one of
// the message ids below "connector." in templates/locale (for example
// "password_expired", "must_change_password", "logon_hours", "scope_missing").
type Refusal struct {
	Code string
	// Help is a page of the upstream where the person can mend it; may be "".
	Help string
	Err  error // wraps ErrNotAllowed or ErrBadCredentials
}

// Error returns the reason for the log.
func (r *Refusal) Error() string { return r.Code + ": " + r.Err.Error() }

// Unwrap returns the error that was wrapped.
func (r *Refusal) Unwrap() error { return r.Err }

// Fault is an answer of the upstream that could not be taken. Code is for
// machines and, behind "error.", a message id; Err is for the log, and says
// what the upstream's administrator has to mend.
type Fault struct {
	Code string
	Args map[string]any
	Err  error
}

// Error returns the reason for the log.
func (f *Fault) Error() string { return f.Err.Error() }

// Unwrap returns the error that was wrapped.
func (f *Fault) Unwrap() error { return f.Err }

// Unsolicited is what Screen returns for an answer that nobody asked for, where
// the operator allows these: the answer is thrown away, and a sign-in at that
// connector begins (docs/security.md SP-9).
type Unsolicited struct {
	// Target is a path of ours, from the connector's own list.
	Target string
}

// Error says what happened, for the log.
func (u *Unsolicited) Error() string { return "the upstream began this sign-in itself" }

// Connector is one configured upstream. Check asks whether it can be used now.
type Connector interface {
	Check(ctx context.Context) error
}

// RedirectConnector proves identity by sending the browser to the upstream.
type RedirectConnector interface {
	Connector
	// Begin prepares the departure. It must not reach the store.
	Begin(ctx context.Context, a Attempt) (Departure, error)
	// Finish takes the Departure's Secret and what came back.
	Finish(ctx context.Context, a Attempt, secret []byte, r Return) (Identity, error)
}

// PasswordConnector checks a user name and password. An implementation answers
// an unknown user and a wrong password alike, in content and in work.
type PasswordConnector interface {
	Connector
	Authenticate(ctx context.Context, username, password string) (Identity, error)
}

// TokenConnector verifies the tokens that an issuer gives to programs.
type TokenConnector interface {
	Connector
	// VerifyToken returns the claims of a token of this issuer that one of its
	// keys signed. Audience, times and whether it was used are the caller's to
	// judge. Numbers are json.Number.
	VerifyToken(ctx context.Context, raw string) (map[string]any, error)
}

// Renewer vouches again for an identity without the person: the entry still
// exists, the membership still holds. ErrNotAllowed ends the sessions,
// ErrUnavailable keeps them for a while. A Renewal that comes with ErrUnavailable
// replaces the one that was given: an upstream that rotates its tokens takes the
// old one no more (docs/security.md UP-9).
type Renewer interface {
	Renew(ctx context.Context, id Identity) (Identity, error)
}

// Screener says whether a cross-site POST comes from the upstream, before
// anything of it is kept (SAML). Its answers carry RelayState, the attempt's id.
type Screener interface {
	Screen(ctx context.Context, r Return) error
}

// LogoutConnector signs out at the upstream too, and hears of it when somebody
// signs out there.
type LogoutConnector interface {
	// BeginLogout prepares the departure that ends the upstream's session; id has
	// Connector, Subject, Session and Renewal. The browser comes back to callbackURL. A
	// Departure without URL means that there is nothing to end.
	BeginLogout(ctx context.Context, id Identity, callbackURL string) (Departure, error)
	// FinishLogout takes what came to that URL: the answer to BeginLogout, or the
	// upstream's own wish.
	FinishLogout(ctx context.Context, r Return) (Logout, error)
}

// Logout is what an upstream said about the end of a session. The zero value is
// the answer to our own BeginLogout.
type Logout struct {
	// Key and Subject say whose browser sessions end: those with this SessionKey,
	// or this Subject. Both empty: none.
	Key, Subject string
	// Includes narrows them down by their Identity.Session; nil means all.
	Includes func(session string) bool
	// Once are ids of the message that count once, when what it wants is done.
	Once []OneTime
	// InResponseTo is the Departure.Request that this answers: it counts for a
	// departure of this connector, and once. "" is no answer, or one without ids.
	InResponseTo string
	// Answer goes back to the upstream afterwards; without URL a page of ours
	// is the end.
	Answer Departure
}

// Describer has a document about itself for the upstream's administrator (SAML:
// the service provider's metadata).
type Describer interface {
	Describe(ctx context.Context) (contentType string, document []byte, err error)
}

// CertificateHolder tells of the certificates whose end would end sign-ins.
type CertificateHolder interface {
	Certificates(ctx context.Context) ([]Certificate, error)
}

// Certificate is one of an upstream's, or of ours towards it.
type Certificate struct {
	Fingerprint string // SHA-256 of the certificate, in hexadecimal
	Ends        time.Time
	Ours        bool
}

// KeyPair is a key of this deployment with its certificate.
type KeyPair struct {
	Certificate *x509.Certificate
	Key         *rsa.PrivateKey
	State       KeyState
	// Until is when its successor takes over.
	Until time.Time
}

// KeyState says what a KeyPair is used for.
type KeyState string

// The states of a KeyPair.
const (
	KeyCurrent KeyState = "current" // signs; others encrypt to it
	KeyNext    KeyState = "next"    // is only shown, so that others know it in time
	KeyRetired KeyState = "retired" // only decrypts
)

// PasswordResetter names the page where people mend a forgotten password.
type PasswordResetter interface{ ResetURL() string }

// Attempt is one try to sign in at an upstream.
type Attempt struct {
	// ID is OAuth's state and SAML's RelayState: 26 characters of [A-Z2-7].
	ID string
	// CallbackURL is where the upstream sends the browser back to.
	CallbackURL string
	// LoginHint is who the person said to be; may be empty.
	LoginHint string
	// ForceAuthn asks the upstream to authenticate afresh (prompt=login).
	ForceAuthn bool
	// UserAgent is what the browser calls itself: some upstreams have another
	// page inside their own app. Set for Begin alone.
	UserAgent string
}

// Departure sends the browser to the upstream.
type Departure struct {
	URL string
	// Form, when set, is posted to URL by the browser (SAML's POST binding).
	Form url.Values
	// Secret is kept sealed in the attempt's cookie and given back to Finish
	// (PKCE verifier, nonce, request id).
	Secret []byte
	// Request is the id of a BeginLogout whose answer repeats it, see
	// Logout.InResponseTo; "" where the upstream's answers name none.
	Request string
}

// Return is what the upstream sent back through the browser.
type Return struct {
	Method string
	Params url.Values
	// Query is the query as it stands, for signatures over its very octets.
	Query string
}

// Env is what a connector gets from the broker when it is opened.
type Env struct {
	// ID is the instance's id.
	ID string
	// URL is where the instance's own addresses begin, without a slash at its end:
	// <issuer>/auth/<id>. Below it are /callback, /metadata and /slo.
	URL string
	// HTTP returns an outgoing client with the limits and the address check of
	// security.md G6. Hosts that the operator wrote into the configuration are
	// given in trusted; proxy and caFile are the connector's own, or "".
	HTTP func(proxy, caFile string, trusted ...string) (*http.Client, error)
	// HTTPUpTo is HTTP for answers of up to max bytes, where the usual limit is
	// too small.
	HTTPUpTo func(max int64, proxy, caFile string, trusted ...string) (*http.Client, error)
	// KeyPairs returns this deployment's keys for one use (KeySigning or
	// KeyEncryption), the current one first; they are made at the first call.
	KeyPairs func(ctx context.Context, use string) ([]KeyPair, error)
	// Dial opens TCP connections under the same rules, for LDAP.
	Log *slog.Logger
	Now func() time.Time
	// Mapping compiles one of the operator's expressions (CEL) over `claims`.
	Mapping func(source string) (Mapping, error)
}

// The uses of key pairs: separate keys, so that what is signed never helps to
// decrypt (docs/security.md SP-13).
const (
	KeySigning    = "saml.signing"
	KeyEncryption = "saml.encryption"
)

// Type is a kind of connector: its name in the configuration and how one is
// made from its section.
type Type struct {
	Name string
	// Open decodes the section with decode into the type's own Config and
	// opens it. It does not reach the network.
	Open func(env Env, decode func(into any) error) (Connector, error)
	// New returns a pointer to an empty Config, for decoding and validation
	// without opening.
	NewConfig func() any
}

// Define makes a Type of a function that opens a connector from its typed
// configuration.
func Define[C any](name string, open func(Env, C) (Connector, error)) Type {
	return Type{
		Name: name,
		Open: func(env Env, decode func(any) error) (Connector, error) {
			var cfg C
			if err := decode(&cfg); err != nil {
				return nil, err
			}
			return open(env, cfg)
		},
		NewConfig: func() any { return new(C) },
	}
}

type clientIPKey struct{}

// WithClientIP returns a context that names the address from which somebody
// signs in, for connectors that bind accounts to networks.
func WithClientIP(ctx context.Context, ip netip.Addr) context.Context {
	return context.WithValue(ctx, clientIPKey{}, ip)
}

// ClientIP returns the address that WithClientIP named, or the zero Addr.
func ClientIP(ctx context.Context) netip.Addr {
	ip, _ := ctx.Value(clientIPKey{}).(netip.Addr)
	return ip
}

type throttleKey struct{}

// WithThrottle returns a context in which MayTry asks f.
func WithThrottle(ctx context.Context, f func(subject string) bool) context.Context {
	return context.WithValue(ctx, throttleKey{}, f)
}

// MayTry says whose password is about to be checked and reports whether it may
// be: many spellings lead to one account, and only a password connector knows
// which (docs/security.md LD-3, LD-9). It is called before the check, and not
// for a name that nobody has; after false the answer is ErrThrottled.
func MayTry(ctx context.Context, subject string) bool {
	f, ok := ctx.Value(throttleKey{}).(func(string) bool)
	return !ok || f(subject)
}

// Reserve makes a Type whose configuration is decoded and validated, and which
// this version does not serve yet.
func Reserve[C any](name string) Type {
	return Type{Name: name, NewConfig: func() any { return new(C) }}
}

// Served reports whether this version can open the type.
func (t Type) Served() bool { return t.Open != nil }
