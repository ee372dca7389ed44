package userclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Profile is a sign-in at one issuer. What is secret of it lies in the keyring,
// or, where there is none, in the same file.
type Profile struct {
	Name    string    `json:"-"`
	Issuer  string    `json:"issuer"`
	CAFile  string    `json:"ca_file,omitempty"`
	Kept    string    `json:"kept"` // KeptFile or KeptKeyring
	Who     Identity  `json:"who"`
	Scope   string    `json:"scope,omitempty"`
	Since   time.Time `json:"since"`
	Ends    Ends      `json:"ends"` // as the issuer said at the sign-in
	Secrets secrets   `json:"secrets,omitempty"`
}

// secrets are held by name: "refresh", "access", "access AUDIENCE",
// "storage NAME".
type secrets map[string]Secret

// Secret is a token, or what else must not be seen.
type Secret struct {
	Value   string    `json:"value"`
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
}

// Where secrets are.
const (
	KeptFile    = "file"
	KeptKeyring = "keyring"
)

// ErrSignedOut means that nobody is signed in here.
var ErrSignedOut = errors.New("signed out")

// ErrAmbiguous means that there are several profiles and none was named.
var ErrAmbiguous = errors.New("there are several profiles")

// ErrNoFolder means that this user has no home.
var ErrNoFolder = errors.New("there is no folder to keep tokens in")

// Store is the folder of the profiles, one file for each, and the keyring.
type Store struct {
	Dir string
	// Keyring is the operating system's, or nil.
	Keyring *Keyring
}

// Folder is where profiles are: gatehouse in $XDG_CONFIG_HOME, else in the user's
// folder of configuration.
func Folder(getenv func(string) string) (string, error) {
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "gatehouse"), nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("%w: %w; set XDG_CONFIG_HOME", ErrNoFolder, err)
	}
	return filepath.Join(dir, "gatehouse"), nil
}

var validName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// NameFor is the profile that a sign-in at an issuer has unless another is named:
// its host.
func NameFor(issuer string) string {
	u, err := url.Parse(issuer)
	if err != nil {
		return "default"
	}
	name := strings.Trim(regexp.MustCompile(`[^A-Za-z0-9.]+`).ReplaceAllString(u.Host+u.Path, "-"), "-.")
	return name[:min(len(name), 64)]
}

const suffix = ".json"

// Path is the file of a profile.
func (s *Store) Path(name string) string { return filepath.Join(s.Dir, name+suffix) }

// maxProfile bounds a profile's file, in bytes.
const maxProfile = 4 << 20

// Load reads a profile. ErrSignedOut means that there is none.
func (s *Store) Load(name string) (*Profile, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("%q can be no profile's name: letters, digits, dots, dashes and underscores", Printable(name, 64))
	}
	f, err := os.Open(s.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("profile %s: %w", name, ErrSignedOut)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := private(f); err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxProfile))
	if err != nil {
		return nil, err
	}
	p := &Profile{Name: name}
	if err := json.Unmarshal(raw, p); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w; delete it and sign in again", f.Name(), err)
	}
	if _, err := Normal(p.Issuer); err != nil || p.Kept != KeptFile && p.Kept != KeptKeyring {
		return nil, fmt.Errorf("%s is not a profile of this program; delete it and sign in again", f.Name())
	}
	return p, nil
}

// private refuses a file that somebody else can read or owns.
func private(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("%s is no file", f.Name())
	}
	if fi.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%s holds tokens and others can read it (%04o); run: chmod 600 %s", f.Name(), fi.Mode().Perm(), f.Name())
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to another user (uid %d); run as that user, or set XDG_CONFIG_HOME", f.Name(), st.Uid)
	}
	return nil
}

// folder makes the folder, and refuses one that others can write to.
func (s *Store) folder() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	fi, err := os.Stat(s.Dir)
	if err != nil {
		return err
	}
	if fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("others can write to %s (%04o); run: chmod 700 %s", s.Dir, fi.Mode().Perm(), s.Dir)
	}
	return nil
}

// Save writes a profile at once or not at all.
func (s *Store) Save(p *Profile) error {
	if !validName.MatchString(p.Name) {
		return fmt.Errorf("%q can be no profile's name: letters, digits, dots, dashes and underscores", Printable(p.Name, 64))
	}
	if err := s.folder(); err != nil {
		return err
	}
	js, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(s.Path(p.Name), append(js, '\n'))
}

// WriteFile puts a file for its owner alone in the place of path: readers see
// the old one or the new one, also after a power cut.
func WriteFile(path string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return os.Rename(f.Name(), path)
}

// Profiles lists what is signed in, by name. A file that cannot be read is an
// error.
func (s *Store) Profiles() ([]*Profile, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*Profile
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !validName.MatchString(name) {
			continue
		}
		p, err := s.Load(name)
		if errors.Is(err, ErrSignedOut) { // gone since
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

// Find returns the profile that is meant: the one of that name, else the one of
// that issuer, else the only one.
func (s *Store) Find(name, issuer string) (*Profile, error) {
	if name != "" {
		return s.Load(name)
	}
	all, err := s.Profiles()
	if err != nil {
		return nil, err
	}
	if issuer != "" {
		if issuer, err = Normal(issuer); err != nil {
			return nil, err
		}
		all = slices.DeleteFunc(all, func(p *Profile) bool { return p.Issuer != issuer })
	}
	switch {
	case len(all) == 1:
		return all[0], nil
	case len(all) == 0 && issuer != "":
		return nil, fmt.Errorf("at %s: %w", issuer, ErrSignedOut)
	case len(all) == 0:
		return nil, ErrSignedOut
	}
	names := make([]string, len(all))
	for i, p := range all {
		names[i] = p.Name
	}
	return nil, fmt.Errorf("%s: %w", strings.Join(names, ", "), ErrAmbiguous)
}

// Forget removes a profile with its secrets.
func (s *Store) Forget(p *Profile) error {
	var err error
	if p.Kept == KeptKeyring {
		err = s.Keyring.forget(p.Name)
	}
	if rerr := os.Remove(s.Path(p.Name)); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		err = errors.Join(err, rerr)
	}
	return err
}

// secret returns one, and whether there is one.
func (s *Store) secret(p *Profile, name string) (Secret, bool, error) {
	if p.Kept == KeptFile {
		v, ok := p.Secrets[name]
		return v, ok, nil
	}
	return s.Keyring.get(p.Name, name)
}

// keep stores secrets of a profile and what else has changed of it.
func (s *Store) keep(p *Profile, add secrets) error {
	if p.Kept == KeptKeyring {
		return errors.Join(s.Keyring.set(p.Name, add), s.Save(p))
	}
	if p.Secrets == nil {
		p.Secrets = secrets{}
	}
	for name, v := range add {
		for old, held := range p.Secrets { // audiences that nobody asks for any more
			if !held.Expires.IsZero() && held.Expires.Before(v.Issued) {
				delete(p.Secrets, old)
			}
		}
		p.Secrets[name] = v
	}
	return s.Save(p)
}

// Lock holds a profile for this process: others wait, until ctx ends. The lock
// goes with the process, so that a killed one leaves nothing behind.
func (s *Store) Lock(ctx context.Context, name string) (unlock func(), err error) {
	if err := s.folder(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(s.Dir, name+".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if err := Sleep(ctx, 20*time.Millisecond); err != nil {
			f.Close()
			return nil, fmt.Errorf("another gatehouse holds the profile %s: %w", name, err)
		}
	}
}
