package broker

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/event/archive"
	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/portal"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/config"
)

// bucketPatience is how long a store may take to begin its answer.
const bucketPatience = time.Minute

// openBucket makes the client of a bucket.
func (b *serving) openBucket(c config.NamedBucket) (*objectstore.Bucket, error) {
	return objectstore.Open(c.Kind, c.BucketConfig, objectstore.Env{Now: b.now, HTTP: func(proxy, caFile string, trusted ...string) (*http.Client, error) {
		fc, err := b.fetching(proxy, caFile, trusted...)
		if err != nil {
			return nil, err
		}
		fc.MaxBody, fc.Timeout = objectstore.MaxObject+1, bucketPatience
		return web.NewClient(fc)
	}})
}

// openArchives makes what copies the audit log into the buckets of audit.archive.
func (b *serving) openArchives() error {
	audit := b.cfg.Audit.WithDefaults()
	for _, id := range audit.Archive {
		c, found := b.cfg.Bucket(id)
		if !found {
			return fmt.Errorf("audit.archive: there is no bucket %q", id)
		}
		bucket, err := b.openBucket(c)
		if err != nil {
			return err
		}
		b.archives = append(b.archives, archive.New(archive.Config{
			Name: id, Where: bucket.Address.String(), Bucket: bucket, Prefix: audit.Prefix, Every: audit.Every, Retention: audit.Retention,
			Log: b.store, KV: b.store, Leaser: b.store, Key: b.auditKey, Record: b.events.Record, Now: b.now, Logger: b.log,
		}))
	}
	return nil
}

// reloadLook is how soon archives follow a reload.
const reloadLook = time.Second

// runArchives runs the archives of the configuration that serves, whichever it
// is, until ctx ends.
func (b *Broker) runArchives(ctx context.Context) error {
	tick := time.NewTicker(reloadLook)
	defer tick.Stop()
	for ctx.Err() == nil {
		s := b.current.Load()
		running, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		for _, a := range s.archives {
			all.Go(func() { _ = a.Run(running) }) // returns nil
		}
		for ctx.Err() == nil && b.current.Load() == s {
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
		stop()
		all.Wait()
	}
	return nil
}

// OpenArchive returns a reader of the archive in a bucket of the configuration;
// no server needs to run.
func OpenArchive(cfg *config.Config, id string, opts Options) (*archive.Reader, error) {
	c, found := cfg.Bucket(id)
	if !found {
		return nil, fmt.Errorf("there is no bucket %q in the configuration", id)
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	bucket, err := (&serving{Broker: &Broker{cfg: cfg, opts: &opts, log: opts.Log, now: opts.Now}, cfg: cfg}).openBucket(c)
	if err != nil {
		return nil, err
	}
	return archive.NewReader(bucket, cfg.Audit.WithDefaults().Prefix), nil
}

// OpenArchiveFolder returns a reader of an archive that was downloaded: the
// folder that holds the objects below the prefix.
func OpenArchiveFolder(dir string) (*archive.Reader, error) {
	f, err := objectstore.OpenFolder(dir)
	if err != nil {
		return nil, err
	}
	return archive.NewReader(f, ""), nil
}

// restore takes events of an archive into this replica's index. What the audit
// key did not sign is refused: an index is believed.
func (b *serving) restore(ctx context.Context, id string, after, before time.Time) (int, error) {
	c, found := b.cfg.Bucket(id)
	if !found {
		return 0, portal.ErrNoArchive
	}
	bucket, err := b.openBucket(c)
	if err != nil {
		return 0, err
	}
	return b.index.Restore(ctx, archive.NewReader(bucket, b.cfg.Audit.WithDefaults().Prefix).SignedBy(b.auditKey.Public), after, before)
}

// checkBuckets probes every bucket; those of the archive are needed.
func (b *serving) checkBuckets() []bucketProbe {
	var out []bucketProbe
	audit := b.cfg.Audit.WithDefaults()
	for _, c := range b.cfg.Buckets() {
		if c.Keyless() { // it is there to be lent: checkLenders
			continue
		}
		p := bucketProbe{name: "bucket " + c.ID(), required: slices.Contains(audit.Archive, c.ID())}
		prefix := ""
		if p.required {
			prefix = audit.Prefix
		}
		p.ask = func(ctx context.Context) (string, error) {
			bucket, err := b.openBucket(c)
			if err != nil {
				return "", err
			}
			return bucket.Check(ctx, prefix)
		}
		out = append(out, p)
	}
	return out
}

// bucketProbe asks one bucket.
type bucketProbe struct {
	name     string
	required bool
	ask      func(context.Context) (string, error)
}
