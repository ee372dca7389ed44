package user

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// Config is what New needs.
type Config struct {
	KV     store.KV
	Bus    store.Bus
	Sealer *store.Sealer
	Now    func() time.Time
	Log    *slog.Logger
}

// Directory keeps the users. It is safe for concurrent use.
type Directory struct {
	cfg        Config
	users      *store.Collection[User]
	firm       *store.Collection[User] // the same records, written so that they outlive a power cut
	identities *store.Collection[identity]
	onChange   func(userID string)
	mu         sync.RWMutex
	gen        uint64
	doubts     uint64             // how often news may have been lost
	profiles   map[string]profile // what was read; every change anywhere removes it
}

// profile is a user as last read; after another doubt it is read again.
type profile struct {
	User
	doubts uint64
}

// profilesMax bounds the users held in memory.
const profilesMax = 10_000

// identity says whose an upstream identity is. Its store ID is a hash of
// connector and subject.
type identity struct {
	Connector string `json:"connector"`
	Subject   string `json:"subject"`
	User      string `json:"user"`
}

const topic = "user"

// New returns a Directory.
func New(cfg Config) (*Directory, error) {
	if cfg.KV == nil || cfg.Bus == nil || cfg.Sealer == nil || cfg.Now == nil || cfg.Log == nil {
		return nil, errors.New("user: the configuration is incomplete")
	}
	users := store.CollectionConfig[User]{Kind: "user", Sealer: cfg.Sealer, Now: cfg.Now, Index: User.index}
	firm := users
	firm.Firm, firm.Tell = true, func(u User) store.Message { return store.Message{Topic: topic, Data: news(u.ID)} }
	return &Directory{
		cfg: cfg, users: store.NewCollection(cfg.KV, users), firm: store.NewCollection(cfg.KV, firm),
		identities: store.NewCollection(cfg.KV, store.CollectionConfig[identity]{Kind: "identity", Sealer: cfg.Sealer, Now: cfg.Now}),
		onChange:   func(string) {},
		profiles:   map[string]profile{},
	}, nil
}

// OnChange sets what is called when a user's epoch changes here or on another
// replica; an empty id means that any user's may have. Call it before Run.
func (d *Directory) OnChange(f func(userID string)) { d.onChange = f }

// Run hears of other replicas' changes until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		news, err := d.cfg.Bus.Subscribe(ctx, topic)
		if err == nil {
			d.changed("") // what was read before anybody listened may have changed unheard
			for msg := range news {
				var m struct{ ID string }
				if json.Unmarshal(msg, &m) == nil {
					d.changed(m.ID)
				}
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		d.changed("") // something may have been missed
		select {
		case <-ctx.Done():
		case <-time.After(250 * time.Millisecond):
		}
	}
	return nil
}

// Admission says who may get an account through a connector.
type Admission struct {
	// Signup is "open", "domains" or "invite"; empty is open.
	Signup string
	// Domains are those for which the connector may speak, lower case and in
	// IDNA's A-form.
	Domains []string
	// Announce is told of an account before it is made, and of a profile before
	// it changes; if it fails, neither is done. May be nil.
	Announce func(ctx context.Context, u User, created bool) error
}

func (a Admission) announce(ctx context.Context, u User, created bool) error {
	if a.Announce == nil {
		return nil
	}
	return a.Announce(ctx, u, created)
}

func identityID(connector, subject string) string { return store.HashID(connector + "\x00" + subject) }

// Admit finds the user of an upstream identity, or makes one. The key is
// (connector, subject), never an e-mail address (docs/security.md UP-4, UP-5).
func (d *Directory) Admit(ctx context.Context, id connectors.Identity, a Admission) (u User, created bool, err error) {
	if id.Connector == "" || id.Subject == "" {
		return User{}, false, errors.New("admit: the identity has no connector or no subject")
	}
	now := d.cfg.Now()
	link, err := d.identities.Get(ctx, identityID(id.Connector, id.Subject))
	switch {
	case errors.Is(err, store.ErrNotFound):
		if err := signup(id, a); err != nil {
			return User{}, false, err
		}
		link = identity{Connector: id.Connector, Subject: id.Subject, User: newID()}
		err = d.identities.Create(ctx, identityID(id.Connector, id.Subject), link)
		if errors.Is(err, store.ErrConflict) { // somebody else was first: theirs is the account
			link, err = d.identities.Get(ctx, identityID(id.Connector, id.Subject))
		}
		if err != nil {
			return User{}, false, fmt.Errorf("admit: %w", err)
		}
	case err != nil:
		return User{}, false, fmt.Errorf("admit: %w", err)
	}
	// The record under the hash must be this identity's (G4).
	if link.Connector != id.Connector || link.Subject != id.Subject {
		return User{}, false, errors.New("admit: the stored identity is another one")
	}
	u, err = d.users.Get(ctx, link.User)
	if errors.Is(err, store.ErrNotFound) { // new, or the process ended between the two writes
		u = User{ID: link.User, Kind: "user", Created: now, Epoch: 1}
		refresh(&u, id, now)
		if err := a.announce(ctx, u, true); err != nil {
			return User{}, false, err
		}
		err = d.users.Create(ctx, u.ID, u)
		if err == nil {
			return u, true, nil
		}
		if errors.Is(err, store.ErrConflict) {
			u, err = d.users.Get(ctx, link.User)
		}
	}
	if err != nil {
		return User{}, false, fmt.Errorf("admit: %w", err)
	}
	if u.Suspended {
		return u, false, ErrSuspended
	}
	if probe := u; refresh(&probe, id, now) {
		if !probe.Updated.Equal(u.Updated) { // more than the time of use
			if err := a.announce(ctx, probe, false); err != nil {
				return User{}, false, err
			}
		}
		u, err = d.users.Update(ctx, u.ID, func(v *User) error {
			if v.Suspended {
				return ErrSuspended
			}
			refresh(v, id, now)
			return nil
		})
		if err != nil {
			return User{}, false, fmt.Errorf("admit: %w", err)
		}
		d.forget(u.ID)
		d.tell(ctx, u.ID)
	}
	return u, false, nil
}

func signup(id connectors.Identity, a Admission) error {
	switch a.Signup {
	case "", "open":
		return nil
	case "domains":
		if _, domain, ok := web.ValidEmail(id.Email); ok && id.EmailVerified && slices.Contains(a.Domains, domain) {
			return nil
		}
	}
	return ErrSignupClosed
}

// usedStep is how old the time of last use may be before it is written again.
const usedStep = time.Hour

// refresh brings what the upstream says into the account and reports whether
// that changed anything worth a write. The first identity gives the profile.
func refresh(u *User, id connectors.Identity, now time.Time) (changed bool) {
	at := -1
	for i, l := range u.Identities {
		if l.Connector == id.Connector && l.Subject == id.Subject {
			at = i
		}
	}
	fresh := Link{Connector: id.Connector, Subject: id.Subject, Username: id.Username, Email: id.Email, EmailVerified: id.EmailVerified, Linked: now, Used: now}
	if at < 0 {
		u.Identities = append(u.Identities, fresh)
		at, changed = len(u.Identities)-1, true
	} else {
		old := u.Identities[at]
		fresh.Linked = old.Linked
		if now.Sub(old.Used) < usedStep {
			fresh.Used = old.Used
		}
		if old != fresh {
			ids := make([]Link, len(u.Identities)) // never into an array that a caller may share
			copy(ids, u.Identities)
			ids[at] = fresh
			u.Identities, changed = ids, true
		}
	}
	if at == 0 {
		for _, f := range []struct {
			to   *string
			from string
		}{{&u.Email, id.Email}, {&u.Name, id.Name}, {&u.Username, id.Username}, {&u.Picture, id.Picture}, {&u.Locale, id.Locale}} {
			if f.from != "" && *f.to != f.from {
				*f.to, changed = f.from, true
				u.Updated = now
			}
		}
		if u.EmailVerified != (id.EmailVerified && id.Email != "") {
			u.EmailVerified, changed = id.EmailVerified && id.Email != "", true
			u.Updated = now
		}
	}
	if u.Updated.IsZero() {
		u.Updated, changed = now, true
	}
	return changed
}

func newID() string { return strings.ToLower(rand.Text()) }

// Get returns the user or ErrNotFound.
func (d *Directory) Get(ctx context.Context, id string) (User, error) {
	u, err := d.users.Get(ctx, id)
	return u, found(err)
}

// ByIdentity returns the id of the user whose identity that is, or ErrNotFound.
func (d *Directory) ByIdentity(ctx context.Context, connector, subject string) (string, error) {
	link, err := d.identities.Get(ctx, identityID(connector, subject))
	return link.User, found(err)
}

// Epoch returns the user's epoch; ErrNotFound for an unknown user,
// ErrSuspended for one who is suspended.
func (d *Directory) Epoch(ctx context.Context, id string) (uint64, error) {
	u, err := d.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	if u.Suspended {
		return 0, ErrSuspended
	}
	return u.Epoch, nil
}

// List returns up to limit users in order of id, those after the given one.
func (d *Directory) List(ctx context.Context, after string, limit int) (us []User, next string, err error) {
	return d.users.List(ctx, "", "", after, limit)
}

// Find returns the users whose id, e-mail address or user name is q.
func (d *Directory) Find(ctx context.Context, q string, limit int) ([]User, error) {
	if u, err := d.Get(ctx, q); err == nil {
		return []User{u}, nil
	} else if !errors.Is(err, ErrNotFound) {
		return nil, err
	}
	var out []User
	for _, index := range []string{"email", "username"} {
		us, _, err := d.users.List(ctx, index, strings.ToLower(q), "", limit)
		if err != nil {
			return nil, err
		}
		for _, u := range us {
			dup := false
			for _, o := range out {
				dup = dup || o.ID == u.ID
			}
			if !dup && len(out) < limit {
				out = append(out, u)
			}
		}
	}
	return out, nil
}

// Suspend shuts the account: every session and grant of it is void at once.
func (d *Directory) Suspend(ctx context.Context, id string) error {
	return d.change(ctx, id, func(u *User) { u.Suspended = true })
}

// Resume opens a suspended account again; what was ended stays ended.
func (d *Directory) Resume(ctx context.Context, id string) error {
	return d.change(ctx, id, func(u *User) { u.Suspended = false })
}

// BumpEpoch ends every session and grant of the user, of all kinds.
func (d *Directory) BumpEpoch(ctx context.Context, id string) error {
	return d.change(ctx, id, func(*User) {})
}

func (d *Directory) change(ctx context.Context, id string, f func(*User)) error {
	_, err := d.firm.Update(ctx, id, func(u *User) error {
		f(u)
		u.Epoch++
		u.Updated = d.cfg.Now()
		return nil
	})
	if err != nil {
		return found(err)
	}
	d.changed(id) // the others were told by the write itself
	return nil
}

func news(id string) []byte {
	js, err := json.Marshal(struct{ ID string }{id})
	if err != nil { // a string always can
		return nil
	}
	return js
}

// tell publishes that a user's record has changed.
func (d *Directory) tell(ctx context.Context, id string) {
	if err := d.cfg.Bus.Publish(ctx, topic, news(id)); err != nil {
		// The store has it; replicas that cannot hear are stale and ask the store.
		d.cfg.Log.Warn("user: other replicas were not told of a change", "user", id, "err", err)
	}
}

// changed forgets what is held of a user and tells who asked to know.
func (d *Directory) changed(id string) {
	d.forget(id)
	d.onChange(id)
}

func (d *Directory) forget(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.gen++
	if id == "" {
		d.doubts++
	} else {
		delete(d.profiles, id)
	}
}

// Profile is Get from memory while other replicas are heard: for what is shown
// and put into tokens. Whether the account may be used is Epoch's to say. While
// the store is out of reach it is what was last read: whose session goes on
// meanwhile, and how long, is the session's to say (docs/security.md SE-3).
func (d *Directory) Profile(ctx context.Context, id string) (User, error) {
	stale := d.cfg.Bus.Stale()
	d.mu.RLock()
	p, ok := d.profiles[id]
	gen, sure := d.gen, ok && p.doubts == d.doubts
	d.mu.RUnlock()
	if sure && !stale {
		return p.User, nil
	}
	u, err := d.Get(ctx, id)
	if ok && errors.Is(err, store.ErrUnavailable) {
		return p.User, nil
	}
	if err != nil {
		return u, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gen == gen {
		if len(d.profiles) >= profilesMax {
			clear(d.profiles)
		}
		d.profiles[id] = profile{u, d.doubts}
	}
	return u, nil
}

func found(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return ErrNotFound
	}
	return err
}
