package broker

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/portal"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/web"
)

// storageSkew is how far our clock may be ahead of a vendor's: MinIO refuses a
// token whose iat is a second in its future.
const storageSkew = 30 * time.Second

// lendPatience is how long a token service may take; somebody waits for it.
const lendPatience = 10 * time.Second

// openLender makes what lends an entry of storage_credentials.
func (b *serving) openLender(c objectstore.Credentials) (*objectstore.Lender, error) {
	bucket, found := b.cfg.Lent(c)
	if !found {
		return nil, fmt.Errorf("storage_credentials %s: there is no such bucket", c.Name)
	}
	return objectstore.OpenLender(c, bucket.BucketConfig, objectstore.LenderEnv{Sign: b.signForStorage, Env: objectstore.Env{Now: b.now, HTTP: func(proxy, caFile string, trusted ...string) (*http.Client, error) {
		fc, err := b.fetching(proxy, caFile, trusted...)
		if err != nil {
			return nil, err
		}
		fc.Timeout = lendPatience
		return web.NewClient(fc)
	}}})
}

// signForStorage makes a web identity token: RS256 and one string as aud, which
// every cloud takes, no more than they need, and a typ that nothing of ours takes.
func (b *serving) signForStorage(ctx context.Context, audience, subject string, life time.Duration) (string, error) {
	if err := b.reachable(ctx); err != nil {
		return "", err
	}
	now := b.now()
	return b.keys.Sign(ctx, token.RS256, token.TypeStorage, token.Claims{"sub": subject, "aud": audience, "iat": now.Add(-storageSkew).Unix(), "exp": now.Add(life).Unix(), "jti": rand.Text()})
}

// storageOffers are all of storage_credentials, for the portal.
func (b *serving) storageOffers() ([]portal.StorageOffer, error) {
	var out []portal.StorageOffer
	for _, c := range b.cfg.StorageCredentials {
		l, err := b.openLender(c)
		if err != nil {
			return nil, err
		}
		o := portal.StorageOffer{Lender: l}
		if c.Allow != nil {
			if o.Allow, err = policy.Compile(policy.AtStorage, policy.Bool, *c.Allow); err != nil {
				return nil, fmt.Errorf("storage_credentials %s: allow: %w", c.Name, err)
			}
		}
		out = append(out, o)
	}
	return out, nil
}

// checkLenders asks every token service whether it is there. Nobody's sign-in
// needs one.
func (b *serving) checkLenders() []bucketProbe {
	var out []bucketProbe
	for _, c := range b.cfg.StorageCredentials {
		out = append(out, bucketProbe{name: "storage_credentials " + c.Name, ask: func(ctx context.Context) (string, error) {
			l, err := b.openLender(c)
			if err != nil {
				return "", err
			}
			return l.Check(ctx)
		}})
	}
	return out
}
