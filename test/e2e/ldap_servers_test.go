//go:build e2e && full

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/ldap"
)

// Two servers of one directory: one that takes connections and is silent is left
// for the other within its time limits, the next sign-in does not wait again,
// and the first is asked again when it is back.
func TestLDAPServersFailOverAndBack(t *testing.T) {
	a := startSlapd(t)
	b := startSlapd(t)
	// Each made an authority of its own; the second shows the first's certificate.
	script(t, 10*time.Second, nil, "cp", "-a", a["DIR"]+"/tls/.", b["DIR"]+"/tls/")
	b.script(t, "stop.sh")
	b.script(t, "start.sh", fmt.Sprint(b.port(t, "LDAP_URL")))
	c := a.connector(t, func(c *ldap.Config) { c.Hosts = []string{fmt.Sprintf("127.0.0.1:%d", b.port(t, "LDAP_URL"))} })
	signIn := func() (time.Duration, error) {
		began := time.Now()
		_, err := c.Authenticate(t.Context(), "alice", "alice-secret")
		return time.Since(began), err
	}
	if _, err := signIn(); err != nil {
		t.Fatal(err)
	}
	a.signal(t, syscall.SIGSTOP)
	if took, err := signIn(); err != nil || took > 20*time.Second {
		t.Errorf("the first server is silent: %v after %v", err, took)
	}
	if took, err := signIn(); err != nil || took > 2*time.Second {
		t.Errorf("the next one: %v after %v", err, took)
	}
	a.signal(t, syscall.SIGCONT)
	if err := c.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.script(t, "stop.sh")
	if took, err := signIn(); err != nil || took > 2*time.Second {
		t.Errorf("the first one is back: %v after %v", err, took)
	}
}

// The password policy's warnings of a real OpenLDAP: a password that is about to
// end, and one that has ended and is good for a few more sign-ins.
func TestLDAPPolicyWarnings(t *testing.T) {
	s := startSlapd(t)
	c := s.connector(t, nil)
	s.modify(t, "dn: cn=shortlived,ou=policies,dc=example,dc=com\nchangetype: modify\nreplace: pwdExpireWarning\npwdExpireWarning: 86400\n-\nreplace: pwdGraceAuthNLimit\npwdGraceAuthNLimit: 2\n-\nreplace: pwdMustChange\npwdMustChange: FALSE\n\n"+
		"dn: uid=alice,ou=people,dc=example,dc=com\nchangetype: modify\nreplace: pwdPolicySubentry\npwdPolicySubentry: cn=shortlived,ou=policies,dc=example,dc=com\n-\nreplace: userPassword\nuserPassword: alice-secret\n")
	time.Sleep(1200 * time.Millisecond) // into the time of the warning
	id, err := c.Authenticate(t.Context(), "alice", "alice-secret")
	if left := time.Until(id.PasswordEnds); err != nil || left < 20*time.Hour || left > 24*time.Hour || id.GraceLogins != 0 {
		t.Errorf("ends in %v, %d left, %v", left, id.GraceLogins, err)
	}
	for i, want := range []int{1, 0} {
		id, err := c.Authenticate(t.Context(), "expired", "expired-secret")
		if err != nil || time.Until(id.PasswordEnds) > 0 || id.PasswordEnds.IsZero() || id.GraceLogins != want {
			t.Errorf("grace %d: ends %v, %d left, %v", i, id.PasswordEnds, id.GraceLogins, err)
		}
	}
	_, err = c.Authenticate(t.Context(), "expired", "expired-secret")
	var r *connectors.Refusal
	if !errors.As(err, &r) || r.Code != "password_expired" {
		t.Errorf("no grace left: %v", err)
	}
}

// A thousand sign-ins by another connector while a directory hangs take as long
// as a thousand without it.
func TestHangingDirectorySlowsNobody(t *testing.T) {
	s := startSlapd(t)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": s.ldapSection(t, `rate_limits: {account_failures: 100000, address_failures: 100000, network_failures: 100000, attempts: 1000000}
github: {client_id: gh-client, client_secret: gh-secret, base_url: "`+startPeer(t, "github-api", freePort(t))["GITHUB_URL"]+`"}`)})
	g := serve(t, dir, []string{"--dev"})
	h := &github{t: t, g: g}
	thousand := func() time.Duration {
		began := time.Now()
		var all sync.WaitGroup
		var left atomic.Int64
		left.Store(1000)
		for range 4 {
			all.Go(func() {
				for left.Add(-1) >= 0 {
					p := newPerson(t, g)
					if h.enter(p, "alice"); p.send(http.MethodGet, "/account", nil).StatusCode != http.StatusOK {
						t.Error("somebody did not get in")
						return
					}
				}
			})
		}
		all.Wait()
		return time.Since(began)
	}
	alone := thousand()
	s.signal(t, syscall.SIGSTOP)
	defer s.signal(t, syscall.SIGCONT)
	stop := make(chan struct{})
	var hanging sync.WaitGroup
	var tried atomic.Int64
	for i := range 60 {
		hanging.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				p := newPerson(t, g)
				form := attemptOf(t, p.send(http.MethodGet, "/signin/ldap", nil))
				form.Set("username", fmt.Sprint("p", i))
				form.Set("password", "x")
				if a := p.send(http.MethodPost, "/signin/ldap", form); a.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("a directory that hangs: %d", a.StatusCode)
				}
				tried.Add(1)
			}
		})
	}
	beside := thousand()
	close(stop)
	hanging.Wait()
	t.Logf("1,000 sign-ins: %v alone, %v while the directory hangs and %d others wait for it", alone, beside, tried.Load())
	if beside > alone*3/2+2*time.Second {
		t.Errorf("1,000 sign-ins took %v, and %v while a directory hangs", alone, beside)
	}
}

// A directory without TLS is unavailable, and with allow_plaintext a way in.
func TestBrowserFlowByPlainLDAP(t *testing.T) {
	s := startSlapd(t, "NO_TLS=1")
	if err := s.connector(t, nil).Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) || !strings.Contains(err.Error(), "allow_plaintext: true") {
		t.Errorf("without the key: %v", err)
	}
	g := s.byDirectory(t, s.port(t, "LDAP_URL"), "allow_plaintext: true")
	browser(t, nil, "flow.mjs", g.URL, "alice", "alice-secret", "ldap")
}
