package store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"
)

// CollectionConfig says how a Collection of T is kept.
type CollectionConfig[T any] struct {
	// Kind is the items' kind; it is part of every key.
	Kind string
	// Sealer seals the values, with kind and ID as associated data. Only a kind
	// that grants nothing may leave it nil.
	Sealer *Sealer
	// Now is our clock; it judges expiry.
	Now func() time.Time
	// Expires says when a value ends; nil or a zero time means never.
	Expires func(T) time.Time
	// Index gives the entries under which List finds a value; nil means none.
	Index func(T) map[string]string
	// Firm makes every write outlive a power cut.
	Firm bool
	// Tell is what other replicas hear of every write; nil means nothing.
	Tell func(T) Message
}

// Collection keeps values of one type as JSON. Members of the JSON that T does
// not know (a newer version wrote them) survive Update.
type Collection[T any] struct {
	kv    KV
	cfg   CollectionConfig[T]
	known map[string]bool // members of T's JSON; nil when T is no plain struct
}

// NewCollection returns a Collection on kv.
func NewCollection[T any](kv KV, cfg CollectionConfig[T]) *Collection[T] {
	return &Collection[T]{kv: kv, cfg: cfg, known: members(reflect.TypeFor[T]())}
}

// maxUpdates bounds how often Update tries again after somebody else was first.
const maxUpdates = 100

// HashID returns the store ID for a handle that a client holds: base64url of
// its SHA-256.
func HashID(handle string) string {
	sum := sha256.Sum256([]byte(handle))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// Get returns the value, or ErrNotFound when there is none or it has expired.
func (c *Collection[T]) Get(ctx context.Context, id string) (T, error) {
	v, _, err := c.GetVersion(ctx, id)
	return v, err
}

// GetVersion is Get with the version of the record.
func (c *Collection[T]) GetVersion(ctx context.Context, id string) (T, uint64, error) {
	var zero T
	it, err := c.kv.Get(ctx, Key{c.cfg.Kind, id})
	if err != nil {
		return zero, 0, fmt.Errorf("get %s: %w", c.cfg.Kind, err)
	}
	v, _, err := c.decode(it)
	if err != nil {
		return zero, 0, err
	}
	if c.expired(v) {
		return zero, 0, fmt.Errorf("get %s: expired: %w", c.cfg.Kind, ErrNotFound)
	}
	return v, it.Version, nil
}

// Create writes a value that must not exist; ErrConflict when a live one does.
// One that has expired is replaced.
func (c *Collection[T]) Create(ctx context.Context, id string, v T) error {
	it, err := c.encode(id, v, nil)
	if err != nil {
		return err
	}
	_, err = c.kv.Put(ctx, it)
	if !errors.Is(err, ErrConflict) {
		return wrap("create", c.cfg.Kind, err)
	}
	// The backend may keep what has expired for a while.
	old, getErr := c.kv.Get(ctx, it.Key)
	if errors.Is(getErr, ErrNotFound) {
		_, err = c.kv.Put(ctx, it)
		return wrap("create", c.cfg.Kind, err)
	}
	if getErr != nil {
		return wrap("create", c.cfg.Kind, getErr)
	}
	previous, _, decErr := c.decode(old)
	if decErr != nil {
		return decErr
	}
	if !c.expired(previous) {
		return wrap("create", c.cfg.Kind, err)
	}
	it.Version = old.Version
	_, err = c.kv.Put(ctx, it)
	return wrap("create", c.cfg.Kind, err)
}

// Update loads the value, lets change alter it, and writes it back if nobody
// else was first; otherwise it tries again with what the other wrote. An error
// of change stops it, writes nothing and is returned as it is.
func (c *Collection[T]) Update(ctx context.Context, id string, change func(*T) error) (T, error) {
	var zero T
	for range maxUpdates {
		it, err := c.kv.Get(ctx, Key{c.cfg.Kind, id})
		if err != nil {
			return zero, fmt.Errorf("update %s: %w", c.cfg.Kind, err)
		}
		v, extra, err := c.decode(it)
		if err != nil {
			return zero, err
		}
		if c.expired(v) {
			return zero, fmt.Errorf("update %s: expired: %w", c.cfg.Kind, ErrNotFound)
		}
		if err := change(&v); err != nil {
			return zero, err
		}
		next, err := c.encode(id, v, extra)
		if err != nil {
			return zero, err
		}
		next.Version = it.Version
		_, err = c.kv.Put(ctx, next)
		if err == nil {
			return v, nil
		}
		if !errors.Is(err, ErrConflict) {
			return zero, fmt.Errorf("update %s: %w", c.cfg.Kind, err)
		}
		if err := ctx.Err(); err != nil {
			return zero, fmt.Errorf("update %s: %w", c.cfg.Kind, err)
		}
	}
	return zero, fmt.Errorf("update %s: others were first %d times: %w", c.cfg.Kind, maxUpdates, ErrConflict)
}

// Put creates the value or replaces whatever is there; members that T does not
// know are kept.
func (c *Collection[T]) Put(ctx context.Context, id string, v T) error {
	for range maxUpdates {
		old, err := c.kv.Get(ctx, Key{c.cfg.Kind, id})
		var extra map[string]json.RawMessage
		switch {
		case errors.Is(err, ErrNotFound):
		case err != nil:
			return wrap("put", c.cfg.Kind, err)
		default:
			if _, extra, err = c.decode(old); err != nil {
				return err
			}
		}
		it, err := c.encode(id, v, extra)
		if err != nil {
			return err
		}
		it.Version = old.Version
		_, err = c.kv.Put(ctx, it)
		if !errors.Is(err, ErrConflict) {
			return wrap("put", c.cfg.Kind, err)
		}
		if err := ctx.Err(); err != nil {
			return wrap("put", c.cfg.Kind, err)
		}
	}
	return wrap("put", c.cfg.Kind, ErrConflict)
}

// Delete removes the value; a missing one is no error. One-time values are not
// deleted but moved to a tombstone (docs/security.md G3).
func (c *Collection[T]) Delete(ctx context.Context, id string) error {
	return wrap("delete", c.cfg.Kind, c.kv.Delete(ctx, Key{c.cfg.Kind, id}))
}

// List returns up to limit live values in order of ID, those with ID > after,
// and where to go on; next is "" at the end. With index "" it lists all, else
// those that really carry index=value.
func (c *Collection[T]) List(ctx context.Context, index, value, after string, limit int) (vs []T, next string, err error) {
	for {
		items, err := c.kv.List(ctx, c.cfg.Kind, index, value, after, limit)
		if err != nil {
			return nil, "", wrap("list", c.cfg.Kind, err)
		}
		for i, it := range items {
			v, _, err := c.decode(it)
			if err != nil {
				return nil, "", err
			}
			after = it.ID
			// An index entry is a hint: the record itself must say so.
			if c.expired(v) || index != "" && (c.cfg.Index == nil || c.cfg.Index(v)[index] != value) {
				continue
			}
			vs = append(vs, v)
			if len(vs) == limit {
				if i == len(items)-1 && len(items) < limit {
					return vs, "", nil
				}
				return vs, after, nil
			}
		}
		if len(items) < limit {
			return vs, "", nil
		}
	}
}

func (c *Collection[T]) expired(v T) bool {
	if c.cfg.Expires == nil {
		return false
	}
	at := c.cfg.Expires(v)
	return !at.IsZero() && !c.cfg.Now().Before(at)
}

func (c *Collection[T]) aad(id string) string { return c.cfg.Kind + "/" + id }

func (c *Collection[T]) encode(id string, v T, extra map[string]json.RawMessage) (Item, error) {
	js, err := json.Marshal(v)
	if err != nil {
		return Item{}, fmt.Errorf("encode %s: %w", c.cfg.Kind, err)
	}
	if len(extra) > 0 {
		if js, err = merge(js, extra); err != nil {
			return Item{}, fmt.Errorf("encode %s: %w", c.cfg.Kind, err)
		}
	}
	if c.cfg.Sealer != nil {
		js = c.cfg.Sealer.Seal(c.aad(id), js)
	}
	it := Item{Key: Key{c.cfg.Kind, id}, Value: js, Firm: c.cfg.Firm}
	if c.cfg.Expires != nil {
		it.Expires = c.cfg.Expires(v)
	}
	if c.cfg.Index != nil {
		it.Index = c.cfg.Index(v)
	}
	if c.cfg.Tell != nil {
		it.Tell = c.cfg.Tell(v)
	}
	return it, nil
}

func (c *Collection[T]) decode(it Item) (v T, extra map[string]json.RawMessage, err error) {
	js := it.Value
	if c.cfg.Sealer != nil {
		if js, err = c.cfg.Sealer.Open(c.aad(it.ID), js); err != nil {
			return v, nil, fmt.Errorf("open %s: %w", c.cfg.Kind, err)
		}
	}
	if err := json.Unmarshal(js, &v); err != nil {
		return v, nil, fmt.Errorf("decode %s: %w", c.cfg.Kind, err)
	}
	if c.known != nil {
		if extra, err = unknown(js, c.known); err != nil {
			return v, nil, fmt.Errorf("decode %s: %w", c.cfg.Kind, err)
		}
	}
	return v, extra, nil
}

func wrap(what, kind string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s: %w", what, kind, err)
}

// members returns the JSON names of a struct's fields, lower-cased as
// encoding/json compares them, or nil when t is no struct.
func members(t reflect.Type) map[string]bool {
	if t.Kind() != reflect.Struct {
		return nil
	}
	names := map[string]bool{}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == "-":
		case f.Anonymous && tag == "" && f.Type.Kind() == reflect.Struct:
			for n := range members(f.Type) {
				names[n] = true
			}
		case !f.IsExported():
		case tag != "":
			names[strings.ToLower(tag)] = true
		default:
			names[strings.ToLower(f.Name)] = true
		}
	}
	return names
}

// unknown returns the members of the object js that known does not have.
func unknown(js []byte, known map[string]bool) (map[string]json.RawMessage, error) {
	if !hasUnknown(js, known) {
		return nil, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(js, &all); err != nil {
		return nil, err
	}
	for name := range all {
		if known[strings.ToLower(name)] {
			delete(all, name)
		}
	}
	return all, nil
}

// hasUnknown looks at the names of the outermost object without decoding it: in
// nearly every record there is none to keep. js is valid JSON.
func hasUnknown(js []byte, known map[string]bool) bool {
	depth, name := 0, true
	for i := 0; i < len(js); i++ {
		switch js[i] {
		case '{', '[':
			depth++
			name = depth == 1
		case '}', ']':
			depth--
		case ',':
			name = depth == 1
		case '"':
			start := i + 1
			for i++; js[i] != '"'; i++ {
				if js[i] == '\\' {
					i++
				}
			}
			if depth == 1 && name {
				if !known[string(js[start:i])] && !known[strings.ToLower(string(js[start:i]))] {
					return true
				}
				name = false
			}
		}
	}
	return false
}

func merge(js []byte, extra map[string]json.RawMessage) ([]byte, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(js, &all); err != nil {
		return nil, err
	}
	for name, v := range extra {
		if _, ours := all[name]; !ours {
			all[name] = v
		}
	}
	return json.Marshal(all)
}
