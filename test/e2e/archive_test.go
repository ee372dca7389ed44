//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/web"
)

// objectStore is a real store, spoken to by the root account.
type objectStore struct {
	vars map[string]string
	root *minio.Client
}

func startObjectStore(t *testing.T, peer string, env ...string) *objectStore {
	t.Helper()
	return objectStoreAt(t, peer, freePort(t), env...)
}

// objectStoreAt starts a store at a port that somebody was told before.
func objectStoreAt(t *testing.T, peer string, port int, env ...string) *objectStore {
	t.Helper()
	s := &objectStore{vars: startPeer(t, peer, port, env...)}
	opts := &minio.Options{Creds: credentials.NewStaticV4(s.vars["S3_ACCESS_KEY"], s.vars["S3_SECRET_KEY"], ""), Region: "us-east-1", BucketLookup: minio.BucketLookupPath}
	if ca := s.vars["S3_CA_FILE"]; ca != "" {
		text, err := os.ReadFile(ca)
		if err != nil {
			t.Fatal(err)
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(text)
		opts.Secure, opts.Transport = true, &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
	}
	var err error
	if s.root, err = minio.New(s.vars["S3_ENDPOINT"], opts); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *objectStore) bucket(t *testing.T, name string, lock bool) {
	t.Helper()
	if err := s.root.MakeBucket(t.Context(), name, minio.MakeBucketOptions{Region: "us-east-1", ObjectLocking: lock}); err != nil {
		t.Fatal(err)
	}
}

// objects lists a bucket.
func (s *objectStore) objects(t *testing.T, bucket, suffix string) []string {
	t.Helper()
	var out []string
	for o := range s.root.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		if strings.HasSuffix(o.Key, suffix) {
			out = append(out, o.Key)
		}
	}
	return out
}

func (s *objectStore) get(t *testing.T, bucket, name string) []byte {
	t.Helper()
	o, err := s.root.GetObject(t.Context(), bucket, name, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	body, err := io.ReadAll(o)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// auditKey writes the audit public key, as an early manifest has it, to a file.
func (s *objectStore) auditKey(t *testing.T, bucket string) string {
	t.Helper()
	var m struct {
		Manifest struct {
			PublicKey []byte `json:"public_key"`
		}
	}
	manifests := s.objects(t, bucket, ".manifest.json")
	if err := json.Unmarshal(s.get(t, bucket, manifests[0]), &m); err != nil {
		t.Fatal(err)
	}
	// RFC 8410: the prefix of an Ed25519 key's SubjectPublicKeyInfo.
	der := append([]byte{0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00}, m.Manifest.PublicKey...)
	file := filepath.Join(t.TempDir(), "audit.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// faulty stands before a store and spoils what it is asked to. The Host that was
// signed is kept.
type faulty struct {
	*httptest.Server
	mu    sync.Mutex
	next  []string // what happens to the next PUTs of an object
	spoil string   // what happens to everything
	seen  map[string]int
}

func newFaulty(t *testing.T, s *objectStore) *faulty {
	t.Helper()
	f := &faulty{seen: map[string]int{}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		how := f.fault(r)
		switch how {
		case "503":
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
			return
		case "slow":
			time.Sleep(2 * time.Second)
		case "skew":
			r.Header.Set("X-Amz-Date", time.Now().UTC().Add(-time.Hour).Format("20060102T150405Z"))
		case "cut": // in the middle of the body
			_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
			hangUp(w)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			hangUp(w)
			return
		}
		out, err := http.NewRequestWithContext(r.Context(), r.Method, s.vars["S3_SCHEME"]+"://"+s.vars["S3_ENDPOINT"]+r.URL.RequestURI(), bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		out.Header, out.Host = r.Header, r.Host
		resp, err := (&http.Transport{}).RoundTrip(out)
		if err != nil {
			hangUp(w)
			return
		}
		defer resp.Body.Close()
		if how == "lost" { // it is done, and nobody hears of it
			_, _ = io.Copy(io.Discard, resp.Body)
			hangUp(w)
			return
		}
		for k, v := range resp.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(resp.StatusCode)
		_, _ = io.Copy(w, resp.Body)
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *faulty) fault(r *http.Request) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	how := f.spoil
	if how == "" && r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blocks-") && len(f.next) > 0 {
		how, f.next = f.next[0], f.next[1:]
	}
	f.seen[how]++
	return how
}

func (f *faulty) set(spoil string, next ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spoil, f.next = spoil, next
}

func (f *faulty) left() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.next)
}

func hangUp(w http.ResponseWriter) {
	c, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		c.Close()
	}
}

// verified runs `audit verify` and returns its report.
func (g *gatehouse) verified(t *testing.T, args ...string) (report struct {
	Objects, Blocks, Records int
	Last                     uint64 `json:"last_block"`
	Checkpoint               string
	Faults                   []struct{ Fault, Text string }
}) {
	t.Helper()
	out, err := script(t, time.Minute, g.environ(), filepath.Join(root(t), "bin", "gatehouse"), append([]string{"audit", "verify", "--json"}, args...)...)
	if jerr := json.Unmarshal([]byte(out), &report); jerr != nil || (err != nil) != (len(report.Faults) > 0) {
		t.Fatalf("%v %v: %s", err, jerr, out)
	}
	return report
}

// The archive in real stores, through a line that does all that lines do: what is
// there in the end verifies, with every block once.
func TestArchiveThroughFaults(t *testing.T) {
	for _, peer := range objectStores {
		t.Run(peer, func(t *testing.T) {
			s := startObjectStore(t, peer)
			s.bucket(t, "audit", false)
			f := newFaulty(t, s)
			dir := t.TempDir()
			write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(
				"minio: {endpoint: %q, use_ssl: false, access_key: peeradmin, secret_key: peeradmin-secret, bucket: audit}\n"+
					"audit: {archive: [minio], every: 1s}\n", strings.TrimPrefix(f.URL, "http://"))})
			g := serve(t, dir, []string{"--dev"})
			newPerson(t, g).code("openid")
			eventually(t, time.Minute, "the first object", func() bool { return len(s.objects(t, "audit", ".gz.manifest.json")) > 0 })
			key := s.auditKey(t, "audit")
			for _, faults := range [][]string{{"503", "cut"}, {"lost"}, {"slow", "cut", "lost"}, {"503", "503", "503", "lost"}} {
				f.set("", faults...)
				before := len(s.objects(t, "audit", ".gz.manifest.json"))
				newPerson(t, g).code("openid") // nobody waits for a bucket
				eventually(t, time.Minute, fmt.Sprint(faults), func() bool { return f.left() == 0 && len(s.objects(t, "audit", ".gz.manifest.json")) > before })
			}
			// The server is killed while its answer is on the way, and another comes.
			f.set("", "slow")
			newPerson(t, g).code("openid")
			eventually(t, time.Minute, "a PUT under way", func() bool { return f.left() == 0 })
			_ = g.cmd.Process.Signal(syscall.SIGKILL)
			_, _ = g.cmd.Process.Wait()
			g.start()
			before := len(s.objects(t, "audit", ".gz.manifest.json"))
			newPerson(t, g).code("openid")
			eventually(t, time.Minute, "an object after the restart", func() bool { return len(s.objects(t, "audit", ".gz.manifest.json")) > before })
			g.stop(syscall.SIGTERM)

			rep := g.verified(t, "--archive", "minio", "--key", key)
			if len(rep.Faults) > 0 || rep.Records < 10 || rep.Objects < 6 || uint64(rep.Blocks) != rep.Last {
				t.Fatalf("%+v", rep)
			}
			// The same from what was downloaded.
			copied := t.TempDir()
			for _, name := range s.objects(t, "audit", "") {
				to := filepath.Join(copied, strings.TrimPrefix(name, "audit/"))
				if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to, s.get(t, "audit", name), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if again := g.verified(t, "--dir", copied, "--key", key, "--checkpoint", rep.Checkpoint); len(again.Faults) > 0 || again.Records != rep.Records {
				t.Errorf("%+v", again)
			}
			gz, err := filepath.Glob(filepath.Join(copied, "*/*/*/*.gz"))
			if err != nil || len(gz) == 0 {
				t.Fatal(gz, err)
			}
			if err := os.Remove(gz[len(gz)-2]); err != nil {
				t.Fatal(err)
			}
			if spoilt := g.verified(t, "--dir", copied, "--key", key); len(spoilt.Faults) != 2 {
				t.Errorf("%+v", spoilt)
			}
		})
	}
}

// Over TLS by a CA of its own, into a bucket that locks each object: nobody
// deletes it, and `check` says so.
func TestArchiveLocked(t *testing.T) {
	s := startObjectStore(t, "minio", "TLS=1")
	s.bucket(t, "locked", true)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(
		"minio: {endpoint: %q, access_key: peeradmin, secret_key: peeradmin-secret, bucket: locked, object_lock: compliance, ca_file: %q}\n"+
			"audit: {archive: [minio], every: 1s}\n", s.vars["S3_ENDPOINT"], s.vars["S3_CA_FILE"])})
	g := serve(t, dir, []string{"--dev"})
	newPerson(t, g).code("openid")
	eventually(t, time.Minute, "an object", func() bool { return len(s.objects(t, "locked", ".gz.manifest.json")) > 0 })
	if out := g.run("check", "--dev"); !strings.Contains(out, "bucket minio") || !strings.Contains(out, "put, get and list work") || strings.Contains(out, "WARNING") {
		t.Error(out)
	}
	name := s.objects(t, "locked", ".gz")[0]
	info, err := s.root.StatObject(t.Context(), "locked", name, minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.root.RemoveObject(t.Context(), "locked", name, minio.RemoveObjectOptions{VersionID: info.VersionID, GovernanceBypass: true})
	if err == nil {
		t.Error("a locked object was deleted")
	}
	mode, until, err := s.root.GetObjectRetention(t.Context(), "locked", name, info.VersionID)
	if err != nil || *mode != minio.Compliance || time.Until(*until) < 179*24*time.Hour {
		t.Errorf("%v until %v, %v", mode, until, err)
	}
	rep := g.verified(t, "--archive", "minio", "--key", s.auditKey(t, "locked"))
	if len(rep.Faults) > 0 {
		t.Errorf("%+v", rep)
	}
	var restored struct{ Events int }
	if err := json.Unmarshal([]byte(g.run("audit", "restore", "--json", "--archive", "minio")), &restored); err != nil || restored.Events < rep.Records {
		t.Errorf("%d events restored of %d, %v", restored.Events, rep.Records, err)
	}
	if got := g.run("audit", "key"); got != string(readFile(t, s.auditKey(t, "locked"))) {
		t.Errorf("the manifest's key is another one than the server's: %s", got)
	}
}

// What is wrong with a bucket is said in words that tell what to change.
func TestBucketErrors(t *testing.T) {
	s := startObjectStore(t, "minio", "TLS=1")
	s.bucket(t, "audit", false)
	plain := startObjectStore(t, "minio")
	plain.bucket(t, "audit", false)
	f := newFaulty(t, plain)
	no := false
	good := objectstore.BucketConfig{Endpoint: s.vars["S3_ENDPOINT"], AccessKey: "peeradmin", SecretKey: "peeradmin-secret", Bucket: "audit", CAFile: s.vars["S3_CA_FILE"]}
	for name, c := range map[string]struct {
		change func(*objectstore.BucketConfig)
		spoil  string
		want   string // in the error; "" for none
	}{
		"nothing":        {change: func(*objectstore.BucketConfig) {}},
		"wrong secret":   {change: func(b *objectstore.BucketConfig) { b.SecretKey = "a-wrong-secret" }, want: "minio.secret_key does not belong to minio.access_key"},
		"unknown key":    {change: func(b *objectstore.BucketConfig) { b.AccessKey = "nobody" }, want: "the store does not know minio.access_key"},
		"no bucket":      {change: func(b *objectstore.BucketConfig) { b.Bucket = "elsewhere" }, want: "there is no bucket elsewhere"},
		"unknown CA":     {change: func(b *objectstore.BucketConfig) { b.CAFile = "" }, want: "name that one's certificate in minio.ca_file"},
		"http to https":  {change: func(b *objectstore.BucketConfig) { b.UseSSL = &no }, want: "minio: put audit/check/gatehouse.json: "},
		"nobody answers": {change: func(b *objectstore.BucketConfig) { b.Endpoint = fmt.Sprintf("127.0.0.1:%d", freePort(t)) }, want: "connection refused"},
		"clock": {change: func(b *objectstore.BucketConfig) {
			b.Endpoint, b.UseSSL = strings.TrimPrefix(f.URL, "http://"), &no
		}, spoil: "skew", want: "set this one by NTP"},
		"busy": {change: func(b *objectstore.BucketConfig) {
			b.Endpoint, b.UseSSL = strings.TrimPrefix(f.URL, "http://"), &no
		}, spoil: "503", want: "the store is busy"},
	} {
		t.Run(name, func(t *testing.T) {
			f.set(c.spoil)
			cfg := good
			c.change(&cfg)
			b, err := objectstore.Open(objectstore.MinIO, cfg, bucketEnv())
			if err != nil {
				t.Fatal(err)
			}
			_, err = b.Check(t.Context(), "audit/")
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
			if err != nil && (strings.Contains(err.Error(), "peeradmin-secret") || strings.Contains(err.Error(), "a-wrong-secret")) {
				t.Errorf("a secret is in the error: %v", err)
			}
		})
	}
}

// Each object is written once, whoever tries again, in both stores.
func TestWriteOnce(t *testing.T) {
	for _, peer := range objectStores {
		t.Run(peer, func(t *testing.T) {
			s := startObjectStore(t, peer)
			s.bucket(t, "audit", false)
			no := false
			b, err := objectstore.Open(objectstore.MinIO, objectstore.BucketConfig{Endpoint: s.vars["S3_ENDPOINT"], UseSSL: &no, AccessKey: "peeradmin",
				SecretKey: redact.String("peeradmin-secret"), Bucket: "audit"}, bucketEnv())
			if err != nil {
				t.Fatal(err)
			}
			detail, err := b.Check(t.Context(), "audit/")
			if err != nil || strings.Contains(detail, "WARNING") || !strings.Contains(detail, "objects can be deleted") {
				t.Errorf("%s %v", detail, err)
			}
			var won, lost sync.Map
			var all sync.WaitGroup
			for i := range 16 {
				all.Go(func() {
					err := b.Put(context.Background(), "audit/one.json", []byte(fmt.Sprint(i)), time.Time{})
					if err == nil {
						won.Store(i, true)
					} else {
						lost.Store(i, err)
					}
				})
			}
			all.Wait()
			winners := 0
			won.Range(func(any, any) bool { winners++; return true })
			lost.Range(func(_, err any) bool {
				var e *objectstore.Error
				if err := err.(error); !errors.Is(err, fs.ErrExist) && !(errors.As(err, &e) && !e.Lasting) {
					t.Error(err)
				}
				return true
			})
			if winners != 1 {
				t.Errorf("%d wrote one object", winners)
			}
			for i := range 1005 { // more than a page
				if err := b.Put(t.Context(), fmt.Sprintf("audit/list/%04d.json", i), []byte("{}"), time.Time{}); err != nil {
					t.Fatal(err)
				}
			}
			n, last := 0, ""
			for name, err := range b.List(t.Context(), "audit/list/", "audit/list/0001.json") {
				if err != nil || name <= last {
					t.Fatal(name, last, err)
				}
				n, last = n+1, name
			}
			if n != 1003 {
				t.Errorf("%d names after the second of 1005", n)
			}
			if _, err := b.Get(t.Context(), "audit/none.json"); !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			if err := b.Delete(t.Context(), "audit/none.json"); err != nil {
				t.Error(err)
			}
		})
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func bucketEnv() objectstore.Env {
	return objectstore.Env{Now: time.Now, HTTP: func(_, caFile string, trusted ...string) (*http.Client, error) {
		return web.NewClient(web.FetchConfig{CAFile: caFile, AllowHosts: trusted, MaxBody: objectstore.MaxObject + 1, Timeout: 20 * time.Second})
	}}
}
