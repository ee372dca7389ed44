// Package user is the directory of people with an account: who they are here,
// and by which upstream identities they prove it. It holds no sessions.
package user

import (
	"errors"
	"slices"
	"strings"
	"time"
)

// User is an account. Its ID is the sub of tokens: opaque, stable for the life
// of the account, never reused (OpenID Connect Core section 2).
type User struct {
	ID            string    `json:"id"`
	Email         string    `json:"email,omitempty"`
	EmailVerified bool      `json:"email_verified,omitempty"`
	Name          string    `json:"name,omitempty"`
	Username      string    `json:"username,omitempty"`
	Picture       string    `json:"picture,omitempty"`
	Locale        string    `json:"locale,omitempty"`
	Kind          string    `json:"kind"` // "user" or "service"
	Suspended     bool      `json:"suspended,omitempty"`
	Epoch         uint64    `json:"epoch"` // sessions and grants made under another one are void
	Created       time.Time `json:"created"`
	Updated       time.Time `json:"updated"`
	Identities    []Link    `json:"identities"`
	// Staff says that somebody signed in to this account with a role, once: it is
	// never linked automatically (docs/security.md UP-5).
	Staff bool `json:"staff,omitempty"`
	// Merged is the account that took over this one's identities. The record
	// stays, so that its id is never used again.
	Merged string `json:"merged,omitempty"`
	// Taking is the merge into this account that is under way.
	Taking Taking `json:"taking,omitzero"`
	// Pending is when its making began, until the event of it is written.
	Pending time.Time `json:"pending,omitzero"`
}

// Taking says which account is being merged into this one, and since when.
type Taking struct {
	From string    `json:"from,omitempty"`
	At   time.Time `json:"at,omitzero"`
}

// has reports whether the account lists an identity.
func (u User) has(connector, subject string) bool {
	return slices.ContainsFunc(u.Identities, func(l Link) bool { return l.Connector == connector && l.Subject == subject })
}

// Link is one upstream identity of a user.
type Link struct {
	Connector     string    `json:"connector"`
	Subject       string    `json:"subject"`
	Username      string    `json:"username,omitempty"`
	Email         string    `json:"email,omitempty"`
	EmailVerified bool      `json:"email_verified,omitempty"`
	Linked        time.Time `json:"linked"`
	Used          time.Time `json:"used"`
}

// ID is how the API and the pages name the link.
func (l Link) ID() string { return identityID(l.Connector, l.Subject) }

// Errors of the directory.
var (
	// ErrNotFound means that there is no such user.
	ErrNotFound = errors.New("no such user")
	// ErrSuspended means that an operator suspended the account.
	ErrSuspended = errors.New("the account is suspended")
	// ErrSignupClosed means that the connector admits only those who have an
	// account already.
	ErrSignupClosed = errors.New("sign-up is closed for this connector")
	// ErrInvite means that an invitation is unknown, used, too old, withdrawn, or
	// for another address than the upstream verified.
	ErrInvite = errors.New("the invitation is not valid for this identity")
	// ErrTaken means that an identity is linked to another account.
	ErrTaken = errors.New("the identity belongs to another account")
	// ErrLastIdentity means that nobody could sign in to the account any more.
	ErrLastIdentity = errors.New("this is the last way to sign in to the account")
	// ErrMerged means that the account was merged into another.
	ErrMerged = errors.New("the account was merged into another")
)

func (u User) index() map[string]string {
	ix := map[string]string{}
	if u.Email != "" {
		ix["email"] = strings.ToLower(u.Email)
	}
	if u.Username != "" {
		ix["username"] = strings.ToLower(u.Username)
	}
	for _, l := range u.Identities {
		if a, ok := address(l.Email); ok && l.EmailVerified {
			ix[addressIndex(a)] = "1"
		}
	}
	return ix
}
