package broker_test

import (
	"bufio"
	"database/sql"
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// found asks the audit log as the operator.
func (h *harness) found(query string) (items []map[string]any, page map[string]any) {
	h.t.Helper()
	a := h.operator(http.MethodGet, "/api/v1/audit/events?"+query, "")
	if a.StatusCode != http.StatusOK {
		h.t.Fatalf("%s: %d %s", query, a.StatusCode, a.Body)
	}
	page = a.json(h.t)
	for _, it := range page["items"].([]any) {
		items = append(items, it.(map[string]any))
	}
	return items, page
}

// Whoever asks finds what has just happened, by person, address, name, time,
// reference and text, page by page; what cannot be asked is said.
func TestAuditSearch(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	h.in("demo")
	h.in("aud")
	h.browser().try("demo", "wrong")
	id := h.userID("demo")

	all, _ := h.found("limit=500")
	if len(all) < 5 || all[0]["name"] != "signin.failed" || all[0]["time"].(string) < all[1]["time"].(string) {
		t.Fatalf("all: %v", all)
	}
	for query, want := range map[string]int{
		"name=signin.succeeded": 2, "name=signin.*&actor=demo": 1, "actor=" + id: 2, "actor=demo%40example.com": 2, "person=demo&name=signin.failed": 1,
		"name=signin.failed,user.created&ip=127.0.0.1": 3, "ip=192.0.2.1": 0, "severity=critical": 0, "connector=local&name=signin.failed": 1,
		"text=CREDENTIALS&name=signin.*": 1, "ref=" + all[0]["ref"].(string): 1, "ref=" + all[0]["request_id"].(string): 1,
		"after=2100-01-01": 0, "before=2020-01-01T00:00:00Z": 0, "actor=nobody": 0, "after=2020-01-01&before=2100-01-01&name=signin.succeeded&order=oldest": 2,
	} {
		if got, _ := h.found(query); len(got) != want {
			t.Errorf("%s finds %d, want %d: %v", query, len(got), want, got)
		}
	}
	// Names are looked up when shown; no event holds one (ST-5).
	named, _ := h.found("name=signin.succeeded&actor=demo&names=true")
	if named[0]["actor_name"] != "DEMO Surname" || strings.Contains(h.operator(http.MethodGet, "/api/v1/audit/events?limit=500", "").Body, "Surname") {
		t.Errorf("names: %v", named)
	}
	// Page by page, each event once.
	seen, cursor := map[any]bool{}, ""
	for range 100 {
		items, page := h.found("limit=2&before=" + url.QueryEscape(h.now().Add(time.Hour).UTC().Format(time.RFC3339)) + "&cursor=" + cursor)
		for _, it := range items {
			if seen[it["id"]] {
				t.Fatalf("%v comes twice", it)
			}
			seen[it["id"]] = true
		}
		if cursor, _ = page["next"].(string); cursor == "" {
			break
		}
	}
	if len(seen) < len(all) {
		t.Errorf("%d events on pages, %d at once", len(seen), len(all))
	}
	for _, odd := range []string{"name=nothing", "severity=bad", "order=up", "after=yesterday", "limit=0", "limit=x", "cursor=x", "names=1", "format=xml", "format=csv&limit=0", "text=" + strings.Repeat("a", 257), "unknown=1"} {
		if a := h.operator(http.MethodGet, "/api/v1/audit/events?"+odd, ""); a.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d %s", odd, a.StatusCode, a.Body)
		}
	}
	// A restart finds the same, with the file or without.
	for range 2 {
		h.stop()
		h.run()
		if again, _ := h.found("name=signin.*"); len(again) != 3 {
			t.Errorf("after a restart: %v", again)
		}
		for _, suffix := range []string{"", "-wal", "-shm"} {
			os.Remove(filepath.Join(h.dir, "data", "audit-index.db"+suffix))
		}
	}
}

// AD-9: an export is whole, and no cell of it is a formula.
func TestAuditExport(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	h.in("demo")
	evil := h.browser()
	evil.Header.Set("User-Agent", `=HYPERLINK("http://evil.example","x")`)
	evil.try("demo", "wrong")
	a := h.operator(http.MethodGet, "/api/v1/audit/events?format=csv&names=true", "")
	if a.Header.Get("Content-Type") != "text/csv; charset=utf-8" || a.Header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(a.Header.Get("Content-Disposition"), "attachment") {
		t.Errorf("headers %v", a.Header)
	}
	rows, err := csv.NewReader(strings.NewReader(a.Body)).ReadAll()
	if err != nil || len(rows) < 4 || rows[0][0] != "time" || rows[1][10] != `'=HYPERLINK("http://evil.example","x")` {
		t.Fatalf("%v %v", rows, err)
	}
	all, _ := h.found("limit=500")
	lines := strings.Split(strings.TrimSpace(h.operator(http.MethodGet, "/api/v1/audit/events?format=jsonl", "").Body), "\n")
	if len(lines) < len(rows)-1 || len(lines) < len(all) {
		t.Errorf("%d lines, %d rows, %d on a page", len(lines), len(rows), len(all))
	}
	for _, line := range lines {
		var e struct{ Name event.Name }
		if err := json.Unmarshal([]byte(line), &e); err != nil || e.Name == "" {
			t.Errorf("%q: %v", line, err)
		}
	}
	if got := strings.Count(h.operator(http.MethodGet, "/api/v1/audit/events?format=jsonl&limit=2", "").Body, "\n"); got != 2 {
		t.Errorf("limit=2 gave %d lines", got)
	}
}

// Everybody sees what happened to their own account, and of what others did
// there neither who nor from where.
func TestOwnEvents(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	demo := h.in("demo")
	admin := h.in("admin")
	id, adminID := h.userID("demo"), h.userID("admin")
	h.browser().try("demo", "wrong")
	other := h.in("demo")
	if a := admin.page(http.MethodDelete, "/api/v1/sessions/"+other.call(http.MethodGet, "/api/v1/me", "", "Sec-Fetch-Site", "same-origin").json(t)["session"].(string), ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	a := demo.page(http.MethodGet, "/api/v1/me/events", "")
	by := map[string]int{}
	for _, it := range a.json(t)["items"].([]any) {
		e := it.(map[string]any)
		by[e["by"].(string)]++
		if e["by"] == "somebody" && (e["name"] != "session.revoked" || e["ip"] != nil || e["agent"] != nil) {
			t.Errorf("what an admin did: %v", e)
		}
	}
	if by["somebody"] != 1 || by["me"] < 2 || by["gatehouse"] != 1 || strings.Contains(a.Body, adminID) {
		t.Errorf("%v: %s", by, a.Body)
	}
	if b := admin.page(http.MethodGet, "/api/v1/me/events", ""); strings.Contains(b.Body, id) {
		t.Errorf("the admin's own log tells of demo: %s", b.Body)
	}
	if a := demo.page(http.MethodGet, "/api/v1/me/events?cursor=odd", ""); a.StatusCode != http.StatusBadRequest {
		t.Errorf("an odd cursor: %d", a.StatusCode)
	}
	page := demo.get("/account/security-log")
	for _, want := range []string{"Signed in", "Sign-in failed", "by an administrator or a service", "127.0.0.1", "Chrome"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if a := h.browser().get("/account/security-log"); a.StatusCode == http.StatusOK {
		t.Errorf("a stranger: %d", a.StatusCode)
	}
	if a := demo.get("/account/security-log?cursor=odd"); a.StatusCode != http.StatusBadRequest {
		t.Errorf("an odd cursor on the page: %d", a.StatusCode)
	}
}

// The log that a running server gives verifies under its key; a record that was
// changed in its file does not.
func TestAuditBundle(t *testing.T) {
	t.Parallel()
	h := start(t, staff())
	h.in("demo")
	key, err := event.ParsePublicKey([]byte(h.operator(http.MethodGet, "/api/v1/audit/key", "").json(t)["public_key"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	verify := func() event.Report {
		t.Helper()
		b, err := event.ReadBundle(bufio.NewReader(strings.NewReader(h.operator(http.MethodGet, "/api/v1/audit/bundle", "").Body)))
		if err != nil {
			t.Fatal(err)
		}
		r, err := event.Verification{Key: key, Now: h.now()}.Run(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	var r event.Report
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if r = verify(); r.Blocks > 0 && r.Records > 0 && r.Unsealed == 0 {
			break
		}
	}
	if len(r.Faults) > 0 || r.Unsealed > 0 || r.Records < 2 {
		t.Fatalf("%+v", r)
	}
	h.stop()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(h.dir, "data", "gatehouse.db"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`update log set entry = cast(replace(entry, 'signin.succeeded', 'signin.failed') as blob) where topic = 'events' and instr(entry, 'signin.succeeded')`); err != nil {
		t.Fatal(err)
	}
	db.Close()
	h.run()
	if r := verify(); len(r.Faults) != 1 || r.Faults[0].Name != event.RecordAltered {
		t.Errorf("%+v", r)
	}
}

// A data folder in which no index can be made costs the search, and nothing
// else.
func TestAuditWithoutIndex(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data", "audit-index.db", "in-the-way"), 0o700); err != nil {
		t.Fatal(err)
	}
	h := startIn(t, dir, staff())
	demo := h.in("demo")
	for _, path := range []string{"/api/v1/audit/events", "/api/v1/audit/events?format=csv"} {
		if a := h.operator(http.MethodGet, path, ""); a.StatusCode != http.StatusServiceUnavailable || a.json(t)["code"] != "audit.index" {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.Body)
		}
	}
	if a := demo.get("/account/security-log"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the page: %d", a.StatusCode)
	}
	if a := h.operator(http.MethodGet, "/api/v1/audit/bundle", ""); a.StatusCode != http.StatusOK || !strings.Contains(a.Body, `{"end":`) {
		t.Errorf("the log itself: %d %s", a.StatusCode, a.Body)
	}
}

// FuzzAuditSearch: whatever is asked of the audit log, the answer is a page or says
// what cannot be asked: nothing is our fault, and nobody waits.
func FuzzAuditSearch(f *testing.F) {
	for _, q := range []string{"", "name=signin.*,key.rotated&actor=demo", "after=2026-11-26&before=2026-11-27T00:00:00Z&order=oldest", "ip=127.0.0.1&severity=warning&text=%25_%27%22", "ref=GH-7F3K-29QD&limit=3",
		"cursor=AAAA", "person=demo%40example.com&names=true", "name=%00&text=%ff%fe&actor=../..", "limit=-1", "limit=99999999999999999999", "after=0000-01-01&before=9999-12-31T23:59:59%2B23:59", "text=" + strings.Repeat("%F0%9F%98%80", 60), "format=csv&limit=2", "a=1;b=2", "name=" + strings.Repeat("*,", 127)} {
		f.Add(q)
	}
	h := start(f, staff())
	h.in("demo")
	b, token := h.browser(), h.adminToken()
	f.Fuzz(func(t *testing.T, query string) {
		req, err := http.NewRequest(http.MethodGet, h.Admin+"/api/v1/audit/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.URL.RawQuery = query
		if again, err := url.ParseRequestURI(req.URL.RequestURI()); err != nil || again.RawQuery != query || strings.ContainsFunc(query, func(c rune) bool { return c <= ' ' || c == 0x7f }) {
			return // cannot be sent
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := b.client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusBadRequest || resp.StatusCode == http.StatusBadRequest && !strings.Contains(string(body), `"ref":"GH-`) {
			t.Errorf("%q: %d %s %v", query, resp.StatusCode, body, err)
		}
	})
}
