package token

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
)

const issuer = "https://id.example"

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

func database(t testing.TB) store.Store {
	t.Helper()
	s, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(t.TempDir(), "a.db"), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func seal(t testing.TB, key string) *store.Sealer {
	t.Helper()
	s, err := store.NewSealer([][]byte{[]byte(strings.Repeat(key, 32))})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func ringOn(t testing.TB, db store.Store, c *clock) *Keyring {
	t.Helper()
	k, err := Open(context.Background(), Config{Store: db, Sealer: seal(t, "a"), Issuer: issuer, MaxTokenTTL: time.Hour, MACRetire: 2160 * time.Hour, Now: c.now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newRing(t testing.TB) (*Keyring, *clock, store.Store) {
	c := &clock{t: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	db := database(t)
	return ringOn(t, db, c), c, db
}

func TestSignVerify(t *testing.T) {
	k, c, _ := newRing(t)
	for _, alg := range []Alg{RS256, ES256} {
		raw, err := k.Sign(t.Context(), alg, TypeAccess, Claims{"sub": "u", "aud": "api", "exp": c.now().Add(time.Minute).Unix()})
		if err != nil {
			t.Fatal(err)
		}
		got, err := k.Verify(t.Context(), TypeAccess, raw)
		if err != nil || got.String("sub") != "u" || got.String("iss") != issuer {
			t.Fatalf("%s: %v, %v", alg, got, err)
		}
		// ISS-6: a token of one type is none of another.
		for _, typ := range []Type{TypeID, TypeGateway, TypeLogout, TypeStorage} {
			if _, err := k.Verify(t.Context(), typ, raw); !errors.Is(err, ErrInvalid) {
				t.Errorf("%s verified as %s: %v", TypeAccess, typ, err)
			}
		}
		c.add(2 * time.Minute)
		if _, err := k.Verify(t.Context(), TypeAccess, raw); !errors.Is(err, ErrInvalid) {
			t.Errorf("an expired token: %v (a cached one must expire too)", err)
		}
	}
}

func part(v any) string {
	js, _ := json.Marshal(v)
	return base64.RawURLEncoding.EncodeToString(js)
}

// ISS-7: nothing in the header but kid chooses, and kid chooses among ours.
func TestHeadersThatAreRefused(t *testing.T) {
	k, c, _ := newRing(t)
	exp := c.now().Add(time.Hour).Unix()
	raw, err := k.Sign(t.Context(), ES256, TypeAccess, Claims{"sub": "u", "exp": exp})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(raw, ".")
	r := k.ring.Load()
	es, rs, mac := r.current[ES256].KID, r.current[RS256].KID, r.current[algHMAC].KID
	head := func(m map[string]any) string { return part(m) + "." + parts[1] + "." + parts[2] }
	good := map[string]any{"alg": "ES256", "kid": es, "typ": "at+jwt"}
	with := func(name string, v any) string {
		m := map[string]any{}
		for k, v := range good {
			m[k] = v
		}
		if v == nil {
			delete(m, name)
		} else {
			m[name] = v
		}
		return head(m)
	}
	for name, tok := range map[string]string{
		"empty": "", "two parts": parts[0] + "." + parts[1], "four parts": raw + ".x", "five parts (JWE)": raw + ".x.y",
		"alg none": with("alg", "none"), "no signature": parts[0] + "." + parts[1] + ".", "alg HS256": with("alg", "HS256"),
		"alg of another key": with("alg", "RS256"), "kid of another key": with("kid", rs), "kid of the HMAC key": with("kid", mac),
		"kid missing": with("kid", nil), "kid unknown": with("kid", "nobody"), "kid empty": with("kid", ""),
		"typ missing": with("typ", nil), "typ in capitals": with("typ", "AT+JWT"), "typ JWT": with("typ", "JWT"),
		"crit": with("crit", []string{"exp"}), "b64": with("b64", false),
		"jwk in the header": with("jwk", map[string]string{"kty": "oct", "k": "AA"}), "jku in the header": with("jku", "https://evil.example/jwks"),
		"payload swapped":    parts[0] + "." + part(map[string]any{"iss": issuer, "sub": "root", "exp": exp}) + "." + parts[2],
		"header not JSON":    "AAAA." + parts[1] + "." + parts[2],
		"padding":            parts[0] + "=." + parts[1] + "." + parts[2],
		"JSON serialization": `{"payload":"` + parts[1] + `","signatures":[{"protected":"` + parts[0] + `","signature":"` + parts[2] + `"}]}`,
		"too long":           raw + strings.Repeat("A", maxToken),
		"whitespace":         " " + raw,
	} {
		if _, err := k.Verify(t.Context(), TypeAccess, tok); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

func TestClaimsThatAreRefused(t *testing.T) {
	k, c, _ := newRing(t)
	kk := k.ring.Load().current[ES256]
	mint := func(claims map[string]any) string {
		in := kk.header[TypeAccess] + "." + part(claims)
		sig, err := signature(kk, []byte(in))
		if err != nil {
			t.Fatal(err)
		}
		return in + "." + base64.RawURLEncoding.EncodeToString(sig)
	}
	exp := c.now().Add(time.Hour).Unix()
	if _, err := k.Verify(t.Context(), TypeAccess, mint(map[string]any{"iss": issuer, "exp": exp})); err != nil {
		t.Fatalf("the control: %v", err)
	}
	for name, claims := range map[string]map[string]any{
		"no exp": {"iss": issuer}, "exp a string": {"iss": issuer, "exp": "soon"}, "exp past": {"iss": issuer, "exp": c.now().Unix()},
		"other iss": {"iss": "https://evil.example", "exp": exp}, "no iss": {"exp": exp}, "nbf ahead": {"iss": issuer, "exp": exp, "nbf": exp},
	} {
		if _, err := k.Verify(t.Context(), TypeAccess, mint(claims)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v, want ErrInvalid", name, err)
		}
	}
}

// A secret key that does not open the stored keys is an error, never a silent new key.
func TestWrongSecretKey(t *testing.T) {
	k, c, db := newRing(t)
	before := k.ring.Load().current[RS256].KID
	_, err := Open(t.Context(), Config{Store: db, Sealer: seal(t, "b"), Issuer: issuer, Now: c.now, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, ErrWrongSecretKey) {
		t.Fatalf("opening with another key: %v", err)
	}
	if after := ringOn(t, db, c).ring.Load().current[RS256].KID; after != before {
		t.Fatal("the keys were replaced")
	}
}

// Replicas that start together agree on the keys.
func TestStartTogether(t *testing.T) {
	c := &clock{t: time.Now()}
	db := database(t)
	rings := make([]*Keyring, 4)
	var wg sync.WaitGroup
	for i := range rings {
		wg.Go(func() { rings[i] = ringOn(t, db, c) })
	}
	wg.Wait()
	raw, err := rings[0].Sign(t.Context(), ES256, TypeID, Claims{"exp": c.now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	for i, k := range rings {
		if _, err := k.Verify(t.Context(), TypeID, raw); err != nil {
			t.Errorf("replica %d: %v", i, err)
		}
		if k.CurrentMACKey() != rings[0].CurrentMACKey() {
			t.Errorf("replica %d derives refresh tokens with another key", i)
		}
	}
}

// ISS-8: no private member is ever published.
func TestJWKSIsPublic(t *testing.T) {
	k, _, _ := newRing(t)
	body, etag, maxAge, err := k.JWKS(t.Context())
	if err != nil || etag == "" || maxAge <= 0 {
		t.Fatal(etag, maxAge, err)
	}
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(body, &set); err != nil || len(set.Keys) != 2 {
		t.Fatalf("%s: %v", body, err)
	}
	for _, key := range set.Keys {
		for _, private := range []string{"d", "p", "q", "dp", "dq", "qi", "oth", "k"} {
			if _, there := key[private]; there {
				t.Errorf("member %q is published", private)
			}
		}
		if key["use"] != "sig" || key["alg"] == nil || key["kid"] == nil {
			t.Errorf("key %v", key)
		}
	}
}

func TestMAC(t *testing.T) {
	k, c, db := newRing(t)
	a, err := k.MAC(k.CurrentMACKey(), []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := ringOn(t, db, c).MAC(k.CurrentMACKey(), []byte("x"))
	if err != nil || string(a) != string(b) {
		t.Fatal("another replica derives something else", err)
	}
	if _, err := k.MAC("nobody", []byte("x")); !errors.Is(err, ErrUnknownKey) {
		t.Fatal(err)
	}
	if _, err := k.MAC(k.ring.Load().current[RS256].KID, []byte("x")); !errors.Is(err, ErrUnknownKey) {
		t.Fatal("a signing key makes MACs")
	}
}

func TestKeysConfigProblems(t *testing.T) {
	if ps := (KeysConfig{}).Problems(); len(ps) != 0 {
		t.Errorf("the defaults: %v", ps)
	}
	if ps := (KeysConfig{RotateEvery: time.Hour}).Problems(); len(ps) != 1 {
		t.Errorf("rotation every hour with 48 hours ahead: %v", ps)
	}
	if ps := (KeysConfig{RetireAfter: -1}).Problems(); len(ps) != 1 {
		t.Errorf("a negative time: %v", ps)
	}
}

// What verifies was signed by us: byte for byte, but for spellings of the
// signature.
func FuzzVerify(f *testing.F) {
	k, c, _ := newRing(f)
	var signed []string
	for _, alg := range []Alg{ES256, RS256} {
		raw, err := k.Sign(f.Context(), alg, TypeAccess, Claims{"sub": "u", "exp": c.now().Add(time.Hour).Unix()})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
		parts := strings.Split(raw, ".")
		f.Add(parts[0] + "." + parts[1] + ".")
		f.Add(part(map[string]string{"alg": "none", "typ": "at+jwt"}) + "." + parts[1] + ".")
		f.Add(part(map[string]string{"alg": "HS256", "typ": "at+jwt", "kid": k.ring.Load().current[alg].KID}) + "." + parts[1] + "." + parts[2])
		signed = append(signed, raw[:strings.LastIndexByte(raw, '.')])
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, typ := range []Type{TypeAccess, TypeID, TypeGateway, TypeLogout, TypeStorage} {
			if _, err := k.Verify(context.Background(), typ, s); err == nil && (typ != TypeAccess || !slices.Contains(signed, s[:strings.LastIndexByte(s, '.')])) {
				t.Fatalf("verified as %s: %q", typ, s)
			}
		}
	})
}

func BenchmarkSign(b *testing.B) {
	k, c, _ := newRing(b)
	for _, alg := range []Alg{RS256, ES256} {
		b.Run(string(alg), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := k.Sign(b.Context(), alg, TypeAccess, Claims{"sub": "u", "aud": "api", "exp": c.now().Add(time.Hour).Unix()}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkVerify(b *testing.B) {
	k, c, _ := newRing(b)
	raw, err := k.Sign(b.Context(), ES256, TypeAccess, Claims{"sub": "u", "exp": c.now().Add(time.Hour).Unix()})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("cached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.Verify(b.Context(), TypeAccess, raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("uncached", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := k.verify(TypeAccess, raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}
