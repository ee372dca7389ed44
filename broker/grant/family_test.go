package grant

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
)

// mac derives with keys of which the current one can be changed.
type mac struct {
	current string
	known   map[string]bool
}

func keyID(c byte) string {
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Repeat(string(c), keyIDLen)))
}

func (m *mac) CurrentMACKey() string { return m.current }

func (m *mac) MAC(id string, data []byte) ([]byte, error) {
	if !m.known[id] {
		return nil, errors.New("no such key")
	}
	h := hmac.New(sha256.New, []byte(id))
	h.Write(data)
	return h.Sum(nil), nil
}

type fixture struct {
	*Ledger
	mac *mac
	mu  sync.Mutex
	at  time.Time
}

func (f *fixture) wait(d time.Duration) {
	f.mu.Lock()
	f.at = f.at.Add(d)
	f.mu.Unlock()
}

func ledger(t testing.TB, tokens TokensConfig) *fixture {
	t.Helper()
	f := &fixture{mac: &mac{keyID('a'), map[string]bool{keyID('a'): true, keyID('b'): true}}, at: time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)}
	now := func() time.Time { f.mu.Lock(); defer f.mu.Unlock(); return f.at }
	db, err := sqlite.Open(context.Background(), sqlite.Config{Path: filepath.Join(t.TempDir(), "a.db"), Now: now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	sealer, err := store.NewSealer([][]byte{[]byte(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	if f.Ledger, err = New(Config{KV: db, Bus: db, Sealer: sealer, MAC: f.mac, Tokens: tokens, Now: now}); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) family(t testing.TB) (id, token string) {
	t.Helper()
	id = NewGrantID()
	token, err := f.CreateGrant(t.Context(), Grant{ID: id, UserID: "u", SessionID: "s", SID: "s", ClientID: "app", Scopes: []string{"openid"}, Refresh: true})
	if err != nil {
		t.Fatal(err)
	}
	return id, token
}

func fine(Grant) error { return nil }

// ISS-5: a higher generation with a right HMAC means that the store lost a
// write, and is adopted; with a wrong one it is nothing.
func TestHigherGenerationIsAdopted(t *testing.T) {
	f := ledger(t, TokensConfig{})
	id, first := f.family(t)
	lost, err := f.derive(Grant{ID: id, Key: keyID('a')}, 5)
	if err != nil {
		t.Fatal(err)
	}
	g, next, err := f.Rotate(t.Context(), "app", lost, fine)
	if err != nil || g.Generation != 6 {
		t.Fatalf("generation %d: %v", g.Generation, err)
	}
	if want, _ := f.derive(g, 6); next != want {
		t.Error("the successor is not the sixth")
	}
	if _, _, err := f.Rotate(t.Context(), "app", first, fine); !errors.Is(err, ErrRefreshReused) {
		t.Errorf("the first one: %v", err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(lost, RefreshPrefix))
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint32(raw[keyIDLen+grantIDLen:], 9)
	if _, _, err := f.Rotate(t.Context(), "app", RefreshPrefix+base64.RawURLEncoding.EncodeToString(raw), fine); !errors.Is(err, ErrInvalidGrant) || errors.Is(err, ErrRefreshReused) {
		t.Errorf("a forged generation: %v", err)
	}
}

// A family stays with the key that it began with; another key's right HMAC over
// the same id is no token of it.
func TestFamilyKeepsItsKey(t *testing.T) {
	f := ledger(t, TokensConfig{})
	id, first := f.family(t)
	f.mac.current = keyID('b')
	g, next, err := f.Rotate(t.Context(), "app", first, fine)
	if err != nil || g.Key != keyID('a') {
		t.Fatal(g.Key, err)
	}
	other, err := f.derive(Grant{ID: id, Key: keyID('b')}, 2)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Rotate(t.Context(), "app", other, fine); !errors.Is(err, ErrInvalidGrant) || errors.Is(err, ErrRefreshReused) {
		t.Errorf("derived with another key: %v", err)
	}
	delete(f.mac.known, keyID('a')) // it is gone: retired longer than refresh_max_ttl
	if _, _, err := f.Rotate(t.Context(), "app", next, fine); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("after its key: %v", err)
	}
}

// What check refuses moves nothing; what comes too late is not asked about.
func TestCheckComesBeforeTheGeneration(t *testing.T) {
	f := ledger(t, TokensConfig{})
	id, first := f.family(t)
	stop := errors.New("stop")
	no := func(Grant) error { return stop }
	if _, _, err := f.Rotate(t.Context(), "app", first, no); err != stop {
		t.Fatal(err)
	}
	if g, err := f.Grant(t.Context(), id); err != nil || g.Generation != 1 {
		t.Fatalf("generation %d: %v", g.Generation, err)
	}
	if _, _, err := f.Rotate(t.Context(), "app", first, fine); err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Rotate(t.Context(), "app", first, no); err != stop { // in the grace it is asked too
		t.Error(err)
	}
	if _, _, err := f.Rotate(t.Context(), "other", first, no); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("another client: %v", err)
	}
	f.wait(10 * time.Second)
	if _, _, err := f.Rotate(t.Context(), "app", first, no); !errors.Is(err, ErrRefreshReused) {
		t.Errorf("a reuse with a bad request is a reuse: %v", err)
	}
	if g, err := f.Grant(t.Context(), id); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("the family lives: %+v", g)
	}
	f.wait(-11 * time.Second)
	if _, _, err := f.Rotate(t.Context(), "app", first, fine); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("a grant that ended came back: %v", err)
	}
}

// A code that is seen twice before its grant is made leaves no grant.
func TestGrantRevokedBeforeItIsMade(t *testing.T) {
	f := ledger(t, TokensConfig{})
	code, err := f.NewCode(t.Context(), CodeRequest{ClientID: "app", RedirectURI: "r"})
	if err != nil {
		t.Fatal(err)
	}
	req := RedeemRequest{ClientID: "app", Code: code, RedirectURI: "r", GrantID: NewGrantID()}
	if _, _, err := f.Redeem(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	second := req
	second.GrantID = NewGrantID()
	if _, _, err := f.Redeem(t.Context(), second); !errors.Is(err, ErrCodeReused) {
		t.Fatal(err)
	}
	if _, err := f.CreateGrant(t.Context(), Grant{ID: req.GrantID, ClientID: "app", Refresh: true}); !errors.Is(err, ErrCodeReused) {
		t.Fatalf("the grant was made all the same: %v", err)
	}
}

// G4: a value of one kind is never read as another.
func TestKindsDoNotMix(t *testing.T) {
	f := ledger(t, TokensConfig{})
	pending, err := f.NewPending(t.Context(), Pending{UserID: "u", SessionID: "s", ClientID: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := f.Redeem(t.Context(), RedeemRequest{ClientID: "app", Code: pending}); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("a pending request as a code: %v", err)
	}
	code, err := f.NewCode(t.Context(), CodeRequest{ClientID: "app"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.GetPending(t.Context(), code, "", ""); !errors.Is(err, ErrNoPending) {
		t.Errorf("a code as a pending request: %v", err)
	}
	if _, err := f.Grant(t.Context(), store.HashID(code)); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("a code as a grant: %v", err)
	}
}

func TestTokensConfigProblems(t *testing.T) {
	if ps := (TokensConfig{}).Problems(); len(ps) != 0 {
		t.Errorf("the defaults: %v", ps)
	}
	for name, c := range map[string]TokensConfig{
		"negative":             {AccessTTL: -1},
		"negative grace":       {RefreshGrace: new(-time.Second)},
		"a day of access":      {AccessTTL: 25 * time.Hour},
		"idle longer than all": {RefreshIdleTTL: 3000 * time.Hour},
	} {
		if ps := c.Problems(); len(ps) != 1 {
			t.Errorf("%s: %v", name, ps)
		}
	}
}

// A text is one token or none: what parses is written in one way only, and what
// verifies was derived by us.
func FuzzRefreshToken(f *testing.F) {
	fx := &Ledger{cfg: Config{MAC: &mac{keyID('a'), map[string]bool{keyID('a'): true}}}}
	token, err := fx.derive(Grant{ID: NewGrantID(), Key: keyID('a')}, 1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(token)
	f.Add(RefreshPrefix)
	f.Add(token[:len(token)-1] + "B")
	f.Add(strings.ToUpper(token))
	f.Fuzz(func(t *testing.T, s string) {
		r, ok := parseRefresh(s)
		if !ok {
			if _, err := fx.verify(s); !errors.Is(err, ErrInvalidGrant) {
				t.Fatalf("%q does not parse and verifies: %v", s, err)
			}
			return
		}
		if back := RefreshPrefix + base64.RawURLEncoding.EncodeToString(append(append([]byte{}, r.signed...), r.mac...)); back != s {
			t.Fatalf("%q is another spelling of %q", s, back)
		}
		if _, err := fx.verify(s); err != nil {
			return
		}
		if want, err := fx.derive(Grant{ID: r.grant, Key: r.key}, r.generation); err != nil || want != s || r.generation == 0 {
			t.Fatalf("%q verifies and was not derived: %v", s, err)
		}
	})
}
