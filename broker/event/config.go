package event

import (
	"fmt"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// AuditConfig is the `audit` section: where the log is archived and how long it
// is kept. This version decodes and validates it; the archive comes later.
type AuditConfig struct {
	Archive   []string      `yaml:"archive"`
	Prefix    string        `yaml:"prefix"`
	Every     time.Duration `yaml:"every"`
	Hot       time.Duration `yaml:"hot"`
	Retention time.Duration `yaml:"retention"`
}

// Problems complains about an archive that could not be kept.
func (c AuditConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	for i, a := range c.Archive {
		if !slices.Contains([]string{"s3", "oss", "cos", "minio"}, a) {
			ps = append(ps, problem.Problem{Field: fmt.Sprintf("Archive[%d]", i), Rule: "audit.archive", Text: fmt.Sprintf("%q is no object store.", a), Fix: "s3, oss, cos or minio"})
		}
	}
	if c.Every < 0 || c.Hot < 0 || c.Retention < 0 {
		ps = append(ps, problem.Problem{Field: "Every", Rule: "audit.negative", Text: "A time cannot be negative."})
	}
	return ps
}
