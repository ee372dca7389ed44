package userclient

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/zalando/go-keyring"
)

// backend is a keyring; the library's functions are one.
type backend interface {
	Get(service, user string) (string, error)
	Set(service, user, secret string) error
	DeleteAll(service string) error
}

type system struct{}

// Get asks the operating system's keyring.
func (system) Get(service, user string) (string, error) { return keyring.Get(service, user) }

// Set puts into it.
func (system) Set(service, user, secret string) error { return keyring.Set(service, user, secret) }

// DeleteAll removes what a service has there.
func (system) DeleteAll(service string) error { return keyring.DeleteAll(service) }

// Keyring is the operating system's, with a bound on how long it may take: on
// Linux it is another process at the end of D-Bus, which may wait for a person
// who is not there.
type Keyring struct {
	// Label is what people call it.
	Label string
	// Chosen says that it is there for certain: a machine with a screen and, on
	// Linux, a session bus. Otherwise only what is already in it is asked for.
	Chosen bool

	back    backend
	timeout time.Duration
	dead    atomic.Bool
}

// ErrKeyring means that the keyring did not do as asked.
var ErrKeyring = errors.New("the keyring")

// SystemKeyring is the one of this machine.
func SystemKeyring(getenv func(string) string) *Keyring {
	k := &Keyring{Label: "Secret Service", back: system{}, timeout: 3 * time.Second}
	switch runtime.GOOS {
	case "darwin":
		k.Label, k.Chosen = "macOS Keychain", !Headless(getenv)
	default:
		bus := getenv("DBUS_SESSION_BUS_ADDRESS") != ""
		if dir := getenv("XDG_RUNTIME_DIR"); !bus && dir != "" {
			_, err := os.Stat(filepath.Join(dir, "bus"))
			bus = err == nil
		}
		k.Chosen = bus && !Headless(getenv)
	}
	if k.Chosen {
		k.timeout = 30 * time.Second // somebody may have to type a password first
	}
	return k
}

// bounded runs a call that cannot be cancelled. One that hangs is left to the end
// of the process, and is the last one.
func (k *Keyring) bounded(call func() error) error {
	if k == nil || k.dead.Load() {
		return fmt.Errorf("%w does not answer", ErrKeyring)
	}
	done := make(chan error, 1)
	go func() { done <- call() }()
	t := time.NewTimer(k.timeout)
	defer t.Stop()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("%w (%s): %w", ErrKeyring, k.Label, err)
		}
		return nil
	case <-t.C:
		k.dead.Store(true)
		return fmt.Errorf("%w (%s) does not answer within %s", ErrKeyring, k.Label, k.timeout)
	}
}

// service is what a profile's secrets are called in the keyring.
func service(profile string) string { return "gatehouse " + profile }

func (k *Keyring) get(profile, name string) (Secret, bool, error) {
	var raw string
	err := k.bounded(func() (err error) {
		raw, err = k.back.Get(service(profile), name)
		return err
	})
	if errors.Is(err, keyring.ErrNotFound) {
		return Secret{}, false, nil
	}
	if err != nil {
		return Secret{}, false, err
	}
	var s Secret
	if json.Unmarshal([]byte(raw), &s) != nil { // written by nobody we know
		return Secret{}, false, nil
	}
	return s, true, nil
}

// set stores secrets, the refresh token first, without which the others are worth
// little. What is too large for the keyring and can be had again is left out.
func (k *Keyring) set(profile string, add secrets) error {
	put := func(name string, s Secret) error {
		js, err := json.Marshal(s)
		if err != nil {
			return err
		}
		return k.bounded(func() error { return k.back.Set(service(profile), name, string(js)) })
	}
	if s, ok := add[refreshToken]; ok {
		if err := put(refreshToken, s); err != nil {
			return err
		}
	}
	for name, s := range add {
		if name == refreshToken {
			continue
		}
		if err := put(name, s); err != nil && !errors.Is(err, keyring.ErrSetDataTooBig) {
			return err
		}
	}
	return nil
}

func (k *Keyring) forget(profile string) error {
	return k.bounded(func() error { return k.back.DeleteAll(service(profile)) })
}
