package broker_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

const platform = `
clients:
  - {client_id: platform, client_secret: platform-secret, grant_types: [client_credentials], scope: "gatehouse:consoles"}
  - {client_id: other, client_secret: other-secret, grant_types: [client_credentials], scope: "deployments:write"}
routes:
  - {name: console, host: "{node}.console.localhost", lease: true}
  - {name: whole, host: "{node}.whole.localhost", lease: true, allow: 'lease.admits && session.connector == "local"'}
consoles: {networks: [127.0.0.0/8]}
`

// platformToken is what the platform's service account calls the API with.
func (h *harness) platformToken(client, scope string) string {
	h.t.Helper()
	return h.tokenAs(client, client+"-secret", map[string][]string{"grant_type": {"client_credentials"}, "scope": {scope}}).json(h.t)["access_token"].(string)
}

// The platform's service account lends a console, the people it names get in at
// once, a heartbeat moves only the end, and taking it back shuts it.
func TestConsoleAPI(t *testing.T) {
	t.Parallel()
	w, up := &watchedStore{}, newUpstream(t, nil)
	h := startWith(t, &harness{yaml: up.routesYAML(platform), wrap: w.watch})
	b := h.browser()
	b.enter("demo", "demo")
	as := func(method, path, body string) answer {
		return h.as(h.platformToken("platform", "gatehouse:consoles"), method, path, body)
	}
	call := func(want int, method, path, body string) map[string]any {
		t.Helper()
		a := as(method, "/api/v1"+path, body)
		if a.StatusCode != want {
			t.Fatalf("%s %s: %d %s", method, path, a.StatusCode, a.Body)
		}
		if a.Body == "" {
			return nil
		}
		return a.json(t)
	}
	opens := func() int { t.Helper(); return b.follow(b.get(h.at("n7.console", "/"))).StatusCode }
	body := fmt.Sprintf(`{"upstream":%q,"node":"node-7","kind":"jupyter","owner":"demo","users":["demo"],"groups":["b","a","a"],"ttl":"10m"}`, up.URL)
	lease := call(200, "PUT", "/consoles/n7", body)
	if lease["url"] != h.at("n7.console", "/") || lease["owner"] == "demo" || lease["kind"] != "jupyter" || fmt.Sprint(lease["groups"]) != "[a b]" {
		t.Errorf("lent: %v", lease)
	}
	if opens() != http.StatusOK {
		t.Fatal("the owner is not let in at once")
	}
	if b.follow(b.get(h.at("n7.whole", "/"))).StatusCode != http.StatusOK {
		t.Error("a route's rule cannot build on what the lease admits")
	}
	// A heartbeat: later, and recorded once.
	h.wait(8 * time.Minute)
	again := call(200, "PUT", "/consoles/n7", body)
	if again["expires"] == lease["expires"] {
		t.Error("a heartbeat does not move the end")
	}
	h.wait(8 * time.Minute)
	if opens() != http.StatusOK {
		t.Error("a lease that is kept alive ends all the same")
	}
	if got := w.named(event.ConsoleLeased); len(got) != 1 || got[0].Target != "n7" || got[0].Actor != "platform" || got[0].Details["owner"] != lease["owner"] {
		t.Errorf("recorded: %+v", got)
	}
	if got := call(200, "GET", "/consoles/n7", "")["node"]; got != "node-7" {
		t.Errorf("read back: %v", got)
	}
	// A list, by owner and by node, page by page.
	for i := range 3 {
		call(200, "PUT", fmt.Sprintf("/consoles/m%d", i), fmt.Sprintf(`{"upstream":%q,"groups":["x"]}`, up.URL))
	}
	for path, want := range map[string]string{"?owner=demo": "n7", "?node=node-7": "n7", "?limit=2": "m0 m1", "?limit=2&after=m1": "m2 n7", "?owner=admin&limit=1": "422"} {
		a := as("GET", "/api/v1/consoles"+path, "")
		var got []string
		if items, ok := a.json(t)["items"].([]any); ok {
			for _, it := range items {
				got = append(got, it.(map[string]any)["id"].(string))
			}
		} else {
			got = append(got, fmt.Sprint(a.StatusCode))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("list %s: %v, want %s", path, got, want)
		}
	}
	// Many at once: each stands or falls by itself.
	many := call(200, "POST", "/consoles", fmt.Sprintf(`{"items":[{"id":"k1","upstream":%[1]q,"groups":["x"]},{"id":"K2","upstream":%[1]q,"groups":["x"]},{"id":"k3","upstream":"http://10.9.9.9","groups":["x"]}]}`, up.URL))
	if many["failed"] != 2.0 || !strings.Contains(fmt.Sprint(many["items"]), "consoles.networks") {
		t.Errorf("bulk: %v", many)
	}
	// What cannot be is refused, says why, and changes nothing.
	for odd, want := range map[string]string{
		`{"upstream":"ftp://x","owner":"demo"}`: "http or https", fmt.Sprintf(`{"upstream":%q,"owner":"nobody-at-all"}`, up.URL): "first sign-in",
		fmt.Sprintf(`{"upstream":%q}`, up.URL): "lets nobody in", fmt.Sprintf(`{"upstream":%q,"owner":"demo","allow":"user.nme == 'x'"}`, up.URL): "nme",
		fmt.Sprintf(`{"upstream":%q,"owner":"demo","ttl":"1s"}`, up.URL): "ttl", `{"upstream":"http://169.254.169.254","owner":"demo"}`: "consoles.networks",
		fmt.Sprintf(`{"upstream":%q,"owner":"demo","tls":{"server_name":"x"}}`, up.URL): "https", `{"upsteam":"x"}`: "upsteam",
	} {
		a := as("PUT", "/api/v1/consoles/n7", odd)
		if a.StatusCode != http.StatusUnprocessableEntity && a.StatusCode != http.StatusBadRequest || !strings.Contains(a.Body, want) {
			t.Errorf("%s: %d %s", odd, a.StatusCode, a.Body)
		}
	}
	if call(200, "GET", "/consoles/n7", "")["kind"] != "jupyter" {
		t.Error("a refused change has changed something")
	}
	call(204, "DELETE", "/consoles/n7", "")
	if got := opens(); got != http.StatusForbidden {
		t.Errorf("after it was taken back: %d", got)
	}
	call(404, "DELETE", "/consoles/n7", "")
	call(200, "PUT", "/consoles/n7", body)
	if opens() != http.StatusOK {
		t.Error("lent again, it stays shut")
	}
	if got := h.as(h.platformToken("other", "deployments:write"), "PUT", "/api/v1/consoles/n7", body).StatusCode; got != http.StatusForbidden && got != http.StatusUnauthorized {
		t.Errorf("a service account without the scope: %d", got)
	}
}

// A watch says what is there, and then each change.
func TestConsoleWatch(t *testing.T) {
	t.Parallel()
	w, up := &watchedStore{}, newUpstream(t, nil)
	h := startWith(t, &harness{yaml: up.routesYAML(platform), wrap: w.watch})
	tok := h.platformToken("platform", "gatehouse:consoles")
	put := func(id, group string) {
		t.Helper()
		if a := h.as(tok, "PUT", "/api/v1/consoles/"+id, fmt.Sprintf(`{"upstream":%q,"groups":[%q],"ttl":"2m"}`, up.URL, group)); a.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", a.StatusCode, a.Body)
		}
	}
	put("n1", "x")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, h.URL+"/api/v1/consoles?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	seen := map[string]bool{}
	expect := func(want string) {
		t.Helper()
		for again := true; again; again = seen[lines.Text()] { // a state may be said twice, none here comes back
			if !lines.Scan() {
				t.Fatalf("the watch ends before %q: %v", want, lines.Err())
			}
		}
		seen[lines.Text()] = true
		var line struct {
			Type, ID string
			Lease    struct{ Groups []string }
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(fmt.Sprint(line.Type, " ", line.ID, " ", strings.Join(line.Lease.Groups, " "))); got != want {
			t.Fatalf("%q, want %q", got, want)
		}
	}
	expect("put n1 x")
	expect("synced")
	put("n1", "y")
	expect("put n1 y")
	put("n1", "y") // a heartbeat is no change
	put("n2", "z")
	expect("put n2 z")
	if a := h.as(tok, "DELETE", "/api/v1/consoles/n2", ""); a.StatusCode != http.StatusNoContent {
		t.Fatal(a.StatusCode)
	}
	expect("gone n2")
	h.wait(3 * time.Minute) // nobody renews n1
	expect("gone n1")
	for deadline := time.Now().Add(20 * time.Second); len(w.named(event.ConsoleReleased)) < 2; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("recorded as released: %+v", w.named(event.ConsoleReleased))
		}
	}
	if last := w.named(event.ConsoleReleased)[1]; last.Target != "n1" || last.Details["reason"] != "expired" {
		t.Errorf("recorded: %+v", last)
	}
}

// A watch ends with the token that it was asked with.
func TestConsoleWatchEndsWithItsToken(t *testing.T) {
	t.Parallel()
	h, _ := gate(t, platform, nil)
	tok := h.platformToken("platform", "gatehouse:consoles")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL+"/api/v1/consoles?watch=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	if !lines.Scan() {
		t.Fatal(lines.Err())
	}
	h.wait(time.Hour)
	for lines.Scan() {
	}
	if err := lines.Err(); err != nil {
		t.Errorf("it does not end: %v", err)
	}
}
