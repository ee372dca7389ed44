package ldap

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"
)

// presetAD is the value of preset for Active Directory, Windows' and Samba's.
const presetAD = "active_directory"

func (c Config) isAD() bool { return c.Preset == presetAD }

// What people of Active Directory go by. A mail address is looked at only where
// an @ was typed: account names have none, so that nobody takes somebody's
// account name as an address and keeps them out by being the second one found.
const (
	adPerson       = "(objectCategory=person)(objectClass=user)"
	adByAccount    = "(&" + adPerson + "(sAMAccountName=%s))"
	adByAddress    = "(&" + adPerson + "(|(userPrincipalName=%s)(mail=%s)))"
	adByDomain     = "(&" + adPerson + "(|(userPrincipalName=%s)(mail=%s)(sAMAccountName=%u)))"
	adGroupChain   = "(member:1.2.840.113556.1.4.1941:=%s)" // LDAP_MATCHING_RULE_IN_CHAIN
	adGroupDirect  = "(member=%s)"
	adAnyGroup     = "(objectCategory=group)"
	adAnybody      = "(&" + adPerson + ")"
	primaryGroupID = "primaryGroupID"
	objectSID      = "objectSid"
	passwordEnds   = "msDS-UserPasswordExpiryTimeComputed"
)

// adNames are the filters of the preset.
type adNames struct{ account, address, domain template }

func newADNames() (n adNames, err error) {
	for _, f := range []struct {
		into  *template
		text  string
		marks []string
	}{{&n.account, adByAccount, []string{"%s"}}, {&n.address, adByAddress, []string{"%s"}}, {&n.domain, adByDomain, []string{"%s", "%u"}}} {
		if *f.into, err = parseTemplate(f.text, f.marks...); err != nil {
			return n, err
		}
	}
	return n, nil
}

// userFilter returns the filter for the entry that goes by a typed name.
func (c *Connector) userFilter(typed string) (string, error) {
	if !c.cfg.isAD() {
		return c.user.build(typed)
	}
	domain, name, cut := strings.Cut(typed, `\`)
	if !cut {
		name = typed
	}
	known := c.cfg.NetBIOSDomain == "" || strings.EqualFold(domain, c.cfg.NetBIOSDomain) || strings.EqualFold(domain, c.dnsDomain)
	if cut && (!known || !validName(name)) {
		return "", errNobody // a person of another domain, or only a domain
	}
	if c.cfg.UserFilter != "" {
		return c.user.build(name)
	}
	account, suffix, address := strings.Cut(name, "@")
	switch {
	case !address:
		return c.names.account.build(name)
	case strings.EqualFold(suffix, c.dnsDomain) && account != "":
		// Everybody also has the implicit principal name account@domain, which is
		// in no attribute.
		return c.names.domain.build(name, account)
	}
	return c.names.address.build(name)
}

// anybody is the filter of all whom userFilter can find.
func (c *Connector) anybody() string {
	if c.cfg.isAD() && c.cfg.UserFilter == "" {
		return adAnybody
	}
	return c.user.anybody
}

// dnsDomain returns the domain that a DN lies in, or "".
func dnsDomain(base string) string {
	dn, err := goldap.ParseDN(base)
	if err != nil {
		return ""
	}
	var parts []string
	for _, r := range dn.RDNs {
		if a := r.Attributes[0]; strings.EqualFold(a.Type, "dc") {
			parts = append(parts, a.Value)
		}
	}
	return strings.Join(parts, ".")
}

// groupFilter is the filter for the groups of one member.
func (c Config) groupFilter() string {
	switch {
	case c.Groups.Filter != "":
		return c.Groups.Filter
	case c.isAD() && c.Groups.nested():
		return adGroupChain
	case c.isAD():
		return adGroupDirect
	}
	return defaultGroupFilter
}

// chained reports whether one search finds the groups of groups too.
func (c Config) chained() bool { return c.isAD() && c.Groups.Filter == "" }

// chain finds the groups of a person of Active Directory, nested ones by the
// directory's own rule. The primary group has its members nowhere but in their
// primaryGroupID, so it and what it is in are asked for beside.
func (c *Connector) chain(ctx context.Context, cn *conn, e *entry) (map[string]group, error) {
	members := []string{e.dn}
	primary, err := c.primaryGroup(ctx, cn, e)
	if err != nil {
		return nil, err
	}
	if primary != "" && c.cfg.Groups.nested() {
		members = append(members, primary)
	}
	filter, err := c.memberFilter(members, "")
	if err != nil {
		return nil, err
	}
	if primary != "" {
		filter = "(|" + filter + "(distinguishedName=" + goldap.EscapeFilter(primary) + "))"
	}
	entries, err := c.all(ctx, cn, filter, maxGroups)
	if err != nil {
		return nil, err
	}
	found := map[string]group{}
	for _, raw := range entries {
		if g, err := c.group(raw); err == nil {
			found[g.key] = g
		}
	}
	return found, nil
}

// primaryGroup returns the DN of the person's primary group, wherever it lies,
// or "" where the directory does not say.
func (c *Connector) primaryGroup(ctx context.Context, cn *conn, e *entry) (string, error) {
	rid, err := strconv.ParseUint(e.raw.GetEqualFoldAttributeValue(primaryGroupID), 10, 32)
	sids := e.raw.GetEqualFoldRawAttributeValues(objectSID)
	if err != nil || len(sids) != 1 {
		return "", nil
	}
	sid, err := siblingSID(sids[0], uint32(rid))
	if err != nil {
		return "", nil
	}
	res, err := cn.search(ctx, "<SID="+sid+">", goldap.ScopeBaseObject, 1, adAnyGroup, []string{"1.1"})
	switch {
	case goldap.IsErrorWithCode(err, goldap.LDAPResultNoSuchObject):
		return "", nil
	case err != nil:
		return "", unavailable("search for the primary group", err)
	case len(res.Entries) != 1:
		return "", nil
	}
	return res.Entries[0].DN, nil
}

// siblingSID returns the text of the SID with another last part: a primary
// group is of its member's own domain. The bytes are a version, the number of
// parts, an authority (big-endian) and the parts (little-endian).
func siblingSID(raw []byte, rid uint32) (string, error) {
	if len(raw) < 12 || raw[0] != 1 || raw[1] < 1 || len(raw) != 8+4*int(raw[1]) {
		return "", errors.New("the objectSid is not one")
	}
	var b strings.Builder
	authority := binary.BigEndian.Uint64(append([]byte{0, 0}, raw[2:8]...))
	fmt.Fprintf(&b, "S-1-%d", authority)
	for i := 8; i < len(raw)-4; i += 4 {
		fmt.Fprintf(&b, "-%d", binary.LittleEndian.Uint32(raw[i:]))
	}
	fmt.Fprintf(&b, "-%d", rid)
	return b.String(), nil
}
