package broker_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
)

// staff is a deployment with somebody in every role: admin, aud, help, and demo
// without any. Passwords are the user names.
func staff() string {
	return `roles: {admin: ["local:admin"], auditor: ["group:auditors"], support: ["group:helpdesk"]}
local:
  users:
    - {username: admin, name: ADMIN Surname, email: admin@example.com, groups: [platform-admins], password_hash: "$argon2id$v=19$m=19456,t=2,p=1$Hlt+eLHGUyR8voN7/qoU3w$LCT1AcF+L+bOF21Cza43CL+asso2v8wNFAFid8klBfs"}
    - {username: aud, name: AUD Surname, email: aud@example.com, groups: [auditors], password_hash: "$argon2id$v=19$m=19456,t=2,p=1$gV5CRbHKqbWNBwpPqaV8Cw$4I5xXnkWdoeZMAdgkMyez4PbDL6ZKhnzFQk6o++EC5s"}
    - {username: help, name: HELP Surname, email: help@example.com, groups: [helpdesk], password_hash: "$argon2id$v=19$m=19456,t=2,p=1$8K731EqqGAf2M2pQN4IOYQ$1GghJYEnBzhDiy6mPhZ7MvM978LylDr2e0xfYAvro/Q"}
    - {username: demo, name: DEMO Surname, email: demo@example.com, groups: [gpu-users], password_hash: "$argon2id$v=19$m=19456,t=2,p=1$fLPwHy40dgLraRpXhnUZqg$S6hGkbQ0/LseniYdazF5HwPL26Lqz38MGFMCpp1YiLE"}
    - {username: other, name: OTHER Surname, email: other@example.com, groups: [gpu-users], password_hash: "$argon2id$v=19$m=19456,t=2,p=1$ixeyMXMM8aZSeDd1Gfb0tQ$vKeR25nVg89n42Eh97E9TQ0xXQqJkSAe5LxyjTxh92E"}
clients:
  - {client_id: demo-app, client_secret: demo-secret, redirect_uris: ["http://127.0.0.1:5555/callback"], grant_types: [authorization_code, refresh_token, client_credentials], scope: openid profile email groups offline_access, audiences: [demo-api], trusted: true}
  - {client_id: third, client_secret: third-secret, redirect_uris: ["http://127.0.0.1:5555/callback"], grant_types: [authorization_code, refresh_token], scope: openid profile offline_access, trusted: false}
  - {client_id: robot, client_secret: robot-secret, redirect_uris: [], grant_types: [client_credentials], scope: gatehouse:admin}
`
}

const cliCallback = "http://127.0.0.1:7777/callback"

// cli signs in to our own command line by loopback, in a browser that is signed
// in, and returns the access token.
func (b *browser) cli(scope string) string {
	b.h.t.Helper()
	q := authRequest()
	q.Set("client_id", "gatehouse-cli")
	q.Set("redirect_uri", cliCallback)
	q.Set("scope", scope)
	c := &browser{h: b.h, client: b.h.browser().client, Header: http.Header{}}
	req, err := http.NewRequest(http.MethodPost, b.h.URL+"/oauth2/token", strings.NewReader(url.Values{"grant_type": {"authorization_code"}, "client_id": {"gatehouse-cli"},
		"code": {b.code(q)}, "redirect_uri": {cliCallback}, "code_verifier": {verifier}}.Encode()))
	if err != nil {
		b.h.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	a := c.do(req)
	if a.StatusCode != http.StatusOK {
		b.h.t.Fatalf("token endpoint: %d %s", a.StatusCode, a.Body)
	}
	return a.json(b.h.t)["access_token"].(string)
}

// in returns a browser in which somebody of staff is signed in.
func (h *harness) in(user string) *browser {
	h.t.Helper()
	b := h.browser()
	b.enter(user, user)
	return b
}

// call sends a request of the API: a body is JSON, headers come in pairs.
func (b *browser) call(method, u, body string, headers ...string) answer {
	b.h.t.Helper()
	req, err := http.NewRequest(method, b.absolute(u), strings.NewReader(body))
	if err != nil {
		b.h.t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return b.do(req)
}

// page calls as a script of the portal's own pages does.
func (b *browser) page(method, u, body string) answer {
	b.h.t.Helper()
	return b.call(method, u, body, "Sec-Fetch-Site", "same-origin", "Origin", b.h.URL, "Content-Type", "application/json")
}

// as calls with a bearer token and without cookies.
func (h *harness) as(token, method, u, body string, headers ...string) answer {
	h.t.Helper()
	return h.browser().call(method, u, body, append([]string{"Authorization", "Bearer " + token}, headers...)...)
}

// operator calls the private listener with data/admin.token.
func (h *harness) operator(method, path, body string) answer {
	h.t.Helper()
	return h.as(h.adminToken(), method, h.Admin+path, body)
}

func (h *harness) adminToken() string {
	h.t.Helper()
	raw, err := os.ReadFile(filepath.Join(h.dir, "data", "admin.token"))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.TrimSpace(string(raw))
}

// watchedStore shows what the broker writes, and can refuse to log.
type watchedStore struct {
	store.Store
	mu      sync.Mutex
	events  []event.Event
	raw     []string
	writes  int
	failing bool
}

// watch is for harness.wrap.
func (s *watchedStore) watch(inner store.Store) store.Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Store = inner
	return s
}

func (s *watchedStore) Append(ctx context.Context, topic string, entry []byte) (uint64, error) {
	s.mu.Lock()
	failing := s.failing
	if !failing {
		var e event.Event
		if json.Unmarshal(entry, &e) == nil {
			s.events = append(s.events, e)
		}
		s.raw = append(s.raw, string(entry))
		if topic == event.Topic {
			s.writes++
		}
	}
	s.mu.Unlock()
	if failing {
		return 0, fmt.Errorf("append: the disk is full: %w", store.ErrUnavailable)
	}
	return s.Store.Append(ctx, topic, entry)
}

func (s *watchedStore) Put(ctx context.Context, it store.Item) (uint64, error) {
	s.count(it.Key)
	return s.Store.Put(ctx, it)
}

func (s *watchedStore) Delete(ctx context.Context, k store.Key) error {
	s.count(k)
	return s.Store.Delete(ctx, k)
}

// count leaves out what the readers of the event log write in their own time.
func (s *watchedStore) count(k store.Key) {
	for _, readers := range []string{"audit-", "event-sink", "detection", "notify-"} {
		if strings.HasPrefix(k.Kind, readers) {
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
}

func (s *watchedStore) fail(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failing = on
}

func (s *watchedStore) written() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.writes
}

// named returns the events of a name.
func (s *watchedStore) named(n event.Name) []event.Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []event.Event
	for _, e := range s.events {
		if e.Name == n {
			out = append(out, e)
		}
	}
	return out
}

// log returns all entries as they were written.
func (s *watchedStore) log() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.raw, "\n")
}

// userID returns the id of an account by its user name.
func (h *harness) userID(name string) string {
	h.t.Helper()
	a := h.operator(http.MethodGet, "/api/v1/users?q="+name, "")
	items, _ := a.json(h.t)["items"].([]any)
	if len(items) != 1 {
		h.t.Fatalf("user %s: %d %s", name, a.StatusCode, a.Body)
	}
	return items[0].(map[string]any)["id"].(string)
}
