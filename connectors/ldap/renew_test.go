package ldap

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

func TestRenew(t *testing.T) {
	guid := "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"
	for _, kind := range []string{entryUUID, objectGUID} {
		d := newDirectory(t, alice(), person("bob", nil))
		if kind == objectGUID {
			d.set(func() { delete(d.objects[0].attrs, entryUUID); d.objects[0].attrs[objectGUID] = []string{guid} })
		}
		c := d.connector(func(cfg *Config) { cfg.UserFilter = "(&(uid=%s)(!(employeeType=left)))" })
		id, err := c.Authenticate(t.Context(), "alice", "alice-secret")
		if err != nil {
			t.Fatal(err)
		}
		id.AuthTime = id.AuthTime.Add(-time.Hour)
		// Renamed and moved: the same person, with the directory's new name.
		d.set(func() {
			d.objects[0].dn = "uid=alicia,ou=elsewhere,dc=example,dc=com"
			d.objects[0].attrs["uid"] = []string{"alicia"}
		})
		again, err := c.Renew(t.Context(), id)
		if err != nil || again.Subject != id.Subject || again.Username != "alicia" || !again.AuthTime.Equal(id.AuthTime) || len(again.AMR) != 1 || len(again.Renewal) == 0 {
			t.Fatalf("%s: %+v, %v", kind, again, err)
		}
		for name, gone := range map[string]func(attrs){
			"disabled":     func(a attrs) { a["userAccountControl"] = []string{"514"} },
			"filtered":     func(a attrs) { a["employeeType"] = []string{"left"} },
			"expired":      func(a attrs) { a["accountExpires"] = []string{"130000000000000000"} }, // 2012
			"locked here":  func(a attrs) { a["pwdAccountLockedTime"] = []string{"000001010000Z"} },
			"must change":  func(a attrs) { a["pwdLastSet"] = []string{"0"} },
			"other object": func(a attrs) { delete(a, kind) },
		} {
			was := attrs{}
			d.set(func() {
				for k, v := range d.objects[0].attrs {
					was[k] = v
				}
				gone(d.objects[0].attrs)
			})
			if _, err := c.Renew(t.Context(), again); !errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("%s %s: %v", kind, name, err)
			}
			d.set(func() { d.objects[0].attrs = was })
		}
		// Anybody can lock an account by guessing: that ends no session.
		d.set(func() { d.objects[0].attrs["msDS-User-Account-Control-Computed"] = []string{"16"} })
		if _, err := c.Renew(t.Context(), again); err != nil {
			t.Errorf("locked: %v", err)
		}
		again.Renewal = []byte("1")
		if _, err := c.Renew(t.Context(), again); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("somebody else's renewal: %v", err)
		}
	}
}

func groupOf(cn string, members ...string) object {
	return object{dn: "cn=" + cn + ",ou=groups,dc=example,dc=com", policy: -1, attrs: attrs{"cn": {cn}, "member": members}}
}

func dnOf(cn string) string { return "cn=" + cn + ",ou=groups,dc=example,dc=com" }

func TestGroups(t *testing.T) {
	rival := groupOf("admins", "uid=bob,ou=people,dc=example,dc=com")
	rival.dn = "cn=admins,ou=mine,ou=groups,dc=example,dc=com"
	posix := object{dn: dnOf("unix"), policy: -1, attrs: attrs{"cn": {"unix"}, "memberUid": {"alice"}}}
	// Somebody is called like a group, and is in a group by that name alone.
	trap := object{dn: dnOf("trap"), policy: -1, attrs: attrs{"cn": {"trap"}, "memberUid": {"developers"}}}
	person1 := object{dn: "cn=staff,ou=people,dc=example,dc=com", policy: -1, attrs: attrs{"cn": {"staff"}}}
	a := alice()
	a.attrs["memberOf"] = []string{dnOf("developers"), "CN=Über\\, Team,OU=groups,DC=example,DC=com", "nonsense"}
	objects := []object{
		a, posix, trap, person1, rival,
		groupOf("developers", "UID=Alice, OU=people, DC=example, DC=com"),
		groupOf("engineering", dnOf("developers")), groupOf("staff", dnOf("engineering")),
		groupOf("loop-a", dnOf("loop-b"), aliceDN), groupOf("loop-b", dnOf("loop-a")),
		groupOf("admins", aliceDN), groupOf("others", "uid=bob,ou=people,dc=example,dc=com"),
	}
	for name, c := range map[string]struct {
		groups Groups
		want   []string
	}{
		"memberOf":    {Groups{}, []string{"developers", "Über, Team"}},
		"memberOf dn": {Groups{Name: "dn"}, []string{"CN=Über\\, Team,OU=groups,DC=example,DC=com", dnOf("developers")}},
		"direct":      {Groups{BaseDN: "ou=groups,dc=example,dc=com"}, []string{"developers", "loop-a", "unix"}},
		"nested":      {Groups{Nested: new(true)}, []string{"developers", "engineering", "loop-a", "loop-b", "staff", "unix"}},
		"by dn": {Groups{BaseDN: "ou=groups,dc=example,dc=com", Name: "dn", Filter: "(member=%s)"},
			[]string{dnOf("admins"), dnOf("developers"), dnOf("loop-a")}},
		"own filter": {Groups{Filter: "(memberUid=%u)"}, []string{"unix"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := newDirectory(t, slices.Clone(objects)...)
			d.set(func() {
				for i, o := range d.objects {
					d.objects[i].attrs = maps.Clone(o.attrs)
				}
			})
			cfg := d.connector(func(cfg *Config) { cfg.Groups = c.groups })
			id, err := cfg.Authenticate(t.Context(), "alice", "alice-secret")
			if err != nil {
				t.Fatal(err)
			}
			slices.Sort(c.want)
			if !slices.Equal(id.Groups, c.want) {
				t.Errorf("groups %q, want %q", id.Groups, c.want)
			}
			// Renewal reads them anew.
			d.set(func() { d.objects[5].attrs["member"], d.objects[0].attrs["memberOf"] = nil, nil })
			again, err := cfg.Renew(t.Context(), id)
			if err != nil || slices.Contains(again.Groups, "developers") || slices.Contains(again.Groups, "staff") {
				t.Errorf("renewed: %q, %v", again.Groups, err)
			}
		})
	}
}

func TestGroupsInPages(t *testing.T) {
	objects := []object{alice()}
	for i := range 1201 {
		objects = append(objects, groupOf(fmt.Sprintf("g%04d", i), aliceDN))
	}
	d := newDirectory(t, objects...)
	c := d.connector(func(cfg *Config) { cfg.Groups = Groups{BaseDN: "ou=groups,dc=example,dc=com", Name: "dn"} })
	id, err := c.Authenticate(t.Context(), "alice", "alice-secret")
	if err != nil || len(id.Groups) != 1201 {
		t.Fatalf("%d groups, %v", len(id.Groups), err)
	}
	d.set(func() {
		for i := range maxGroups {
			d.objects = append(d.objects, groupOf(fmt.Sprintf("h%04d", i), aliceDN))
		}
	})
	if id, err := c.Authenticate(t.Context(), "alice", "alice-secret"); !errors.Is(err, errTooManyGroups) {
		t.Errorf("%d groups, %v", len(id.Groups), err)
	}
}

func TestNestedTooDeep(t *testing.T) {
	objects := []object{alice(), groupOf("g00", aliceDN)}
	for i := 1; i < 30; i++ {
		objects = append(objects, groupOf(fmt.Sprintf("g%02d", i), dnOf(fmt.Sprintf("g%02d", i-1))))
	}
	c := newDirectory(t, objects...).connector(func(cfg *Config) { cfg.Groups.Nested = new(true) })
	id, err := c.Authenticate(t.Context(), "alice", "alice-secret")
	if err != nil || len(id.Groups) != maxDepth {
		t.Errorf("%d groups, %v", len(id.Groups), err)
	}
}

// Many at once stay within the cap, and nobody gets somebody else's identity.
func TestPoolUnderLoad(t *testing.T) {
	d := newDirectory(t, alice(), person("bob", nil))
	c := d.connector(nil)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			name, password := "alice", "alice-secret"
			if i%3 == 1 {
				name, password = "bob", "bob-secret"
			}
			if i%3 == 2 {
				password = "wrong"
			}
			id, err := c.Authenticate(t.Context(), name, password)
			if i%3 == 2 && !errors.Is(err, connectors.ErrBadCredentials) || i%3 != 2 && (err != nil || id.Username != name) {
				t.Errorf("%s: %+v, %v", name, id, err)
			}
		})
	}
	wg.Wait()
	binds, _, _ := d.seen()
	service, byConn := 0, map[int]string{}
	for _, b := range binds {
		if b.dn == serviceDN {
			service++
		}
		if was, twice := byConn[b.conn]; twice {
			t.Errorf("connection %d was bound as %s and as %s", b.conn, was, b.dn)
		}
		byConn[b.conn] = b.dn
	}
	if service > maxService {
		t.Errorf("%d connections of the service account", service)
	}
	_ = c.Close()
	wait(t, func() bool { _, open, _ := d.seen(); return open == 0 })
}

// A connection beyond its lifetime is not used again.
func TestPoolLifetime(t *testing.T) {
	d := newDirectory(t, alice())
	c := d.connector(nil)
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.pool.mu.Lock()
	c.pool.idle[0].opened = time.Now().Add(-maxLifetime)
	c.pool.mu.Unlock()
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, open, opened := d.seen(); opened != 2 {
		t.Errorf("%d opened, %d open", opened, open)
	}
	wait(t, func() bool { _, open, _ := d.seen(); return open == 1 })
}
