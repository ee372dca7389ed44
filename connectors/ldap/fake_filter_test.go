package ldap

import (
	"strings"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"
)

func sameDN(a, b string) bool {
	x, err1 := dnKey(a)
	y, err2 := dnKey(b)
	return err1 == nil && err2 == nil && x == y
}

// matches evaluates a filter.
func matches(f *ber.Packet, o object, all []object) bool {
	values := func(attr string) []string {
		for name, vs := range o.attrs {
			if strings.EqualFold(name, attr) {
				return vs
			}
		}
		return nil
	}
	switch f.Tag {
	case goldap.FilterAnd:
		for _, c := range f.Children {
			if !matches(c, o, all) {
				return false
			}
		}
		return true
	case goldap.FilterOr:
		for _, c := range f.Children {
			if matches(c, o, all) {
				return true
			}
		}
		return false
	case goldap.FilterNot:
		return !matches(f.Children[0], o, all)
	case goldap.FilterPresent:
		name := f.Data.String()
		return strings.EqualFold(name, "objectClass") || len(values(name)) > 0
	case goldap.FilterExtensibleMatch: // (member:1.2.840.113556.1.4.1941:=DN)
		return inChain(f.Children[2].Data.String(), o, all, map[string]bool{})
	case goldap.FilterEqualityMatch:
		want := f.Children[1].Data.String()
		if name := f.Children[0].Data.String(); strings.EqualFold(name, "distinguishedName") && sameDN(o.dn, want) {
			return true
		}
		for _, v := range values(f.Children[0].Data.String()) {
			if strings.EqualFold(v, want) || strings.Contains(v, "=") && sameDN(v, want) {
				return true
			}
		}
	}
	return false
}

// inChain reports whether a group has a member, itself or by its groups.
func inChain(dn string, o object, all []object, seen map[string]bool) bool {
	if seen[o.dn] {
		return false
	}
	seen[o.dn] = true
	for _, m := range o.attrs["member"] {
		if sameDN(m, dn) {
			return true
		}
		for _, g := range all {
			if sameDN(g.dn, m) && inChain(dn, g, all, seen) {
				return true
			}
		}
	}
	return false
}
