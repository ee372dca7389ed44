// Package user is the directory of people with an account: who they are here,
// and by which upstream identities they prove it. It holds no sessions.
package user

import (
	"errors"
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

// Errors of the directory.
var (
	// ErrNotFound means that there is no such user.
	ErrNotFound = errors.New("no such user")
	// ErrSuspended means that an operator suspended the account.
	ErrSuspended = errors.New("the account is suspended")
	// ErrSignupClosed means that the connector admits only those who have an
	// account already.
	ErrSignupClosed = errors.New("sign-up is closed for this connector")
)

func (u User) index() map[string]string {
	ix := map[string]string{}
	if u.Email != "" {
		ix["email"] = strings.ToLower(u.Email)
	}
	if u.Username != "" {
		ix["username"] = strings.ToLower(u.Username)
	}
	return ix
}
