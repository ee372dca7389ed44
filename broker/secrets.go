package broker

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"

	"github.com/remotegpu/gatehouse/broker/store"
)

// sealer makes the sealer of the deployment's secret keys: GATEHOUSE_SECRET_KEY,
// else the file. Only --dev makes a missing one.
func (b *Broker) openSealer() (*store.Sealer, error) {
	text := b.opts.SecretKeys.Reveal()
	if text == "" {
		raw, err := os.ReadFile(b.cfg.SecretKeyFile)
		switch {
		case errors.Is(err, os.ErrNotExist) && b.cfg.Dev:
			made, err := NewSecretKey()
			if err != nil {
				return nil, err
			}
			if err := WriteSecret(b.cfg.SecretKeyFile, made); err != nil {
				return nil, err
			}
			b.Notes = append(b.Notes, "made "+b.cfg.SecretKeyFile)
			raw = []byte(made)
		case errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("there is no secret key at %s; make one with `gatehouse init`, or set GATEHOUSE_SECRET_KEY", b.cfg.SecretKeyFile)
		case err != nil:
			return nil, fmt.Errorf("secret key: %w", err)
		default:
			warning, err := secretMode(b.cfg.SecretKeyFile)
			if err != nil {
				return nil, fmt.Errorf("secret key: %w", err)
			}
			if warning != "" {
				b.log.Warn("the secret key can be read by everybody on this machine", "file", b.cfg.SecretKeyFile, "fix", "chmod 600")
			}
		}
		text = string(raw)
	}
	keys, err := store.ParseSecretKeys(text)
	if err != nil {
		return nil, fmt.Errorf("secret key: %w", err)
	}
	return store.NewSealer(keys)
}

// secretMode looks at who may touch the file of a secret: one that everybody can
// write is refused, one that everybody can read is a warning, unless it is mounted
// as Docker and Kubernetes mount secrets (docs/security.md ST-1).
func secretMode(path string) (warning string, err error) {
	fi, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	switch {
	case fi.Mode().Perm()&0o002 != 0:
		return "", fmt.Errorf("%s can be written by everybody; run: chmod 600 %s", path, path)
	case fi.Mode().Perm()&0o004 != 0 && !mountedSecret(path):
		return path + " can be read by everybody on this machine; run: chmod 600 " + path, nil
	}
	return "", nil
}

// NewSecretKey returns a line for the secret key file.
func NewSecretKey() (string, error) {
	var k [32]byte
	if _, err := rand.Read(k[:]); err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(k[:]) + "\n", nil
}

// NewAdminToken returns the text of data/admin.token.
func NewAdminToken() string { return rand.Text() + rand.Text() + "\n" }

// WriteSecret writes a file that only its owner reads, in a folder that only its
// owner enters. An existing file is left as it is.
func WriteSecret(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if _, err := f.WriteString(text); err != nil {
		f.Close()
		return fmt.Errorf("write %s: %w", path, err)
	}
	return f.Close()
}

// adminToken reads data/admin.token; without the file there is none.
func (b *Broker) adminToken() (string, error) {
	path := filepath.Join(b.cfg.DataDir, "admin.token")
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if !b.cfg.Dev {
			return "", nil
		}
		made := NewAdminToken()
		if err := WriteSecret(path, made); err != nil {
			return "", err
		}
		return strings.TrimSpace(made), nil
	}
	if err != nil {
		return "", fmt.Errorf("admin token: %w", err)
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o022 != 0 {
		return "", fmt.Errorf("%s can be written by others, who could make themselves the operator; run: chmod 600 %s", path, path)
	} else if err == nil && fi.Mode().Perm()&0o044 != 0 {
		b.log.Warn("the operator's token can be read by others on this machine", "file", path, "fix", "chmod 600")
	}
	tok := strings.TrimSpace(string(raw))
	if len(tok) < 32 {
		return "", fmt.Errorf("%s is shorter than 32 characters; write some more random ones into it", path)
	}
	return tok, nil
}

// assign copies a decoded section into a connector's own configuration.
func assign(into, settings any) error {
	dst, src := reflect.ValueOf(into), reflect.ValueOf(settings)
	if dst.Kind() != reflect.Pointer || dst.Type() != src.Type() {
		return fmt.Errorf("the section is a %T, not a %T", settings, into)
	}
	dst.Elem().Set(src.Elem())
	return nil
}
