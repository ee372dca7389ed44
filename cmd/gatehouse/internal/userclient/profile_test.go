package userclient

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The file of a profile is its owner's alone, and what others could have read or
// written is not used.
func TestStore(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	s := f.signedIn()
	path := s.Store.Path("work")
	mode := func(path string) os.FileMode {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return fi.Mode().Perm()
	}
	if mode(path) != 0o600 {
		t.Errorf("mode %o", mode(path))
	}
	for _, m := range []os.FileMode{0o640, 0o604, 0o620, 0o660} {
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Token(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("%o: %v", m, err)
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(s.Store.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	f.clock.move(time.Hour)
	if _, err := s.Token(t.Context(), ""); err == nil || !strings.Contains(err.Error(), "chmod 700") {
		t.Errorf("a folder of everybody's: %v", err)
	}
	if err := os.Chmod(s.Store.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	deep := &Store{Dir: filepath.Join(t.TempDir(), "a", "gatehouse")}
	if err := deep.Save(&Profile{Name: "x", Issuer: "https://id.example.com", Kept: KeptFile}); err != nil || mode(deep.Dir) != 0o700 {
		t.Errorf("a new folder: %v %o", err, mode(deep.Dir))
	}
	for _, bad := range []string{"", "..", "../x", "a/b", ".hidden", "a b", "-x", strings.Repeat("x", 65), "\x1b"} {
		if err := s.Store.Save(&Profile{Name: bad}); err == nil {
			t.Errorf("a profile of the name %q", bad)
		}
		if _, err := s.Store.Load(bad); err == nil || errors.Is(err, ErrSignedOut) {
			t.Errorf("a profile of the name %q: %v", bad, err)
		}
	}
	for name, text := range map[string]string{"broken": "{", "foreign": `{"issuer":"https://id.example.com","kept":"elsewhere"}`, "plain": `{"issuer":"http://id.example.com","kept":"file"}`} {
		if err := os.WriteFile(s.Store.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Store.Load(name); err == nil || errors.Is(err, ErrSignedOut) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Which sign-in is meant.
func TestFind(t *testing.T) {
	t.Parallel()
	s := &Store{Dir: filepath.Join(t.TempDir(), "gatehouse")}
	if _, err := s.Find("", ""); !errors.Is(err, ErrSignedOut) {
		t.Errorf("without any: %v", err)
	}
	add := func(name, issuer string) {
		t.Helper()
		if err := s.Save(&Profile{Name: name, Issuer: issuer, Kept: KeptFile}); err != nil {
			t.Fatal(err)
		}
	}
	add("one", "https://one.example")
	if p, err := s.Find("", ""); err != nil || p.Name != "one" {
		t.Errorf("the only one: %+v %v", p, err)
	}
	add("two", "https://two.example")
	add("two-admin", "https://two.example")
	for _, c := range []struct {
		name, issuer, want string
		err                error
	}{
		{"", "", "", ErrAmbiguous}, {"two", "", "two", nil}, {"", "one.example", "one", nil}, {"", "HTTPS://One.Example/", "one", nil},
		{"", "https://two.example", "", ErrAmbiguous}, {"three", "", "", ErrSignedOut}, {"", "https://three.example", "", ErrSignedOut}, {"", "http://one.example", "", ErrIssuer},
	} {
		p, err := s.Find(c.name, c.issuer)
		if !errors.Is(err, c.err) || c.want != "" && (err != nil || p.Name != c.want) {
			t.Errorf("%q %q: %+v %v", c.name, c.issuer, p, err)
		}
	}
}

func TestNameFor(t *testing.T) {
	t.Parallel()
	for issuer, want := range map[string]string{"https://id.example.com": "id.example.com", "http://127.0.0.1:8080": "127.0.0.1-8080", "https://id.example.com/a/b": "id.example.com-a-b", "http://[::1]:80": "1-80"} {
		if got := NameFor(issuer); got != want || !validName.MatchString(got) {
			t.Errorf("%s: %s", issuer, got)
		}
	}
}
