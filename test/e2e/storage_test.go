//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha1" //nolint:gosec // MinIO names roles by it
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"
)

// minioRole is the role that MinIO makes of an identity provider by its client id.
func minioRole(client string) string {
	sum := sha1.Sum([]byte(client)) //nolint:gosec // see above
	return "arn:minio:iam:::role/" + base64.RawURLEncoding.EncodeToString(sum[:])
}

// minioTrusts are the settings by which MinIO trusts an issuer twice: people's
// role may do everything to every bucket, so that the session policy alone bounds
// it; own's role keeps people apart by itself.
func minioTrusts(issuer string) []string {
	var out []string
	for name, policy := range map[string]string{"PEOPLE": "readwrite", "OWN": "own-prefix"} {
		for k, v := range map[string]string{"CONFIG_URL": issuer + "/.well-known/openid-configuration", "CLIENT_ID": "minio-" + strings.ToLower(name), "ROLE_POLICY": policy} {
			out = append(out, "MINIO_IDENTITY_OPENID_"+k+"_"+name+"="+v)
		}
	}
	return out
}

// policy makes a policy in MinIO, which says that it is ready before it is.
func (s *objectStore) policy(t *testing.T, name, text string) {
	t.Helper()
	sum := sha256.Sum256([]byte(text))
	eventually(t, time.Minute, "the policy "+name, func() bool {
		req, err := http.NewRequest(http.MethodPut, "http://"+s.vars["S3_ENDPOINT"]+"/minio/admin/v3/add-canned-policy?name="+name, strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		resp, err := http.DefaultClient.Do(signer.SignV4(*req, s.vars["S3_ACCESS_KEY"], s.vars["S3_SECRET_KEY"], "", ""))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusServiceUnavailable {
			t.Fatalf("policy %s: %d %s %v", name, resp.StatusCode, body, err)
		}
		return resp.StatusCode == http.StatusOK
	})
}

// lent is what POST /api/v1/storage/credentials answers.
type lent struct {
	Key                              string `json:"access_key_id"`
	Secret                           string `json:"secret_access_key"`
	Token                            string `json:"session_token"`
	Bucket, Region, Endpoint, Prefix string
	Expiration                       time.Time
	Code, Message                    string
}

// call is a request of the API from the portal's own page, or by a token.
func (p *person) call(method, path, body, bearer string, into any) int {
	p.t.Helper()
	req, err := http.NewRequest(method, p.issuer+"/api/v1"+path, strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	client := p.client
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	} else {
		req.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	resp, err := client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := json.Unmarshal(raw, into); err != nil {
		p.t.Fatalf("%s %s: %d %s", method, path, resp.StatusCode, raw)
	}
	return resp.StatusCode
}

func (p *person) borrow(offer string) lent {
	p.t.Helper()
	var l lent
	if status := p.call(http.MethodPost, "/storage/credentials", `{"name":"`+offer+`"}`, "", &l); status != http.StatusOK {
		p.t.Fatalf("%s: %d %s", offer, status, l.Message)
	}
	return l
}

// store is a client that has nothing but what was lent.
func (l lent) store(t *testing.T) *minio.Client {
	t.Helper()
	c, err := minio.New(strings.TrimPrefix(l.Endpoint, "http://"), &minio.Options{Creds: credentials.NewStaticV4(l.Key, l.Secret, l.Token), Region: l.Region, BucketLookup: minio.BucketLookupPath, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func list(c *minio.Client, bucket, prefix string) (names []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for o := range c.ListObjects(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
		if o.Err != nil {
			return names, o.Err
		}
		names = append(names, o.Key)
	}
	return names, nil
}

func put(c *minio.Client, bucket, name, text string) error {
	_, err := c.PutObject(context.Background(), bucket, name, strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{})
	return err
}

func fetch(c *minio.Client, bucket, name string) (string, error) {
	o, err := c.GetObject(context.Background(), bucket, name, minio.GetObjectOptions{})
	if err != nil {
		return "", err
	}
	defer o.Close()
	body, err := io.ReadAll(o)
	return string(body), err
}

// lendingMinIO is a MinIO that trusts a server, and that server.
func lendingMinIO(t *testing.T) (*gatehouse, *objectStore) {
	t.Helper()
	port := freePort(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
minio: {endpoint: "http://127.0.0.1:%d", bucket: data}
storage_credentials:
  - {name: people, provider: minio, role_arn: %q, audience: minio-people}
  - {name: all, provider: minio, role_arn: %q, audience: minio-people, prefix: "home/{user.id}/", access: [read, write, delete], allow: '"platform-admins" in user.groups', ttl: 15m}
  - {name: own, provider: minio, role_arn: %q, audience: minio-own, prefix: "own/{user.id}/", direct: true}
`, port, minioRole("minio-people"), minioRole("minio-people"), minioRole("minio-own"))})
	g := serve(t, dir, []string{"--dev"})
	s := objectStoreAt(t, "minio", port, minioTrusts(g.URL)...)
	s.policy(t, "own-prefix", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::data/own/${jwt:sub}/*"]}]}`)
	s.bucket(t, "data", false)
	s.bucket(t, "other", false)
	return g, s
}

func signedIn(t *testing.T, g *gatehouse, user string) (*person, string) {
	t.Helper()
	p := newPerson(t, g)
	p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", user, user)
	var me struct{ ID string }
	if status := p.call(http.MethodGet, "/me", "", "", &me); status != http.StatusOK || me.ID == "" {
		t.Fatalf("%s: %d", user, status)
	}
	return p, me.ID
}

// A real AssumeRoleWithWebIdentity against our issuer: what is lent reads and
// writes one person's prefix and does nothing else, although the role may do
// everything.
func TestStorageMinIO(t *testing.T) {
	g, s := lendingMinIO(t)
	demo, me := signedIn(t, g, "demo")
	admin, other := signedIn(t, g, "admin")
	mine, theirs := demo.borrow("people"), admin.borrow("people")
	if mine.Prefix != "users/"+me+"/" || theirs.Prefix != "users/"+other+"/" || mine.Key == theirs.Key || time.Until(mine.Expiration) > time.Hour || time.Until(mine.Expiration) < 50*time.Minute {
		t.Fatalf("%+v", mine)
	}
	c, d := mine.store(t), theirs.store(t)
	if err := put(d, "data", theirs.Prefix+"secret.txt", "theirs"); err != nil {
		t.Fatal(err)
	}
	if err := put(s.root, "other", mine.Prefix+"x", "of another bucket"); err != nil {
		t.Fatal(err)
	}
	if err := put(s.root, "data", "users/"+me[:10]+"/x", "of a shorter name"); err != nil {
		t.Fatal(err)
	}
	// One's own.
	if err := put(c, "data", mine.Prefix+"a/b.txt", "mine"); err != nil {
		t.Fatal(err)
	}
	if got, err := fetch(c, "data", mine.Prefix+"a/b.txt"); err != nil || got != "mine" {
		t.Errorf("%q %v", got, err)
	}
	large := bytes.Repeat([]byte("0123456789abcdef"), 11<<16) // 11 MiB in parts of 5
	if _, err := c.PutObject(t.Context(), "data", mine.Prefix+"large", bytes.NewReader(large), int64(len(large)), minio.PutObjectOptions{PartSize: 5 << 20}); err != nil {
		t.Errorf("in parts: %v", err)
	}
	if _, err := c.CopyObject(t.Context(), minio.CopyDestOptions{Bucket: "data", Object: mine.Prefix + "copy"}, minio.CopySrcOptions{Bucket: "data", Object: mine.Prefix + "a/b.txt"}); err != nil {
		t.Errorf("a copy of one's own: %v", err)
	}
	for _, prefix := range []string{mine.Prefix, mine.Prefix + "a/"} {
		if names, err := list(c, "data", prefix); err != nil || len(names) == 0 {
			t.Errorf("list %s: %q %v", prefix, names, err)
		}
	}
	// Nothing else.
	core := minio.Core{Client: c}
	for what, try := range map[string]func() error{
		"read another's":     func() error { _, err := fetch(c, "data", theirs.Prefix+"secret.txt"); return err },
		"write to another's": func() error { return put(c, "data", theirs.Prefix+"x", "x") },
		"copy another's": func() error {
			_, err := c.CopyObject(t.Context(), minio.CopyDestOptions{Bucket: "data", Object: mine.Prefix + "stolen"}, minio.CopySrcOptions{Bucket: "data", Object: theirs.Prefix + "secret.txt"})
			return err
		},
		"look at another's": func() error {
			_, err := c.StatObject(t.Context(), "data", theirs.Prefix+"secret.txt", minio.StatObjectOptions{})
			return err
		},
		"up and over":            func() error { _, err := fetch(c, "data", mine.Prefix+"../"+other+"/secret.txt"); return err },
		"an encoded slash":       func() error { _, err := fetch(c, "data", "users/"+me+"%2f..%2f"+other+"/secret.txt"); return err },
		"a name that begins so":  func() error { _, err := fetch(c, "data", "users/"+me[:10]+"/x"); return err },
		"beside the prefix":      func() error { return put(c, "data", "users/"+me+"x/y", "x") },
		"the bucket's root":      func() error { return put(c, "data", "x", "x") },
		"list the bucket":        func() error { _, err := list(c, "data", ""); return err },
		"list all users":         func() error { _, err := list(c, "data", "users/"); return err },
		"list without the slash": func() error { _, err := list(c, "data", "users/"+me); return err },
		"list another's":         func() error { _, err := list(c, "data", theirs.Prefix); return err },
		"versions of another's": func() error {
			for o := range c.ListObjects(t.Context(), "data", minio.ListObjectsOptions{Prefix: theirs.Prefix, WithVersions: true, Recursive: true}) {
				return o.Err
			}
			return nil
		},
		"uploads of everybody": func() error { _, err := core.ListMultipartUploads(t.Context(), "data", "", "", "", "", 10); return err },
		"another bucket":       func() error { _, err := fetch(c, "other", mine.Prefix+"x"); return err },
		"list another bucket":  func() error { _, err := list(c, "other", mine.Prefix); return err },
		"delete, even one's own": func() error {
			return c.RemoveObject(t.Context(), "data", mine.Prefix+"copy", minio.RemoveObjectOptions{})
		},
		"delete another's": func() error {
			return c.RemoveObject(t.Context(), "data", theirs.Prefix+"secret.txt", minio.RemoveObjectOptions{})
		},
		"make a bucket":   func() error { return c.MakeBucket(t.Context(), "mine", minio.MakeBucketOptions{}) },
		"remove a bucket": func() error { return c.RemoveBucket(t.Context(), "other") },
		"read the policy": func() error { _, err := c.GetBucketPolicy(t.Context(), "data"); return err },
		"open the bucket": func() error {
			return c.SetBucketPolicy(t.Context(), "data", `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::data/*"]}]}`)
		},
		"tag an object": func() error {
			_, err := c.GetObjectTagging(t.Context(), "data", mine.Prefix+"copy", minio.GetObjectTaggingOptions{})
			return err
		},
		"lend on": func() error {
			return assume(t, s, url.Values{"Action": {"AssumeRole"}, "RoleArn": {minioRole("minio-people")}}, mine)
		},
	} {
		if err := try(); err == nil {
			t.Errorf("%s: was allowed", what)
		}
	}
	if all, err := c.ListBuckets(t.Context()); err == nil && len(all) > 0 {
		t.Errorf("buckets: %v", all)
	}
	if got, err := fetch(d, "data", theirs.Prefix+"secret.txt"); err != nil || got != "theirs" {
		t.Errorf("after all that: %q %v", got, err)
	}
	// Where an offer says delete, one's own goes, and no more.
	del := admin.borrow("all")
	e := del.store(t)
	if err := put(e, "data", del.Prefix+"x", "x"); err != nil {
		t.Error(err)
	}
	if err := e.RemoveObject(t.Context(), "data", del.Prefix+"x", minio.RemoveObjectOptions{}); err != nil {
		t.Error(err)
	}
	if err := e.RemoveObject(t.Context(), "data", theirs.Prefix+"secret.txt", minio.RemoveObjectOptions{}); err == nil {
		t.Error("deleted outside the prefix")
	}
	if l := (lent{}); demo.call(http.MethodPost, "/storage/credentials", `{"name":"all"}`, "", &l) != http.StatusUnprocessableEntity {
		t.Error("an offer for admins was lent to demo")
	}
}
