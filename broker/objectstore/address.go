package objectstore

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// Kind is the vendor whose habits a bucket has; it is the name of the section.
type Kind string

// The kinds there are.
const (
	S3    Kind = "s3"    // Amazon, and what speaks its protocol
	OSS   Kind = "oss"   // Alibaba Cloud
	COS   Kind = "cos"   // Tencent Cloud
	MinIO Kind = "minio" // path-style addresses, no regions
)

// Address is where a bucket is.
type Address struct {
	Kind   Kind
	Host   string // with the port, if there is one
	Region string
	TLS    bool
	Bucket string
	lookup minio.BucketLookupType
}

// Hosts of vendors. The region is the first group that matched.
var (
	amazon  = regexp.MustCompile(`^s3(?:[.-](?:dualstack\.|fips\.)?([a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com(?:\.cn)?$`)
	alibaba = regexp.MustCompile(`^(?:s3\.)?oss-([a-z0-9-]+?)(?:-internal)?\.aliyuncs\.com$`)
	tencent = regexp.MustCompile(`^cos(?:-internal)?\.([a-z0-9-]+)\.(?:myqcloud\.com|tencentcos\.cn)$`)
	appID   = regexp.MustCompile(`-\d{6,}$`)
)

// Address works out where the bucket is. What is wrong is a list of
// problem.Problem whose fields are those of the configuration.
func (b BucketConfig) Address(kind Kind) (Address, []problem.Problem) {
	a := Address{Kind: kind, Region: b.Region, TLS: true, Bucket: b.Bucket, lookup: minio.BucketLookupAuto}
	var ps []problem.Problem
	wrong := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "bucket." + rule, Text: text, Fix: fix})
	}
	at := b.Endpoint
	if scheme, rest, found := strings.Cut(at, "://"); found {
		a.TLS, at = scheme != "http", rest
	}
	if b.UseSSL != nil {
		a.TLS = *b.UseSSL
	}
	u, err := url.Parse("//" + strings.TrimSuffix(at, "/"))
	if err != nil || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		wrong("Endpoint", "endpoint", "The endpoint is no host.", "the store's host alone, such as s3.amazonaws.com or 127.0.0.1:9000")
		return a, ps
	}
	// The address of the bucket is what the vendors' consoles show and people paste.
	a.Host = strings.TrimPrefix(strings.ToLower(u.Host), b.Bucket+".")
	name := a.hostname()
	if other := vendorOf(name); other != "" && other != kind {
		wrong("Endpoint", "kind", fmt.Sprintf("This is an address of another vendor, whose stores refuse some of what is sent to %s.", kind), fmt.Sprintf("the section %s with the same keys", other))
	}
	switch kind {
	case S3:
		a.Region = cmp.Or(a.Region, group(amazon, name), "us-east-1")
	case MinIO:
		a.Region, a.lookup = cmp.Or(a.Region, "us-east-1"), minio.BucketLookupPath
	case OSS:
		a.Region, a.lookup = cmp.Or(strings.TrimPrefix(a.Region, "oss-"), group(alibaba, name)), minio.BucketLookupDNS
	case COS:
		a.Region, a.lookup = cmp.Or(a.Region, group(tencent, name)), minio.BucketLookupDNS
		if !appID.MatchString(b.Bucket) && b.Bucket != "" {
			ps = append(ps, problem.Problem{Field: "Bucket", Rule: "bucket.appid", Warning: true,
				Text: "A bucket of Tencent Cloud is named with the account's APPID, and this one is not.", Fix: "bucket: " + b.Bucket + "-1250000000, with your APPID"})
		}
	default:
		wrong("Endpoint", "kind", fmt.Sprintf("%q is no object store.", kind), "s3, oss, cos or minio")
	}
	if a.Region == "" {
		wrong("Region", "region", "The endpoint does not tell the region, which every signature needs.", "region: the vendor's name for it, such as cn-hangzhou or ap-guangzhou")
	}
	if a.lookup == minio.BucketLookupDNS && a.TLS && strings.Contains(b.Bucket, ".") {
		wrong("Bucket", "dot", "A bucket with a dot in its name has no host that the vendor's certificate covers.", "a bucket without a dot")
	}
	if b.ObjectLock != "" && (kind == OSS || kind == COS) {
		wrong("ObjectLock", "object_lock", fmt.Sprintf("%s locks whole buckets, not single objects.", kind), "leave it out, and give the bucket a retention policy (docs/archive.md)")
	}
	if !a.TLS && !near(name) {
		ps = append(ps, problem.Problem{Field: "UseSSL", Rule: "bucket.use_ssl", Warning: true,
			Text: "What is kept there goes over the network in clear.", Fix: "use_ssl: true"})
	}
	return a, ps
}

func (a Address) hostname() string {
	if h, _, err := net.SplitHostPort(a.Host); err == nil {
		return h
	}
	return a.Host
}

// String is the bucket's address without secrets.
func (a Address) String() string { return a.Bucket + " at " + a.Host }

// hosts are all names by which the bucket may be called: those that the
// operator named, whatever form the vendor gives them.
func (a Address) hosts() []string {
	name := a.hostname()
	out := []string{name}
	if amazon.MatchString(name) {
		for _, form := range []string{"s3.%s.amazonaws.com", "s3.%s.amazonaws.com.cn", "s3.dualstack.%s.amazonaws.com", "s3.dualstack.%s.amazonaws.com.cn"} {
			out = append(out, fmt.Sprintf(form, a.Region))
		}
	}
	for _, h := range slices.Clone(out) {
		out = append(out, a.Bucket+"."+h)
	}
	return out
}

// vendorOf tells whose address a host is; "" if nobody's that we know.
func vendorOf(host string) Kind {
	switch {
	case strings.HasSuffix(host, ".amazonaws.com"), strings.HasSuffix(host, ".amazonaws.com.cn"):
		return S3
	case strings.HasSuffix(host, ".aliyuncs.com"):
		return OSS
	case strings.HasSuffix(host, ".myqcloud.com"), strings.HasSuffix(host, ".tencentcos.cn"):
		return COS
	}
	return ""
}

func group(re *regexp.Regexp, s string) string {
	if m := re.FindStringSubmatch(s); m != nil {
		return m[1]
	}
	return ""
}

// near reports whether a host is on this machine or in a private network.
func near(host string) bool {
	if ip := net.ParseIP(strings.Trim(host, "[]")); ip != nil {
		return ip.IsLoopback() || ip.IsPrivate()
	}
	return host == "localhost" || !strings.Contains(host, ".")
}
