package user

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
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
	invites    *store.Collection[Invite]
	onChange   func(userID string)
	mu         sync.RWMutex
	gen        uint64
	doubts     uint64             // how often news may have been lost
	profiles   map[string]profile // what was read; every change anywhere removes it
}

// identity says whose an upstream identity is. Its store ID is a hash of
// connector and subject.
type identity struct {
	Connector string `json:"connector"`
	Subject   string `json:"subject"`
	// User is the account; "" after it was unlinked. The record is never deleted,
	// so that every change of hands is one compare-and-set.
	User string `json:"user"`
	// Leaving is set before the account lets go of the identity: if it no longer
	// lists it, the unlinking is as good as done.
	Leaving bool `json:"leaving,omitempty"`
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
		invites: store.NewCollection(cfg.KV, store.CollectionConfig[Invite]{Kind: "invite", Sealer: cfg.Sealer, Now: cfg.Now, Firm: true,
			Expires: func(i Invite) time.Time { return i.Expires }}),
		onChange: func(string) {},
		profiles: map[string]profile{},
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

func newID() string { return strings.ToLower(rand.Text()) }

// Get returns the user or ErrNotFound.
func (d *Directory) Get(ctx context.Context, id string) (User, error) {
	u, err := d.users.Get(ctx, id)
	if err == nil && !u.Pending.IsZero() { // being made: there is nobody yet
		return User{}, ErrNotFound
	}
	return u, found(err)
}

// ByIdentity returns the id of the user whose identity that is, or ErrNotFound.
func (d *Directory) ByIdentity(ctx context.Context, connector, subject string) (string, error) {
	link, err := d.owner(ctx, connector, subject)
	return link.User, err
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
	us, next, err = d.users.List(ctx, "", "", after, limit)
	return made(us), next, err
}

// made leaves out accounts that are still being made.
func made(us []User) []User {
	return slices.DeleteFunc(us, func(u User) bool { return !u.Pending.IsZero() })
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
		for _, u := range made(us) {
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
	return d.change(ctx, id, func(u *User) error { u.Suspended = true; return nil })
}

// Resume opens a suspended account again; what was ended stays ended. One that
// was merged into another is gone for good: ErrMerged.
func (d *Directory) Resume(ctx context.Context, id string) error {
	return d.change(ctx, id, func(u *User) error {
		if u.Merged != "" {
			return ErrMerged
		}
		u.Suspended = false
		return nil
	})
}

// BumpEpoch ends every session and grant of the user, of all kinds.
func (d *Directory) BumpEpoch(ctx context.Context, id string) error {
	return d.change(ctx, id, func(*User) error { return nil })
}

func (d *Directory) change(ctx context.Context, id string, f func(*User) error) error {
	_, err := d.firm.Update(ctx, id, func(u *User) error {
		if err := f(u); err != nil {
			return err
		}
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

func found(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return ErrNotFound
	}
	return err
}
