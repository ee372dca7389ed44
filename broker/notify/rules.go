package notify

import (
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/event"
)

// rule is a Rule with its channels found.
type rule struct {
	patterns []string
	floor    event.Severity
	locale   string
	to       []*channel
	also     []event.Name // whatever their severity
}

// compile makes the rules of a configuration. Without any, every channel gets
// what is a warning or worse, and the end of what it was warned of. The events
// of a webhook are a rule of its own.
func (p *Plan) compile() []rule {
	var out []rule
	var rest []*channel
	for _, c := range p.channels {
		switch {
		case c.kind == "people", c.mute:
		case len(c.events) > 0:
			out = append(out, rule{patterns: c.events, floor: event.Info, locale: p.set.Locale, to: []*channel{c}})
		default:
			rest = append(rest, c)
		}
	}
	if len(p.set.Rules) == 0 {
		return append(out, rule{patterns: []string{"*"}, floor: event.Warning, also: []event.Name{event.ConnectorUp}, locale: p.set.Locale, to: rest})
	}
	for _, r := range p.set.Rules {
		c := rule{patterns: r.Events, floor: event.Severity(r.MinSeverity), locale: r.Locale}
		if c.floor == "" {
			c.floor = event.Info
		}
		if c.locale == "" {
			c.locale = p.set.Locale
		}
		for _, to := range r.To {
			c.to = append(c.to, p.called(to)...)
		}
		out = append(out, c)
	}
	return out
}

// called returns the channels that a rule means: the one of that name, else all
// of that section.
func (p *Plan) called(name string) []*channel {
	var section []*channel
	for _, c := range p.channels {
		switch {
		case c.kind == "people":
		case c.name == name:
			return []*channel{c}
		case c.kind == name:
			section = append(section, c)
		}
	}
	return section
}

// matches reports whether a rule is about an event.
func (r rule) matches(e event.Event) bool {
	if slices.Contains(r.also, e.Name) {
		return true
	}
	return e.Severity.AtLeast(r.floor) && slices.ContainsFunc(r.patterns, func(p string) bool {
		stem, glob := strings.CutSuffix(p, "*")
		return p == string(e.Name) || glob && strings.HasPrefix(string(e.Name), stem)
	})
}

// route returns the channels that an event goes to and the language of each, in
// the order of the configuration. Of several rules the first that names a
// channel counts. A channel is not told of its own failure.
func (p *Plan) route(e event.Event) (to []*channel, locales map[string]string) {
	locales = map[string]string{}
	for _, r := range p.rules {
		if !r.matches(e) {
			continue
		}
		for _, c := range r.to {
			if _, there := locales[c.id]; there || e.Name == event.NotifyFailed && e.Target == c.name {
				continue
			}
			locales[c.id] = r.locale
			to = append(to, c)
		}
	}
	return to, locales
}
