package token

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// checkEvery is how often the schedule is looked at, and other replicas' changes
// are read in case the bus lost the news.
const checkEvery = time.Minute

// Run keeps the schedule until ctx ends: makes the next key publish_ahead before
// its use, puts it to use, and forgets what has retired. One replica at a time
// does so; all reload.
func (k *Keyring) Run(ctx context.Context) error {
	every := min(checkEvery, max(time.Second, min(k.cfg.Keys.RotateEvery, k.cfg.Keys.PublishAhead)/10))
	tick := time.NewTicker(every)
	defer tick.Stop()
	var news <-chan []byte
	for {
		if news == nil {
			var err error
			if news, err = k.cfg.Store.Subscribe(ctx, busTopic); err != nil && ctx.Err() == nil {
				k.cfg.Log.WarnContext(ctx, "keys: cannot hear of other replicas' rotations; reading them every minute", "err", err)
			}
			// What changed before anybody listened was not heard.
			if err := k.load(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.ErrorContext(ctx, "keys: reload failed", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-news:
			if !ok {
				news = nil
				select { // a bus that is down is asked again, not in a circle
				case <-ctx.Done():
					return nil
				case <-time.After(time.Second):
				}
			}
			if err := k.load(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.ErrorContext(ctx, "keys: reload failed", "err", err)
			}
		case <-tick.C:
			if err := k.schedule(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.ErrorContext(ctx, "keys: rotation failed; tried again", "err", err)
			}
			if err := k.load(ctx); err != nil && ctx.Err() == nil {
				k.cfg.Log.ErrorContext(ctx, "keys: reload failed", "err", err)
			}
		}
	}
}

// schedule does what is due, if no other replica is at it.
func (k *Keyring) schedule(ctx context.Context) error {
	return k.exclusive(ctx, func(ctx context.Context) error {
		for _, alg := range []Alg{RS256, ES256} {
			if err := k.step(ctx, alg, false); err != nil {
				return err
			}
		}
		return nil
	}, true)
}

// exclusive runs do under the rotation's lease. With skip, somebody else's
// holding it is fine.
func (k *Keyring) exclusive(ctx context.Context, do func(context.Context) error, skip bool) error {
	for {
		held, release, err := k.cfg.Store.Lease(ctx, "keys", 30*time.Second)
		if errors.Is(err, store.ErrLeaseHeld) {
			if skip {
				return nil
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		if err != nil {
			return err
		}
		defer release()
		return do(held)
	}
}

// step moves one algorithm along its schedule. With now it rotates at once: the
// published next key comes into use, or a new one if there is none.
func (k *Keyring) step(ctx context.Context, alg Alg, rotateNow bool) error {
	now := k.cfg.Now()
	rr, err := k.rings.Get(ctx, string(alg))
	if err != nil {
		return err
	}
	cur, err := k.keys.Get(ctx, rr.Current)
	if err != nil {
		return fmt.Errorf("current %s key: %w", alg, err)
	}
	due := cur.From.Add(k.cfg.Keys.RotateEvery)
	changed := false
	if rr.Next == "" && (rotateNow || !now.Before(due.Add(-k.cfg.Keys.PublishAhead))) {
		rec, err := generate(alg, k.cfg.Now(), due)
		if err != nil {
			return err
		}
		if err := k.keys.Create(ctx, rec.KID, rec); err != nil {
			return err
		}
		rr.Next = rec.KID
		changed = true
	}
	if rr.Next != "" {
		next, err := k.keys.Get(ctx, rr.Next)
		if err != nil {
			return fmt.Errorf("next %s key: %w", alg, err)
		}
		// On schedule a key is used only when it has been published long enough.
		if rotateNow || !now.Before(due) && !now.Before(next.Created.Add(k.cfg.Keys.PublishAhead)) {
			if err := k.announce(ctx, "rotated", rr.Next); err != nil {
				return err
			}
			if err := k.retire(ctx, rr.Current, now, alg); err != nil {
				return err
			}
			if _, err := k.keys.Update(ctx, rr.Next, func(r *record) error { r.From = now; return nil }); err != nil {
				return err
			}
			rr.Old = append([]string{rr.Current}, rr.Old...)
			rr.Current, rr.Next = rr.Next, ""
			changed = true
		}
	}
	old := rr.Old[:0:0]
	for _, kid := range rr.Old {
		rec, err := k.keys.Get(ctx, kid)
		if errors.Is(err, store.ErrNotFound) || err == nil && !rec.Until.IsZero() && !now.Before(rec.Until) {
			if err := k.keys.Delete(ctx, kid); err != nil {
				return err
			}
			changed = true
			continue
		}
		if err != nil {
			return err
		}
		old = append(old, kid)
	}
	rr.Old = old
	if !changed {
		return nil
	}
	return k.commit(ctx, alg, rr)
}

func (k *Keyring) retire(ctx context.Context, kid string, now time.Time, alg Alg) error {
	stay := max(k.cfg.Keys.RetireAfter, time.Duration(k.maxTokenTTL.Load()))
	if alg == algHMAC {
		stay = time.Duration(k.macRetire.Load())
	}
	_, err := k.keys.Update(ctx, kid, func(r *record) error {
		r.Retired, r.Until = now, now.Add(stay)
		return nil
	})
	return err
}

// announce tells of a change before the first record of it is written: what
// cannot be told of is not done.
func (k *Keyring) announce(ctx context.Context, action, kid string) error {
	if k.cfg.Rotated == nil {
		return nil
	}
	return k.cfg.Rotated(ctx, action, kid)
}

// commit writes the ring, tells everybody and reloads.
func (k *Keyring) commit(ctx context.Context, alg Alg, rr ringRecord) error {
	if _, err := k.rings.Update(ctx, string(alg), func(r *ringRecord) error { *r = rr; return nil }); err != nil {
		return err
	}
	if err := k.cfg.Store.Publish(ctx, busTopic, []byte(alg)); err != nil {
		k.cfg.Log.WarnContext(ctx, "keys: other replicas learn of the change within a minute", "err", err)
	}
	return k.load(ctx)
}

// Rotate puts the next key of an algorithm to use now. Clients that cached the
// JWKS before it was published fetch again on the unknown kid.
func (k *Keyring) Rotate(ctx context.Context, alg Alg) error {
	if alg != RS256 && alg != ES256 {
		return fmt.Errorf("rotate: %q: %w", alg, ErrUnknownKey)
	}
	return k.exclusive(ctx, func(ctx context.Context) error { return k.step(ctx, alg, true) }, false)
}

// Revoke withdraws a key at once: it leaves the JWKS and what it signed is void.
// If it was the current one, a new key takes its place.
func (k *Keyring) Revoke(ctx context.Context, kid string) error {
	return k.exclusive(ctx, func(ctx context.Context) error {
		if err := k.load(ctx); err != nil {
			return err
		}
		kk := k.ring.Load().byID[kid]
		if kk == nil || kk.private == nil {
			return fmt.Errorf("revoke %s: %w", kid, ErrUnknownKey)
		}
		rr, err := k.rings.Get(ctx, string(kk.Alg))
		if err != nil {
			return err
		}
		if rr.Current == kid {
			if err := k.step(ctx, kk.Alg, true); err != nil {
				return err
			}
			if rr, err = k.rings.Get(ctx, string(kk.Alg)); err != nil {
				return err
			}
		}
		if err := k.announce(ctx, "revoked", kid); err != nil {
			return err
		}
		if _, err := k.keys.Update(ctx, kid, func(r *record) error { r.Revoked = true; return nil }); err != nil {
			return err
		}
		if rr.Next == kid {
			rr.Next = ""
		}
		return k.commit(ctx, kk.Alg, rr)
	}, false)
}
