package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
)

// What may be sent twice goes to another server when the first did not hear it;
// everything else is sent once.
func TestRetries(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	slow := &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}
	for _, c := range []struct {
		method string
		body   string
		err    error
		again  bool
	}{
		{"GET", "", errDial, true}, {"HEAD", "", errDial, true}, {"OPTIONS", "", reset, true}, {"GET", "", io.EOF, true},
		{"PUT", "", errDial, true}, {"DELETE", "", fmt.Errorf("transport: %w", io.EOF), true},
		{"GET", "", &tls.CertificateVerificationError{Err: errors.New("unknown authority")}, true},
		{"POST", "", errDial, false}, {"PATCH", "", errDial, false}, {"PROPFIND", "", errDial, false},
		{"GET", "x", errDial, false}, {"PUT", "x", errDial, false}, {"DELETE", "x", reset, false},
		{"GET", "", slow, false},                     // it has heard, and works on it
		{"GET", "", io.ErrUnexpectedEOF, false},      // an answer had begun
		{"GET", "", context.DeadlineExceeded, false}, // ours
	} {
		g, s, _ := group(t, nil, 1, 1, 1, 1)
		for _, host := range []string{"a", "b", "c", "d"} {
			s.set(host, failing(c.err))
		}
		var body io.Reader
		if c.body != "" {
			body = strings.NewReader(c.body)
		}
		if _, err := send(t, g, c.method, body); !errors.Is(err, c.err) {
			t.Errorf("%s: %v", c.method, err)
		}
		got := s.took()
		want := 1
		if c.again {
			want = 1 + MaxRetries
		}
		seen := map[string]bool{}
		for _, host := range got {
			seen[host] = true
		}
		if len(got) != want || len(seen) != want {
			t.Errorf("%s with body %q after %v went to %v", c.method, c.body, c.err, got)
		}
		for _, m := range g.members {
			if n := m.load.Load(); n != 0 {
				t.Errorf("%d requests count as open at %s", n, m.url.Host)
			}
		}
	}
}

// One server that is gone costs nobody an answer, and is left alone soon.
func TestRetryReachesAnother(t *testing.T) {
	g, s, _ := group(t, nil, 1, 1)
	s.set("a", failing(errDial))
	for range 40 {
		if code, err := send(t, g, "GET", nil); err != nil || code != 200 {
			t.Fatalf("%d %v", code, err)
		}
	}
	if n := strings.Count(strings.Join(s.took(), ""), "a"); n != ejectAfter {
		t.Errorf("a was asked %d times", n)
	}
	if n := g.retrying.Load(); n != 0 {
		t.Errorf("%d retries count as under way", n)
	}
}

// However many fail at once, only a few are sent again.
func TestRetryBudget(t *testing.T) {
	g, s, _ := group(t, nil, 1, 1)
	const many = 50
	begun, release := make(chan struct{}, many), make(chan struct{})
	s.set("b", func(r *http.Request) (*http.Response, error) {
		begun <- struct{}{}
		<-release
		return status(200)(r)
	})
	for n := range 40 { // retries that wait at b
		if !g.mayRetry() {
			if n != retriesAlways {
				t.Fatalf("%d retries at once", n)
			}
			break
		}
	}
	s.set("a", failing(errDial))
	g.members[1].health.down.Store(true) // so that a is first
	if _, err := send(t, g, "GET", nil); !errors.Is(err, errDial) {
		t.Fatalf("%v: sent again beyond the budget", err)
	}
	close(release)
	if len(begun) != 0 {
		t.Error("b was asked")
	}
}

// A request keeps its path and query; the caller's is not changed.
func TestToward(t *testing.T) {
	g, _, _ := group(t, nil, 1)
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://first:1/a%2fb?c=d", nil)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := g.Begin(t.Context(), 0)
	out := toward(req, a)
	if got := out.URL.String(); got != "http://a/a%2fb?c=d" || req.URL.Host != "first:1" {
		t.Errorf("%s; the caller's is %s", got, req.URL)
	}
}
