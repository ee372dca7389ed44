package token

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jws"
)

// ErrInvalid is what every token that does not verify comes to; the wrapped
// text is for the log.
var ErrInvalid = errors.New("invalid token")

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// skew is how far a clock that set nbf may be ahead of ours.
const skew = 5 * time.Second

func invalid(why string) error { return fmt.Errorf("%w: %s", ErrInvalid, why) }

// Verify checks a token of ours: three parts, our key by its kid, the algorithm
// of our key record, exactly the wanted typ, our iss, exp (docs/security.md ISS-6,
// ISS-7; RFC 8725 section 3). It never looks at a key or URL in the header.
// Claims that it returns are shared with the cache: do not change them.
func (k *Keyring) Verify(_ context.Context, typ Type, raw string) (Claims, error) {
	now := k.cfg.Now()
	if c, ok := k.cache.get(typ, raw, now); ok {
		return c, nil
	}
	c, err := k.verify(typ, raw)
	if err != nil {
		return nil, err
	}
	exp := c.Time("exp")
	if exp.IsZero() {
		return nil, invalid("exp is missing")
	}
	if !now.Before(exp) {
		return nil, invalid("expired")
	}
	if c.Has("nbf") && now.Add(skew).Before(c.Time("nbf")) {
		return nil, invalid("not yet valid")
	}
	k.cache.put(typ, raw, c, exp, now)
	return c, nil
}

type header struct {
	Alg  string          `json:"alg"`
	KID  string          `json:"kid"`
	Typ  string          `json:"typ"`
	Crit json.RawMessage `json:"crit"`
	B64  *bool           `json:"b64"`
}

func (k *Keyring) verify(typ Type, raw string) (Claims, error) {
	if len(raw) > maxToken {
		return nil, invalid("too long")
	}
	if strings.Count(raw, ".") != 2 {
		return nil, invalid("not three parts")
	}
	head, _, _ := strings.Cut(raw, ".")
	js, err := base64.RawURLEncoding.Strict().DecodeString(head)
	if err != nil {
		return nil, invalid("header is not base64url")
	}
	var h header
	if err := json.Unmarshal(js, &h); err != nil {
		return nil, invalid("header is not JSON")
	}
	if h.Crit != nil || h.B64 != nil {
		return nil, invalid("crit is not understood")
	}
	if h.Typ != string(typ) {
		return nil, invalid("typ is not " + string(typ))
	}
	kk := k.ring.Load().byID[h.KID]
	if h.KID == "" || kk == nil || kk.private == nil {
		return nil, invalid("kid is not one of ours")
	}
	if h.Alg != string(kk.Alg) {
		return nil, invalid("alg is not the key's")
	}
	// The algorithm and the key are ours; of the header only kid has chosen.
	payload, err := jws.Verify([]byte(raw), jws.WithKey(jwa.SignatureAlgorithm(kk.Alg), kk.private.Public()), jws.WithCompact())
	if err != nil {
		return nil, invalid("signature")
	}
	var c Claims
	d := json.NewDecoder(bytes.NewReader(payload))
	if err := d.Decode(&c); err != nil || c == nil {
		return nil, invalid("payload is not a JSON object")
	}
	if c.String("iss") != k.cfg.Issuer {
		return nil, invalid("iss is not ours")
	}
	return c, nil
}

// verified remembers tokens that have verified, so that a client that calls
// often costs one verification. Entries are by hash, end with the token, and
// all go when a key is withdrawn.
type verified struct {
	mu sync.RWMutex
	m  map[[32]byte]verifiedEntry
}

type verifiedEntry struct {
	claims Claims
	exp    time.Time
}

const verifiedMax = 20_000

func newVerified() *verified { return &verified{m: map[[32]byte]verifiedEntry{}} }

func cacheKey(typ Type, raw string) [32]byte {
	var buf [2048]byte
	b := append(buf[:0], typ...)
	b = append(b, 0)
	b = append(b, raw...)
	return sha256.Sum256(b)
}

func (v *verified) get(typ Type, raw string, now time.Time) (Claims, bool) {
	if len(raw) > maxToken {
		return nil, false
	}
	id := cacheKey(typ, raw)
	v.mu.RLock()
	e, ok := v.m[id]
	v.mu.RUnlock()
	if !ok || !now.Before(e.exp) {
		return nil, false
	}
	return e.claims, true
}

func (v *verified) put(typ Type, raw string, c Claims, exp, now time.Time) {
	id := cacheKey(typ, raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.m) >= verifiedMax {
		n := 0
		for old, e := range v.m { // map order is random enough: drop the dead and a tenth of the rest
			if !now.Before(e.exp) || n < verifiedMax/10 {
				delete(v.m, old)
				n++
			}
		}
	}
	v.m[id] = verifiedEntry{c, exp}
}

func (v *verified) forget() {
	v.mu.Lock()
	defer v.mu.Unlock()
	clear(v.m)
}
