package objectstore

import (
	"cmp"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// Placeholder stands in prefix and role_arn for the account's own id: that of a
// user, or a service account's name.
const Placeholder = "{user.id}"

// Bounds of what is lent. Amazon, MinIO and Alibaba lend for a quarter of an hour
// at least; more than an hour nobody gets (docs/security.md ST-4).
const (
	maxLent = time.Hour
	minLent = 15 * time.Minute
)

// Access is something that lent credentials may do under their prefix.
type Access string

// What may be lent.
const (
	Read   Access = "read"   // get objects, and list them
	Write  Access = "write"  // put objects, in parts too
	Delete Access = "delete" // remove objects
)

// Credentials lends short-lived bucket credentials to people and service
// accounts, against a web identity token of ours.
type Credentials struct {
	Name string `yaml:"name"`
	// Provider is the section that the bucket stands in, and so whose token
	// service lends: s3, oss, cos or minio.
	Provider string `yaml:"provider"`
	// Bucket is the bucket's name in the configuration, where the section has
	// several.
	Bucket string `yaml:"bucket"`
	// RoleARN is the role that the vendor lends, as the vendor writes it.
	RoleARN string `yaml:"role_arn"`
	// OIDCProvider is what oss and cos call our issuer: the ARN of the identity
	// provider, and the provider's name.
	OIDCProvider string `yaml:"oidc_provider"`
	// Audience is the aud of the token; by default the vendor's own.
	Audience string `yaml:"audience"`
	// Allow says who may have them; without it everybody who is signed in.
	Allow *string `yaml:"allow"`
	// Prefix begins the names of the objects that are lent; default users/{user.id}/.
	Prefix string `yaml:"prefix"`
	// Access is what is lent; default read and write.
	Access []Access `yaml:"access,some"`
	// TTL is how long they live; default 1h, which is also the most.
	TTL time.Duration `yaml:"ttl"`
	// STSEndpoint is the URL of the token service where it is not the vendor's own.
	STSEndpoint string `yaml:"sts_endpoint"`
	// Direct gives the web identity token itself away too, with which its holder
	// asks the token service and gets all that the role may do: the session policy
	// is not in it.
	Direct bool `yaml:"direct"`
}

// WithDefaults returns the offer with what is missing filled in.
func (c Credentials) WithDefaults() Credentials {
	c.Audience = cmp.Or(c.Audience, map[string]string{
		string(S3): "sts.amazonaws.com", string(MinIO): "minio", string(OSS): "sts.aliyuncs.com", string(COS): "sts.tencentcloudapi.com",
	}[c.Provider])
	c.Prefix = cmp.Or(c.Prefix, "users/"+Placeholder+"/")
	c.TTL = cmp.Or(c.TTL, maxLent)
	if len(c.Access) == 0 {
		c.Access = []Access{Read, Write}
	}
	return c
}

// The vendors' forms of a role and of an identity provider.
var (
	roleForms = map[string]struct {
		form *regexp.Regexp
		like string
	}{
		string(S3):    {regexp.MustCompile(`^arn:[a-z-]+:iam::\d*:role/[\w+=,.@/-]+$`), "arn:aws:iam::123456789012:role/gatehouse-users"},
		string(MinIO): {regexp.MustCompile(`^arn:[a-z-]+:iam:[a-z0-9-]*:\d*:role/[\w+=,.@/-]+$`), "arn:minio:iam:::role/…, which MinIO prints when it starts"},
		string(OSS):   {regexp.MustCompile(`^acs:ram::\d+:role/[\w.-]+$`), "acs:ram::1234567890123456:role/gatehouse-users"},
		string(COS):   {regexp.MustCompile(`^qcs::cam::uin/\d+:roleName/[\w+=,.@-]+$`), "qcs::cam::uin/100000000001:roleName/gatehouse-{user.id}"},
	}
	aliyunProvider  = regexp.MustCompile(`^acs:ram::\d+:oidc-provider/[\w.-]+$`)
	tencentProvider = regexp.MustCompile(`^[\w+=,.@-]{1,128}$`)
	prefixForm      = regexp.MustCompile(`^[A-Za-z0-9_.=@:+,~()/-]+$`)
	audienceForm    = regexp.MustCompile(`^[!-~]{1,255}$`)
	// account is what may stand for Placeholder: one step of a path, whatever reads
	// it, and no wildcard of a policy.
	account = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$`)
)

// Problems complains about an offer that could not be kept.
func (c Credentials) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "storage_credentials." + rule, Text: text, Fix: fix})
	}
	if !account.MatchString(c.Name) {
		add("Name", "name", "An offer of credentials needs a name of letters, digits, '.', '_' and '-'.", "name: datasets")
	}
	d := c.WithDefaults()
	c.roleProblems(add)
	switch inner := strings.ReplaceAll(d.Prefix, Placeholder, "x"); {
	case !strings.HasSuffix(inner, "/"):
		add("Prefix", "prefix", "The prefix does not end with a slash: users/1 would lend users/10 too.", "prefix: "+d.Prefix+"/")
	case !prefixForm.MatchString(inner) || len(d.Prefix) > 256:
		add("Prefix", "prefix", "A prefix is at most 256 letters, digits and _.=@:+,~()/-, in which "+Placeholder+" stands for the account's id.", "prefix: users/"+Placeholder+"/")
	case slices.ContainsFunc(strings.Split(strings.TrimSuffix(inner, "/"), "/"), func(s string) bool { return s == "" || s == "." || s == ".." }):
		add("Prefix", "prefix", "A part of the prefix is empty, . or .., which stores and tools read in different ways.", "prefix: users/"+Placeholder+"/")
	}
	for i, a := range c.Access {
		if !slices.Contains([]Access{Read, Write, Delete}, a) {
			add(fmt.Sprintf("Access[%d]", i), "access", fmt.Sprintf("%q is nothing that can be lent.", a), "read, write or delete")
		}
	}
	if c.Provider == string(COS) && len(c.Access) > 0 {
		add("Access", "access", "Tencent Cloud takes no policy with the call: what may be done is what the role says.", "leave access out, and let the role allow no more")
	}
	switch {
	case c.TTL < 0 || c.TTL > maxLent:
		add("TTL", "ttl", "Lent credentials live an hour at most.", "ttl: 1h")
	case c.TTL != 0 && c.TTL < minLent:
		add("TTL", "ttl", "The vendors lend for 15 minutes at least.", "ttl: 15m")
	}
	if !audienceForm.MatchString(d.Audience) && c.Provider != "" {
		add("Audience", "audience", "The audience is one word of ASCII, as it stands in the vendor's list of client ids.", "audience: sts.amazonaws.com")
	}
	if c.STSEndpoint != "" {
		switch u, err := url.Parse(c.STSEndpoint); {
		case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
			add("STSEndpoint", "sts_endpoint", "sts_endpoint is no URL without query, fragment and user.", "sts_endpoint: https://sts.eu-central-1.amazonaws.com")
		case u.Scheme == "http" && !near(u.Hostname()):
			ps = append(ps, problem.Problem{Field: "STSEndpoint", Rule: "storage_credentials.clear", Warning: true,
				Text: "Tokens, and what is lent for them, go over the network in clear.", Fix: "https"})
		}
	}
	return ps
}

// roleProblems complains about whom the vendor is asked to lend to.
func (c Credentials) roleProblems(add func(field, rule, text, fix string)) {
	form, known := roleForms[c.Provider]
	if !known {
		add("Provider", "provider", "provider is not one of the stores.", "s3, oss, cos or minio")
		return
	}
	d := c.WithDefaults()
	switch {
	// Tencent has no policy for one call: what a role may do is all that bounds
	// the credentials (docs/security.md ST-4).
	case c.Provider == string(COS) && strings.Contains(d.Prefix, Placeholder) && !strings.Contains(c.RoleARN, Placeholder):
		add("RoleARN", "role", "On cos the role alone keeps people apart, and this one is the same for all.", "a role_arn that holds "+Placeholder)
	case !form.form.MatchString(strings.ReplaceAll(c.RoleARN, Placeholder, "x")):
		add("RoleARN", "role", fmt.Sprintf("role_arn is no role as %s writes it.", c.Provider), "role_arn: "+form.like)
	}
	switch {
	case c.Provider == string(OSS) && !aliyunProvider.MatchString(c.OIDCProvider):
		add("OIDCProvider", "oidc_provider", "oss needs the ARN of the OIDC identity provider that stands for this issuer.", "oidc_provider: acs:ram::1234567890123456:oidc-provider/gatehouse")
	case c.Provider == string(COS) && !tencentProvider.MatchString(c.OIDCProvider):
		add("OIDCProvider", "oidc_provider", "cos needs the name of the identity provider that stands for this issuer.", "oidc_provider: gatehouse")
	case (c.Provider == string(S3) || c.Provider == string(MinIO)) && c.OIDCProvider != "":
		add("OIDCProvider", "oidc_provider", c.Provider+" finds the identity provider by the token's iss.", "leave it out")
	}
}

// For returns a text of the configuration for one account.
func (c Credentials) For(text, id string) string { return strings.ReplaceAll(text, Placeholder, id) }
