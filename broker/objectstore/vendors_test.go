package objectstore_test

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/test/peers/cloudstore"
)

// vendor is a double and the section that leads to it, by proxy and over TLS.
type vendor struct {
	store *cloudstore.Store
	kind  objectstore.Kind
	cfg   objectstore.BucketConfig
}

func vendors(t *testing.T) []vendor {
	t.Helper()
	oss := &cloudstore.Store{Vendor: "oss", Endpoint: "oss-cn-hangzhou.aliyuncs.com", Region: "cn-hangzhou", Bucket: "acme-audit", Key: "LTAI-test", Secret: "oss-secret"}
	cos := &cloudstore.Store{Vendor: "cos", Endpoint: "cos.ap-guangzhou.myqcloud.com", Region: "ap-guangzhou", Bucket: "acme-audit-1250000000", Key: "AKID-test", Secret: "cos-secret"}
	front := cloudstore.Serve(t, oss, cos)
	var out []vendor
	for _, s := range []*cloudstore.Store{oss, cos} {
		out = append(out, vendor{store: s, kind: objectstore.Kind(s.Vendor), cfg: objectstore.BucketConfig{Endpoint: s.Endpoint, Bucket: s.Bucket,
			AccessKey: redact.String(s.Key), SecretKey: redact.String(s.Secret), Proxy: front.Proxy, CAFile: front.CAFile}})
	}
	return out
}

func (v vendor) open(t *testing.T, change ...func(*objectstore.BucketConfig)) *objectstore.Bucket {
	t.Helper()
	for _, c := range change {
		c(&v.cfg)
	}
	b, err := objectstore.Open(v.kind, v.cfg, objectstore.Env{Now: time.Now, HTTP: func(proxy, caFile string, trusted ...string) (*http.Client, error) {
		u, err := url.Parse(proxy)
		if err != nil {
			return nil, err
		}
		return web.NewClient(web.FetchConfig{Proxy: u, CAFile: caFile, AllowHosts: trusted, MaxBody: objectstore.MaxObject + 1, Timeout: 20 * time.Second})
	}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The vendors in China: each object once by their own header under their own
// signature, everything else by S3, and what they refuse is never sent.
func TestVendors(t *testing.T) {
	for _, v := range vendors(t) {
		t.Run(v.store.Vendor, func(t *testing.T) {
			b := v.open(t)
			detail, err := b.Check(t.Context(), "audit/")
			if err != nil || strings.Contains(detail, "WARNING") || !strings.Contains(detail, "objects can be deleted") {
				t.Fatalf("%s %v", detail, err)
			}
			own := map[string]string{"oss": "oss4", "cos": "cos"}[v.store.Vendor]
			if got, want := v.store.Requests(), []string{own + " PUT /audit/check/gatehouse.json", own + " PUT /audit/check/gatehouse.json", "s3 GET /audit/check/gatehouse.json", "s3 GET /", "s3 DELETE /audit/check/gatehouse.json"}; !slices.Equal(got, want) {
				t.Errorf("%q", got)
			}
			v.store.Keeps = true
			if detail, err := b.Check(t.Context(), "audit/"); err != nil || !strings.HasSuffix(detail, "write-once") {
				t.Errorf("%s %v", detail, err)
			}
			for i := range 1003 {
				if err := b.Put(t.Context(), fmt.Sprintf("audit/2026/%04d.json", i), []byte("{}"), time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			n, last := 0, ""
			for name, err := range b.List(t.Context(), "audit/2026/", "audit/2026/0000.json") {
				if err != nil || name <= last {
					t.Fatal(name, err)
				}
				n, last = n+1, name
			}
			if n != 1002 {
				t.Errorf("%d names", n)
			}
			if err := b.Put(t.Context(), "audit/2026/0001.json", []byte("else"), time.Time{}); !errors.Is(err, fs.ErrExist) {
				t.Error(err)
			}
			if got, err := b.Get(t.Context(), "audit/2026/0001.json"); err != nil || string(got) != "{}" {
				t.Errorf("%s %v", got, err)
			}
			v.store.Versioned = true
			if detail, err := b.Check(t.Context(), "audit/"); err != nil || !strings.Contains(detail, "WARNING: the store overwrites") {
				t.Errorf("%s %v", detail, err)
			}
		})
	}
}

func TestVendorErrors(t *testing.T) {
	for _, v := range vendors(t) {
		for name, c := range map[string]struct {
			change func(*objectstore.BucketConfig)
			behind time.Duration
			want   string
		}{
			"wrong secret": {change: func(c *objectstore.BucketConfig) { c.SecretKey = "x" }, want: v.store.Vendor + ".secret_key does not belong to"},
			"unknown key":  {change: func(c *objectstore.BucketConfig) { c.AccessKey = "x" }, want: "the store does not know " + v.store.Vendor + ".access_key"},
			"clock":        {change: func(*objectstore.BucketConfig) {}, behind: time.Hour, want: "set this one by NTP"},
			"unknown CA":   {change: func(c *objectstore.BucketConfig) { c.CAFile = "" }, want: v.store.Vendor + ".ca_file"},
			"no proxy":     {change: func(c *objectstore.BucketConfig) { c.Proxy = "http://127.0.0.1:1" }, want: "connection refused"},
		} {
			t.Run(v.store.Vendor+" "+name, func(t *testing.T) {
				v.store.Behind = c.behind
				defer func() { v.store.Behind = 0 }()
				b := v.open(t, c.change)
				if err := b.Put(t.Context(), "audit/x.json", []byte("{}"), time.Time{}); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret\"") {
					t.Errorf("put: %v", err)
				}
				if _, err := b.Get(t.Context(), "audit/x.json"); err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("get: %v", err)
				}
			})
		}
	}
}
