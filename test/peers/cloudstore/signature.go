package cloudstore

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// signature verifies whichever signature a request has, and returns its scheme
// and its time. The rules are the vendors' documents', written down anew here so
// that a mistake of the sender is not made twice.
func (s *Store) signature(r *http.Request) (scheme string, at time.Time, no *refusal) {
	auth := r.Header.Get("Authorization")
	wrong := &refusal{403, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided."}
	unknown := &refusal{403, "InvalidAccessKeyId", "The access key Id you provided does not exist in our records."}
	switch {
	case strings.HasPrefix(auth, "AWS4-HMAC-SHA256 "):
		f := fields(strings.TrimPrefix(auth, "AWS4-HMAC-SHA256 "), ",")
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
		key, scope, _ := strings.Cut(f["Credential"], "/")
		switch {
		case key != s.Key:
			return "s3", at, unknown
		case err != nil || scope != at.Format("20060102")+"/"+s.Region+"/s3/aws4_request" || f["Signature"] != s.aws4(r, f["SignedHeaders"], scope, r.Header.Get("X-Amz-Date")):
			return "s3", at, wrong
		}
		return "s3", at, nil
	case s.Vendor == "oss" && strings.HasPrefix(auth, "OSS4-HMAC-SHA256 "):
		f := fields(strings.TrimPrefix(auth, "OSS4-HMAC-SHA256 "), ",")
		at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Oss-Date"))
		key, scope, _ := strings.Cut(f["Credential"], "/")
		switch {
		case key != s.Key:
			return "oss4", at, unknown
		case err != nil || scope != at.Format("20060102")+"/"+s.Region+"/oss/aliyun_v4_request" || f["Signature"] != s.oss4(r, scope):
			return "oss4", at, wrong
		}
		return "oss4", at, nil
	case s.Vendor == "cos" && strings.HasPrefix(auth, "q-sign-algorithm=sha1&"):
		f := fields(auth, "&")
		from, to, _ := strings.Cut(f["q-sign-time"], ";")
		began, err1 := strconv.ParseInt(from, 10, 64)
		ends, err2 := strconv.ParseInt(to, 10, 64)
		switch {
		case f["q-ak"] != s.Key:
			return "cos", time.Time{}, unknown
		case err1 != nil || err2 != nil || ends <= began || f["q-signature"] != s.cos(r, f):
			return "cos", time.Time{}, wrong
		}
		return "cos", time.Unix(began, 0), nil
	}
	return "none", time.Time{}, &refusal{403, "AccessDenied", "no signature that is known here"}
}

func fields(text, between string) map[string]string {
	out := map[string]string{}
	for part := range strings.SplitSeq(text, between) {
		k, v, _ := strings.Cut(strings.TrimSpace(part), "=")
		out[k] = v
	}
	return out
}

func (s *Store) aws4(r *http.Request, signedHeaders, scope, at string) string {
	var headers strings.Builder
	for name := range strings.SplitSeq(signedHeaders, ";") {
		value := strings.Join(r.Header.Values(name), ",")
		switch name {
		case "host":
			value = r.Host
		case "content-length":
			value = strconv.FormatInt(r.ContentLength, 10)
		}
		headers.WriteString(name + ":" + strings.TrimSpace(value) + "\n")
	}
	// Every header of Amazon's must be signed.
	for k := range r.Header {
		if k = strings.ToLower(k); strings.HasPrefix(k, "x-amz-") && !slices.Contains(strings.Split(signedHeaders, ";"), k) {
			return ""
		}
	}
	query := strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20")
	request := r.Method + "\n" + r.URL.EscapedPath() + "\n" + query + "\n" + headers.String() + "\n" + signedHeaders + "\n" + r.Header.Get("X-Amz-Content-Sha256")
	parts := append(strings.Split(scope, "/"), "AWS4-HMAC-SHA256\n"+at+"\n"+scope+"\n"+digest(request))
	return chain("AWS4"+s.Secret, parts)
}

func (s *Store) oss4(r *http.Request, scope string) string {
	var names []string
	for k := range r.Header {
		if k = strings.ToLower(k); strings.HasPrefix(k, "x-oss-") || k == "content-type" || k == "content-md5" {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	var headers strings.Builder
	for _, k := range names {
		headers.WriteString(k + ":" + strings.TrimSpace(r.Header.Get(k)) + "\n")
	}
	request := r.Method + "\n/" + s.Bucket + r.URL.EscapedPath() + "\n" + r.URL.RawQuery + "\n" + headers.String() + "\n\n" + r.Header.Get("X-Oss-Content-Sha256")
	parts := append(strings.Split(scope, "/"), "OSS4-HMAC-SHA256\n"+r.Header.Get("X-Oss-Date")+"\n"+scope+"\n"+digest(request))
	return chain("aliyun_v4"+s.Secret, parts)
}

func (s *Store) cos(r *http.Request, f map[string]string) string {
	var pairs []string
	for name := range strings.SplitSeq(f["q-header-list"], ";") {
		value := r.Header.Get(name)
		if name == "host" {
			value = r.Host
		}
		pairs = append(pairs, name+"="+strings.ReplaceAll(url.QueryEscape(value), "+", "%20"))
	}
	// What is not under the signature could be added by anybody on the way.
	if r.Header.Get("X-Cos-Forbid-Overwrite") != "" && !slices.Contains(strings.Split(f["q-header-list"], ";"), "x-cos-forbid-overwrite") {
		return ""
	}
	sum := sha1.Sum([]byte(strings.ToLower(r.Method) + "\n" + r.URL.Path + "\n\n" + strings.Join(pairs, "&") + "\n"))
	key := hex.EncodeToString(mac(sha1.New, []byte(s.Secret), f["q-key-time"]))
	return hex.EncodeToString(mac(sha1.New, []byte(key), "sha1\n"+f["q-sign-time"]+"\n"+hex.EncodeToString(sum[:])+"\n"))
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func chain(key string, parts []string) string {
	k := []byte(key)
	for _, p := range parts {
		k = mac(sha256.New, k, p)
	}
	return hex.EncodeToString(k)
}

func mac(h func() hash.Hash, key []byte, text string) []byte {
	m := hmac.New(h, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
