package token

import (
	"context"
	"errors"
	"reflect"
	"testing"
)

// A rotation or a withdrawal that cannot be written down is not begun
// (docs/architecture.md): not one record of it is left.
func TestNothingChangesUnannounced(t *testing.T) {
	k, _, db := newRing(t)
	told := errors.New("the log is full")
	k.cfg.Rotated = func(context.Context, string, string) error { return told }
	before, err := k.Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var kid string
	for _, i := range before {
		if i.Alg == ES256 {
			kid = i.KID
		}
	}
	if err := k.Rotate(t.Context(), ES256); !errors.Is(err, told) {
		t.Errorf("rotate: %v", err)
	}
	if err := k.Revoke(t.Context(), kid); !errors.Is(err, told) {
		t.Errorf("revoke: %v", err)
	}
	// As another replica reads it.
	after, err := ringOn(t, db, &clock{t: k.cfg.Now()}).Keys(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(before, after) {
		t.Errorf("keys %+v, were %+v", after, before)
	}
}
