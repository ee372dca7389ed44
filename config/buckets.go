package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/problem"
)

// NamedBucket is a bucket with the section that it stands in.
type NamedBucket struct {
	objectstore.BucketConfig
	Kind objectstore.Kind
	at   string // the Go path of the section's entry
}

// ID is how audit.archive names the bucket.
func (b NamedBucket) ID() string { return b.BucketConfig.ID(b.Kind) }

// Buckets are the sections s3, oss, cos and minio, in this order.
func (c *Config) Buckets() []NamedBucket {
	var out []NamedBucket
	for _, s := range []struct {
		kind  objectstore.Kind
		field string
		list  []objectstore.BucketConfig
	}{{objectstore.S3, "S3", c.S3}, {objectstore.OSS, "OSS", c.OSS}, {objectstore.COS, "COS", c.COS}, {objectstore.MinIO, "MinIO", c.MinIO}} {
		for i, b := range s.list {
			out = append(out, NamedBucket{BucketConfig: b, Kind: s.kind, at: fmt.Sprintf("%s[%d]", s.field, i)})
		}
	}
	return out
}

// Bucket returns the bucket that audit.archive calls so.
func (c *Config) Bucket(id string) (NamedBucket, bool) {
	all := c.Buckets()
	if i := slices.IndexFunc(all, func(b NamedBucket) bool { return b.ID() == id }); i >= 0 {
		return all[i], true
	}
	return NamedBucket{}, false
}

// bucketReferences complain about buckets that cannot be told apart or reached,
// and about archives without one.
func (c *Config) bucketReferences(ps *complaints) {
	ids := map[string]bool{}
	var known []string
	for _, b := range c.Buckets() {
		if id := b.ID(); ids[id] {
			ps.add(b.at+".Name", "bucket.duplicate", fmt.Sprintf("There are two buckets %q.", id), "a name of its own for each")
		} else {
			ids[id], known = true, append(known, id)
		}
		c.keyless(ps, b)
		if b.Endpoint == "" || b.Bucket == "" {
			continue // said where it stands
		}
		_, wrong := b.Address(b.Kind)
		*ps = append(*ps, problem.Under(b.at, wrong)...)
	}
	fix := "a section s3, oss, cos or minio"
	if len(known) > 0 {
		fix = "one of: " + strings.Join(known, ", ")
	}
	seen := map[string]bool{}
	for i, id := range c.Audit.Archive {
		switch {
		case !ids[id]:
			ps.add(fmt.Sprintf("Audit.Archive[%d]", i), "audit.archive", fmt.Sprintf("There is no bucket %q.", id), fix)
		case seen[id]:
			ps.add(fmt.Sprintf("Audit.Archive[%d]", i), "audit.archive", fmt.Sprintf("The bucket %q is named twice.", id), "once")
		}
		seen[id] = true
	}
}
