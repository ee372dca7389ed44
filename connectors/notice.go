package connectors

import (
	"context"
	"time"
)

// LogoutNotice is an upstream's word that somebody signed out there: of one
// session, or without Session of all of Subject's.
type LogoutNotice struct {
	// ID is the notice's own; it counts once, until Expires.
	ID      string
	Expires time.Time
	// Subject and Session are the Identity's; one of them may be "".
	Subject, Session string
}

// LogoutReceiver reads the notices that an upstream sends past the browser
// (OpenID Connect Back-Channel Logout 1.0).
type LogoutReceiver interface {
	VerifyLogout(ctx context.Context, raw string) (LogoutNotice, error)
}
