package ldap

import (
	"errors"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

// LD-3, LD-9: whichever name leads to an account, the broker hears the account's
// own before the password is asked for, and may forbid it: the directory's own
// lock is never reached. Of a name that nobody has it hears nothing.
func TestThrottledByTheAccount(t *testing.T) {
	d := newDirectory(t, alice())
	c := d.connector(func(cfg *Config) { cfg.UserFilter = "(|(uid=%s)(mail=%s))" })
	var heard []string
	may := true
	ctx := connectors.WithThrottle(t.Context(), func(subject string) bool { heard = append(heard, subject); return may })
	for _, name := range []string{"alice", "ALICE", "alice@example.com"} {
		if _, err := c.Authenticate(ctx, name, "wrong"); !errors.Is(err, connectors.ErrBadCredentials) {
			t.Fatalf("%s: %v", name, err)
		}
	}
	if len(heard) != 3 || heard[0] == "" || heard[1] != heard[0] || heard[2] != heard[0] {
		t.Fatalf("heard %q", heard)
	}
	tried := func() (n int) {
		binds, _, _ := d.seen()
		for _, b := range binds {
			if sameDN(b.dn, aliceDN) {
				n++
			}
		}
		return n
	}
	before := tried()
	may = false
	if _, err := c.Authenticate(ctx, "alice", "alice-secret"); !errors.Is(err, connectors.ErrThrottled) {
		t.Errorf("forbidden: %v", err)
	}
	if n := tried(); n != before || before != 3 {
		t.Errorf("the directory was asked %d times, then %d", before, n)
	}
	if _, err := c.Authenticate(ctx, "nobody", "x"); !errors.Is(err, connectors.ErrBadCredentials) || len(heard) != 4 {
		t.Errorf("nobody: %v, heard %q", err, heard)
	}
}
