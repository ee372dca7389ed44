package ldap

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

// sidBytes is S-1-5-21-1-2-3-RID.
func sidBytes(rid byte) string {
	return "\x01\x05\x00\x00\x00\x00\x00\x05\x15\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00" + string([]byte{rid, 4, 0, 0})
}

// adUser is a person of Active Directory; more attributes replace its own.
func adUser(cn, sam string, more attrs) object {
	o := object{dn: "CN=" + cn + ",OU=Staff,DC=example,DC=com", password: sam + "-secret", policy: -1, attrs: attrs{
		"objectClass": {"user"}, "objectCategory": {"person"}, "sAMAccountName": {sam}, "displayName": {cn},
		"objectGUID": {fmt.Sprintf("%-16.16s", sam)}, "objectSid": {sidBytes(sam[0])}, "primaryGroupID": {"513"}, "userAccountControl": {"512"},
	}}
	for k, v := range more {
		o.attrs[k] = v
	}
	return o
}

func adGroup(name string, members ...string) object {
	return object{dn: "CN=" + name + ",OU=Groups,DC=example,DC=com", policy: -1,
		attrs: attrs{"objectClass": {"group"}, "objectCategory": {"group"}, "cn": {name}, "sAMAccountName": {name}, "member": members}}
}

func activeDirectory(t *testing.T, more ...object) *directory {
	users := adGroup("Domain Users")
	users.sid = "S-1-5-21-1-2-3-513"
	users.dn = "CN=Domain Users,CN=Users,DC=example,DC=com"
	users.attrs["member"] = nil
	return newDirectory(t, append([]object{users,
		adUser("Alice Adams", "alice", attrs{"userPrincipalName": {"alice@corp.example"}, "mail": {"Alice.Adams@example.org"}}),
		adUser("Bob Brown", "bob", nil),
	}, more...)...)
}

func preset(c *Config) { c.Preset = "active_directory" }

// Host, base and service account are all that Active Directory needs: people go
// by account name, DOMAIN\name, principal name and mail address, and are known by
// objectGUID whichever they typed (LD-3, UP-4).
func TestActiveDirectoryNames(t *testing.T) {
	d := activeDirectory(t,
		adUser("Eve", "eve", attrs{"mail": {"alice"}}),                        // not an address: keeps nobody out
		adUser("PC", "pc$", attrs{"objectCategory": {"computer"}}),            // a machine
		adUser("Two", "two", attrs{"mail": {"shared@example.org"}}),           //
		adUser("Three", "three", attrs{"mail": {"shared@example.org"}}),       //
		adUser("Odd", "odd", attrs{"userPrincipalName": {"bob@example.com"}}), // somebody else's implicit name
	)
	plain := d.connector(preset)
	named := d.connector(func(c *Config) { preset(c); c.NetBIOSDomain = "CORP" })
	own := d.connector(func(c *Config) { preset(c); c.UserFilter = "(displayName=%s)" })
	for _, c := range []struct {
		by          *Connector
		typed, want string // "" is nobody
	}{
		{plain, "alice", "alice"}, {plain, "ALICE", "alice"}, {plain, `CORP\alice`, "alice"}, {plain, `other\alice`, "alice"},
		{plain, "alice@corp.example", "alice"}, {plain, "alice.adams@EXAMPLE.org", "alice"}, {plain, "alice@example.com", "alice"},
		{plain, "alice@elsewhere.example", ""}, {plain, "shared@example.org", ""}, {plain, "bob@example.com", ""}, {plain, "pc$", ""},
		{plain, `CORP\`, ""}, {plain, `CORP\*`, ""}, {plain, `alice\`, ""}, {plain, `a)(sAMAccountName=*`, ""}, {plain, "@example.com", ""},
		{named, `CORP\alice`, "alice"}, {named, `corp\alice`, "alice"}, {named, `example.com\alice`, "alice"}, {named, "alice", "alice"},
		{named, `other\alice`, ""}, {named, `\alice`, ""},
		{own, "Alice Adams", "alice"}, {own, `CORP\Alice Adams`, "alice"}, {own, "alice", ""},
	} {
		id, err := c.by.Authenticate(t.Context(), c.typed, "alice-secret")
		if c.want == "" {
			if !errors.Is(err, connectors.ErrBadCredentials) {
				t.Errorf("%q: %+v, %v", c.typed, id, err)
			}
			continue
		}
		// The first three fields of an objectGUID are little-endian.
		if err != nil || id.Username != c.want || id.Subject != "63696c61-2065-2020-2020-202020202020" || id.Name != "Alice Adams" || id.Email != "Alice.Adams@example.org" || id.EmailVerified {
			t.Errorf("%q: %+v, %v", c.typed, id, err)
		}
	}
	id, err := plain.Authenticate(t.Context(), "alice", "alice-secret")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Renew(t.Context(), id); err != nil {
		t.Errorf("renewed: %v", err)
	}
	d.set(func() {
		for _, o := range d.objects {
			if o.attrs["sAMAccountName"] != nil && o.attrs["sAMAccountName"][0] == "alice" {
				o.attrs["objectCategory"] = []string{"computer"}
			}
		}
	})
	if _, err := plain.Renew(t.Context(), id); !errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("no person any more: %v", err)
	}
}

// LD-7: nested groups by the directory's own rule, and the primary group, which
// no member and no memberOf names, with what it is in.
func TestActiveDirectoryGroups(t *testing.T) {
	alice := "CN=Alice Adams,OU=Staff,DC=example,DC=com"
	dn := func(name string) string { return "CN=" + name + ",OU=Groups,DC=example,DC=com" }
	rival := adGroup("Admins", "CN=Bob Brown,OU=Staff,DC=example,DC=com")
	rival.dn = "CN=Admins,OU=Elsewhere,DC=example,DC=com"
	objects := []object{
		adGroup("Dev", alice), adGroup("Engineering", dn("Dev")), adGroup("Loop", dn("Engineering"), dn("Loop")),
		adGroup("Everybody", "CN=Domain Users,CN=Users,DC=example,DC=com"), adGroup("Others", "CN=Bob Brown,OU=Staff,DC=example,DC=com"),
		adGroup("Admins", alice), rival,
	}
	for name, c := range map[string]struct {
		change func(*Config)
		want   []string
	}{
		"preset": {func(*Config) {}, []string{"Dev", "Domain Users", "Engineering", "Everybody", "Loop"}},
		"direct": {func(c *Config) { c.Groups.Nested = new(false) }, []string{"Dev", "Domain Users"}},
		"below a unit": {func(c *Config) { c.Groups.BaseDN = "OU=Groups,DC=example,DC=com" },
			[]string{"Admins", "Dev", "Engineering", "Everybody", "Loop"}},
		"own filter": {func(c *Config) { c.Groups.Filter = "(member=%s)" }, []string{"Dev", "Engineering", "Loop"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := activeDirectory(t, objects...)
			id, err := d.connector(func(cfg *Config) { preset(cfg); c.change(cfg) }).Authenticate(t.Context(), "alice", "alice-secret")
			if err != nil || !slices.Equal(id.Groups, c.want) {
				t.Errorf("%q, %v; want %q", id.Groups, err, c.want)
			}
		})
	}
	// Without a primary group that can be found the others count.
	d := activeDirectory(t, objects...)
	d.set(func() {
		for _, o := range d.objects {
			if o.dn == alice {
				o.attrs["objectSid"] = []string{"short"}
			}
		}
	})
	if id, err := d.connector(preset).Authenticate(t.Context(), "alice", "alice-secret"); err != nil || !slices.Contains(id.Groups, "Engineering") || slices.Contains(id.Groups, "Domain Users") {
		t.Errorf("%q, %v", id.Groups, err)
	}
}

// A list in parts is not taken for the whole.
func TestMemberOfInParts(t *testing.T) {
	u := alice()
	u.attrs["memberOf"] = nil
	d := newDirectory(t, u)
	c := d.connector(nil)
	raw := goldap.NewEntry(aliceDN, map[string][]string{"memberOf": {}, "memberOf;range=0-1499": {"cn=a,dc=example,dc=com"}})
	if found, err := c.memberOf(&entry{raw: raw}); !errors.Is(err, errTooManyGroups) {
		t.Errorf("%v, %v", found, err)
	}
}

func TestSiblingSID(t *testing.T) {
	// The example of docs/connectors/active-directory.md.
	raw := "\x01\x05\x00\x00\x00\x00\x00\x05\x15\x00\x00\x00\xa0\x65\xcf\x7e\x78\x4b\x9b\x5f\xe7\x7c\x87\x70\x09\x1c\x01\x00"
	if s, err := siblingSID([]byte(raw), 513); s != "S-1-5-21-2127521184-1604012920-1887927527-513" || err != nil {
		t.Errorf("%q, %v", s, err)
	}
	for _, bad := range []string{"", raw[:27], raw + "\x00", "\x02" + raw[1:], "\x01\x00\x00\x00\x00\x00\x00\x05", "\x01\xff" + raw[2:]} {
		if s, err := siblingSID([]byte(bad), 513); err == nil {
			t.Errorf("%q: %q", bad, s)
		}
	}
}

// A password that ends is told to whoever used it, by both kinds of directory.
func TestPasswordEnds(t *testing.T) {
	at := time.Now().Add(72 * time.Hour).Truncate(time.Second)
	ticks := func(at time.Time) []string { return []string{fmt.Sprint((at.Unix() + 11644473600) * 1e7)} }
	behera := func(value string) func(*object) { return func(o *object) { o.control = value } }
	for name, c := range map[string]struct {
		change func(*object)
		ends   time.Duration // about; 0 is not said
		grace  int
	}{
		"Active Directory":       {func(o *object) { o.attrs[passwordEnds] = ticks(at) }, 72 * time.Hour, 0},
		"Active Directory never": {func(o *object) { o.attrs[passwordEnds] = []string{"9223372036854775807"} }, 0, 0},
		"Active Directory must":  {func(o *object) { o.attrs[passwordEnds] = []string{"0"} }, 0, 0},
		"Active Directory past":  {func(o *object) { o.attrs[passwordEnds] = ticks(time.Now().Add(-time.Hour)) }, 0, 0},
		"policy":                 {behera("\x30\x06\xa0\x04\x80\x02\x0e\x10"), time.Hour, 0},
		"policy grace":           {behera("\x30\x05\xa0\x03\x81\x01\x02"), time.Nanosecond, 2},
		"policy silent":          {behera("\x30\x00"), 0, 0},
		"nothing":                {func(*object) {}, 0, 0},
	} {
		u := adUser("Alice Adams", "alice", nil)
		c.change(&u)
		d := newDirectory(t, u)
		id, err := d.connector(preset).Authenticate(t.Context(), "alice", "alice-secret")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		left := time.Until(id.PasswordEnds)
		if id.PasswordEnds.IsZero() != (c.ends == 0) || c.ends > 0 && (left > c.ends || left < c.ends-time.Minute) || id.GraceLogins != c.grace {
			t.Errorf("%s: ends in %v, %d left", name, left, id.GraceLogins)
		}
	}
}

func TestActiveDirectoryProblems(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"preset":          {preset, ""},
		"other preset":    {func(c *Config) { c.Preset = "novell" }, "Preset ldap.preset"},
		"NetBIOS alone":   {func(c *Config) { c.NetBIOSDomain = "CORP" }, "NetBIOSDomain ldap.netbios_domain"},
		"NetBIOS":         {func(c *Config) { preset(c); c.NetBIOSDomain = "CORP" }, ""},
		"NetBIOS is none": {func(c *Config) { preset(c); c.NetBIOSDomain = `CORP\` }, "NetBIOSDomain ldap.netbios_domain"},
		"hosts": {func(c *Config) {
			c.Host, c.Hosts = "", []string{"dc1", "dc2.example.com:636", "192.0.2.1", "[2001:db8::7]:389", "2001:db8::7"}
		}, ""},
		"URL in hosts": {func(c *Config) { c.Hosts = []string{"ldaps://dc2"} }, "Hosts ldap.hosts"},
		"bad port":     {func(c *Config) { c.Hosts = []string{"dc2:0"} }, "Hosts ldap.hosts"},
		"empty host":   {func(c *Config) { c.Hosts = []string{""} }, "Hosts ldap.hosts"},
	} {
		var got []string
		for _, p := range valid(c.change).Problems() {
			got = append(got, p.Field+" "+p.Rule)
		}
		if strings.Join(got, ",") != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// Whatever is typed becomes one of the preset's three filters, with what was
// typed in its places, or nobody.
func FuzzActiveDirectoryName(f *testing.F) {
	for _, s := range []string{"alice", `CORP\alice`, `CORP\`, `\`, "alice@corp.example", "alice@example.com", "@example.com", "@", `a\b\c`, `CORP\a@example.com`, "*", "%s", "%u@example.com", "a)(b=c", "张三", "a\x00"} {
		f.Add(s, "")
		f.Add(s, "CORP")
	}
	names, err := newADNames()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, typed, domain string) {
		if !validName(typed) {
			return
		}
		c := &Connector{cfg: &Config{Preset: presetAD, NetBIOSDomain: domain}, names: names, dnsDomain: "example.com"}
		text, err := c.userFilter(typed)
		if err != nil {
			return
		}
		p, err := goldap.CompileFilter(text)
		if err != nil {
			t.Fatalf("%q makes %q, which is no filter: %v", typed, text, err)
		}
		if got := shape(p); got != names.account.shape && got != names.address.shape && got != names.domain.shape {
			t.Fatalf("%q makes %q of shape %s", typed, text, got)
		}
		if before, _, cut := strings.Cut(typed, `\`); cut && domain != "" && !strings.EqualFold(before, domain) && !strings.EqualFold(before, "example.com") {
			t.Fatalf("%q of another domain is asked for as %q", typed, text)
		}
	})
}
