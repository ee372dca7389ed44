package objectstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

// probe is the object that Check writes. Its name and its content are always
// the same, so that a bucket that keeps everything keeps one of them.
const (
	probeName = "check/gatehouse.json"
	probeBody = `{"gatehouse":"check"}` + "\n"
)

// Check tries under a prefix all that an archive does: it writes an object once,
// reads and lists it, and deletes it. What the bucket can do is in detail; a
// deletion that is refused is no error, it makes the bucket "write-once".
func (b *Bucket) Check(ctx context.Context, prefix string) (detail string, err error) {
	name, body := prefix+probeName, []byte(probeBody)
	if err := b.Put(ctx, name, body, time.Time{}); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	said := []string{b.Address.String(), "put, get and list work"}
	switch err := b.Put(ctx, name, body, time.Time{}); {
	case err == nil:
		said = append(said, "WARNING: the store overwrites what it was asked to keep"+hint(b.Kind))
	case !errors.Is(err, fs.ErrExist):
		return "", err
	}
	got, err := b.Get(ctx, name)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(got, body) {
		return "", fmt.Errorf("%s: %s holds something else than was written there; remove it, or choose another prefix", b.name, name)
	}
	listed := false
	for n, err := range b.List(ctx, name, "") {
		if err != nil {
			return "", err
		}
		listed = listed || n == name
	}
	if !listed {
		return "", fmt.Errorf("%s: %s was written and is not listed; this is no store with S3's guarantees", b.name, name)
	}
	switch err := b.Delete(ctx, name); {
	case errors.Is(err, fs.ErrPermission):
		said = append(said, "write-once")
	case err != nil:
		return "", err
	default:
		said = append(said, "objects can be deleted")
	}
	return strings.Join(said, "; "), nil
}

func hint(k Kind) string {
	switch k {
	case OSS, COS:
		return " (it does so where the bucket's versioning is on or suspended: take one that never had it)"
	default:
		return ""
	}
}
