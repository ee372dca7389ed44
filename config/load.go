package config

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
)

//go:embed dev/dev.yml
var devYAML []byte

// LoadOptions say what Load works with.
type LoadOptions struct {
	// Types are the connector types that there are, in the sign-in page's order.
	Types []connectors.Type
	// Env looks up environment variables; nil is the process's.
	Env func(string) (string, bool)
	// Dev puts the demo's sections under those of the file.
	Dev bool
}

// Document is one YAML document with its name.
type Document struct {
	Name string
	YAML []byte
}

// Load reads the configuration at path: a YAML file, or a folder whose own
// *.yml and *.yaml are merged. The error is a Findings, or says why nothing could
// be read. With Dev, a missing folder is an empty configuration.
func Load(path string, opts LoadOptions) (*Config, Findings, error) {
	docs, err := read(path)
	if err != nil && !(opts.Dev && !isFile(path) && errors.Is(err, os.ErrNotExist)) {
		return nil, nil, err
	}
	return Parse(docs, opts)
}

// isFile reports whether a path names a file rather than a folder: the demo does
// without a folder, but a file that somebody named must be there.
func isFile(path string) bool {
	ext := filepath.Ext(path)
	return ext == ".yml" || ext == ".yaml"
}

func read(path string) ([]Document, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w (make one with: gatehouse init)", err)
	}
	files := []string{path}
	if fi.IsDir() {
		files = nil
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		for _, e := range entries {
			if !e.IsDir() && isFile(e.Name()) && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("configuration: there is no *.yml in %s (make one with: gatehouse init): %w", path, os.ErrNotExist)
		}
	}
	var docs []Document
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		if fi.Size() > maxFile {
			return nil, fmt.Errorf("configuration: %s is larger than %d bytes", f, maxFile)
		}
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		docs = append(docs, Document{Name: f, YAML: raw})
	}
	return docs, nil
}
