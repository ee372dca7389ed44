//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// memory is what the kernel says of the process, in bytes: VmRSS now, VmHWM the
// most so far.
func (g *gatehouse) memory(field string) int64 {
	g.t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.cmd.Process.Pid))
	if err != nil {
		g.t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		if v, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				g.t.Fatal(err)
			}
			return kib << 10
		}
	}
	g.t.Fatalf("no %s in /proc", field)
	return 0
}

// zeros is a body of n bytes.
func zeros(n int64) io.Reader { return io.LimitReader(endless{}, n) }

type endless struct{}

func (endless) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// serveRoute starts the program with one route to an upstream, and returns a token
// for it.
func serveRoute(t *testing.T, upstream, more string) (*gatehouse, string) {
	t.Helper()
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf("routes: [{name: demo-api, host: api.localhost, upstream: %q, audience: demo-api%s}]\n", upstream, more)})
	g := serve(t, dir, []string{"--dev"})
	status, tok := newPerson(t, g).token(map[string][]string{"grant_type": {"client_credentials"}, "scope": {"deployments:write"}})
	if status != http.StatusOK {
		t.Fatal(status, tok)
	}
	return g, fmt.Sprint(tok["access_token"])
}

// Large uploads and downloads, with a length and in chunks, pass through at the
// memory that they have without: the first bytes are there before the last are
// sent.
func TestLargeBodies(t *testing.T) {
	first := make(chan struct{}, 10)
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		one, err := io.CopyN(io.Discard, r.Body, 1)
		if err == nil {
			first <- struct{}{}
		}
		n, _ := io.Copy(io.Discard, r.Body)
		w.Header().Set("X-Got", fmt.Sprint(one+n))
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(largeBody))
		}
		_, _ = io.Copy(w, zeros(largeBody))
	}))
	defer up.Close()
	g, token := serveRoute(t, up.URL, "")
	client := newPerson(t, g).client
	client.Timeout = 0
	before := g.memory("VmHWM")
	for _, length := range []int64{-1, largeBody} {
		half := make(chan struct{})
		body := io.MultiReader(zeros(largeBody/2), &gateOnce{open: half}, zeros(largeBody-largeBody/2))
		at := strings.Replace(g.URL, "127.0.0.1", "api.localhost", 1) + "/"
		if length > 0 {
			at += "?length"
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, at, body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = length
		req.Header.Set("Authorization", "Bearer "+token)
		go func() { // the second half is not sent before the first byte is there
			select {
			case <-first:
			case <-time.After(time.Minute):
				t.Error("the upstream has nothing of what was sent a minute ago")
			}
			close(half)
		}()
		began := time.Now()
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != largeBody || resp.Header.Get("X-Got") != fmt.Sprint(largeBody) || (resp.ContentLength > 0) != (length > 0) {
			t.Errorf("length %d: %d bytes back, %v; the upstream got %s", length, n, err, resp.Header.Get("X-Got"))
		}
		t.Logf("length %d: %d MiB up and down in %v; at most %d MiB of memory, %d before", length, largeBody>>20, time.Since(began).Round(time.Millisecond), g.memory("VmHWM")>>20, before>>20)
	}
	if most := g.memory("VmHWM"); most > before+48<<20 {
		t.Errorf("memory rose from %d to %d MiB", before>>20, most>>20)
	}
}

// gateOnce gives nothing, but not before it is open.
type gateOnce struct{ open <-chan struct{} }

func (g *gateOnce) Read([]byte) (int, error) {
	<-g.open
	return 0, io.EOF
}
