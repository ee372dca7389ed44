package ldap

import (
	"strconv"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
)

// Errors of the password policy control (draft-behera-ldap-password-policy).
const (
	policyNone       = -1
	policyExpired    = 0
	policyLocked     = 1
	policyMustChange = 2
)

// ppolicy is what the password policy control of a bind says.
type ppolicy struct {
	fault  int           // one of the errors above
	expire time.Duration // until the password expires; 0, not said
	grace  int           // sign-ins that an expired password is still good for; -1, not said
}

// policyOf reads the control of a bind's answer, if there is one.
func policyOf(res *goldap.SimpleBindResult) ppolicy {
	none := ppolicy{fault: policyNone, grace: -1}
	if res == nil {
		return none
	}
	p, ok := goldap.FindControl(res.Controls, goldap.ControlTypeBeheraPasswordPolicy).(*goldap.ControlBeheraPasswordPolicy)
	if !ok {
		return none
	}
	out := ppolicy{fault: int(p.Error), grace: -1}
	if p.Expire > 0 && p.Expire < 1<<31 { // seconds; beyond is no warning
		out.expire = time.Duration(p.Expire) * time.Second
	}
	if p.Grace >= 0 && p.Grace < 1<<16 {
		out.grace = int(p.Grace)
	}
	return out
}

// passwordEnds returns when the password expires and, if it has expired and is
// still good for some sign-ins, for how many after this one. Zero where
// the directory does not say.
func (c *Connector) passwordEnds(e *entry, p ppolicy) (time.Time, int) {
	switch {
	case p.grace >= 0:
		return c.now(), p.grace
	case p.expire > 0:
		return c.now().Add(p.expire), 0
	}
	ticks, err := strconv.ParseInt(e.raw.GetEqualFoldAttributeValue(passwordEnds), 10, 64)
	if err != nil || ticks <= 0 || ticks >= 1<<62 { // must change, or never
		return time.Time{}, 0
	}
	if at := windowsTime(ticks); at.After(c.now()) {
		return at, 0
	}
	return time.Time{}, 0 // and yet it was right: nothing to warn of
}
