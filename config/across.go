package config

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/gateway"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/workload"
)

// complaints gathers problems that need more than one section.
type complaints []problem.Problem

func (ps *complaints) add(field, rule, text, fix string) {
	*ps = append(*ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
}

func (ps *complaints) warn(field, rule, text, fix string) {
	*ps = append(*ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix, Warning: true})
}

// unique complains about a name that stands twice in a list; "" is its owner's to
// judge.
func unique[T any](ps *complaints, list []T, section, field, what string, name func(T) string) {
	seen := map[string]bool{}
	for i, x := range list {
		n := name(x)
		if n != "" && seen[n] {
			ps.add(fmt.Sprintf("%s[%d].%s", section, i, field), what+".duplicate", fmt.Sprintf("%q is there twice.", n), "another name")
		}
		seen[n] = true
	}
}

// across are the checks that need more than one section.
func (c *Config) across() []problem.Problem {
	var ps complaints
	c.names(&ps)
	c.clientReferences(&ps)
	c.routeReferences(&ps)
	c.bucketReferences(&ps)
	c.trustReferences(&ps)
	c.storageReferences(&ps)
	c.notifyReferences(&ps)
	c.robots(&ps)
	return ps
}

func (c *Config) names(ps *complaints) {
	if len(c.Connectors) == 0 {
		ps.warn("", "connector.none", "Nobody can sign in: there is no connector.", "a section such as local:, ldap: or github:")
	}
	for _, d := range c.Roles.EmailDomains() {
		if !slices.ContainsFunc(c.Connectors, func(k Connector) bool { return slices.Contains(k.Domains, d) }) {
			ps.warn("Roles", "roles.email_domain", fmt.Sprintf("No connector has the domain %q, so that no e-mail address of it gives a role.", d), "domains: ["+d+"] of the connector that may speak for it")
		}
	}
	unique(ps, c.Connectors, "Connectors", "ID", "connector", func(k Connector) string { return k.ID })
	unique(ps, c.Clients, "Clients", "ClientID", "client", func(cl grant.Client) string { return cl.ClientID })
	unique(ps, c.Resources, "Resources", "Name", "resource", func(r grant.Resource) string { return r.Name })
	unique(ps, c.Resources, "Resources", "URI", "resource", func(r grant.Resource) string { return r.URI })
	unique(ps, c.Routes, "Routes", "Name", "route", func(r gateway.Route) string { return r.Name })
	unique(ps, c.Trust, "Trust", "Name", "trust", func(r workload.Rule) string { return r.Name })
	unique(ps, c.ServiceAccounts, "ServiceAccounts", "Name", "service_account", func(a user.ServiceAccount) string { return a.Name })
	channels := map[string]bool{}
	for _, ch := range c.channels() {
		if ch.name == "" {
			if ch.list > 1 {
				ps.add(ch.at, "notify.name", "In a list every channel needs a name, by which notify can tell them apart.", "name: ops")
			}
			continue
		}
		if channels[ch.name] {
			ps.add(ch.at+".Name", "notify.duplicate", fmt.Sprintf("There are two channels with the name %q.", ch.name), "another name")
		}
		channels[ch.name] = true
	}
}

// audience reports whether tokens can be for this name or URI.
func (c *Config) audience(a string) bool {
	return a == c.Issuer || slices.ContainsFunc(c.Resources, func(r grant.Resource) bool { return r.Name == a || r.URI == a && a != "" })
}

func (c *Config) connector(id string) bool {
	return slices.ContainsFunc(c.Connectors, func(k Connector) bool { return k.ID == id })
}

func (c *Config) clientReferences(ps *complaints) {
	for i, cl := range c.Clients {
		at := fmt.Sprintf("Clients[%d].", i)
		for j, a := range cl.Audiences {
			if !c.audience(a) {
				ps.add(fmt.Sprintf("%sAudiences[%d]", at, j), "client.audience", fmt.Sprintf("%q is neither a resource nor the issuer.", a), c.nearestResource(a))
			}
		}
		for j, a := range cl.ResourceServerFor {
			if !c.audience(a) {
				ps.add(fmt.Sprintf("%sResourceServerFor[%d]", at, j), "client.audience", fmt.Sprintf("%q is neither a resource nor the issuer.", a), c.nearestResource(a))
			}
		}
		for j, k := range cl.AllowedConnectors {
			if !c.connector(k) {
				ps.add(fmt.Sprintf("%sAllowedConnectors[%d]", at, j), "client.connector", fmt.Sprintf("There is no connector %q.", k), "the id of a connector")
			}
		}
	}
}

func (c *Config) nearestResource(a string) string {
	var known []string
	for _, r := range c.Resources {
		known = append(known, r.Name)
	}
	if near := nearest(a, known); near != "" {
		return fmt.Sprintf("did you mean %q?", near)
	}
	return "an entry of resources with this name"
}

func (c *Config) routeReferences(ps *complaints) {
	iss := c.IssuerURL().Hostname()
	for i, r := range c.Routes {
		at := fmt.Sprintf("Routes[%d]", i)
		if strings.EqualFold(r.Host, iss) && iss != "" {
			ps.add(at+".Host", "route.issuer", "A route cannot have the issuer's own host.", "a host of its own")
		}
		for _, before := range c.Routes[:i] {
			if before.Shadows(r) {
				ps.add(at+".Path", "route.shadowed", fmt.Sprintf("This route is never reached: %q stands before it and takes all that it would.", before.Name), "put the narrower route first: a longer path, methods or headers")
				break
			}
			if r.Clashes(before) {
				ps.add(at+".Host", "route.raw_path", fmt.Sprintf("This route and %q share a host, and one of them has raw_path: its ambiguous paths may reach what the other one guards.", before.Name), "raw_path: false on both, or a host of its own")
				break
			}
		}
		if r.Audience != "" && !c.audience(r.Audience) && (len(r.Auth) == 0 || slices.Contains(r.Auth, "bearer")) {
			ps.warn(at+".Audience", "route.audience", fmt.Sprintf("%q is no resource, so no client can get a token for this route.", r.Audience), c.nearestResource(r.Audience))
		}
		if !r.Lease || c.Dev {
			continue
		}
		if sameSite(r.Host, iss) {
			ps.warn(at+".Host", "route.same_site", "Consoles run strangers' code; under the issuer's own domain their scripts count as same-site.", "a registrable domain of its own, such as gpu-consoles.example.net")
		}
		for _, other := range c.Routes {
			if !other.Lease && sameSite(r.Host, other.Host) {
				ps.warn(at+".Host", "route.same_site", fmt.Sprintf("Consoles run strangers' code; under the domain of the route %q their scripts count as same-site.", other.Name), "a registrable domain of its own, such as gpu-consoles.example.net")
				break
			}
		}
	}
}

// robots asks about each chat's addresses and secrets: what is right in them is
// the vendor's to say, and the four share one type.
func (c *Config) robots(ps *complaints) {
	for _, s := range []struct {
		section string
		list    []notify.Channel
		judge   func(notify.Channel) []problem.Problem
	}{
		{"DingTalk", c.DingTalk, notify.DingTalkProblems}, {"WeChat", c.WeChat, notify.WeComProblems},
		{"Feishu", c.Feishu, notify.FeishuProblems}, {"Slack", c.Slack, notify.SlackProblems},
	} {
		for i, ch := range s.list {
			*ps = append(*ps, problem.Under(fmt.Sprintf("%s[%d]", s.section, i), s.judge(ch))...)
		}
	}
}

// trustReferences look at what rules for workloads name.
func (c *Config) trustReferences(ps *complaints) {
	*ps = append(*ps, problem.Under("Trust", workload.Across(c.Trust, c.Issuer))...)
	for i, r := range c.Trust {
		at := fmt.Sprintf("Trust[%d].", i)
		if r.TokenAudience != "" && !c.audience(r.TokenAudience) {
			ps.add(at+"TokenAudience", "trust.audience", fmt.Sprintf("%q is neither a resource nor the issuer.", r.TokenAudience), c.nearestResource(r.TokenAudience))
		}
		if r.ServiceAccount != "" { // a missing one is the rule's own complaint
			for _, p := range (user.ServiceAccount{Name: r.ServiceAccount}).Problems() {
				ps.add(at+"ServiceAccount", p.Rule, p.Text, p.Fix)
			}
		}
	}
}

// TrustedAccounts are the service accounts that trust rules name: they exist by
// that.
func (c *Config) TrustedAccounts() []string {
	var out []string
	for _, r := range c.Trust {
		out = append(out, r.ServiceAccount)
	}
	return out
}

// notifyReferences look at what rules for notifications name.
func (c *Config) notifyReferences(ps *complaints) {
	known := []string{"webhooks", "smtp"}
	for _, ch := range c.channels() {
		known = append(known, ch.kind, ch.name)
	}
	for i, r := range c.Notify {
		for j, to := range r.To {
			if !slices.Contains(known, to) || to == "" {
				ps.add(fmt.Sprintf("Notify[%d].To[%d]", i, j), "notify.to", fmt.Sprintf("There is no channel %q.", to), "a configured section such as dingtalk, or the name of a channel")
			}
		}
		c.events(ps, fmt.Sprintf("Notify[%d]", i), r.Events)
	}
	for i, w := range c.Webhooks {
		c.events(ps, fmt.Sprintf("Webhooks[%d]", i), w.Events)
	}
}

// events complains about names of events that never happen. user.* and * stand
// for several.
func (c *Config) events(ps *complaints, at string, names []string) {
	var all []string
	for _, n := range event.All() {
		all = append(all, string(n))
	}
	for i, n := range names {
		stem, glob := strings.CutSuffix(n, "*")
		if !slices.ContainsFunc(all, func(e string) bool { return e == n || glob && strings.HasPrefix(e, stem) }) {
			fix := "a name of docs/configuration.md"
			if near := nearest(n, all); near != "" {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			ps.add(fmt.Sprintf("%s.Events[%d]", at, i), "notify.event", fmt.Sprintf("There is no event %q.", n), fix)
		}
	}
}

// channel is somewhere to send to.
type channel struct {
	at, kind, name string
	list           int // how many stand beside it
}

func (c *Config) channels() []channel {
	var out []channel
	for _, s := range []struct {
		field, kind string
		names       []string
	}{
		{"DingTalk", "dingtalk", channelNames(c.DingTalk)}, {"WeChat", "wechat", channelNames(c.WeChat)},
		{"Slack", "slack", channelNames(c.Slack)}, {"Feishu", "feishu", channelNames(c.Feishu)},
	} {
		for i, n := range s.names {
			out = append(out, channel{at: fmt.Sprintf("%s[%d]", s.field, i), kind: s.kind, name: n, list: len(s.names)})
		}
	}
	for i, w := range c.Webhooks {
		out = append(out, channel{at: fmt.Sprintf("Webhooks[%d]", i), kind: "webhooks", name: w.Name})
	}
	for i, m := range c.SMTP {
		out = append(out, channel{at: fmt.Sprintf("SMTP[%d]", i), kind: "smtp", name: m.Name, list: len(c.SMTP)})
	}
	return out
}

func channelNames(list []notify.Channel) []string {
	out := make([]string, len(list))
	for i, ch := range list {
		out[i] = ch.Name
	}
	return out
}

// pattern is a route's host with its wildcard, whatever that is called.
func pattern(host string) string {
	host = strings.ToLower(host)
	if rest, ok := strings.CutPrefix(host, "{"); ok {
		if _, rest, ok = strings.Cut(rest, "}."); ok {
			return "*." + rest
		}
	}
	return host
}

// sameSite reports whether browsers count two hosts as one site: their
// registrable domains are equal.
func sameSite(a, b string) bool {
	site := func(host string) string {
		host = strings.TrimPrefix(pattern(host), "*.")
		if s, err := publicsuffix.EffectiveTLDPlusOne(host); err == nil {
			return s
		}
		return host
	}
	return a != "" && site(a) == site(b)
}

// validURL reports whether s is a URL with a host; the secret in it is not told.
func validURL(s string, schemes ...string) bool {
	u, err := url.Parse(s)
	return err == nil && u.Host != "" && slices.Contains(schemes, u.Scheme)
}
