package broker_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const (
	jwtBearerGrant  = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	clientAssertion = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// jobsYAML has rules for an issuer of jobs (OP) and routes that look at the
// account.
const jobsYAML = `
resources: [{name: demo-api, uri: "https://api.example", scopes: {deployments:write: {en: Start and stop deployments, zh-CN: 启动和停止部署}}}, {name: other-api}]
service_accounts: [{name: acme-deployer, groups: [deployers]}]
clients:
  - client_id: ci
    client_secret: ci-secret
    grant_types: ["urn:ietf:params:oauth:grant-type:token-exchange"]
    resource_server_for: [demo-api]
  - client_id: lacks
    client_secret: lacks-secret
    grant_types: [client_credentials]
trust:
  - name: deploy
    provider: github_actions
    issuer: OP
    match: {repository_id: "123456", repository_owner_id: "789", ref: refs/heads/main}
    service_account: acme-deployer
    scope: deployments:write deployments:read
    token_audience: https://api.example
    ttl: 15m
  - name: administer
    provider: github_actions
    issuer: OP
    match: {repository_id: "123456", repository_owner_id: "789", ref: refs/heads/admin}
    service_account: auditor
    scope: gatehouse:audit
routes:
  - {name: api, host: api.localhost, upstream: UP, audience: demo-api, auth: [session, bearer, api_key], scopes: [deployments:write]}
  - {name: ruled, host: ruled.localhost, upstream: UP, audience: demo-api, auth: [bearer, api_key], allow: '"deployers" in user.groups && session.kind == "service" && user.kind == "service" && user.id == "acme-deployer"'}
  - {name: other, host: other.localhost, upstream: UP, audience: other-api, auth: [bearer]}
  - {name: fresh, host: fresh.localhost, upstream: UP, audience: demo-api, auth: [bearer], step_up: {max_age: 15m}}
`

// pipeline starts a broker and an issuer of jobs.
func pipeline(t *testing.T, answer http.HandlerFunc, wrap *watchedStore) (*harness, *upstream, *connectortest.OP) {
	t.Helper()
	op, up := connectortest.NewOP(t), newUpstream(t, answer)
	h := &harness{yaml: strings.ReplaceAll(up.routesYAML(jobsYAML), "OP\n", op.URL+"\n")}
	if wrap != nil {
		h.wrap = wrap.watch
	}
	return startWith(t, h), up, op
}

// job is the ID token of a job that rule deploy takes; claims of kv are other ones.
func (h *harness) job(op *connectortest.OP, kv ...string) string {
	now := h.now()
	c := map[string]any{"iss": op.URL, "aud": h.URL, "sub": "repo:acme/train:ref:refs/heads/main", "repository": "acme/train", "repository_id": "123456", "repository_owner_id": "789",
		"ref": "refs/heads/main", "event_name": "push", "run_id": "1", "jti": rand.Text(), "iat": now.Unix(), "exp": now.Add(10 * time.Minute).Unix()}
	for i := 0; i+1 < len(kv); i += 2 {
		c[kv[i]] = kv[i+1]
	}
	return op.Token("JWT", c)
}

// jobAsks is the token exchange of a job, which has no client.
func (h *harness) jobAsks(raw string, kv ...string) answer {
	h.t.Helper()
	return h.raw("POST", "/oauth2/token", with(url.Values{"grant_type": {exchangeGrant}, "subject_token": {raw}, "subject_token_type": {idType}}, kv...).Encode())
}

// A CI job is its service account: at the gateway as with a key of it, and at the
// API; by each of the three grants.
func TestJobs(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h, up, op := pipeline(t, nil, w)
	a := h.jobAsks(h.job(op))
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	m := a.json(t)
	if keysOf(m) != "access_token expires_in issued_token_type scope token_type" || m["issued_token_type"] != accessType || m["scope"] != "deployments:write deployments:read" || m["expires_in"].(float64) > 600 || m["expires_in"].(float64) < 590 {
		t.Errorf("the rest of the job's ten minutes: %v", m)
	}
	access := m["access_token"].(string)
	header, c := h.verified(access)
	if header["typ"] != "at+jwt" || keysOf(c) != "aud client_id exp gatehouse:kind gatehouse:workload groups iat iss jti scope sub" || c["sub"] != "acme-deployer" || c["client_id"] != "acme-deployer" || c["aud"] != "demo-api" || c["gatehouse:kind"] != "service" || fmt.Sprint(c["groups"]) != "[deployers]" {
		t.Errorf("%v %v", header, c)
	}
	if p := c["gatehouse:workload"].(map[string]any); p["rule"] != "deploy" || p["provider"] != "github_actions" || p["repository_id"] != "123456" || p["run_id"] != "1" || p["issuer"] != op.URL {
		t.Errorf("provenance: %v", p)
	}
	_, key := h.key("acme-deployer", `{"name":"ci","scopes":["deployments:write"]}`)
	tell := func(host, credential string) map[string]any {
		t.Helper()
		if a := h.bearer(h.at(host, "/x"), credential); a.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d %s", host, a.StatusCode, a.Body)
		}
		r := up.last(t)
		told := claims(t, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		told["header"] = fmt.Sprint(r.Header.Values("X-Gatehouse-User"), r.Header.Values("X-Gatehouse-Groups"), r.Header.Values("X-Gatehouse-Email"))
		for _, own := range []string{"jti", "iat", "exp", "client_id", "gatehouse:via", "scope"} {
			delete(told, own)
		}
		return told
	}
	for _, host := range []string{"api", "ruled"} {
		if job, keys := tell(host, access), tell(host, key); !maps.EqualFunc(job, keys, func(a, b any) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
			t.Errorf("%s: a job is %v, a key of its account %v", host, job, keys)
		}
	}
	h.refused("another audience", h.bearer(h.at("other", "/"), access), 403, "invalid_token")
	narrow := h.jobAsks(h.job(op), "scope", "deployments:read", "audience", "demo-api").json(t)["access_token"]
	h.refused("a scope is absent", h.bearer(h.at("api", "/"), narrow), 403, "insufficient_scope")
	if a := h.bearer(h.at("fresh", "/"), access); a.StatusCode < 400 {
		t.Errorf("a job has no sign-in: %d", a.StatusCode)
	}
	for what, a := range map[string]answer{
		"userinfo":     h.bearer("/oauth2/userinfo", access),
		"the API":      h.as(access, "GET", "/api/v1/users", ""), // for demo-api, not for us
		"the exchange": h.tokenAs("ci", "ci-secret", url.Values{"grant_type": {exchangeGrant}, "subject_token": {access}, "subject_token_type": {accessType}}),
	} {
		if a.StatusCode < 400 || a.StatusCode >= 500 {
			t.Errorf("%s: %d %s", what, a.StatusCode, a.Body)
		}
	}
	if !h.active("ci", access) || h.active("lacks", access) {
		t.Error("introspection")
	}
	// At the API as a key of that account with the rule's scopes.
	auditor := h.jobAsks(h.job(op, "ref", "refs/heads/admin")).json(t)["access_token"].(string)
	for path, want := range map[string]int{"/users": 200, "/events": 404, "/me": 403} {
		if a := h.as(auditor, "GET", "/api/v1"+path, ""); a.StatusCode != want {
			t.Errorf("%s: %d %s", path, a.StatusCode, a.Body)
		}
	}
	if a := h.as(auditor, "POST", "/api/v1/keys/rotate", `{"alg":"ES256"}`); a.StatusCode != http.StatusForbidden {
		t.Errorf("an auditor rotates keys: %d", a.StatusCode)
	}
	// The two other ways, and with a client beside.
	for name, a := range map[string]answer{
		"JWT bearer":       h.raw("POST", "/oauth2/token", url.Values{"grant_type": {jwtBearerGrant}, "assertion": {h.job(op)}}.Encode()),
		"client_assertion": h.raw("POST", "/oauth2/token", url.Values{"grant_type": {"client_credentials"}, "client_assertion": {h.job(op)}, "client_assertion_type": {clientAssertion}, "client_id": {"acme-deployer"}}.Encode()),
		"with a client":    h.tokenAs("ci", "ci-secret", url.Values{"grant_type": {exchangeGrant}, "subject_token": {h.job(op)}, "subject_token_type": {jwtType}}),
	} {
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		} else if r := h.bearer(h.at("ruled", "/"), a.json(t)["access_token"]); r.StatusCode != http.StatusOK {
			t.Errorf("%s: at the gateway %d", name, r.StatusCode)
		}
	}
	if n := len(w.named(event.WorkloadExchanged)); n != 6 {
		t.Errorf("%d exchanges recorded", n)
	}
	if l := list(h.raw("GET", "/.well-known/openid-configuration", "").json(t), "grant_types_supported"); !strings.Contains(strings.Join(l, " "), exchangeGrant+" "+jwtBearerGrant) {
		t.Errorf("discovery: %v", l)
	}
}

// What is wrong with a job's token: one answer, and the cause in the log alone.
func TestJobsAreRefused(t *testing.T) {
	t.Parallel()
	w := &watchedStore{}
	h, _, op := pipeline(t, nil, w)
	stranger := connectortest.NewOP(t)
	used := h.job(op)
	if a := h.jobAsks(used); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	cut := h.job(op)
	bodies := map[string]bool{}
	for name, raw := range map[string]string{
		"a fork":              h.job(op, "repository_id", "666"),
		"another branch":      h.job(op, "ref", "refs/heads/other"),
		"a pull request":      h.job(op, "event_name", "pull_request"),
		"another audience":    h.job(op, "aud", "https://github.com/acme"),
		"used":                used,
		"cut":                 cut[:len(cut)-4],
		"of another issuer":   h.job(stranger),
		"signed by a strange": stranger.Token("JWT", map[string]any{"iss": op.URL, "aud": h.URL, "exp": h.now().Add(time.Minute).Unix(), "iat": h.now().Unix()}),
	} {
		a := h.jobAsks(raw)
		oauthError(t, a, 400, "invalid_grant")
		m := a.json(t)
		if m["ref"] == nil || m["ref"] == "" {
			t.Errorf("%s: no reference: %s", name, a.Body)
		}
		delete(m, "ref")
		bodies[fmt.Sprint(m)] = true
	}
	if len(bodies) != 1 {
		t.Errorf("the caller can tell: %v", bodies)
	}
	oauthError(t, h.jobAsks(h.job(op), "audience", "other-api"), 400, "invalid_target")
	oauthError(t, h.jobAsks(h.job(op), "scope", "deployments:write gatehouse:admin"), 400, "invalid_scope")
	oauthError(t, h.tokenAs("lacks", "lacks-secret", url.Values{"grant_type": {exchangeGrant}, "subject_token": {h.job(op)}, "subject_token_type": {idType}}), 400, "unauthorized_client")
	if len(w.named(event.WorkloadDenied)) < 8 {
		t.Errorf("%d denials recorded", len(w.named(event.WorkloadDenied)))
	}
	// At once from many sides: one.
	raw, good := h.job(op), 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if a := h.jobAsks(raw); a.StatusCode == http.StatusOK {
				mu.Lock()
				defer mu.Unlock()
				good++
			}
		})
	}
	wg.Wait()
	if good != 1 {
		t.Errorf("one token was exchanged %d times", good)
	}
}

// It dies with its account, open sockets included, and by itself.
func TestJobsEnd(t *testing.T) {
	t.Parallel()
	h, _, op := pipeline(t, echoes, nil)
	if a := h.operator("POST", "/api/v1/service-accounts", `{"name":"temp","groups":["deployers"]}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	if a := h.operator("PUT", "/api/v1/trust/temporary", `{"provider":"github_actions","issuer":"`+op.URL+`","match":{"repository_id":"1","repository_owner_id":"789"},"service_account":"temp","scope":"deployments:write","token_audience":"demo-api"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	a := h.jobAsks(h.job(op, "repository_id", "1"))
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	access := a.json(t)["access_token"].(string)
	c, _, err := h.browser().socket(h.at("api", "/ws"), "Authorization", "Bearer "+access)
	if err != nil {
		t.Fatal(err)
	}
	if a := h.operator("DELETE", "/api/v1/service-accounts/temp", ""); a.StatusCode != http.StatusNoContent {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	h.refused("after its account", h.bearer(h.at("api", "/"), access), 401, "invalid_token")
	if h.active("ci", access) {
		t.Error("introspection knows it after its account")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, _, err := c.Read(ctx); websocket.CloseStatus(err) != 4401 {
		t.Errorf("its socket: %v", err)
	}
	oauthError(t, h.jobAsks(h.job(op, "repository_id", "1")), 400, "invalid_grant")
	late := h.jobAsks(h.job(op)).json(t)["access_token"]
	h.wait(10*time.Minute + time.Second)
	h.refused("expired", h.bearer(h.at("api", "/"), late), 401, "invalid_token")
}
