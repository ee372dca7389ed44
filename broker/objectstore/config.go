package objectstore

import (
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// BucketConfig is one of the sections s3, oss, cos and minio.
type BucketConfig struct {
	// Name tells buckets of one section apart; the section's own name if empty.
	Name string `yaml:"name"`
	// Endpoint is the store's host, with a port if it is not the usual one.
	Endpoint  string        `yaml:"endpoint"`
	Region    string        `yaml:"region"`
	UseSSL    *bool         `yaml:"use_ssl"` // default true
	AccessKey redact.String `yaml:"access_key"`
	SecretKey redact.String `yaml:"secret_key"`
	Bucket    string        `yaml:"bucket"`
	// ObjectLock is "governance" or "compliance" where each object of the audit
	// archive shall be locked for audit.retention; of s3 and minio alone.
	ObjectLock string `yaml:"object_lock"`
	Proxy      string `yaml:"proxy"`
	CAFile     string `yaml:"ca_file"`
}

// Problems complains about a bucket that could not be reached. What depends on
// the vendor is Address's to say.
func (b BucketConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	for _, f := range []struct{ field, key, v string }{
		{"Endpoint", "endpoint", b.Endpoint}, {"Bucket", "bucket", b.Bucket}, {"AccessKey", "access_key", b.AccessKey.Reveal()}, {"SecretKey", "secret_key", b.SecretKey.Reveal()},
	} {
		if f.v == "" {
			ps = append(ps, problem.Problem{Field: f.field, Rule: "bucket." + f.key, Text: f.key + " is missing."})
		}
	}
	switch b.ObjectLock {
	case "", "governance", "compliance":
	default:
		ps = append(ps, problem.Problem{Field: "ObjectLock", Rule: "bucket.object_lock", Text: "object_lock is no mode of S3 Object Lock.", Fix: "governance or compliance"})
	}
	return ps
}

// Credentials lends short-lived bucket credentials to people.
type Credentials struct {
	Name     string        `yaml:"name"`
	Provider string        `yaml:"provider"`
	RoleARN  string        `yaml:"role_arn"`
	Allow    *string       `yaml:"allow"`
	Prefix   string        `yaml:"prefix"`
	TTL      time.Duration `yaml:"ttl"`
}

// Problems complains about an offer that could not be kept.
func (c Credentials) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.Name == "" {
		ps = append(ps, problem.Problem{Field: "Name", Rule: "storage_credentials.name", Text: "An offer of credentials needs a name."})
	}
	switch c.Provider {
	case "s3", "oss", "cos", "minio":
	default:
		ps = append(ps, problem.Problem{Field: "Provider", Rule: "storage_credentials.provider", Text: "provider is not one of the stores.", Fix: "s3, oss, cos or minio"})
	}
	// Tencent has no policy for one call: what a role may do is all that bounds
	// the credentials (docs/security.md ST-4).
	if c.Provider == "cos" && strings.Contains(c.Prefix, "{user.id}") && !strings.Contains(c.RoleARN, "{user.id}") {
		ps = append(ps, problem.Problem{Field: "RoleARN", Rule: "storage_credentials.role", Text: "On cos the role alone keeps people apart, and this one is the same for all.", Fix: "a role_arn that holds {user.id}"})
	}
	if c.TTL < 0 || c.TTL > time.Hour {
		ps = append(ps, problem.Problem{Field: "TTL", Rule: "storage_credentials.ttl", Text: "Lent credentials live an hour at most.", Fix: "ttl: 1h"})
	}
	return ps
}
