// Package cloudstore stands in for the object stores of Alibaba Cloud (OSS) and
// Tencent Cloud (COS), which tests cannot reach. It checks what their documents
// say: signatures (OSS V4, COS, and S3's AWS4), virtual hosts, plain bodies with
// Content-MD5, the headers that forbid overwriting, and it refuses what they
// refuse. It was never compared with the vendors' own services.
package cloudstore

import (
	"crypto/md5"
	"encoding/base64"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Store is one bucket of one vendor.
type Store struct {
	Vendor           string // oss or cos
	Endpoint, Region string
	Bucket           string
	Key, Secret      string
	// Keeps has deletions refused, as a retention policy does.
	Keeps bool
	// Versioned has the headers that forbid overwriting ignored, as OSS does for
	// a bucket whose versioning is on or suspended.
	Versioned bool
	// Behind is by how much the store's clock differs from ours.
	Behind time.Duration

	mu      sync.Mutex
	objects map[string][]byte
	log     []string
}

// Requests are what was asked: the scheme of the signature, method and path.
func (s *Store) Requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.log)
}

// Objects are the names that there are.
func (s *Store) Objects() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.objects))
}

type refusal struct {
	status        int
	code, message string
}

// ServeHTTP answers as the vendor would.
func (s *Store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 64<<20))
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.objects == nil {
		s.objects = map[string][]byte{}
	}
	scheme, no := s.check(r, body)
	s.log = append(s.log, scheme+" "+r.Method+" "+r.URL.Path)
	if no == nil {
		no = s.serve(w, r, scheme, body)
	}
	if no == nil {
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(no.status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<Error><Code>%s</Code><Message>%s</Message><RequestId>0001</RequestId></Error>", no.code, no.message)
}

// check judges what comes before the bucket is looked at.
func (s *Store) check(r *http.Request, body []byte) (scheme string, no *refusal) {
	if r.Host != s.Bucket+"."+s.Endpoint {
		if s.Vendor == "oss" {
			return "none", &refusal{403, "SecondLevelDomainForbidden", "Please use virtual hosted style to access."}
		}
		return "none", &refusal{404, "NoSuchBucket", "The specified bucket does not exist."}
	}
	var at time.Time
	scheme, at, no = s.signature(r)
	if no != nil {
		return scheme, no
	}
	if at.Sub(time.Now().Add(-s.Behind)).Abs() > 15*time.Minute {
		return scheme, &refusal{403, "RequestTimeTooSkewed", "The difference between the request time and the current time is too large."}
	}
	if strings.Contains(r.Header.Get("Content-Encoding"), "aws-chunked") || strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING") {
		return scheme, &refusal{400, "InvalidArgument", "aws-chunked encoding is not supported with the specified x-amz-content-sha256 value."}
	}
	if want := r.Header.Get("Content-Md5"); want != "" {
		sum := md5.Sum(body)
		if want != base64.StdEncoding.EncodeToString(sum[:]) {
			return scheme, &refusal{400, "InvalidDigest", "The Content-MD5 you specified was invalid."}
		}
	}
	return scheme, nil
}

func (s *Store) serve(w http.ResponseWriter, r *http.Request, scheme string, body []byte) *refusal {
	name := strings.TrimPrefix(r.URL.Path, "/")
	switch {
	case r.Method == http.MethodGet && name == "":
		return s.list(w, r)
	case r.Method == http.MethodGet:
		have, there := s.objects[name]
		if !there {
			return &refusal{404, "NoSuchKey", "The specified key does not exist."}
		}
		sum := md5.Sum(have)
		w.Header().Set("ETag", fmt.Sprintf(`"%X"`, sum))
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.Header().Set("Content-Length", strconv.Itoa(len(have)))
		_, _ = w.Write(have)
		return nil
	case r.Method == http.MethodPut:
		return s.put(w, r, scheme, name, body)
	case r.Method == http.MethodDelete && s.Keeps && s.Vendor == "oss":
		return &refusal{409, "FileImmutable", "The object you specified is immutable."}
	case r.Method == http.MethodDelete && s.Keeps:
		return &refusal{403, "AccessDenied", "Access Denied."}
	case r.Method == http.MethodDelete:
		delete(s.objects, name)
		w.WriteHeader(http.StatusNoContent)
		return nil
	}
	return &refusal{405, "MethodNotAllowed", "The specified method is not allowed against this resource."}
}

func (s *Store) put(w http.ResponseWriter, r *http.Request, scheme, name string, body []byte) *refusal {
	if r.Header.Get("If-None-Match") != "" || r.Header.Get("If-Match") != "" {
		return &refusal{501, "NotImplemented", "A header you provided implies functionality that is not implemented."}
	}
	forbid := r.Header.Get("X-" + s.Vendor + "-Forbid-Overwrite")
	if forbid == "true" && scheme == "s3" {
		return &refusal{400, "InvalidArgument", "the header is not documented for this protocol"}
	}
	if _, there := s.objects[name]; there && forbid == "true" && !s.Versioned {
		return &refusal{409, "FileAlreadyExists", "The object you specified already exists and can not be overwritten."}
	}
	s.objects[name] = body
	sum := md5.Sum(body)
	w.Header().Set("ETag", fmt.Sprintf(`"%X"`, sum))
	return nil
}

// list answers ListObjects, version 1.
func (s *Store) list(w http.ResponseWriter, r *http.Request) *refusal {
	q := r.URL.Query()
	if q.Has("list-type") || q.Has("location") {
		return &refusal{501, "NotImplemented", "this double has ListObjects alone"}
	}
	type content struct{ Key, LastModified, ETag, Size string }
	out := struct {
		XMLName     xml.Name `xml:"ListBucketResult"`
		Name        string
		Prefix      string
		IsTruncated bool
		NextMarker  string `xml:",omitempty"`
		Contents    []content
	}{Name: s.Bucket, Prefix: q.Get("prefix")}
	most, err := strconv.Atoi(q.Get("max-keys"))
	if err != nil || most > 1000 {
		most = 1000
	}
	for _, name := range slices.Sorted(maps.Keys(s.objects)) {
		if !strings.HasPrefix(name, q.Get("prefix")) || name <= q.Get("marker") {
			continue
		}
		if len(out.Contents) == most {
			out.IsTruncated, out.NextMarker = true, out.Contents[most-1].Key
			break
		}
		out.Contents = append(out.Contents, content{Key: name, LastModified: time.Now().UTC().Format(time.RFC3339), ETag: `"x"`, Size: strconv.Itoa(len(s.objects[name]))})
	}
	w.Header().Set("Content-Type", "application/xml")
	_ = xml.NewEncoder(w).Encode(out)
	return nil
}
