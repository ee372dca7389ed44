package ldap

import (
	"strings"
	"testing"

	goldap "github.com/go-ldap/ldap/v3"
)

func TestTemplate(t *testing.T) {
	for _, c := range []struct {
		text, anybody string // anybody "": refused
	}{
		{"(uid=%s)", "(uid=*)"},
		{"(|(uid=%s)(mail=%s@example.com))", "(|(uid=*)(mail=*@example.com))"},
		{"(&(objectClass=person)(uid=%s)(!(locked=TRUE)))", "(&(objectClass=person)(uid=*)(!(locked=TRUE)))"},
		{"(cn=%s*)", "(cn=*)"},
		{"(uid~=%s)", "(uid=*)"},
		{"(member:1.2.840.113556.1.4.1941:=%s)", "(member=*)"},
		{"(&(uid=%s)(userAccountControl:1.2.840.113556.1.4.803:=2))", "(&(uid=*)(userAccountControl:1.2.840.113556.1.4.803:=2))"},
		{`(&(uid=%s)(o=50% \28x\29))`, `(&(uid=*)(o=50% \28x\29))`},
		{"", ""},
		{"uid=%s", ""},
		{"(uid=alice)", ""},
		{"(%s=alice)", ""},
		{"(&(uid=x)(%s))", ""},
		{`(uid=\%s)`, ""},
		{`(uid=\2%s)`, ""},
		{"(uid=%s)(x=y)", ""},
		{"(uid:%s:=x)", ""},
		{"(:caseExactMatch:=%s)", ""},
	} {
		got, err := parseTemplate(c.text, "%s")
		if (err != nil) != (c.anybody == "") || err == nil && got.anybody != c.anybody {
			t.Errorf("parseTemplate(%q): anybody %q, %v; want %q", c.text, got.anybody, err, c.anybody)
		}
	}
}

func TestTemplateBuild(t *testing.T) {
	for _, c := range []struct{ text, name, want string }{
		{"(uid=%s)", "alice", "(uid=alice)"},
		{"(uid=%s)", "st*r", `(uid=st\2ar)`},
		{"(uid=%s)", "paren(x)", `(uid=paren\28x\29)`},
		{"(uid=%s)", "*)(uid=*))(|(uid=*", `(uid=\2a\29\28uid=\2a\29\29\28|\28uid=\2a)`},
		{"(uid=%s)", `\2a`, `(uid=\5c2a)`},
		{"(uid=%s)", "张伟", `(uid=\e5\bc\a0\e4\bc\9f)`},
		{"(uid=%s)", `CORP\alice`, `(uid=CORP\5calice)`},
		{"(|(uid=%s)(mail=%s))", "%s", "(|(uid=%s)(mail=%s))"},
		{"(uid=%s)", "a\x00b", `(uid=a\00b)`},
	} {
		tm, err := parseTemplate(c.text, "%s")
		if err != nil {
			t.Fatal(err)
		}
		if got, err := tm.build(c.name); err != nil || got != c.want {
			t.Errorf("build(%q) = %q, %v; want %q", c.name, got, err, c.want)
		}
	}
	// One value does not land in the other's place.
	tm, err := parseTemplate(defaultGroupFilter, "%s", "%u")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tm.build("cn=%u", "%s"); err != nil || got != "(|(member=cn=%u)(uniqueMember=cn=%u)(memberUid=%s))" {
		t.Errorf("two marks: %q, %v", got, err)
	}
	if tm.anybody != "(|(member=*)(uniqueMember=*)(memberUid=*))" {
		t.Errorf("anybody = %q", tm.anybody)
	}
	// A value that would change the shape is refused, should one ever come so far.
	tm, err = parseTemplate("(cn=%s*)", "%s")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := tm.build(""); err == nil {
		t.Errorf("an empty value made %q", got)
	}
}

func TestInput(t *testing.T) {
	for name, ok := range map[string]bool{
		"alice": true, "st*r": true, "**": true, "alice@example.com": true, `CORP\alice`: true, "张伟": true, strings.Repeat("a", 256): true,
		"": false, " ": false, "*": false, "a\x00": false, "a\nb": false, "a\u0085": false, "\xff": false, strings.Repeat("a", 257): false,
	} {
		if validName(name) != ok {
			t.Errorf("validName(%q) = %v", name, !ok)
		}
	}
	for password, ok := range map[string]bool{
		"x": true, " x ": true, "tab\tin": true, "пароль": true, strings.Repeat("a", 1024): true,
		"": false, " ": false, "\t\n": false, "\u00a0": false, "\x00": false, "a\x00b": false, "\xff": false, strings.Repeat("a", 1025): false,
	} {
		if validPassword(password) != ok {
			t.Errorf("validPassword(%q) = %v", password, !ok)
		}
	}
}

func FuzzFilter(f *testing.F) {
	for _, s := range []string{"alice", "*", "*)(uid=*))(|(uid=*", `\`, `\2a`, "(", ")", "%s", "a\x00", "\xff\xfe", "张伟", " ", "=", ":=", "&|!"} {
		f.Add(0, s)
		f.Add(1, s)
		f.Add(2, s)
		f.Add(3, s)
	}
	templates := []string{"(uid=%s)", "(&(objectClass=person)(|(uid=%s)(mail=%s@example.com)))", "(member:1.2.840.113556.1.4.1941:=%s)", "(&(cn>=%s)(!(sn=x%s*)))"}
	f.Fuzz(func(t *testing.T, which int, value string) {
		tm, err := parseTemplate(templates[uint(which)%uint(len(templates))], "%s")
		if err != nil {
			t.Fatal(err)
		}
		if value == "" {
			return // never asked for
		}
		text := tm.expand([]string{value})
		p, err := goldap.CompileFilter(text)
		if err != nil {
			t.Fatalf("%q makes %q, which is no filter: %v", value, text, err)
		}
		if got := shape(p); got != tm.shape {
			t.Fatalf("%q makes %q of shape %s, want %s", value, text, got, tm.shape)
		}
		if p.Tag == goldap.FilterEqualityMatch && p.Children[1].Data.String() != value {
			t.Fatalf("%q is asked for as %q", value, p.Children[1].Data.String())
		}
		if got, err := tm.build(value); err != nil || got != text {
			t.Fatalf("build(%q) = %q, %v", value, got, err)
		}
	})
}

func FuzzDN(f *testing.F) {
	for _, s := range []string{"cn=a,dc=x", `cn=Doe\, John,dc=x`, "CN=A+UID=b,dc=X", `cn=\#hash \<angle\>,dc=x`, "cn=#04024869", "1.2.3=x", "=", ",", "", `cn=a\ `, "cn=张伟,dc=x"} {
		f.Add(s)
	}
	templ, err := parseTemplate(defaultGroupFilter, "%s", "%u")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, dn string) {
		key, err := dnKey(dn)
		if err != nil {
			if bindable(dn) {
				t.Fatalf("%q is no name and would be bound as", dn)
			}
			return
		}
		if key == "" || strings.TrimSpace(dn) == "" {
			t.Fatalf("dnKey(%q) = %q: an anonymous name", dn, key)
		}
		a, err := goldap.ParseDN(dn)
		if err != nil || len(a.RDNs) == 0 {
			t.Fatalf("dnKey(%q) = %q, which ParseDN refuses: %v", dn, key, err)
		}
		if again, err := dnKey(dn); err != nil || again != key {
			t.Fatalf("dnKey(%q) is %q and then %q, %v", dn, key, again, err)
		}
		// A DN is a value like any other to a filter.
		if _, err := templ.build(dn, "alice"); err != nil {
			t.Fatalf("a filter for %q: %v", dn, err)
		}
	})
}
