package objectstore

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

const exampleName = "audit/2026/11/26/blocks-000000000001-000000000123.jsonl.gz"

func example(t *testing.T, host string) *http.Request {
	t.Helper()
	r, err := http.NewRequest(http.MethodPut, "https://"+host+"/"+exampleName, strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/gzip")
	r.Header.Set("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg==")
	return r
}

// The signatures are those that the vendors' own SDKs make of the same request
// (alibabacloud-oss-go-sdk-v2 v1.6.1, cos-go-sdk-v5 v0.7.70).
func TestNativeSignatures(t *testing.T) {
	at := time.Date(2026, 11, 26, 8, 30, 5, 0, time.UTC)
	oss := example(t, "audit-bucket.oss-cn-hangzhou.aliyuncs.com")
	oss.Header.Set("X-Oss-Forbid-Overwrite", "true")
	oss.Header.Set("X-Oss-Content-Sha256", "UNSIGNED-PAYLOAD")
	signOSS(oss, "audit-bucket", exampleName, "cn-hangzhou", "LTAIexample", "oss-secret", at)
	const ossWant = "OSS4-HMAC-SHA256 Credential=LTAIexample/20261126/cn-hangzhou/oss/aliyun_v4_request,Signature=f3d3da49f162d59ce5aa9abb2efd00ac9b1dafe1b4310f024081d5fa8f1c96ad"
	if got := oss.Header.Get("Authorization"); got != ossWant || oss.Header.Get("X-Oss-Date") != "20261126T083005Z" {
		t.Errorf("OSS: %s at %s", got, oss.Header.Get("X-Oss-Date"))
	}
	cos := example(t, "audit-1250000000.cos.ap-guangzhou.myqcloud.com")
	cos.Header.Set("X-Cos-Forbid-Overwrite", "true")
	signCOS(cos, "AKIDexample", "cos-secret", at)
	const cosWant = "q-sign-algorithm=sha1&q-ak=AKIDexample&q-sign-time=1795681805;1795682405&q-key-time=1795681805;1795682405" +
		"&q-header-list=content-md5;content-type;host;x-cos-forbid-overwrite&q-url-param-list=&q-signature=18e4678dba5970671141170237a5cf0bd7f9a1a9"
	if got := cos.Header.Get("Authorization"); got != cosWant {
		t.Errorf("COS: %s", got)
	}
}
