//go:build e2e

package e2e

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// sink is an answer of which only the status and the cookie matter.
type sink struct {
	header http.Header
	code   int
}

func (s *sink) Header() http.Header { return s.header }

func (s *sink) Write(b []byte) (int, error) { return len(b), nil }

func (s *sink) WriteHeader(code int) { s.code = code }

// One million anonymous authorize requests from as many addresses leave the
// store as it was, in rows and in bytes. The handler is driven without a
// network: what is counted is what it writes.
func TestMillionAnonymousRequests(t *testing.T) {
	const total = 1_000_000
	dir := t.TempDir()
	env := map[string]string{"GATEHOUSE_LISTEN": "127.0.0.1:8080", "GATEHOUSE_DATA": filepath.Join(dir, "data")}
	cfg, findings, err := config.Parse([]config.Document{{Name: "test.yml", YAML: []byte("trusted_proxies: [127.0.0.1/32]\n")}},
		config.LoadOptions{Types: broker.Types(), Dev: true, Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	if err != nil {
		t.Fatalf("%v\n%v", err, findings)
	}
	b, err := broker.New(context.Background(), cfg, broker.Options{Version: "test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	h := b.Handler()
	query := url.Values{"response_type": {"code"}, "client_id": {"demo-app"}, "redirect_uri": {"http://127.0.0.1:5555/callback"}, "scope": {"openid profile offline_access"},
		"state": {"af0ifjsldkj"}, "nonce": {"n-0S6_WzA2Mj"}, "code_challenge": {"E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"}, "code_challenge_method": {"S256"}}.Encode()
	target := &url.URL{Path: "/oauth2/authorize", RawQuery: query}
	ask := func(n int) *sink {
		w := &sink{header: http.Header{}}
		h.ServeHTTP(w, (&http.Request{Method: http.MethodGet, URL: target, Host: "127.0.0.1:8080", RemoteAddr: "127.0.0.1:1", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody, RequestURI: target.RequestURI(),
			Header: http.Header{"Accept": {"text/html"}, "Accept-Language": {"en"}, "X-Forwarded-For": {fmt.Sprintf("11.%d.%d.%d", n>>16&255, n>>8&255, n&255)}}}).WithContext(context.Background()))
		return w
	}
	ask(0)
	rowsBefore, sizeBefore := storeState(t, dir)
	var next, refused atomic.Int64
	var wg sync.WaitGroup
	for range runtime.NumCPU() {
		wg.Go(func() {
			for n := next.Add(1); n <= total; n = next.Add(1) {
				w := ask(int(n))
				if w.code != http.StatusSeeOther || !strings.HasPrefix(w.header.Get("Set-Cookie"), "gatehouse-attempt-") {
					refused.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := refused.Load(); n != 0 {
		t.Errorf("%d of %d requests began no sign-in", n, total)
	}
	rows, size := storeState(t, dir)
	if !maps.Equal(rows, rowsBefore) || size != sizeBefore {
		t.Errorf("the store went from %v (%d bytes) to %v (%d bytes)", rowsBefore, sizeBefore, rows, size)
	}
}

// storeState counts the rows of an embedded store by kind, and its bytes.
func storeState(t *testing.T, dir string) (map[string]int, int64) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "data", "gatehouse.db")+"?mode=ro")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.Query("SELECT kind, count(*) FROM items GROUP BY kind UNION ALL SELECT 'log', count(*) FROM log")
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	out := map[string]int{}
	for rows.Next() {
		var kind string
		var n int
		if err := rows.Scan(&kind, &n); err != nil {
			t.Fatal(err)
		}
		out[kind] = n
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(dir, "data", "gatehouse.db*"))
	if err != nil {
		t.Fatal(err)
	}
	var size int64
	for _, name := range files {
		if strings.HasSuffix(name, "-shm") {
			continue // an index in memory that readers make
		}
		fi, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		size += fi.Size()
	}
	return out, size
}
