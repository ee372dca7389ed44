package workload

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/connectors/jwks"
)

// file is a key set that the operator laid down, for an issuer that cannot be
// reached from here. It is read again when it has changed. One that cannot be
// read counts as none: who takes a key out of it wants it gone.
type file struct {
	path string
	mu   sync.Mutex
	was  os.FileInfo
	set  []jose.JSONWebKey
}

func (f *file) read() ([]jose.JSONWebKey, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.path == "" { // it never was a file
		return f.set, nil
	}
	info, err := os.Stat(f.path)
	if err != nil {
		f.was, f.set = nil, nil
		return nil, err
	}
	if f.was != nil && os.SameFile(f.was, info) && info.Size() == f.was.Size() && info.ModTime().Equal(f.was.ModTime()) {
		return f.set, nil
	}
	f.was, f.set = nil, nil
	in, err := os.Open(f.path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	body, err := io.ReadAll(io.LimitReader(in, jwks.MaxBody+1))
	if err != nil {
		return nil, err
	}
	if len(body) > jwks.MaxBody {
		return nil, errors.New("it is larger than a key set may be")
	}
	set, err := jwks.Parse(body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", f.path, err)
	}
	f.was, f.set = info, set
	return set, nil
}

// changed is when the file last was.
func (f *file) changed() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.was == nil {
		return time.Time{}
	}
	return f.was.ModTime()
}
