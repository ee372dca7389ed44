package index

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Filter says which events are wanted; what is set must all be true of them.
type Filter struct {
	After, Before time.Time    // After ≤ time < Before
	Names         []event.Name // any of them
	Actor, Target string       // ids
	// Person is the actor or the target: somebody's own log.
	Person                string
	Connector, Client, IP string
	// Ref is a request's id, or the reference that people were shown
	// (GH-7F3K-29QD).
	Ref string
	// MinSeverity: at least that grave; "" is all.
	MinSeverity event.Severity
	// Text is a part of any id, name or detail, whatever the case.
	Text string
	// OldestFirst turns the order, which is by time, newest first.
	OldestFirst bool
}

// ParseNames reads names and patterns with a star at the end ("signin.*"),
// separated by commas. One that no event has is an error.
func ParseNames(text string) ([]event.Name, error) {
	if text == "" {
		return nil, nil
	}
	var out []event.Name
	for _, part := range strings.Split(text, ",") {
		part = strings.TrimSpace(part)
		prefix, star := strings.CutSuffix(part, "*")
		n := len(out)
		for _, name := range event.All() {
			if (string(name) == part || star && strings.HasPrefix(string(name), prefix)) && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
		if n == len(out) && !slices.ContainsFunc(out, func(name event.Name) bool { return string(name) == part }) {
			return nil, fmt.Errorf("no event is called %q; docs/configuration.md lists the names", part)
		}
	}
	return out, nil
}

// reference is the short form of a request's id; one stays as it is.
func reference(ref string) string {
	if up := strings.ToUpper(ref); len(up) == 12 && strings.HasPrefix(up, "GH-") {
		return up
	}
	return web.RequestRef(ref)
}

// matches compares an event with the filter: the index only says where to look.
func (f Filter) matches(e event.Event) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	switch {
	case !f.After.IsZero() && e.Time.Before(f.After), !f.Before.IsZero() && !e.Time.Before(f.Before),
		len(f.Names) > 0 && !slices.Contains(f.Names, e.Name),
		!is(f.Actor, e.Actor), !is(f.Target, e.Target), !is(f.Connector, e.Connector), !is(f.Client, e.Client), !is(f.IP, e.IP),
		f.Person != "" && e.Actor != f.Person && e.Target != f.Person,
		f.Ref != "" && (e.RequestID == "" || web.RequestRef(e.RequestID) != reference(f.Ref)),
		f.MinSeverity != "" && severity(e) < severity(event.Event{Severity: f.MinSeverity}):
		return false
	}
	return f.Text == "" || contains(e, strings.ToLower(f.Text))
}

// contains looks for a text, in lower case, in all that an event says.
func contains(e event.Event, text string) bool {
	in := func(s string) bool { return strings.Contains(strings.ToLower(s), text) }
	if in(string(e.Name)) || in(e.Actor) || in(e.Target) || in(e.Connector) || in(e.Client) || in(e.IP) || in(e.Agent) || in(e.RequestID) || in(e.ID) {
		return true
	}
	for k, v := range e.Details {
		if in(k) || in(v) {
			return true
		}
	}
	return false
}

// arm is a part of a query that one index serves.
type arm struct {
	index string
	where []string
	args  []any
}

// maxArms bounds the ways in: what each finds is put in order together.
const maxArms = 8

// arms are the ways in, of which any may lead to an event,
// and rest are the conditions that are looked at afterwards.
func (f Filter) arms() (arms []arm, rest []string, restArgs []any) {
	one := func(index, column string, value any) { // the first is the way in, the others are looked at
		if value == nil {
			return
		}
		if len(arms) == 0 && index != "" {
			arms = append(arms, arm{index: index, where: []string{column + " = ?"}, args: []any{value}})
			return
		}
		rest, restArgs = append(rest, column+" = ?"), append(restArgs, value)
	}
	ref := any(nil)
	if f.Ref != "" {
		ref = hash(reference(f.Ref))
	}
	one("events_ref", "ref", ref)
	one("events_target", "target", hash(f.Target))
	one("events_actor", "actor", hash(f.Actor))
	one("events_ip", "ip", hash(f.IP))
	if f.Person != "" {
		id := hash(f.Person)
		if len(arms) == 0 {
			arms = []arm{{"events_actor", []string{"actor = ?"}, []any{id}}, {"events_target", []string{"target = ?"}, []any{id}}}
		} else {
			rest, restArgs = append(rest, "(actor = ? or target = ?)"), append(restArgs, id, id)
		}
	}
	one("events_client", "client", hash(f.Client))
	one("", "connector", hash(f.Connector))
	if len(arms) == 0 && len(f.Names) > 0 && len(f.Names) <= maxArms {
		for _, n := range f.Names {
			arms = append(arms, arm{"events_name", []string{"name = ?"}, []any{hash(string(n))}})
		}
	} else if len(f.Names) > 0 {
		marks := make([]string, len(f.Names))
		for i, n := range f.Names {
			marks[i], restArgs = "?", append(restArgs, hash(string(n)))
		}
		rest = append(rest, "name in ("+strings.Join(marks, ", ")+")")
	}
	if least := severity(event.Event{Severity: f.MinSeverity}); f.MinSeverity != "" && least > 0 {
		if len(arms) == 0 { // the index is partial, and used where its own condition is repeated
			for s := least; s <= 2; s++ {
				arms = append(arms, arm{"events_severity", []string{"severity > 0", "severity = ?"}, []any{s}})
			}
		} else {
			rest, restArgs = append(rest, "severity >= ?"), append(restArgs, least)
		}
	}
	if len(arms) == 0 {
		arms = []arm{{index: "events_time"}}
	}
	return arms, rest, restArgs
}
