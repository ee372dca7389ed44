package signin

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
)

// attempt is one try to sign in, from the request that began it to the hop that
// ends it. It travels sealed in a cookie of its own, so that an anonymous
// request writes nothing to the store (docs/security.md UP-1).
type attempt struct {
	ID        string    `json:"-"`
	ReturnTo  string    `json:"r"` // a path of ours with its query
	LoginHint string    `json:"h,omitempty"`
	App       string    `json:"a,omitempty"` // what the person goes on to
	Locales   string    `json:"l,omitempty"`
	Connector string    `json:"c,omitempty"` // where the browser was sent
	Force     bool      `json:"f,omitempty"` // a fresh proof is wanted
	Secret    []byte    `json:"s,omitempty"` // the Departure's
	Invite    string    `json:"i,omitempty"` // the token of an invitation
	Apart     bool      `json:"o,omitempty"` // an account of one's own is wanted
	Link      *linking  `json:"k,omitempty"` // what is to be linked
	At        time.Time `json:"t"`
	Done      bool      `json:"d,omitempty"` // signed in: only the hop is left
	Ends      *ending   `json:"e,omitempty"` // the password that was used ends soon
	Parked    bool      `json:"p,omitempty"` // the rest of it is in the store
	Writes    int       `json:"w,omitempty"` // how often it was stored; all of that is taken back when it succeeds
	stored    string    // its JSON there
}

// AttemptCookie begins the names of the cookies of sign-ins under way; the rest is
// the attempt's id.
const AttemptCookie = "gatehouse-attempt-"

const (
	attemptTTL = 10 * time.Minute
	// An old page still finds where it wanted to go for this long.
	attemptCookieTTL = 4 * time.Hour
	maxCookie        = 3072
	maxCookies       = 6 << 10
	maxAttempts      = 8
)

var attemptID = regexp.MustCompile(`^[A-Z2-7]{26}$`)

func newAttempt(now time.Time, returnTo string) attempt {
	return attempt{ID: rand.Text(), ReturnTo: returnTo, At: now}
}

func (d *Door) fresh(a attempt) bool { return d.cfg.Now().Sub(a.At) < attemptTTL }

// open returns the attempt of that id if this browser has its cookie, even if
// it is too old to go on.
func (d *Door) open(r *http.Request, id string) (attempt, bool) {
	if !attemptID.MatchString(id) {
		return attempt{}, false
	}
	v, ok := d.cfg.Edge.Cookie(r, AttemptCookie+id)
	if !ok || len(v) > maxCookie {
		return attempt{}, false
	}
	a, ok := d.unseal(id, v)
	if ok && a.Parked {
		stored, err := d.parked.Get(r.Context(), store.HashID(id))
		if err != nil {
			return attempt{}, false
		}
		js, err := json.Marshal(stored)
		if err != nil {
			return attempt{}, false
		}
		a = stored
		a.ID, a.stored = id, string(js)
	}
	return a, ok
}

func (d *Door) unseal(id, value string) (attempt, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err != nil {
		return attempt{}, false
	}
	js, err := d.seal.Open("attempt/"+id, raw)
	if err != nil {
		return attempt{}, false
	}
	var a attempt
	if json.Unmarshal(js, &a) != nil || a.ReturnTo == "" && !a.Parked {
		return attempt{}, false
	}
	a.ID = id
	return a, true
}

func (d *Door) sealed(a attempt) (string, error) {
	js, err := json.Marshal(a)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(d.seal.Seal("attempt/"+a.ID, js)), nil
}

// keep sets the attempt's cookie and drops the oldest others that would not fit
// beside it. An attempt too long for a cookie is stored, under a rate limit.
func (d *Door) keep(w http.ResponseWriter, r *http.Request, a attempt) error {
	value, err := d.sealed(a)
	if err != nil {
		return err
	}
	name := d.cfg.Edge.CookieName(AttemptCookie + a.ID)
	if len(name)+len(value) > maxCookie {
		if err := d.park(r, a); err != nil {
			return err
		}
		if value, err = d.sealed(attempt{ID: a.ID, At: a.At, Parked: true}); err != nil {
			return err
		}
	}
	d.makeRoom(w, r, a.ID, len(name)+len(value))
	d.cfg.Edge.SetCookie(w, AttemptCookie+a.ID, value, attemptCookieTTL)
	return nil
}

// park stores an attempt, unless that is what the store has.
func (d *Door) park(r *http.Request, a attempt) error {
	js, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if string(js) == a.stored {
		return nil
	}
	if !a.Done { // then somebody has proved who they are
		if ok, retry := d.limits.stored.Allow(web.ClientNetwork(web.RequestOf(r).IP)); !ok {
			return tooMany(retry)
		}
		a.Writes++
	}
	return d.parked.Put(r.Context(), store.HashID(a.ID), a)
}

func (d *Door) drop(w http.ResponseWriter, id string) {
	d.cfg.Edge.SetCookie(w, AttemptCookie+id, "", -1)
}

func (d *Door) makeRoom(w http.ResponseWriter, r *http.Request, keep string, size int) {
	type other struct {
		id   string
		at   time.Time
		size int
	}
	var others []other
	total, n := size, 1
	for _, id := range d.cfg.Edge.CookieNames(r, AttemptCookie) {
		if id == keep {
			continue
		}
		if !attemptID.MatchString(id) {
			continue // never one of ours
		}
		v, ok := d.cfg.Edge.Cookie(r, AttemptCookie+id)
		a, valid := d.unseal(id, v)
		if !ok || !valid {
			d.drop(w, id)
			continue
		}
		o := other{id, a.At, len(d.cfg.Edge.CookieName(AttemptCookie+id)) + len(v)}
		others = append(others, o)
		total, n = total+o.size, n+1
	}
	slices.SortFunc(others, func(a, b other) int { return a.at.Compare(b.at) })
	for _, o := range others {
		if n <= maxAttempts && total <= maxCookies {
			return
		}
		d.drop(w, o.id)
		total, n = total-o.size, n-1
	}
}

// consumed reports whether the attempt has led to a session already.
func (d *Door) consumed(ctx context.Context, id string) (bool, error) {
	_, err := d.cfg.KV.Get(ctx, store.Key{Kind: "tombstone", ID: store.HashID(id)})
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// consume is the one transition that an attempt may make (G3): false for all
// callers but the first.
func (d *Door) consume(ctx context.Context, id string) (bool, error) {
	_, err := d.cfg.KV.Put(ctx, store.Item{Key: store.Key{Kind: "tombstone", ID: store.HashID(id)}, Value: []byte("attempt"), Expires: d.cfg.Now().Add(2 * attemptTTL)})
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}
