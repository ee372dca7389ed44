package objectstore

import (
	"slices"
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	no := false
	for _, c := range []struct {
		kind   Kind
		cfg    BucketConfig
		host   string
		region string
		tls    bool
		rule   string // of the one complaint; "" for none
	}{
		{S3, BucketConfig{Endpoint: "s3.amazonaws.com", Region: "eu-west-1"}, "s3.amazonaws.com", "eu-west-1", true, ""},
		{S3, BucketConfig{Endpoint: "https://s3.cn-north-1.amazonaws.com.cn/"}, "s3.cn-north-1.amazonaws.com.cn", "cn-north-1", true, ""},
		{S3, BucketConfig{Endpoint: "bkt.s3.eu-central-1.amazonaws.com"}, "s3.eu-central-1.amazonaws.com", "eu-central-1", true, ""},
		{S3, BucketConfig{Endpoint: "127.0.0.1:7070", UseSSL: &no}, "127.0.0.1:7070", "us-east-1", false, ""},
		{S3, BucketConfig{Endpoint: "http://[::1]:7070"}, "[::1]:7070", "us-east-1", false, ""},
		{S3, BucketConfig{Endpoint: "http://ceph.example.com"}, "ceph.example.com", "us-east-1", false, "bucket.use_ssl"},
		{S3, BucketConfig{Endpoint: "oss-cn-hangzhou.aliyuncs.com"}, "oss-cn-hangzhou.aliyuncs.com", "us-east-1", true, "bucket.kind"},
		{S3, BucketConfig{Endpoint: "s3.amazonaws.com/bkt"}, "", "", true, "bucket.endpoint"},
		{S3, BucketConfig{Endpoint: "user@s3.amazonaws.com"}, "", "", true, "bucket.endpoint"},
		{OSS, BucketConfig{Endpoint: "oss-cn-hangzhou.aliyuncs.com"}, "oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", true, ""},
		{OSS, BucketConfig{Endpoint: "oss-cn-beijing-internal.aliyuncs.com"}, "oss-cn-beijing-internal.aliyuncs.com", "cn-beijing", true, ""},
		{OSS, BucketConfig{Endpoint: "s3.oss-cn-shanghai.aliyuncs.com"}, "s3.oss-cn-shanghai.aliyuncs.com", "cn-shanghai", true, ""},
		{OSS, BucketConfig{Endpoint: "oss-cn-hangzhou.aliyuncs.com", Region: "oss-cn-hangzhou"}, "oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", true, ""},
		{OSS, BucketConfig{Endpoint: "storage.example.com"}, "storage.example.com", "", true, "bucket.region"},
		{OSS, BucketConfig{Endpoint: "oss-cn-hangzhou.aliyuncs.com", Bucket: "a.b"}, "oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", true, "bucket.dot"},
		{OSS, BucketConfig{Endpoint: "oss-cn-hangzhou.aliyuncs.com", ObjectLock: "compliance"}, "oss-cn-hangzhou.aliyuncs.com", "cn-hangzhou", true, "bucket.object_lock"},
		{COS, BucketConfig{Endpoint: "cos.ap-guangzhou.myqcloud.com", Bucket: "bkt-1250000000"}, "cos.ap-guangzhou.myqcloud.com", "ap-guangzhou", true, ""},
		{COS, BucketConfig{Endpoint: "bkt-1250000000.cos-internal.ap-beijing.tencentcos.cn", Bucket: "bkt-1250000000"}, "cos-internal.ap-beijing.tencentcos.cn", "ap-beijing", true, ""},
		{COS, BucketConfig{Endpoint: "cos.ap-guangzhou.myqcloud.com"}, "cos.ap-guangzhou.myqcloud.com", "ap-guangzhou", true, "bucket.appid"},
		{MinIO, BucketConfig{Endpoint: "minio:9000", UseSSL: &no}, "minio:9000", "us-east-1", false, ""},
		{"gcs", BucketConfig{Endpoint: "storage.example.com", Region: "x"}, "storage.example.com", "x", true, "bucket.kind"},
	} {
		if c.cfg.Bucket == "" {
			c.cfg.Bucket = "bkt"
		}
		a, ps := c.cfg.Address(c.kind)
		if c.rule != "" && (len(ps) != 1 || ps[0].Rule != c.rule) || c.rule == "" && len(ps) != 0 {
			t.Errorf("%s %s: %v", c.kind, c.cfg.Endpoint, ps)
		}
		if c.host != "" && (a.Host != c.host || a.Region != c.region || a.TLS != c.tls) {
			t.Errorf("%s %s: %+v", c.kind, c.cfg.Endpoint, a)
		}
	}
}

// What the client calls is among the hosts that it may call.
func TestHosts(t *testing.T) {
	for _, c := range []struct {
		kind Kind
		cfg  BucketConfig
		want string
	}{
		{S3, BucketConfig{Endpoint: "s3.amazonaws.com", Region: "eu-west-1", Bucket: "bkt"}, "bkt.s3.eu-west-1.amazonaws.com"},
		{OSS, BucketConfig{Endpoint: "oss-cn-hangzhou.aliyuncs.com", Bucket: "bkt"}, "bkt.oss-cn-hangzhou.aliyuncs.com"},
		{MinIO, BucketConfig{Endpoint: "10.0.0.1:9000", Bucket: "bkt"}, "10.0.0.1"},
	} {
		a, _ := c.cfg.Address(c.kind)
		if !slices.Contains(a.hosts(), c.want) {
			t.Errorf("%s: %q", c.cfg.Endpoint, a.hosts())
		}
		for _, h := range a.hosts() {
			if strings.Contains(h, ":") {
				t.Errorf("%q has a port", h)
			}
		}
	}
}
