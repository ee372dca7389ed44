package objectstore

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/md5"  //nolint:gosec // Content-MD5 is what the stores check a transfer by
	"crypto/sha1" //nolint:gosec // Tencent's signature prescribes HMAC-SHA-1
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// The stores of Alibaba and Tencent refuse If-None-Match on a PUT and have
// headers of their own that keep an object from being overwritten. Neither
// vendor documents these for the S3 protocol, so that a PUT to them is one of
// their own protocol; everything else goes through S3.

// putOSS writes by OSS's own PutObject with x-oss-forbid-overwrite.
func (b *Bucket) putOSS(ctx context.Context, name string, body []byte) error {
	host := b.Bucket + "." + strings.TrimPrefix(b.Host, "s3.") // the S3 endpoint speaks S3 alone
	return b.native(ctx, host, name, body, "X-Oss-Forbid-Overwrite", func(r *http.Request) {
		r.Header.Set("X-Oss-Content-Sha256", "UNSIGNED-PAYLOAD")
		signOSS(r, b.Bucket, name, b.Region, b.key.Reveal(), b.secret.Reveal(), b.now())
	})
}

// putCOS writes by COS's own PUT Object with x-cos-forbid-overwrite.
func (b *Bucket) putCOS(ctx context.Context, name string, body []byte) error {
	return b.native(ctx, b.Bucket+"."+b.Host, name, body, "X-Cos-Forbid-Overwrite", func(r *http.Request) {
		signCOS(r, b.key.Reveal(), b.secret.Reveal(), b.now())
	})
}

// native sends a PUT that must not overwrite, as sign signs it. The store checks
// the transfer by Content-MD5, which is under the signature.
func (b *Bucket) native(ctx context.Context, host, name string, body []byte, header string, sign func(*http.Request)) error {
	u := url.URL{Scheme: "https", Host: host, Path: "/" + name}
	if !b.TLS {
		u.Scheme = "http"
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, u.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	sum := md5.Sum(body) //nolint:gosec // see above
	r.Header.Set("Content-Md5", base64.StdEncoding.EncodeToString(sum[:]))
	r.Header.Set("Content-Type", contentType(name))
	r.Header.Set(header, "true")
	sign(r)
	// The client's own bound on a whole exchange is for short answers.
	client := http.Client{Transport: b.http.Transport, CheckRedirect: b.http.CheckRedirect}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	if err != nil {
		return err
	}
	if resp.StatusCode/100 == 2 {
		return nil
	}
	out := minio.ErrorResponse{StatusCode: resp.StatusCode}
	if xml.Unmarshal(text, &out) != nil || out.Code == "" {
		out.Code, out.Message = resp.Status, "the answer says no more"
	}
	out.StatusCode = resp.StatusCode
	return out
}

// signOSS signs by OSS's signature version 4 (Alibaba Cloud, "Include a V4
// signature in the Authorization header"): the x-oss- headers, Content-Type and
// Content-MD5 are under it.
func signOSS(r *http.Request, bucket, name, region, key, secret string, now time.Time) {
	at := now.UTC().Format("20060102T150405Z")
	date := at[:8]
	r.Header.Set("X-Oss-Date", at)
	var headers strings.Builder
	for _, k := range signed(r.Header, func(k string) bool {
		return strings.HasPrefix(k, "x-oss-") || k == "content-type" || k == "content-md5"
	}) {
		fmt.Fprintf(&headers, "%s:%s\n", k, strings.TrimSpace(r.Header.Get(k)))
	}
	request := r.Method + "\n" + escapePath("/"+bucket+"/"+name) + "\n\n" + headers.String() + "\n\n" + r.Header.Get("X-Oss-Content-Sha256")
	scope := date + "/" + region + "/oss/aliyun_v4_request"
	sum := sha256.Sum256([]byte(request))
	text := "OSS4-HMAC-SHA256\n" + at + "\n" + scope + "\n" + hex.EncodeToString(sum[:])
	k := []byte("aliyun_v4" + secret)
	for _, part := range []string{date, region, "oss", "aliyun_v4_request", text} {
		h := hmac.New(sha256.New, k)
		h.Write([]byte(part))
		k = h.Sum(nil)
	}
	r.Header.Set("Authorization", "OSS4-HMAC-SHA256 Credential="+key+"/"+scope+",Signature="+hex.EncodeToString(k))
}

// cosLife is how long a signature for Tencent counts.
const cosLife = 10 * time.Minute

// signCOS signs by COS's own scheme (Tencent Cloud, "Request Signature"): host,
// content headers and the x-cos- headers are under it.
func signCOS(r *http.Request, key, secret string, now time.Time) {
	life := fmt.Sprintf("%d;%d", now.Unix(), now.Add(cosLife).Unix())
	h := r.Header.Clone()
	h.Set("Host", r.URL.Host)
	names := signed(h, func(k string) bool {
		return strings.HasPrefix(k, "x-cos-") || k == "host" || k == "content-type" || k == "content-md5"
	})
	pairs := make([]string, len(names))
	for i, k := range names {
		pairs[i] = k + "=" + escape(h.Get(k))
	}
	sum := sha1.Sum([]byte(strings.ToLower(r.Method) + "\n" + r.URL.Path + "\n\n" + strings.Join(pairs, "&") + "\n")) //nolint:gosec // see above
	signKey := cosMAC(secret, life)
	signature := cosMAC(signKey, "sha1\n"+life+"\n"+hex.EncodeToString(sum[:])+"\n")
	r.Header.Set("Authorization", "q-sign-algorithm=sha1&q-ak="+key+"&q-sign-time="+life+"&q-key-time="+life+
		"&q-header-list="+strings.Join(names, ";")+"&q-url-param-list=&q-signature="+signature)
}

func cosMAC(key, text string) string {
	h := hmac.New(sha1.New, []byte(key))
	h.Write([]byte(text))
	return hex.EncodeToString(h.Sum(nil))
}

// signed returns the lower-case names of the headers that are to be signed.
func signed(h http.Header, wanted func(string) bool) []string {
	var out []string
	for k := range h {
		if k = strings.ToLower(k); wanted(k) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

// escape percent-encodes all but RFC 3986's unreserved characters.
func escape(s string) string {
	return strings.ReplaceAll(url.QueryEscape(s), "+", "%20")
}

func escapePath(s string) string {
	parts := strings.Split(s, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	return strings.Join(parts, "/")
}
