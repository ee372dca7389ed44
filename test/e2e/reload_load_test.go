//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// SIGHUP under load: routes come and go twenty times while requests are made and
// sockets are open. No request fails and no socket ends; a file that is broken
// changes nothing.
func TestReloadUnderLoad(t *testing.T) {
	upstream := chatter(t)
	// The demo ends by SIGHUP, so this is none: behind a terminator of TLS, and
	// programs alone come by.
	const rest = `
issuer: https://sso.localhost
trusted_proxies: [127.0.0.1/32]
local: {users: []}
resources: [{name: demo-api, scopes: {deployments:write: {en: Start deployments, zh-CN: 启动部署}}}]
`
	routes := fmt.Sprintf("routes:\n  - {name: api, host: api.localhost, upstream: %q, audience: demo-api, auth: [api_key]}\n", upstream)
	extra := fmt.Sprintf("  - {name: extra, host: extra.localhost, upstream: %q, audience: demo-api, auth: [api_key]}\n", upstream)
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": rest + routes, "data/admin.token": strings.Repeat("operator", 6)})
	g := serve(t, dir, nil, "GATEHOUSE_SECRET_KEY="+testSecretKey)
	defer func() {
		if t.Failed() {
			t.Logf("%s", g.out)
		}
	}()
	key, _ := g.key("load")
	at := strings.Replace(g.URL, "127.0.0.1", "api.localhost", 1) + "/"
	var sockets []*socket
	for range 20 {
		sockets = append(sockets, opens(t, g, at, http.Header{"Authorization": {"Bearer " + key}}))
	}

	var done, failed atomic.Int64
	var stop atomic.Bool
	var load sync.WaitGroup
	for range 4 {
		load.Go(func() {
			// Connections that are kept, and a new one now and then.
			c := *newPerson(t, g).client
			tr := c.Transport.(*http.Transport)
			tr.DisableKeepAlives = false
			defer tr.CloseIdleConnections()
			for n := 0; !stop.Load(); n++ {
				req, err := http.NewRequest(http.MethodGet, at, nil)
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("Authorization", "Bearer "+key)
				resp, err := c.Do(req)
				if err != nil || resp.StatusCode != http.StatusOK {
					failed.Add(1)
					t.Errorf("a request: %v, %v", resp, err)
					return
				}
				resp.Body.Close()
				done.Add(1)
				if n%100 == 99 {
					tr.CloseIdleConnections()
				}
			}
		})
	}
	file := filepath.Join(dir, "config", "gatehouse.yml")
	swap := func(text string) {
		t.Helper()
		// By renaming: a half-written file is another test.
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		if err := g.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	// present asks whether the extra route is there: 401 of it, 421 of no host.
	stranger := newPerson(t, g)
	present := func() bool {
		s := stranger.send(http.MethodGet, strings.Replace(g.URL, "127.0.0.1", "extra.localhost", 1)+"/", nil, "Accept", "application/json").StatusCode
		if s != http.StatusUnauthorized && s != http.StatusMisdirectedRequest && s != http.StatusSeeOther {
			t.Errorf("the extra route: %d", s)
		}
		return s == http.StatusUnauthorized
	}
	for i := range 20 {
		text, want := rest+routes, i%2 == 0
		if want {
			text += extra
		}
		swap(text)
		eventually(t, 10*time.Second, "the reload took", func() bool { return present() == want })
	}
	swap(rest + routes + "  - {name: broken, host: 7, upstream: nowhere, allow: '('}\nnonsense: true\n")
	rejected := func() bool {
		_, said := get(t, g.Admin+"/metrics")
		return strings.Contains(said, `gatehouse_events_total{event="config.rejected"} 1`)
	}
	eventually(t, 10*time.Second, "the broken file is refused", rejected)
	if present() {
		t.Error("a broken file changed the routes")
	}
	for before := done.Load(); done.Load() < max(before+100, 1000) && failed.Load() == 0; {
		time.Sleep(10 * time.Millisecond)
	}
	stop.Store(true)
	load.Wait()
	for i, s := range sockets {
		if _, err := s.conn.Write([]byte{0x89, 0x80, 0, 0, 0, 0}); err != nil { // a ping
			t.Fatal(err)
		}
		if op, _, err := s.frame(3 * time.Second); err != nil || op != 10 {
			t.Errorf("socket %d: opcode %d, %v", i, op, err)
		}
	}
	t.Logf("%d requests and %d sockets through 21 reloads, %d failed", done.Load(), len(sockets), failed.Load())
}
