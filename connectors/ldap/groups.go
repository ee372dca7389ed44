package ldap

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"

	goldap "github.com/go-ldap/ldap/v3"
)

const (
	maxGroups = 5000
	maxDepth  = 16
	batch     = 50 // members or names in one question
)

// pageSizes are tried in turn where the directory allows the service account
// less; 0 is without paging, for directories that allow none.
var pageSizes = [...]uint32{500, 100, 5, 0}

var errTooManyGroups = fmt.Errorf("ldap: more than %d groups: groups.filter is too wide", maxGroups)

// group is one group of a person.
type group struct {
	dn, key, name string // key compares DNs
}

// groupsOf returns the names of a person's groups, sorted.
func (c *Connector) groupsOf(ctx context.Context, e *entry) ([]string, error) {
	var found map[string]group
	var err error
	switch {
	case c.cfg.chained():
		err = c.pool.do(ctx, func(cn *conn) error {
			found, err = c.chain(ctx, cn, e)
			return err
		})
	case c.cfg.Groups.search():
		err = c.pool.do(ctx, func(cn *conn) error {
			found, err = c.walk(ctx, cn, e)
			return err
		})
	default:
		found, err = c.memberOf(e)
	}
	if err != nil {
		return nil, err
	}
	dns := map[string]map[string]bool{} // by folded name: the DNs that have it
	for _, g := range found {
		if g.name != "" {
			mark(dns, g.name, g.key)
		}
	}
	if c.cfg.Groups.Name != nameIsDN && len(dns) > 0 {
		if err := c.pool.do(ctx, func(cn *conn) error { return c.namesakes(ctx, cn, dns) }); err != nil {
			return nil, err
		}
	}
	names := []string{}
	for _, g := range found {
		switch {
		case g.name == "":
		case len(dns[fold(g.name)]) > 1:
			c.log.WarnContext(ctx, "ldap: two groups have one name, neither counts; groups.name: dn tells them apart", "connector", c.id, "group", g.name)
		default:
			names = append(names, g.name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// fold makes names equal that the directory's own comparison takes for equal.
func fold(name string) string { return strings.ToLower(strings.Join(strings.Fields(name), " ")) }

func mark(dns map[string]map[string]bool, name, key string) {
	f := fold(name)
	if dns[f] == nil {
		dns[f] = map[string]bool{}
	}
	dns[f][key] = true
}

// base is where groups are searched for.
func (c *Connector) base() string {
	if c.cfg.Groups.BaseDN != "" {
		return c.cfg.Groups.BaseDN
	}
	return c.cfg.BaseDN
}

// walk searches for the groups of the person and, if nested, for theirs: up
// from the member, each group once, so that a circle ends.
func (c *Connector) walk(ctx context.Context, cn *conn, e *entry) (map[string]group, error) {
	found := map[string]group{}
	members, username := []string{e.dn}, e.username
	for depth := 0; len(members) > 0; depth++ {
		if depth == maxDepth {
			c.log.WarnContext(ctx, "ldap: groups are nested too deeply; what lies above is left out", "connector", c.id, "subject", e.subject, "depth", maxDepth)
			break
		}
		var next []string
		for chunk := range slices.Chunk(members, batch) {
			filter, err := c.memberFilter(chunk, username)
			if err != nil {
				return nil, err
			}
			entries, err := c.all(ctx, cn, filter, maxGroups)
			if err != nil {
				return nil, err
			}
			for _, raw := range entries {
				g, err := c.group(raw)
				if err != nil {
					continue // a name that nothing can be compared with
				}
				if _, seen := found[g.key]; seen {
					continue
				}
				if len(found) == maxGroups {
					return nil, errTooManyGroups
				}
				found[g.key] = g
				next = append(next, g.dn)
			}
		}
		if !c.cfg.Groups.nested() {
			break
		}
		members = next
		// A group is no user: its members' place for user names stays empty, or a
		// user with a group's name would be taken for the group.
		username = rand.Text()
	}
	return found, nil
}

// memberFilter returns the filter for the groups of any of the members.
func (c *Connector) memberFilter(members []string, username string) (string, error) {
	var b strings.Builder
	for _, dn := range members {
		f, err := c.groups.build(dn, username)
		if err != nil {
			return "", fmt.Errorf("ldap: groups.filter: %w", err)
		}
		b.WriteString(f)
	}
	if len(members) == 1 {
		return b.String(), nil
	}
	return "(|" + b.String() + ")", nil
}

func (c *Connector) group(raw *goldap.Entry) (group, error) {
	key, err := dnKey(raw.DN)
	if err != nil {
		return group{}, err
	}
	g := group{dn: raw.DN, key: key}
	if c.cfg.Groups.Name != nameIsDN {
		g.name = text(raw, c.cfg.Groups.Name, maxName)
	} else if len(raw.DN) <= maxPassword && printable(raw.DN) {
		g.name = raw.DN
	}
	return g, nil
}

// memberOf reads the groups off the entry. Their names are the first part of
// their DNs: the groups themselves are not read.
func (c *Connector) memberOf(e *entry) (map[string]group, error) {
	for _, a := range e.raw.Attributes {
		// Active Directory gives long lists in parts, under another name: what is
		// only a part must not be taken for all, and the rest for no member.
		if name, option, ok := strings.Cut(a.Name, ";"); ok && strings.EqualFold(name, "memberOf") && strings.HasPrefix(strings.ToLower(option), "range=") {
			return nil, fmt.Errorf("ldap: the directory lists memberOf in parts; set groups.nested or preset: active_directory to search for groups: %w", errTooManyGroups)
		}
	}
	if len(e.memberOf) > maxGroups {
		return nil, errTooManyGroups
	}
	found := map[string]group{}
	for _, dn := range e.memberOf {
		parsed, err := goldap.ParseDN(dn)
		if err != nil || len(parsed.RDNs) == 0 {
			continue
		}
		raw := &goldap.Entry{DN: dn}
		for _, a := range parsed.RDNs[0].Attributes {
			if strings.EqualFold(a.Type, c.cfg.Groups.Name) {
				raw.Attributes = append(raw.Attributes, goldap.NewEntryAttribute(a.Type, []string{a.Value}))
			}
		}
		if g, err := c.group(raw); err == nil {
			found[g.key] = g
		}
	}
	return found, nil
}

// namesakes adds to dns the other groups that have one of the names.
func (c *Connector) namesakes(ctx context.Context, cn *conn, dns map[string]map[string]bool) error {
	names := make([]string, 0, len(dns))
	for n := range dns {
		names = append(names, n)
	}
	anyGroup := "(|(member=*)(uniqueMember=*))"
	switch {
	case c.cfg.chained():
		anyGroup = adAnyGroup
	case c.cfg.Groups.search():
		anyGroup = c.groups.anybody
	}
	for chunk := range slices.Chunk(names, batch) {
		var b strings.Builder
		for _, n := range chunk {
			b.WriteString("(" + c.cfg.Groups.Name + "=" + goldap.EscapeFilter(n) + ")")
		}
		entries, err := c.all(ctx, cn, "(&"+anyGroup+"(|"+b.String()+"))", maxGroups)
		if err != nil {
			return err
		}
		for _, raw := range entries {
			key, err := dnKey(raw.DN)
			if err != nil {
				key = raw.DN
			}
			for _, v := range raw.GetEqualFoldAttributeValues(c.cfg.Groups.Name) {
				if _, asked := dns[fold(v)]; asked {
					mark(dns, v, key)
				}
			}
		}
	}
	return nil
}

// all returns every group that a filter finds, page by page, at most limit.
func (c *Connector) all(ctx context.Context, cn *conn, filter string, limit int) ([]*goldap.Entry, error) {
	attrs := []string{"1.1"}
	if c.cfg.Groups.Name != nameIsDN {
		attrs = []string{c.cfg.Groups.Name}
	}
	for {
		tried := c.page.Load()
		out, err := c.pages(ctx, cn, filter, attrs, pageSizes[tried], limit)
		if !goldap.IsErrorWithCode(err, goldap.LDAPResultAdminLimitExceeded) || int(tried) == len(pageSizes)-1 {
			return out, err
		}
		c.page.CompareAndSwap(tried, tried+1)
	}
}

// pages asks in pages of one size.
func (c *Connector) pages(ctx context.Context, cn *conn, filter string, attrs []string, size uint32, limit int) ([]*goldap.Entry, error) {
	page := goldap.NewControlPaging(size)
	controls := []goldap.Control{page}
	if size == 0 {
		controls = nil
	}
	var out []*goldap.Entry
	for {
		res, err := cn.stream(ctx, c.base(), limit-len(out), filter, attrs, controls...)
		if errors.Is(err, errTooMany) {
			return nil, errTooManyGroups
		}
		if err != nil {
			return nil, unavailable("search for groups", err)
		}
		out = append(out, res.Entries...)
		answer, ok := goldap.FindControl(res.Controls, goldap.ControlTypePaging).(*goldap.ControlPaging)
		if !ok || len(answer.Cookie) == 0 {
			return out, nil
		}
		if len(res.Entries) == 0 && string(answer.Cookie) == string(page.Cookie) {
			cn.broken = true
			return nil, unavailable("search for groups", errors.New("the directory repeats one page"))
		}
		page.SetCookie(answer.Cookie)
	}
}
