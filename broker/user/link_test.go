package user_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/connectors"
)

// trusted is an Admission of a deployment where the connectors named are trusted
// for acme.example.
func trusted(cs ...string) user.Admission {
	return user.Admission{Speaks: func(c, domain string) bool { return domain == "acme.example" && slices.Contains(cs, c) }}
}

func by(connector, subject, email string, verified bool) connectors.Identity {
	return connectors.Identity{Connector: connector, Subject: subject, Username: "li", Email: email, EmailVerified: verified}
}

// UP-5, UP-7: every way to take over or shut out an account by its address. The
// old account is there first; the new identity comes by "saml".
func TestLinkByAddress(t *testing.T) {
	const (
		linked   = "linked"
		apart    = "an account of its own"
		existing = "existing account"
	)
	old := by("ldap", "1", "li@acme.example", true)
	for name, c := range map[string]struct {
		old  connectors.Identity
		new  connectors.Identity
		a    user.Admission
		then func(*testing.T, *user.Directory, string)
		want string
	}{
		"both sides verified and trusted":  {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml"), want: linked},
		"the same address, typed in caps":  {old: old, new: by("saml", "9", "Li@ACME.example", true), a: trusted("ldap", "saml"), want: linked},
		"the new one is not trusted":       {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("ldap"), want: existing},
		"the old one is not trusted":       {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("saml"), want: existing},
		"nobody is trusted":                {old: old, new: by("saml", "9", "li@acme.example", true), want: existing},
		"the new address is not verified":  {old: old, new: by("saml", "9", "li@acme.example", false), a: trusted("ldap", "saml"), want: existing},
		"pre-hijacking":                    {old: by("ldap", "1", "li@acme.example", false), new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"neither is verified":              {old: by("ldap", "1", "li@acme.example", false), new: by("saml", "9", "li@acme.example", false), a: trusted("ldap", "saml"), want: apart},
		"a foreign domain of both":         {old: by("ldap", "1", "li@other.example", true), new: by("saml", "9", "li@other.example", true), a: trusted("ldap", "saml"), want: existing},
		"the address was given away":       {old: by("saml", "8", "li@acme.example", true), new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"no address":                       {old: by("ldap", "1", "", true), new: by("saml", "9", "", true), a: trusted("ldap", "saml"), want: apart},
		"two @":                            {old: old, new: by("saml", "9", "li@acme.example@acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"a trailing dot":                   {old: old, new: by("saml", "9", "li@acme.example.", true), a: trusted("ldap", "saml"), want: apart},
		"a quoted local part":              {old: old, new: by("saml", "9", `"li"@acme.example`, true), a: trusted("ldap", "saml"), want: apart},
		"a comment":                        {old: old, new: by("saml", "9", "li(x)@acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"a Cyrillic letter in the domain":  {old: old, new: by("saml", "9", "li@\u0430cme.example", true), a: trusted("ldap", "saml"), want: apart},
		"a Kelvin sign in the local part":  {old: by("ldap", "1", "kim@acme.example", true), new: by("saml", "9", "\u212aim@acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"a full-width domain":              {old: old, new: by("saml", "9", "li@\uff41cme.example", true), a: trusted("ldap", "saml"), want: apart},
		"a sub-domain":                     {old: old, new: by("saml", "9", "li@x.acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"a longer domain":                  {old: old, new: by("saml", "9", "li@acme.example.evil.example", true), a: trusted("ldap", "saml"), want: apart},
		"another local part with a + sign": {old: old, new: by("saml", "9", "li+x@acme.example", true), a: trusted("ldap", "saml"), want: apart},
		"an account that is linked by hand alone": {old: old, new: by("saml", "9", "li@acme.example", true), want: existing,
			a: user.Admission{Speaks: trusted("ldap", "saml").Speaks, ByHand: func(context.Context, user.User) (bool, error) { return true, nil }}},
		"an account that has had a role": {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml"), want: existing,
			then: func(t *testing.T, d *user.Directory, id string) { must(t, d.MarkStaff(t.Context(), id)) }},
		"a suspended account": {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml"), want: existing,
			then: func(t *testing.T, d *user.Directory, id string) { must(t, d.Suspend(t.Context(), id)) }},
		"the address left the account": {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml"), want: apart,
			then: func(t *testing.T, d *user.Directory, _ string) {
				_, _, err := d.Admit(t.Context(), by("ldap", "1", "wei@acme.example", true), user.Admission{})
				must(t, err)
			}},
		"two accounts have it": {old: old, new: by("saml", "9", "li@acme.example", true), a: trusted("ldap", "saml", "oidc"), want: existing,
			then: func(t *testing.T, d *user.Directory, _ string) {
				u, _, err := d.Admit(t.Context(), by("oidc", "5", "", false), user.Admission{})
				must(t, err)
				_, created, err := d.Admit(t.Context(), by("oidc", "5", "li@acme.example", true), user.Admission{})
				if must(t, err); created || u.ID == "" {
					t.Error("no second account")
				}
			}},
		"an account of one's own is wanted":              {old: old, new: by("saml", "9", "li@acme.example", true), a: apartly(trusted("ldap", "saml")), want: apart},
		"an account of one's own, by an untrusted one":   {old: old, new: by("saml", "9", "li@acme.example", true), a: apartly(trusted("ldap")), want: existing},
		"an account of one's own, address not verified":  {old: old, new: by("saml", "9", "li@acme.example", false), a: apartly(trusted("ldap", "saml")), want: existing},
		"sign-up is closed, but the account is there":    {old: old, new: by("saml", "9", "li@acme.example", true), a: closed(trusted("ldap", "saml")), want: linked},
		"a name with the other's address in it is no @ ": {old: old, new: by("saml", "9", "Li <li@acme.example>", true), a: trusted("ldap", "saml"), want: apart},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := directory(t)
			first, _, err := d.Admit(t.Context(), c.old, user.Admission{})
			must(t, err)
			if c.then != nil {
				c.then(t, d, first.ID)
			}
			before, err := d.Get(t.Context(), first.ID)
			must(t, err)
			var told []user.Change
			c.a.Announce = func(_ context.Context, _ user.User, what user.Change) error { told = append(told, what); return nil }
			u, created, err := d.Admit(t.Context(), c.new, c.a)
			var taken *user.ExistingAccount
			got := apart
			switch {
			case errors.As(err, &taken):
				got = existing
			case err != nil:
				t.Fatal(err)
			case u.ID == first.ID && !created:
				got = linked
			}
			if got != c.want {
				t.Errorf("%s, want %s (%v)", got, c.want, err)
			}
			after, err := d.Get(t.Context(), first.ID)
			must(t, err)
			if got != linked && fmt.Sprint(after) != fmt.Sprint(before) {
				t.Errorf("the old account was touched: %v, was %v", after, before)
			}
			if got == linked && (len(after.Identities) != 2 || after.Email != c.old.Email || !slices.Equal(told, []user.Change{user.Linked})) {
				t.Errorf("linked as %v, told %v", after, told)
			}
			if taken != nil && taken.Verified != c.new.EmailVerified {
				t.Errorf("%+v", taken)
			}
			if owner, err := d.ByIdentity(t.Context(), "saml", "9"); got == existing && !errors.Is(err, user.ErrNotFound) {
				t.Errorf("the refused identity belongs to %q (%v)", owner, err)
			}
		})
	}
}

func apartly(a user.Admission) user.Admission { a.Apart = true; return a }
func closed(a user.Admission) user.Admission  { a.Signup = "invite"; return a }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Of two who link one identity at once, one wins, and of sixty-four first
// sign-ins one is announced.
func TestLinkRaces(t *testing.T) {
	t.Parallel()
	d, _ := directory(t)
	a, _, err := d.Admit(t.Context(), by("ldap", "1", "", false), user.Admission{})
	must(t, err)
	b, _, err := d.Admit(t.Context(), by("ldap", "2", "", false), user.Admission{})
	must(t, err)
	for n := range 20 {
		id := by("github", fmt.Sprint(n), "", false)
		var wg sync.WaitGroup
		var won, lost, told atomic.Int32
		for i := range 8 {
			wg.Go(func() {
				_, err := d.Link(t.Context(), []string{a.ID, b.ID}[i%2], id, func(context.Context, user.User, user.Change) error { told.Add(1); return nil })
				switch {
				case err == nil:
					won.Add(1)
				case errors.Is(err, user.ErrTaken):
					lost.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		owner, err := d.ByIdentity(t.Context(), "github", id.Subject)
		must(t, err)
		ua, err := d.Get(t.Context(), a.ID)
		must(t, err)
		ub, err := d.Get(t.Context(), b.ID)
		must(t, err)
		has := func(u user.User) bool {
			return slices.ContainsFunc(u.Identities, func(l user.Link) bool { return l.Connector == "github" && l.Subject == id.Subject })
		}
		if won.Load() != 4 || lost.Load() != 4 || has(ua) == has(ub) || has(ua) != (owner == a.ID) {
			t.Fatalf("%d won, %d lost, owner %s, a %v, b %v", won.Load(), lost.Load(), owner, has(ua), has(ub))
		}
	}
	var told atomic.Int32
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, _, err := d.Admit(t.Context(), by("new", "1", "new@acme.example", true), user.Admission{Announce: func(context.Context, user.User, user.Change) error { told.Add(1); return nil }}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if told.Load() != 1 {
		t.Errorf("announced %d times", told.Load())
	}
}

// Nothing is made or linked that cannot be announced, and nothing stands in the
// way of the next try.
func TestUnannounced(t *testing.T) {
	t.Parallel()
	d, s := directory(t)
	broken := errors.New("the log is full")
	no := func(context.Context, user.User, user.Change) error { return broken }
	id := by("github", "7", "li@acme.example", true)
	if _, _, err := d.Admit(t.Context(), id, user.Admission{Announce: no}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if us, _, err := d.List(t.Context(), "", 10); err != nil || len(us) != 0 {
		t.Errorf("there are %v (%v)", us, err)
	}
	if raw, err := s.List(t.Context(), "user", "", "", "", 10); err == nil && len(raw) == 1 {
		if _, err := d.Get(t.Context(), raw[0].ID); !errors.Is(err, user.ErrNotFound) {
			t.Errorf("an account in the making is there: %v", err)
		}
		if _, err := d.Epoch(t.Context(), raw[0].ID); !errors.Is(err, user.ErrNotFound) {
			t.Errorf("an account in the making has an epoch: %v", err)
		}
	}
	u, created, err := d.Admit(t.Context(), id, user.Admission{})
	if err != nil || !created {
		t.Fatalf("%v %v", created, err)
	}
	other := by("ldap", "1", "", false)
	if _, err := d.Link(t.Context(), u.ID, other, no); !errors.Is(err, broken) {
		t.Errorf("link: %v", err)
	}
	if _, err := d.ByIdentity(t.Context(), "ldap", "1"); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("the identity is somebody's: %v", err)
	}
	if _, err := d.Link(t.Context(), u.ID, other, nil); err != nil {
		t.Error(err)
	}
	if _, err := d.Unlink(t.Context(), u.ID, user.Link{Connector: "ldap", Subject: "1"}.ID(), all, no); !errors.Is(err, broken) {
		t.Errorf("unlink: %v", err)
	}
	if owner, err := d.ByIdentity(t.Context(), "ldap", "1"); err != nil || owner != u.ID {
		t.Errorf("%v %v", owner, err)
	}
}

func all(user.Link) bool { return true }

// The last way in stays, however many try at once; what is unlinked is nobody's,
// and the profile that came from it goes with it.
func TestUnlink(t *testing.T) {
	t.Parallel()
	d, _ := directory(t)
	u, _, err := d.Admit(t.Context(), by("github", "7", "li@acme.example", true), user.Admission{})
	must(t, err)
	gh, ldap := user.Link{Connector: "github", Subject: "7"}.ID(), user.Link{Connector: "ldap", Subject: "1"}.ID()
	if _, err := d.Unlink(t.Context(), u.ID, gh, all, nil); !errors.Is(err, user.ErrLastIdentity) {
		t.Errorf("the only one: %v", err)
	}
	_, err = d.Link(t.Context(), u.ID, by("ldap", "1", "wei@acme.example", false), nil)
	must(t, err)
	if _, err := d.Unlink(t.Context(), u.ID, gh, func(l user.Link) bool { return l.Connector != "ldap" }, nil); !errors.Is(err, user.ErrLastIdentity) {
		t.Errorf("the other one leads nowhere: %v", err)
	}
	if _, err := d.Unlink(t.Context(), u.ID, "nothing", all, nil); !errors.Is(err, user.ErrNotFound) {
		t.Errorf("an unknown one: %v", err)
	}
	for range 10 {
		_, err = d.Link(t.Context(), u.ID, by("ldap", "1", "wei@acme.example", false), nil)
		must(t, err)
		_, err = d.Link(t.Context(), u.ID, by("github", "7", "li@acme.example", true), nil)
		must(t, err)
		var wg sync.WaitGroup
		var done atomic.Int32
		for i := range 8 {
			wg.Go(func() {
				_, err := d.Unlink(t.Context(), u.ID, []string{gh, ldap}[i%2], all, nil)
				if err == nil {
					done.Add(1)
				} else if !errors.Is(err, user.ErrLastIdentity) && !errors.Is(err, user.ErrNotFound) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got, err := d.Get(t.Context(), u.ID)
		must(t, err)
		if len(got.Identities) != 1 || done.Load() != 1 {
			t.Fatalf("%d were unlinked, left are %v", done.Load(), got.Identities)
		}
		left := got.Identities[0]
		if got.Email != left.Email || got.EmailVerified != left.EmailVerified {
			t.Fatalf("the profile has %s (%v), left is %v", got.Email, got.EmailVerified, left)
		}
		if owner, err := d.ByIdentity(t.Context(), left.Connector, left.Subject); err != nil || owner != u.ID {
			t.Fatalf("%v %v", owner, err)
		}
		gone := map[string]string{"github": "ldap", "ldap": "github"}[left.Connector]
		if _, err := d.ByIdentity(t.Context(), gone, map[string]string{"github": "7", "ldap": "1"}[gone]); !errors.Is(err, user.ErrNotFound) {
			t.Fatalf("what was unlinked is somebody's: %v", err)
		}
	}
	before, err := d.Get(t.Context(), u.ID)
	must(t, err)
	gone := "github"
	if before.Identities[0].Connector == "github" {
		gone = "ldap"
	}
	other, created, err := d.Admit(t.Context(), by(gone, map[string]string{"github": "7", "ldap": "1"}[gone], "", false), user.Admission{})
	if err != nil || !created || other.ID == u.ID {
		t.Errorf("what was unlinked leads to %s (%v %v)", other.ID, created, err)
	}
}

// Merge moves identities once and for good: the old id is never anybody's again.
func TestMerge(t *testing.T) {
	t.Parallel()
	d, _ := directory(t)
	into, _, err := d.Admit(t.Context(), by("github", "7", "li@acme.example", true), user.Admission{})
	must(t, err)
	from, _, err := d.Admit(t.Context(), by("ldap", "1", "wei@acme.example", true), user.Admission{})
	must(t, err)
	tell := func(context.Context, user.User, user.User) error { return nil }
	for name, ids := range map[string][2]string{"itself": {into.ID, into.ID}, "nobody": {into.ID, "nobody"}, "into nobody": {"nobody", from.ID}} {
		if _, err := d.Merge(t.Context(), ids[0], ids[1], tell); err == nil {
			t.Errorf("%s was merged", name)
		}
	}
	must(t, d.Suspend(t.Context(), from.ID))
	if _, err := d.Merge(t.Context(), into.ID, from.ID, tell); !errors.Is(err, user.ErrSuspended) {
		t.Errorf("a suspended one: %v", err)
	}
	must(t, d.Resume(t.Context(), from.ID))
	broken := errors.New("the log is full")
	if _, err := d.Merge(t.Context(), into.ID, from.ID, func(context.Context, user.User, user.User) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("unannounced: %v", err)
	}
	if _, err := d.Epoch(t.Context(), from.ID); err != nil {
		t.Errorf("the refused merge changed something: %v", err)
	}
	for range 2 { // a second time changes nothing
		u, err := d.Merge(t.Context(), into.ID, from.ID, tell)
		if err != nil || len(u.Identities) != 2 || u.Email != "li@acme.example" {
			t.Fatalf("%v %v", u, err)
		}
	}
	if u, created, err := d.Admit(t.Context(), by("ldap", "1", "wei@acme.example", true), user.Admission{}); err != nil || created || u.ID != into.ID {
		t.Errorf("the moved identity leads to %s (%v %v)", u.ID, created, err)
	}
	if _, err := d.Epoch(t.Context(), from.ID); !errors.Is(err, user.ErrSuspended) {
		t.Errorf("the old account: %v", err)
	}
	if err := d.Resume(t.Context(), from.ID); !errors.Is(err, user.ErrMerged) {
		t.Errorf("it was resumed: %v", err)
	}
	if _, err := d.Link(t.Context(), from.ID, by("oidc", "3", "", false), nil); !errors.Is(err, user.ErrSuspended) {
		t.Errorf("it was linked to: %v", err)
	}
	if _, err := d.Merge(t.Context(), from.ID, into.ID, tell); !errors.Is(err, user.ErrMerged) {
		t.Errorf("back again: %v", err)
	}
}

// One invitation makes one account, of one address, within a week.
func TestInvite(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		id     connectors.Identity
		token  func(string) string
		before func(*testing.T, *user.Directory, user.Invite, string)
		ok     bool
	}{
		"as it should be":         {id: by("github", "7", "li@acme.example", true), ok: true},
		"typed in caps":           {id: by("github", "7", "LI@Acme.example", true), ok: true},
		"another address":         {id: by("github", "7", "wei@acme.example", true)},
		"not verified":            {id: by("github", "7", "li@acme.example", false)},
		"no address":              {id: by("github", "7", "", true)},
		"another connector":       {id: by("ldap", "7", "li@acme.example", true)},
		"another token":           {id: by("github", "7", "li@acme.example", true), token: func(s string) string { return strings.Repeat("A", len(s)) }},
		"the hash that is stored": {id: by("github", "7", "li@acme.example", true), token: func(string) string { return "" }},
		"withdrawn": {id: by("github", "7", "li@acme.example", true), before: func(t *testing.T, d *user.Directory, i user.Invite, _ string) {
			must(t, d.Withdraw(t.Context(), i.ID))
		}},
		"used by another": {id: by("github", "7", "li@acme.example", true), before: func(t *testing.T, d *user.Directory, _ user.Invite, token string) {
			_, _, err := d.Admit(t.Context(), by("github", "8", "li@acme.example", true), user.Admission{Signup: "invite", Invite: token})
			must(t, err)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d, _ := directory(t)
			i, token, err := d.Invite(t.Context(), "Li@ACME.example", "github", "operator")
			must(t, err)
			if got, err := d.InviteByToken(t.Context(), token); err != nil || got.Email != "li@acme.example" || strings.Contains(fmt.Sprint(got), token) {
				t.Errorf("%v %v", got, err)
			}
			if c.before != nil {
				c.before(t, d, i, token)
			}
			use := token
			if c.token != nil {
				if use = c.token(token); use == "" {
					use = i.ID
				}
			}
			_, created, err := d.Admit(t.Context(), c.id, user.Admission{Signup: "invite", Invite: use})
			if created != c.ok || !c.ok && !errors.Is(err, user.ErrInvite) || c.ok && err != nil {
				t.Errorf("%v %v", created, err)
			}
			if c.ok {
				if _, err := d.InviteByToken(t.Context(), token); !errors.Is(err, user.ErrInvite) {
					t.Errorf("still open: %v", err)
				}
			}
		})
	}
	d, _ := directory(t)
	if _, _, err := d.Invite(t.Context(), "not an address", "", "x"); !errors.Is(err, user.ErrInvite) {
		t.Error(err)
	}
	_, token, err := d.Invite(t.Context(), "li@acme.example", "", "operator")
	must(t, err)
	var wg sync.WaitGroup
	var won atomic.Int32
	for i := range 16 {
		wg.Go(func() {
			if _, created, _ := d.Admit(t.Context(), by("github", fmt.Sprint(i), "li@acme.example", true), user.Admission{Signup: "invite", Invite: token}); created {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("one invitation made %d accounts", won.Load())
	}
}

// Two admins merge two accounts into each other at once: at most one of them
// succeeds, and one account goes on with both identities or both go on.
func TestMergeBothWays(t *testing.T) {
	t.Parallel()
	for range 15 {
		d, _ := directory(t)
		a, _, err := d.Admit(t.Context(), by("github", "7", "li@acme.example", true), user.Admission{})
		must(t, err)
		b, _, err := d.Admit(t.Context(), by("ldap", "1", "wei@acme.example", true), user.Admission{})
		must(t, err)
		tell := func(context.Context, user.User, user.User) error { return nil }
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, ids := range [][2]string{{a.ID, b.ID}, {b.ID, a.ID}} {
			wg.Go(func() { _, errs[i] = d.Merge(t.Context(), ids[0], ids[1], tell) })
		}
		wg.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Fatal("both merges say that they succeeded")
		}
		open := 0
		for _, id := range []string{a.ID, b.ID} {
			if _, err := d.Epoch(t.Context(), id); err == nil {
				open++
			}
		}
		if want := map[bool]int{true: 2, false: 1}[errs[0] != nil && errs[1] != nil]; open != want {
			t.Fatalf("%d accounts are open after %v", open, errs)
		}
		for _, who := range [][2]string{{"github", "7"}, {"ldap", "1"}} {
			if u, created, err := d.Admit(t.Context(), by(who[0], who[1], "x@acme.example", true), user.Admission{}); err != nil || created {
				t.Fatalf("%v leads to %v (%v, %v)", who, u.ID, created, err)
			}
		}
	}
}
