package objectstore

import (
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

// Keyless reports whether the section has no key of its own: a bucket that is
// lent by web identity tokens needs none.
func (b BucketConfig) Keyless() bool { return b.AccessKey == "" && b.SecretKey == "" }

// Problems complains about a bucket that could not be reached. What depends on
// the vendor is Address's to say.
func (b BucketConfig) Problems() []problem.Problem {
	var ps []problem.Problem
	missing := func(field, key string, is bool) {
		if is {
			ps = append(ps, problem.Problem{Field: field, Rule: "bucket." + key, Text: key + " is missing."})
		}
	}
	missing("Endpoint", "endpoint", b.Endpoint == "")
	missing("Bucket", "bucket", b.Bucket == "")
	// Whether a bucket does without a key at all depends on what it is for.
	missing("AccessKey", "access_key", b.AccessKey == "" && b.SecretKey != "")
	missing("SecretKey", "secret_key", b.SecretKey == "" && b.AccessKey != "")
	switch b.ObjectLock {
	case "", "governance", "compliance":
	default:
		ps = append(ps, problem.Problem{Field: "ObjectLock", Rule: "bucket.object_lock", Text: "object_lock is no mode of S3 Object Lock.", Fix: "governance or compliance"})
	}
	return ps
}
