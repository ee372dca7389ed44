//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tarpit accepts connections and says nothing. It counts those that are open.
func tarpit(t *testing.T) (addr *net.TCPAddr, came *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	came = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			t.Cleanup(func() { c.Close() })
		}
	}()
	return l.Addr().(*net.TCPAddr), came
}

// 1,000 sign-ins by another connector while the directory and the address of
// the SAML metadata hang, and people keep trying both: all succeed, at the rate
// that they have without. The rates are printed.
func TestHangingUpstreamsSlowNobody(t *testing.T) {
	directory, asked := tarpit(t)
	metadata, fetched := tarpit(t)
	h := startGitHub(t, fmt.Sprintf(`
ldap: {host: 127.0.0.1, port: %d, base_dn: "dc=example,dc=com", bind_dn: "cn=reader,dc=example,dc=com", bind_password: reader, allow_plaintext: true}
connectors: [{id: acme, type: saml, name: Acme, metadata_url: "http://127.0.0.1:%d/metadata"}]
outgoing: {allow_private: [127.0.0.0/8]}
rate_limits: {account_failures: 100000, address_failures: 100000, attempts: 100000}
`, directory.Port, metadata.Port))
	signIns := func(n int) (perSecond float64, slowest time.Duration) {
		var next, slow atomic.Int64
		began := time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for next.Add(1) <= int64(n) {
					at := time.Now()
					p := newPerson(t, h.g)
					if a := h.enter(p, "alice"); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/" {
						t.Errorf("a sign-in by GitHub: %d at %s", a.StatusCode, a.Request.URL)
					}
					for took := int64(time.Since(at)); ; {
						if was := slow.Load(); took <= was || slow.CompareAndSwap(was, took) {
							break
						}
					}
				}
			})
		}
		wg.Wait()
		return float64(n) / time.Since(began).Seconds(), time.Duration(slow.Load())
	}
	alone, _ := signIns(300)
	stop := make(chan struct{})
	var trying sync.WaitGroup
	var tries atomic.Int64
	for range 8 {
		trying.Go(func() {
			for {
				p := newPerson(t, h.g)
				a := attemptField.FindStringSubmatch(p.send(http.MethodGet, "/signin/ldap", nil).Body)
				if a != nil {
					p.send(http.MethodPost, "/signin/ldap", url.Values{"username": {"bob"}, "password": {"x"}, "attempt": {a[1]}})
				}
				p.send(http.MethodGet, "/signin/acme", nil)
				tries.Add(1)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	beside, slowest := signIns(1000)
	close(stop)
	t.Logf("%.0f sign-ins a second alone, %.0f beside two that hang; the slowest took %v; %d tries at what hangs", alone, beside, slowest.Round(time.Millisecond), tries.Load())
	if asked.Load() == 0 || fetched.Load() == 0 {
		t.Errorf("%d connections to the directory, %d to the metadata: nothing has hung", asked.Load(), fetched.Load())
	}
	if slowest >= 5*time.Second { // what hangs is waited for at least that long
		t.Error("a sign-in by GitHub has waited for somebody else's upstream")
	}
	trying.Wait()
	// A restart while both hang: up at once, and the page says which method is not there.
	h.g.stop(15)
	h.g.start()
	p := newPerson(t, h.g)
	if a := h.enter(p, "alice"); a.StatusCode != http.StatusOK {
		t.Errorf("after a restart: %d", a.StatusCode)
	}
}
