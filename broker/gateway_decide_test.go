package broker_test

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/console"
)

// What a rule says holds for every request; only one that reads no request is
// kept (GW-13), and one that cannot be evaluated refuses (AD-10).
func TestGatewayRules(t *testing.T) {
	t.Parallel()
	h, up := gate(t, `
routes:
  - {name: group, host: group.localhost, upstream: UP, allow: '"gpu-users" in user.groups'}
  - {name: admins, host: admins.localhost, upstream: UP, allow: '"platform-admins" in user.groups'}
  - {name: reads, host: reads.localhost, upstream: UP, allow: 'request.method == "GET" && !request.path.startsWith("/secret")'}
  - {name: fresh, host: fresh.localhost, upstream: UP, allow: 'session.age < duration("5m")'}
  - {name: wrong, host: wrong.localhost, upstream: UP, audience: demo-api, allow: 'client.id != "x"'}
  - {name: who, host: who.localhost, upstream: UP, allow: 'identity.connector == "local" && identity.org == "local" && session.kind == "browser" && session.scope == [] && route.name == "who" && user.username == "demo"'}
`, nil)
	b := h.browser()
	b.enter("demo", "demo")
	for host, want := range map[string]int{"group": 200, "admins": 403, "reads": 200, "fresh": 200, "wrong": 403, "who": 200} {
		if a := b.follow(b.get(h.at(host, "/"))); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", host, a.StatusCode, want)
		}
	}
	for range 2 { // the second time from memory, if at all
		if a := b.get(h.at("reads", "/secret/x")); a.StatusCode != http.StatusForbidden {
			t.Errorf("the decision of another path was kept: %d", a.StatusCode)
		}
		if a := b.get(h.at("reads", "/x")); a.StatusCode != http.StatusOK {
			t.Errorf("reads: %d", a.StatusCode)
		}
		if a := b.post(h.at("reads", "/x"), nil); a.StatusCode != http.StatusForbidden {
			t.Errorf("the decision of another method was kept: %d", a.StatusCode)
		}
	}
	h.wait(6 * time.Minute)
	if a := b.get(h.at("fresh", "/")); a.StatusCode != http.StatusForbidden {
		t.Errorf("the decision outlived session.age: %d", a.StatusCode)
	}
	// A token's client is a client; its rule is evaluated.
	if a := h.bearer(h.at("wrong", "/"), h.service("")); a.StatusCode != http.StatusOK {
		t.Errorf("with a client: %d", a.StatusCode)
	}

	// The refusal as a page and as JSON; it tells nothing of the rule.
	up.mu.Lock()
	up.seen = nil
	up.mu.Unlock()
	page := b.get(h.at("admins", "/"), "Accept-Language", "zh-CN")
	for _, want := range []string{"policy.denied", `lang="zh-CN"`, "GH-", h.URL + "/signout"} {
		if !strings.Contains(page.Body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	h.refused("page", page, 403, "policy.denied")
	js := b.get(h.at("admins", "/"), "Accept", "application/json")
	h.refused("JSON", js, 403, "policy.denied")
	if js.json(t)["error"] != "forbidden" || strings.Contains(page.Body+js.Body, "platform-admins") {
		t.Errorf("JSON: %s", js.Body)
	}
	if len(up.requests()) > 0 {
		t.Error("a refused request reached the upstream")
	}
}

// Leases: owner and invited, by id or group, until it expires; a change holds at
// once; the address is the lease's and lies in consoles.networks (GW-12).
func TestGatewayLeases(t *testing.T) {
	t.Parallel()
	h, up := gate(t, plainRoutes+`
  - {name: ruled, host: "{node}.ruled.localhost", lease: true, allow: 'lease.kind == "jupyter" && user.id in lease.users'}
consoles: {networks: [127.0.0.1/32]}
`, nil)
	b := h.browser()
	b.enter("demo", "demo")
	var me string
	h.lend(console.Lease{ID: "g", Upstream: up.URL, Owner: "x", Groups: []string{"gpu-users"}})
	b.open(h.at("g.console", "/"))
	me = up.last(t).Header.Get("X-Gatehouse-User")
	try := func(id string) answer { t.Helper(); return b.follow(b.get(h.at(id, "/"))) }
	for id, l := range map[string]console.Lease{
		"owner": {Owner: me}, "invited": {Owner: "x", Users: []string{"y", me}},
		"other": {Owner: "x", Users: []string{"y"}, Groups: []string{"platform-admins"}}, "nobody": {Groups: []string{"platform-admins"}},
		"ruled-in": {Owner: "x", Allow: `user.username == "demo"`}, "ruled-out": {Owner: "x", Allow: `user.username == "admin"`}, "absent": {Groups: []string{"nobody"}, Allow: `lease.owner == user.id`},
	} {
		l.ID, l.Upstream = id, up.URL
		h.lend(l)
		want := map[bool]int{true: 200, false: 403}[id == "owner" || id == "invited" || id == "ruled-in"]
		if a := try(id + ".console"); a.StatusCode != want {
			t.Errorf("%s: %d, want %d", id, a.StatusCode, want)
		}
	}
	h.refused("no lease", try("unknown.console"), 403, "policy.denied")
	if a := try("other.console"); !strings.Contains(a.Body, "other") {
		t.Errorf("the page does not name the console: %s", a.Body)
	}
	h.lend(console.Lease{ID: "owner", Upstream: up.URL, Owner: me, Kind: "jupyter"})
	if a := try("owner.ruled"); a.StatusCode != http.StatusForbidden {
		t.Errorf("the rule knows no owner: %d", a.StatusCode)
	}
	h.lend(console.Lease{ID: "owner", Upstream: up.URL, Owner: me, Kind: "jupyter", Users: []string{me}})
	if a := try("owner.ruled"); a.StatusCode != http.StatusOK {
		t.Errorf("the rule is met: %d", a.StatusCode)
	}
	// A changed lease decides again, at once.
	h.lend(console.Lease{ID: "owner", Upstream: up.URL, Owner: "x"})
	if a := try("owner.console"); a.StatusCode != http.StatusForbidden {
		t.Errorf("after it was given to somebody else: %d", a.StatusCode)
	}
	h.lend(console.Lease{ID: "short", Upstream: up.URL, Owner: me, Expires: h.now().Add(time.Hour)})
	if a := try("short.console"); a.StatusCode != http.StatusOK {
		t.Errorf("before its end: %d", a.StatusCode)
	}
	h.wait(time.Hour)
	if a := try("short.console"); a.StatusCode != http.StatusForbidden {
		t.Errorf("after its end: %d", a.StatusCode)
	}
	// What stands in the URL is refused when it is put, what a name leads to when it is dialled.
	elsewhere := strings.Replace(up.URL, "127.0.0.1", "127.0.0.2", 1)
	if _, err := h.b.Consoles().Put(t.Context(), console.Lease{ID: "away", Upstream: elsewhere, Owner: me, Expires: h.now().Add(time.Hour)}); !errors.Is(err, console.ErrInvalid) {
		t.Errorf("an upstream outside consoles.networks: %v", err)
	}
	h.b.Consoles().SetNetworks([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")})
	h.lend(console.Lease{ID: "away", Upstream: elsewhere, Owner: me})
	n := len(up.requests())
	h.refused("outside the networks", try("away.console"), 502, "node.offline")
	if len(up.requests()) != n {
		t.Error("an address outside consoles.networks was reached")
	}
	for _, bad := range []console.Lease{{ID: "Upper", Upstream: up.URL}, {ID: "a.b", Upstream: up.URL}, {ID: "x", Upstream: "ftp://x"}, {ID: "x", Upstream: "http://u:p@x"}, {ID: "x", Upstream: "127.0.0.1"}, {ID: "", Upstream: up.URL},
		{ID: "x", Upstream: up.URL, Groups: []string{""}}, {ID: "x", Upstream: up.URL, Allow: "user.nme == ''"}, {ID: "x", Upstream: up.URL, Allow: `request.path == "/"`}, {ID: "x", Upstream: up.URL, Kind: "a\nb"}} {
		if bad.Owner, bad.Expires = "x", h.now().Add(time.Hour); bad.Groups == nil {
			bad.Users = []string{"y"}
		}
		if _, err := h.b.Consoles().Put(t.Context(), bad); err == nil {
			t.Errorf("the lease %+v is taken", bad)
		}
	}
	// A console is framed by itself alone.
	a := try("g.console")
	if got := a.Header["Content-Security-Policy"]; len(got) != 1 || got[0] != "frame-ancestors 'self'" {
		t.Errorf("framing: %q", got)
	}
}

// 502 and 504: what is down is said, to people in their language, to programs in
// JSON, and nothing of it may be cached or tells of addresses (G7, GW-17).
func TestGatewayUpstreamDown(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	silent := l.Addr().String()
	defer l.Close()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	h := start(t, strings.NewReplacer("GONE", gone.Addr().String(), "SILENT", silent).Replace(`
routes:
  - {name: billing, host: gone.localhost, upstream: "http://GONE", audience: demo-api}
  - {name: slow, host: slow.localhost, upstream: "http://SILENT", audience: demo-api, timeouts: {response_header: 50ms}}
  - {name: console, host: "{node}.console.localhost", lease: true}
`))
	h.lend(console.Lease{ID: "n7", Upstream: "http://" + gone.Addr().String(), Owner: "x", Groups: []string{"gpu-users"}})
	b := h.browser()
	b.enter("demo", "demo")
	h.refused("not up yet", b.follow(b.get(h.at("n7.console", "/"))), 503, "node.waking")
	h.wait(5 * time.Minute)
	for host, c := range map[string]struct {
		status     int
		code, name string
	}{"gone": {502, "upstream.unreachable", "billing"}, "slow": {504, "upstream.timeout", "slow"}, "n7.console": {502, "node.offline", "n7"}} {
		page := b.follow(b.get(h.at(host, "/")))
		h.refused(host, page, c.status, c.code)
		if !strings.Contains(page.Body, c.name) || strings.Contains(page.Body, "127.0.0.1:"+strings.Split(gone.Addr().String(), ":")[1]) || page.Header.Get("Retry-After") == "" {
			t.Errorf("%s: page %s", host, page.Body)
		}
		js := b.get(h.at(host, "/"), "Accept", "application/json")
		h.refused(host, js, c.status, c.code)
		if strings.Contains(js.Body, "dial") || js.json(t)["ref"] == "" {
			t.Errorf("%s: JSON %s", host, js.Body)
		}
		zh := b.get(h.at(host, "/"), "Accept-Language", "zh-CN")
		if !strings.Contains(zh.Body, "无响应") {
			t.Errorf("%s: not in Chinese", host)
		}
	}
}
