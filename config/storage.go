package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/policy"
)

// Lent returns the bucket that an entry of storage_credentials lends: the one
// that it names, or the only one of its section.
func (c *Config) Lent(s objectstore.Credentials) (NamedBucket, bool) {
	var of []NamedBucket
	for _, b := range c.Buckets() {
		if string(b.Kind) == s.Provider && (s.Bucket == "" || b.ID() == s.Bucket) {
			of = append(of, b)
		}
	}
	if len(of) != 1 {
		return NamedBucket{}, false
	}
	return of[0], true
}

// storageReferences complain about offers without a bucket, and about tokens that
// would be good elsewhere than where they are shown.
func (c *Config) storageReferences(ps *complaints) {
	unique(ps, c.StorageCredentials, "StorageCredentials", "Name", "storage_credentials", func(s objectstore.Credentials) string { return s.Name })
	type use struct {
		name, service string
		direct        bool
	}
	uses := map[string][]use{}
	for i, s := range c.StorageCredentials {
		at := fmt.Sprintf("StorageCredentials[%d].", i)
		var ids []string
		for _, b := range c.Buckets() {
			if string(b.Kind) == s.Provider {
				ids = append(ids, b.ID())
			}
		}
		b, found := c.Lent(s)
		switch {
		case found:
		case !slices.Contains([]string{"s3", "oss", "cos", "minio"}, s.Provider): // said where it stands
		case len(ids) == 0:
			ps.add(at+"Provider", "storage_credentials.provider", fmt.Sprintf("There is no section %s.", s.Provider), "a section with the bucket")
		case s.Bucket == "":
			ps.add(at+"Provider", "storage_credentials.bucket", fmt.Sprintf("The section %s has several buckets.", s.Provider), "bucket: one of "+strings.Join(ids, ", "))
		default:
			ps.add(at+"Bucket", "storage_credentials.bucket", fmt.Sprintf("The section %s has no bucket %q.", s.Provider, s.Bucket), "one of: "+strings.Join(ids, ", "))
		}
		if s.Allow != nil {
			if _, err := policy.Compile(policy.AtStorage, policy.Bool, *s.Allow); err != nil {
				ps.add(at+"Allow", "storage_credentials.allow", err.Error(), "")
			}
		}
		// Who reads ID tokens knows ours by iss and aud, and rarely looks at typ.
		aud := s.WithDefaults().Audience
		if aud != "" && (c.audience(aud) || slices.ContainsFunc(c.Clients, func(k grant.Client) bool { return k.ClientID == aud }) || aud == grant.CLI) {
			ps.add(at+"Audience", "storage_credentials.audience", fmt.Sprintf("%q is a client, a resource or the issuer here: what is shown to the vendor would count there too.", aud), "an audience that nothing else has, also in the vendor's list of client ids")
		}
		if !found {
			continue
		}
		u := use{s.Name, s.Service(b.BucketConfig), s.Direct}
		for _, o := range uses[aud] {
			switch {
			case o.service != u.service:
				ps.add(at+"Audience", "storage_credentials.audience", fmt.Sprintf("%q is the audience of %q too, at another token service: each could use at the other what it was shown.", aud, o.name), "an audience of its own")
			case o.direct || u.direct:
				ps.add(at+"Audience", "storage_credentials.audience", fmt.Sprintf("%q is the audience of %q too, and one of them gives its token away: who may have the one could take the other's role.", aud, o.name), "an audience of its own, pinned in the role's trust policy")
			default:
				continue
			}
			break
		}
		uses[aud] = append(uses[aud], u)
	}
}

// keyless complains about buckets without a key that are not there to be lent, or
// are written to besides.
func (c *Config) keyless(ps *complaints, b NamedBucket) {
	if !b.Keyless() {
		return
	}
	lent := slices.ContainsFunc(c.StorageCredentials, func(s objectstore.Credentials) bool {
		l, ok := c.Lent(s)
		return ok && l.ID() == b.ID() && l.Kind == b.Kind
	})
	switch {
	case slices.Contains(c.Audit.Archive, b.ID()):
		ps.add(b.at+".AccessKey", "bucket.access_key", "access_key is missing: the archive writes with a key of the bucket's own.", "access_key and secret_key")
	case !lent:
		ps.add(b.at+".AccessKey", "bucket.access_key", "access_key is missing.", "")
		ps.add(b.at+".SecretKey", "bucket.secret_key", "secret_key is missing.", "")
	}
}
