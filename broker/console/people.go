package console

import (
	"slices"
	"strings"
	"time"
)

// people finds leases by who is named in them: "u" + user id, "g" + group, and
// "" for those with a rule, which may let in anybody.
type people map[string][]*Lease

func (p people) keys(l *Lease) []string {
	out := make([]string, 0, 1+len(l.Users)+len(l.Groups)+1)
	out = append(out, "u"+l.Owner)
	for _, u := range l.Users {
		out = append(out, "u"+u)
	}
	for _, g := range l.Groups {
		out = append(out, "g"+g)
	}
	if l.Allow != "" {
		out = append(out, "")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// add lists a lease under everybody it names; another state of it is replaced.
// The lists are in order of id, since a group may be in all leases.
func (p people) add(l *Lease) {
	for _, k := range p.keys(l) {
		if i, there := p.find(k, l.ID); there {
			p[k][i] = l
		} else {
			p[k] = slices.Insert(p[k], i, l)
		}
	}
}

func (p people) remove(l *Lease) {
	for _, k := range p.keys(l) {
		i, there := p.find(k, l.ID)
		switch {
		case !there:
		case len(p[k]) == 1:
			delete(p, k)
		default:
			p[k] = slices.Delete(p[k], i, i+1)
		}
	}
}

func (p people) find(key, id string) (int, bool) {
	return slices.BinarySearchFunc(p[key], id, func(l *Lease, id string) int { return strings.Compare(l.ID, id) })
}

func (p people) of(userID string, groups []string, now time.Time, limit int) []*Lease {
	seen := map[string]*Lease{}
	take := func(key string) {
		for _, l := range p[key] {
			if len(seen) == limit {
				return
			}
			if now.Before(l.Expires) {
				seen[l.ID] = l
			}
		}
	}
	take("u" + userID) // one's own first, if there are more than can be shown
	for _, g := range groups {
		take("g" + g)
	}
	take("")
	out := make([]*Lease, 0, len(seen))
	for _, l := range seen {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *Lease) int { return strings.Compare(a.ID, b.ID) })
	return out
}
