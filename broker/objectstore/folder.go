package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Folder reads objects that were downloaded: each is a file whose path below
// the folder is its name.
type Folder struct{ root *os.Root }

// OpenFolder returns the objects below a folder.
func OpenFolder(dir string) (*Folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Folder{root: root}, nil
}

// Close ends the use of the folder.
func (f *Folder) Close() error { return f.root.Close() }

// Get returns an object; fs.ErrNotExist if there is none.
func (f *Folder) Get(ctx context.Context, name string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, err := f.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	body, err := io.ReadAll(io.LimitReader(file, MaxObject+1))
	if err == nil && len(body) > MaxObject {
		err = fmt.Errorf("%s is larger than %d bytes, which none of ours is", name, MaxObject)
	}
	return body, err
}

// List returns the names of the objects that begin with prefix and stand after
// a name, in the order of their bytes.
func (f *Folder) List(ctx context.Context, prefix, after string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		var names []string
		err := fs.WalkDir(f.root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
			if err = errors.Join(err, ctx.Err()); err != nil {
				return err
			}
			if d.Type().IsRegular() && strings.HasPrefix(path, prefix) && path > after {
				names = append(names, path)
			}
			return nil
		})
		if err != nil {
			yield("", err)
			return
		}
		slices.Sort(names) // a folder's own order puts a-b before a/b
		for _, n := range names {
			if !yield(n, nil) {
				return
			}
		}
	}
}
