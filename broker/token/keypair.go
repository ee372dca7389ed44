package token

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// The life of a key pair with its certificate. Others enter these by hand, so
// that they change rarely, and are shown long before they are used.
const (
	pairLife    = 5 * 365 * 24 * time.Hour
	pairShown   = 180 * 24 * time.Hour // a successor is made and shown this long before the end
	pairUsed    = 30 * 24 * time.Hour  // and used this long before it
	pairRetired = 90 * 24 * time.Hour  // after the end it still decrypts for this long
	pairCache   = time.Minute
	pairBits    = 2048
)

// PairsConfig is what NewPairs needs.
type PairsConfig struct {
	KV     store.KV
	Sealer *store.Sealer
	// Name is the certificates' subject; readers take it for a label.
	Name string
	Now  func() time.Time
}

// Pairs keeps this deployment's key pairs for what is not a JWT, sealed in the
// store, one list for each use (docs/security.md SP-13). It is safe for
// concurrent use.
type Pairs struct {
	cfg   PairsConfig
	lists *store.Collection[pairList]
	mu    sync.Mutex
	known map[string]pairsRead
}

type pairsRead struct {
	at    time.Time
	pairs []storedPair
}

type pairList struct {
	Use   string       `json:"use"`
	Pairs []storedPair `json:"pairs"` // the oldest first
}

type storedPair struct {
	Key  []byte    `json:"key"` // PKCS #8
	Cert []byte    `json:"cert"`
	Made time.Time `json:"made"`
	Ends time.Time `json:"ends"`
}

// NewPairs returns a Pairs. It reads nothing yet.
func NewPairs(cfg PairsConfig) (*Pairs, error) {
	if cfg.KV == nil || cfg.Sealer == nil || cfg.Name == "" || cfg.Now == nil {
		return nil, errors.New("token: the configuration of key pairs is incomplete")
	}
	return &Pairs{cfg: cfg, known: map[string]pairsRead{}, lists: store.NewCollection(cfg.KV, store.CollectionConfig[pairList]{Kind: "keypair", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true})}, nil
}

// Get returns the pairs of one use, the current one first. The first call of a
// deployment makes one; later ones make successors when it is time.
func (p *Pairs) Get(ctx context.Context, use string) ([]connectors.KeyPair, error) {
	now := p.cfg.Now()
	p.mu.Lock()
	known, ok := p.known[use]
	p.mu.Unlock()
	if age := now.Sub(known.at); !ok || age < 0 || age > pairCache {
		stored, err := p.read(ctx, use, now)
		if err != nil {
			return nil, fmt.Errorf("key pairs for %s: %w", use, err)
		}
		known = pairsRead{now, stored}
		p.mu.Lock()
		p.known[use] = known
		p.mu.Unlock()
	}
	return pairStates(known.pairs, now)
}

// read loads the list and adds what is due.
func (p *Pairs) read(ctx context.Context, use string, now time.Time) ([]storedPair, error) {
	l, err := p.lists.Get(ctx, use)
	if errors.Is(err, store.ErrNotFound) {
		first, err := p.generate(use, now)
		if err != nil {
			return nil, err
		}
		l = pairList{Use: use, Pairs: []storedPair{first}}
		err = p.lists.Create(ctx, use, l)
		if errors.Is(err, store.ErrConflict) { // another replica was first: its key is ours
			l, err = p.lists.Get(ctx, use)
		}
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if l.Use != use || len(l.Pairs) == 0 {
		return nil, errors.New("the stored list is another one")
	}
	if !due(l.Pairs, now) {
		return l.Pairs, nil
	}
	next, err := p.generate(use, now)
	if err != nil {
		return nil, err
	}
	l, err = p.lists.Update(ctx, use, func(l *pairList) error {
		if due(l.Pairs, now) { // else another replica was first
			l.Pairs = append(l.Pairs, next)
		}
		for len(l.Pairs) > 1 && now.After(l.Pairs[0].Ends.Add(pairRetired)) {
			l.Pairs = l.Pairs[1:]
		}
		return nil
	})
	return l.Pairs, err
}

// due reports whether the newest pair needs a successor.
func due(pairs []storedPair, now time.Time) bool {
	return !now.Before(pairs[len(pairs)-1].Ends.Add(-pairShown))
}

// pairStates judges the pairs by the clock alone, so that all replicas agree.
func pairStates(stored []storedPair, now time.Time) ([]connectors.KeyPair, error) {
	current := 0
	for i := 1; i < len(stored); i++ {
		if !now.Before(stored[i-1].Ends.Add(-pairUsed)) {
			current = i
		}
	}
	var out []connectors.KeyPair
	add := func(i int, state connectors.KeyState) error {
		key, err := x509.ParsePKCS8PrivateKey(stored[i].Key)
		if err != nil {
			return fmt.Errorf("key pair: %w", err)
		}
		private, ok := key.(*rsa.PrivateKey)
		if !ok {
			return errors.New("key pair: the key is not RSA")
		}
		cert, err := x509.ParseCertificate(stored[i].Cert)
		if err != nil {
			return fmt.Errorf("key pair: %w", err)
		}
		out = append(out, connectors.KeyPair{Certificate: cert, Key: private, State: state, Until: stored[i].Ends.Add(-pairUsed)})
		return nil
	}
	if err := add(current, connectors.KeyCurrent); err != nil {
		return nil, err
	}
	for i := range stored {
		state := connectors.KeyNext
		if i < current {
			state = connectors.KeyRetired
		}
		if i == current || state == connectors.KeyRetired && now.After(stored[i].Ends.Add(pairRetired)) {
			continue
		}
		if err := add(i, state); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (p *Pairs) generate(use string, now time.Time) (storedPair, error) {
	key, err := rsa.GenerateKey(rand.Reader, pairBits)
	if err != nil {
		return storedPair{}, fmt.Errorf("make key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return storedPair{}, fmt.Errorf("make certificate: %w", err)
	}
	// Whole seconds, as a certificate has them; a little early, for clocks behind ours.
	made := now.UTC().Truncate(time.Second)
	usage := x509.KeyUsageDigitalSignature
	if use == connectors.KeyEncryption {
		usage = x509.KeyUsageKeyEncipherment
	}
	cert := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: p.cfg.Name, OrganizationalUnit: []string{use}}, NotBefore: made.Add(-time.Hour), NotAfter: made.Add(pairLife), KeyUsage: usage}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return storedPair{}, fmt.Errorf("make certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return storedPair{}, fmt.Errorf("make key: %w", err)
	}
	return storedPair{Key: pkcs8, Cert: der, Made: made, Ends: cert.NotAfter}, nil
}
