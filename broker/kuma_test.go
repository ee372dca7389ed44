package broker_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/remotegpu/gatehouse/broker/store"
)

// unreachable is a store that answers nothing while it is away.
type unreachable struct {
	store.Store
	away *atomic.Bool
}

func (s unreachable) Check(ctx context.Context) ([]string, error) {
	if s.away.Load() {
		return nil, errors.New("dial tcp 10.0.0.7:6379: connection refused")
	}
	return s.Store.Check(ctx)
}

// A replica tells its push monitor what /readyz says: at once, at another address
// after a reload, and that it is down when the store is. The monitor's token is in
// no log.
func TestUptimeKuma(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var beats []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		q := r.URL.Query()
		beats = append(beats, strings.TrimPrefix(r.URL.Path, "/api/push/")+" "+q.Get("status")+" "+q.Get("msg"))
		if q.Get("ping") == "" || q.Get("ping") == "0" {
			t.Errorf("ping %q", q.Get("ping"))
		}
		fmt.Fprint(w, `{"ok":true}`)
	}))
	defer srv.Close()
	said := func(want string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return len(beats) > 0 && beats[len(beats)-1] == want
		}
	}
	var away atomic.Bool
	out := &captured{}
	push := func(token string) string {
		return fmt.Sprintf("uptime_kuma: {push_url: \"%s/api/push/%s\"}\n", srv.URL, token)
	}
	h := startWith(t, &harness{yaml: push("t0kenOne"), log: slog.NewJSONHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug}),
		wrap: func(s store.Store) store.Store { return unreachable{s, &away} }})
	until(t, "the first beat", said("t0kenOne up ready"))
	reload := func(yaml string) {
		t.Helper()
		h.mu.Lock()
		h.yaml = yaml
		h.mu.Unlock()
		if r, err := h.b.Reload(t.Context(), "test"); err != nil || len(r.Restart) > 0 {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	reload(push("t0kenTwo"))
	until(t, "the beat after a reload", said("t0kenTwo up ready"))
	away.Store(true)
	reload(push("t0kenThree") + "ldap: {host: 127.0.0.1, port: 1, base_dn: \"dc=x\", bind_dn: \"cn=x\", bind_password: x}\n")
	until(t, "the beat without a store", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(beats) > 0 && strings.HasPrefix(beats[len(beats)-1], "t0kenThree down failed: store")
	})
	reload("uptime_kuma: {push_url: \"http://127.0.0.1:1/api/push/t0kenFour\"}\n")
	until(t, "the log", func() bool { return strings.Contains(out.text(), "Uptime Kuma was not told") })
	h.stop()
	if strings.Contains(out.text(), "t0ken") {
		t.Errorf("the token is in the log:\n%s", out.text())
	}
}
