// Package objectstore keeps objects in buckets of S3, Alibaba Cloud OSS, Tencent
// Cloud COS and MinIO: it writes each once, reads, lists and, where it may,
// deletes. It knows nothing of what is in them.
//
// Errors can be asked for what they mean by the standard library's own:
// fs.ErrExist (the object was there), fs.ErrNotExist, fs.ErrPermission.
package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// Bounds of one call. A transfer has longer than a question; both may be cut
// shorter by the caller's context.
const (
	askTimeout      = 30 * time.Second
	transferTimeout = 5 * time.Minute
)

// MaxObject bounds an object that is written or read, in bytes.
const MaxObject = 64 << 20

// Env is what a bucket gets from us.
type Env struct {
	// HTTP returns a client that may call these hosts, by the bucket's own proxy
	// and certificate authorities. Its answers must be allowed MaxObject bytes.
	HTTP func(proxy, caFile string, trusted ...string) (*http.Client, error)
	Now  func() time.Time
}

// Bucket is one bucket. It is safe for concurrent use.
type Bucket struct {
	Address
	name   string
	lock   string
	key    redact.Box[string]
	secret redact.Box[string]
	now    func() time.Time
	http   *http.Client
	s3     *minio.Client
}

// Open returns the bucket of a section. Nothing is asked yet.
func Open(kind Kind, c BucketConfig, env Env) (*Bucket, error) {
	a, ps := c.Address(kind)
	for _, p := range ps {
		if !p.Warning {
			return nil, fmt.Errorf("%s: %w", c.ID(kind), p)
		}
	}
	client, err := env.HTTP(c.Proxy, c.CAFile, a.hosts()...)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.ID(kind), err)
	}
	b := &Bucket{Address: a, name: c.ID(kind), lock: strings.ToUpper(c.ObjectLock), key: redact.Hide(c.AccessKey.Reveal()), secret: redact.Hide(c.SecretKey.Reveal()), now: env.Now, http: client}
	b.s3, err = minio.New(a.Host, &minio.Options{
		Creds: credentials.NewStaticV4(b.key.Reveal(), b.secret.Reveal(), ""), Secure: a.TLS, Transport: client.Transport, Region: a.Region, BucketLookup: a.lookup,
		MaxRetries: 1, // whoever calls decides when to try again
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.name, err)
	}
	b.s3.SetS3EnableDualstack(false) // the addresses that an operator lets through are the plain ones
	return b, nil
}

// ID is the name by which other sections speak of the bucket.
func (b BucketConfig) ID(kind Kind) string {
	if b.Name != "" {
		return b.Name
	}
	return string(kind)
}

// Name is the bucket's name in the configuration.
func (b *Bucket) Name() string { return b.name }

// Put writes an object that must not be there yet; fs.ErrExist if it is. Where
// the section says object_lock, the object is locked until then.
func (b *Bucket) Put(ctx context.Context, name string, body []byte, until time.Time) error {
	if len(body) > MaxObject {
		return fmt.Errorf("%s: put %s: %d bytes are more than %d", b.name, name, len(body), MaxObject)
	}
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	var err error
	switch b.Kind {
	case OSS:
		err = b.putOSS(ctx, name, body)
	case COS:
		err = b.putCOS(ctx, name, body)
	default:
		err = b.putS3(ctx, name, body, until)
	}
	return b.explain("put", name, err)
}

// putS3 sends If-None-Match: *, which Amazon and MinIO answer with 412 where the
// object is there.
func (b *Bucket) putS3(ctx context.Context, name string, body []byte, until time.Time) error {
	// A plain body with its MD5, under the signature, is what every store takes:
	// no trailers, no aws-chunked, no parts.
	opts := minio.PutObjectOptions{ContentType: contentType(name), SendContentMd5: true, DisableContentSha256: true, DisableMultipart: true}
	if b.lock != "" && !until.IsZero() {
		opts.Mode, opts.RetainUntilDate = minio.RetentionMode(b.lock), until.UTC()
	}
	opts.SetMatchETagExcept("*")
	_, err := b.s3.PutObject(ctx, b.Bucket, name, bytes.NewReader(body), int64(len(body)), opts)
	return err
}

func contentType(name string) string {
	if strings.HasSuffix(name, ".gz") {
		return "application/gzip"
	}
	return "application/json"
}

// Get returns an object; fs.ErrNotExist if there is none.
func (b *Bucket) Get(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, transferTimeout)
	defer cancel()
	body, err := b.get(ctx, name)
	return body, b.explain("get", name, err)
}

func (b *Bucket) get(ctx context.Context, name string) ([]byte, error) {
	body, _, _, err := minio.Core{Client: b.s3}.GetObject(ctx, b.Bucket, name, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer body.Close()
	out, err := io.ReadAll(io.LimitReader(body, MaxObject+1))
	if err == nil && len(out) > MaxObject {
		err = fmt.Errorf("it is larger than %d bytes, which none of ours is", MaxObject)
	}
	return out, err
}

// List returns the names of the objects that begin with prefix and stand after
// a name, in the order of their bytes.
func (b *Bucket) List(ctx context.Context, prefix, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		for {
			page, err := b.page(ctx, prefix, after)
			for _, name := range page {
				if !yield(name, nil) {
					return
				}
				after = name
			}
			if err != nil {
				yield("", b.explain("list", prefix, err))
				return
			}
			if len(page) < pageSize {
				return
			}
		}
	}
}

// pageSize is how many names are asked for at once, the most that stores give.
const pageSize = 1000

// page lists up to pageSize names, in a time of its own: whoever goes through a
// long list takes as long as he likes.
func (b *Bucket) page(ctx context.Context, prefix, after string) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var out []string
	last := after
	// Of the two forms of the question, the vendors in China document the older.
	opts := minio.ListObjectsOptions{Prefix: prefix, StartAfter: after, Recursive: true, MaxKeys: pageSize, UseV1: b.Kind == OSS || b.Kind == COS}
	for o := range b.s3.ListObjectsIter(ctx, b.Bucket, opts) {
		if o.Err != nil {
			return out, o.Err
		}
		if o.Key <= after { // not every store knows where to begin
			continue
		}
		if o.Key < last {
			return out, fmt.Errorf("the store lists %q after %q, which is out of order", brief(o.Key), brief(last))
		}
		if o.Key == last { // a page again
			continue
		}
		last = o.Key
		if out = append(out, o.Key); len(out) == pageSize {
			return out, nil
		}
	}
	// The library may end without a word when the time is over: that is no end of
	// the list.
	return out, ctx.Err()
}

// Delete removes an object; one that is not there is no error. Where the bucket
// keeps what it has, the error is fs.ErrPermission.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err := b.explain("delete", name, b.s3.RemoveObject(ctx, b.Bucket, name, minio.RemoveObjectOptions{}))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
