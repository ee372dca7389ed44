//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/ldap"
)

var regexpID = regexp.MustCompile(`"id": "([^"]+)"`)

func (s slapd) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s["DIR"], "pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		t.Fatal(err)
	}
}

// script runs stop.sh or start.sh of the running peer again.
func (s slapd) script(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(root(t), "test", "peers", "slapd", name), append([]string{s["DIR"]}, args...)...)
	log, err := os.Create(filepath.Join(s["DIR"], name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		t.Fatalf("slapd/%s: %v", name, err)
	}
}

// The pool's connections die with the server and nobody sees it: a search takes
// a new one. While the directory is away nobody is told that a password is wrong.
func TestLDAPDownAndBack(t *testing.T) {
	s := startSlapd(t)
	c := s.connector(t, nil)
	signIn := func() error {
		_, err := c.Authenticate(t.Context(), "alice", "alice-secret")
		return err
	}
	if err := signIn(); err != nil {
		t.Fatal(err)
	}
	port := fmt.Sprint(s.port(t, "LDAP_URL"))
	s.script(t, "stop.sh")
	if err := signIn(); !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrBadCredentials) {
		t.Errorf("with nobody there: %v", err)
	}
	if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("Check with nobody there: %v", err)
	}
	s.script(t, "start.sh", port)
	if err := signIn(); err != nil {
		t.Errorf("back again: %v", err)
	}
	// Restarted between two sign-ins: the pooled connection is dead, the sign-in is not.
	s.script(t, "stop.sh")
	s.script(t, "start.sh", port)
	if err := signIn(); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	// A directory that takes connections and answers nothing: bounded by the
	// caller, and no bind is left over.
	s.signal(t, syscall.SIGSTOP)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	began := time.Now()
	if _, err := c.Authenticate(ctx, "alice", "alice-secret"); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("a directory that does not answer: %v", err)
	}
	if d := time.Since(began); d > 6*time.Second {
		t.Errorf("the caller's 3 s took %v", d)
	}
	s.signal(t, syscall.SIGCONT)
	if err := signIn(); err != nil {
		t.Errorf("awake again: %v", err)
	}
}

// The directory's own lock: three wrong passwords, and the right one is refused
// in the same words; somebody else's guesses end no session.
func TestLDAPPolicyLock(t *testing.T) {
	s := startSlapd(t)
	c := s.connector(t, func(c *ldap.Config) { c.FriendlyErrors = true })
	id, err := c.Authenticate(t.Context(), "strict", "strict-secret")
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for range 3 {
		_, err := c.Authenticate(t.Context(), "strict", "wrong")
		texts = append(texts, fmt.Sprint(err))
	}
	_, err = c.Authenticate(t.Context(), "strict", "strict-secret")
	texts = append(texts, fmt.Sprint(err))
	var r *connectors.Refusal
	if !errors.Is(err, connectors.ErrBadCredentials) || errors.As(err, &r) || len(slices.Compact(texts)) != 1 {
		t.Errorf("locked: %q", texts)
	}
	if _, err := c.Renew(t.Context(), id); err != nil {
		t.Errorf("a session of the locked account: %v", err)
	}
	if _, err := c.Authenticate(t.Context(), "alice", "alice-secret"); err != nil {
		t.Errorf("somebody else: %v", err)
	}
}

// Through the whole broker: an unknown name, a wrong password and a locked account
// get one answer, a directory that is away another; the account that is renamed
// in the directory keeps its account here.
func TestLDAPThroughTheBroker(t *testing.T) {
	s := startSlapd(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
ldap:
  host: 127.0.0.1
  port: %d
  ca_file: %s
  base_dn: %s
  bind_dn: %s
  bind_password: %s
`, s.port(t, "LDAP_URL"), s["LDAP_CA"], s["LDAP_BASE"], s["LDAP_BIND_DN"], s["LDAP_BIND_PASSWORD"])})
	g := serve(t, dir, []string{"--dev"})
	try := func(user, password string) (*person, page) {
		p := newPerson(t, g)
		form := attemptOf(t, p.send(http.MethodGet, "/signin/ldap", nil))
		form.Set("username", user)
		form.Set("password", password)
		return p, p.send(http.MethodPost, "/signin/ldap", form)
	}
	said := map[string]bool{}
	for _, in := range [][2]string{{"nobody", "x"}, {"bob", "wrong"}, {"locked", "locked-secret"}, {"*", "x"}, {"nopassword", "x"}} {
		_, r := try(in[0], in[1])
		said[fmt.Sprint(r.StatusCode, " ", strings.Contains(r.Body, `role="alert"`))] = true
		if strings.Contains(r.Body, "dc=example") {
			t.Errorf("%s: the page tells a DN", in[0])
		}
	}
	if len(said) != 1 {
		t.Errorf("told apart: %v", said)
	}
	p, r := try("alice", "alice-secret")
	if r = p.follow(r); r.StatusCode != http.StatusOK || p.send(http.MethodGet, "/account", nil).StatusCode != http.StatusOK {
		t.Fatalf("alice: %d at %s", r.StatusCode, r.Request.URL)
	}
	id := regexpID.FindStringSubmatch(g.run("user", "show", "alice"))
	s.modify(t, "dn: uid=alice,ou=people,dc=example,dc=com\nchangetype: modrdn\nnewrdn: uid=alicia\ndeleteoldrdn: 1\n")
	p, r = try("alicia", "alice-secret")
	if r = p.follow(r); r.StatusCode != http.StatusOK {
		t.Fatalf("alicia: %d at %s", r.StatusCode, r.Request.URL)
	}
	if again := regexpID.FindStringSubmatch(g.run("user", "show", "alicia")); id == nil || again == nil || id[1] != again[1] {
		t.Errorf("the renamed account: %v, was %v", again, id)
	}
	s.script(t, "stop.sh")
	_, r = try("bob", "bob-secret")
	if said[fmt.Sprint(r.StatusCode, " ", strings.Contains(r.Body, `role="alert"`))] && r.StatusCode < 500 {
		t.Errorf("a directory that is away answers as a wrong password: %d", r.StatusCode)
	}
	s.script(t, "start.sh", fmt.Sprint(s.port(t, "LDAP_URL")))
	eventually(t, 40*time.Second, "bob signs in without a restart of the broker", func() bool {
		p, _ := try("bob", "bob-secret")
		return p.send(http.MethodGet, "/account", nil).StatusCode == http.StatusOK
	})
}
