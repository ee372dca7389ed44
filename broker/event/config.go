package event

import (
	"regexp"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// AuditConfig is the `audit` section: where the log is archived and how long it
// is kept.
type AuditConfig struct {
	// Archive names the buckets that get a copy.
	Archive []string `yaml:"archive"`
	// Prefix begins every object's name there; default "audit/".
	Prefix string `yaml:"prefix"`
	// Every is how long a record waits at most before it is archived; default 5m.
	Every time.Duration `yaml:"every"`
	// Hot is how long records stay in Redis; default 168h.
	Hot time.Duration `yaml:"hot"`
	// Retention is how long records are kept at all; default 4320h, 180 days, as
	// MLPS 2.0 and the Cybersecurity Law of China (article 21) ask for.
	Retention time.Duration `yaml:"retention"`
}

// WithDefaults fills in what is not set.
func (c AuditConfig) WithDefaults() AuditConfig {
	if c.Prefix == "" {
		c.Prefix = "audit/"
	}
	for _, d := range []struct {
		to *time.Duration
		is time.Duration
	}{{&c.Every, 5 * time.Minute}, {&c.Hot, 7 * 24 * time.Hour}, {&c.Retention, 180 * 24 * time.Hour}} {
		if *d.to == 0 {
			*d.to = d.is
		}
	}
	return c
}

// prefix is what may begin an object's name: nothing that a store, a signature or
// a file system writes otherwise.
var prefix = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._-]*/)+$`)

// Problems complains about an archive that could not be kept.
func (c AuditConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.Prefix != "" && (!prefix.MatchString(c.Prefix) || strings.Contains(c.Prefix, "..")) {
		ps = append(ps, problem.Problem{Field: "Prefix", Rule: "audit.prefix", Text: "The prefix is no folder of letters, digits, dots, dashes and underscores.", Fix: "audit/, or another name that ends with a slash"})
	}
	if c.Every < 0 || c.Hot < 0 || c.Retention < 0 {
		ps = append(ps, problem.Problem{Field: "Every", Rule: "audit.negative", Text: "A time cannot be negative."})
	}
	if d := c.WithDefaults(); len(c.Archive) > 0 && d.Every >= d.Retention {
		ps = append(ps, problem.Problem{Field: "Every", Rule: "audit.every", Text: "Records would be removed before they are archived.", Fix: "every: 5m"})
	}
	return ps
}
