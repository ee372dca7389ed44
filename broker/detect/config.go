package detect

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// The rules there are: what details.rule of detection.raised says.
const (
	RuleSpraying = "password_spraying"
	RuleDenials  = "denials"
	RuleMoved    = "session_moved"
	RuleExpiring = "expiring"
	RuleClock    = "clock_skew"
	RuleStore    = "store_slow"
	RuleArchive  = "archive_behind"
)

// Rules lists them.
func Rules() []string {
	return []string{RuleSpraying, RuleDenials, RuleMoved, RuleExpiring, RuleClock, RuleStore, RuleArchive}
}

// Config is the `detection` section: what counts as odd. Whatever is left out has
// its default, so that an empty section is a good one.
type Config struct {
	// Disabled are rules that never raise anything.
	Disabled []string `yaml:"disabled"`
	// Repeat is after how long something that goes on is said again; default 24h.
	Repeat        time.Duration  `yaml:"repeat"`
	Spraying      SprayingConfig `yaml:"password_spraying"`
	Denials       DenialsConfig  `yaml:"denials"`
	Moved         MovedConfig    `yaml:"session_moved"`
	ClockSkew     time.Duration  `yaml:"clock_skew"` // how far clocks may be apart; default 30s
	Store         StoreConfig    `yaml:"store_slow"`
	ArchiveBehind time.Duration  `yaml:"archive_behind"` // how long archiving may fail; default 30m
}

// SprayingConfig bounds few wrong passwords on many accounts.
type SprayingConfig struct {
	Window time.Duration `yaml:"window"` // default 30m
	// Accounts are tolerated from one address, and Network ones from its /24 or
	// /48; Everywhere is the bound for all addresses together. Defaults 15, 30, 100.
	Accounts   int `yaml:"accounts"`
	Network    int `yaml:"network_accounts"`
	Everywhere int `yaml:"everywhere_accounts"`
	// Tries on one account are few up to this; more are a lockout's. Default 5.
	Tries int `yaml:"tries"`
}

// DenialsConfig bounds refusals of one kind to one caller.
type DenialsConfig struct {
	Window time.Duration `yaml:"window"` // default 5m
	Count  int           `yaml:"count"`  // default 30
}

// MovedConfig bounds how often one session goes to and fro between networks.
type MovedConfig struct {
	Window time.Duration `yaml:"window"` // default 10m
	Times  int           `yaml:"times"`  // default 6
	// KnownNetworks count as one place: an office with several ways out.
	KnownNetworks []string `yaml:"known_networks"`
}

// StoreConfig bounds how slow the store may be.
type StoreConfig struct {
	Over    time.Duration `yaml:"over"`    // an operation that takes longer is slow; default 250ms
	Percent int           `yaml:"percent"` // of a minute's operations that may be slow; default 10
}

// WithDefaults fills in what is missing.
func (c Config) WithDefaults() Config {
	c.Repeat = cmp.Or(c.Repeat, 24*time.Hour)
	c.Spraying.Window = cmp.Or(c.Spraying.Window, 30*time.Minute)
	c.Spraying.Accounts = cmp.Or(c.Spraying.Accounts, 15)
	c.Spraying.Network = cmp.Or(c.Spraying.Network, max(30, c.Spraying.Accounts))
	c.Spraying.Everywhere = cmp.Or(c.Spraying.Everywhere, max(100, c.Spraying.Network))
	c.Spraying.Tries = cmp.Or(c.Spraying.Tries, 5)
	c.Denials.Window = cmp.Or(c.Denials.Window, 5*time.Minute)
	c.Denials.Count = cmp.Or(c.Denials.Count, 30)
	c.Moved.Window = cmp.Or(c.Moved.Window, 10*time.Minute)
	c.Moved.Times = cmp.Or(c.Moved.Times, 6)
	c.ClockSkew = cmp.Or(c.ClockSkew, 30*time.Second)
	c.Store.Over = cmp.Or(c.Store.Over, 250*time.Millisecond)
	c.Store.Percent = cmp.Or(c.Store.Percent, 10)
	c.ArchiveBehind = cmp.Or(c.ArchiveBehind, 30*time.Minute)
	return c
}

// Off reports whether a rule never raises anything.
func (c Config) Off(rule string) bool { return slices.Contains(c.Disabled, rule) }

// maxWindow bounds every window: after a change of the replica that watches, what
// is in the window is read again.
const maxWindow = 24 * time.Hour

// Problems complains about bounds that are none.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	for i, r := range c.Disabled {
		if !slices.Contains(Rules(), r) {
			add(fmt.Sprintf("Disabled[%d]", i), "detection.rule", fmt.Sprintf("There is no rule %q.", r), strings.Join(Rules(), ", "))
		}
	}
	for _, f := range []struct {
		name string
		n    int64
	}{{"Repeat", int64(c.Repeat)}, {"Spraying.Accounts", int64(c.Spraying.Accounts)}, {"Spraying.Network", int64(c.Spraying.Network)}, {"Spraying.Everywhere", int64(c.Spraying.Everywhere)},
		{"Spraying.Tries", int64(c.Spraying.Tries)}, {"Denials.Count", int64(c.Denials.Count)}, {"Moved.Times", int64(c.Moved.Times)}, {"ClockSkew", int64(c.ClockSkew)},
		{"Store.Over", int64(c.Store.Over)}, {"Store.Percent", int64(c.Store.Percent)}, {"ArchiveBehind", int64(c.ArchiveBehind)}} {
		if f.n < 0 {
			add(f.name, "detection.negative", "A bound cannot be negative.", "leave it out for the default, or name the rule in detection.disabled")
		}
	}
	for _, f := range []struct {
		name string
		d    time.Duration
	}{{"Spraying.Window", c.Spraying.Window}, {"Denials.Window", c.Denials.Window}, {"Moved.Window", c.Moved.Window}} {
		if f.d != 0 && (f.d < time.Minute || f.d > maxWindow) {
			add(f.name, "detection.window", "A window is from one minute to a day.", "30m")
		}
	}
	if c.Store.Percent > 100 {
		add("Store.Percent", "detection.percent", "percent is a part of all operations.", "10, at most 100")
	}
	if c.ClockSkew > 0 && c.ClockSkew < 2*time.Second {
		add("ClockSkew", "detection.clock_skew", "The Date of an answer is only good to a second.", "30s, at least 2s")
	}
	for i, s := range c.Moved.KnownNetworks {
		if _, err := netip.ParsePrefix(s); err != nil {
			add(fmt.Sprintf("Moved.KnownNetworks[%d]", i), "detection.known_networks", fmt.Sprintf("%q is no network.", s), "203.0.113.0/24")
		}
	}
	return ps
}

// Known are the known networks, parsed; Problems has complained about others.
func (c MovedConfig) Known() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range c.KnownNetworks {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}
