package broker_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// trustYAML are rules of the file for an issuer.
func trustYAML(issuer string) string {
	return fmt.Sprintf(`
trust:
  - name: deploy
    provider: github_actions
    issuer: %s
    match: {repository_id: "123456", repository_owner_id: "789", ref: refs/heads/main}
    service_account: acme-deployer
    scope: deployments:write
`, issuer)
}

func jobClaims(issuer, audience string) string {
	return fmt.Sprintf(`{"iss":%q,"aud":%q,"sub":"repo:acme/train:ref:refs/heads/main","repository_id":"123456","repository_owner_id":"789","ref":"refs/heads/main","event_name":"push"}`, issuer, audience)
}

// Rules of the file are listed and read-only, those of the API are made, changed,
// recorded and taken away (docs/api.md).
func TestTrustAPI(t *testing.T) {
	t.Parallel()
	op := connectortest.NewOP(t)
	h := start(t, trustYAML(op.URL)+"service_accounts: [{name: other, groups: [ci]}]\n")
	call := func(want int, method, path, body string) map[string]any {
		t.Helper()
		a := h.operator(method, "/api/v1"+path, body)
		if a.StatusCode != want {
			t.Fatalf("%s %s: %d %s", method, path, a.StatusCode, a.Body)
		}
		if a.Body == "" {
			return nil
		}
		return a.json(t)
	}
	deploy := call(200, "GET", "/trust/deploy", "")
	if deploy["fixed"] != true || deploy["issuer"] != op.URL || deploy["audience"] != h.URL || deploy["token_audience"] != h.URL || deploy["ttl"] != "15m0s" || deploy["max_age"] != "1h0m0s" {
		t.Errorf("the file's rule: %v", deploy)
	}
	// The account that the file's rule names exists by that, and as long.
	if a := h.operator("DELETE", "/api/v1/service-accounts/acme-deployer", ""); a.StatusCode != http.StatusConflict {
		t.Errorf("deleting the rule's account: %d %s", a.StatusCode, a.Body)
	}
	if a := h.operator("POST", "/api/v1/service-accounts/acme-deployer/api-keys", `{"name":"k"}`); a.StatusCode != http.StatusOK {
		t.Errorf("the rule's account: %d %s", a.StatusCode, a.Body)
	}
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code, says         string
	}{
		"change the file's": {"PUT", "/trust/deploy", `{"provider":"oidc"}`, 409, "trust.conflict", "configuration"},
		"delete the file's": {"DELETE", "/trust/deploy", "", 409, "trust.conflict", "configuration"},
		"no such rule":      {"DELETE", "/trust/nothing", "", 404, "api.not_found", ""},
		"any repository":    {"PUT", "/trust/x", `{"provider":"github_actions","match":{"repository":"acme/*"},"service_account":"other"}`, 422, "trust.invalid", "repository_id"},
		"no account":        {"PUT", "/trust/x", `{"provider":"gitlab_ci","match":{"project_id":"1"},"service_account":"nobody"}`, 422, "trust.invalid", "nobody"},
		"a file":            {"PUT", "/trust/x", `{"provider":"oidc","jwks_file":"/etc/passwd"}`, 400, "api.bad_request", "jwks_file"},
		"an odd duration":   {"PUT", "/trust/x", `{"provider":"oidc","ttl":"soon"}`, 400, "api.bad_request", "ttl"},
		"a numeric id":      {"PUT", "/trust/x", `{"provider":"oidc","match":{"project_id":1}}`, 400, "api.bad_request", ""},
		"nothing explained": {"POST", "/trust/explain", `{}`, 400, "api.bad_request", "either token"},
		"two explained":     {"POST", "/trust/explain", `{"token":"a.b.c","claims":{}}`, 400, "api.bad_request", "either token"},
		"a word explained":  {"POST", "/trust/explain", `{"token":"word"}`, 400, "api.bad_request", "no JWT"},
	} {
		a := h.operator(c.method, "/api/v1"+c.path, c.body)
		if a.StatusCode != c.status || a.json(t)["code"] != c.code || !strings.Contains(a.Body, c.says) {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
		}
	}
	rule := `{"provider":"gitlab_ci","issuer":"https://gitlab.example.com","match":{"project_id":"20","ref":"main"},"service_account":"other","scope":"a b","ttl":"5m"}`
	made := call(200, "PUT", "/trust/review", rule)
	if made["fixed"] != false || made["ttl"] != "5m0s" || len(made["warnings"].([]any)) != 1 {
		t.Errorf("made %v", made)
	}
	items := call(200, "GET", "/trust", "")["items"].([]any)
	if len(items) != 2 || items[0].(map[string]any)["name"] != "deploy" || items[1].(map[string]any)["name"] != "review" {
		t.Errorf("listed %v", items)
	}
	x := call(200, "POST", "/trust/explain", `{"claims":`+jobClaims(op.URL, h.URL)+`}`)
	if x["rule"] != "deploy" || x["signature"] != "not checked" {
		t.Errorf("explained %v", x)
	}
	x = call(200, "POST", "/trust/explain", `{"claims":`+strings.Replace(jobClaims(op.URL, h.URL), "/main\",\"event", "/x\",\"event", 1)+`}`)
	first := x["rules"].([]any)[0].(map[string]any)
	if x["rule"] != "" || first["rule"] != "deploy" || !strings.Contains(fmt.Sprint(first["differences"]), "refs/heads/x") {
		t.Errorf("explained %v", x)
	}
	call(204, "DELETE", "/trust/review", "")
	call(404, "GET", "/trust/review", "")
	var changes []string
	for _, e := range call(200, "GET", "/audit/events?name=admin.changed&order=oldest", "")["items"].([]any) {
		m := e.(map[string]any)
		changes = append(changes, fmt.Sprint(m["details"].(map[string]any)["change"], " ", m["target"]))
	}
	if got := strings.Join(changes, ", "); got != "trust_rule review, trust_rule_deleted review" {
		t.Errorf("recorded %q", got)
	}
}

// Rules follow a reload, and so do the accounts that they name; one that trusts
// too much is refused with the whole configuration.
func TestTrustReload(t *testing.T) {
	t.Parallel()
	op := connectortest.NewOP(t)
	h := start(t, "")
	reload := func(yaml string) error {
		h.mu.Lock()
		h.yaml = yaml
		h.mu.Unlock()
		_, err := h.b.Reload(context.Background(), "operator")
		return err
	}
	get := func(path string) int { return h.operator("GET", "/api/v1"+path, "").StatusCode }
	if get("/trust/deploy") != http.StatusNotFound {
		t.Fatal("there is a rule already")
	}
	// An account that was made before a rule names it keeps its groups.
	if a := h.operator("POST", "/api/v1/service-accounts", `{"name":"acme-deployer","groups":["deployers"]}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	groups := func() string {
		t.Helper()
		for _, a := range h.operator("GET", "/api/v1/service-accounts", "").json(t)["items"].([]any) {
			if m := a.(map[string]any); m["name"] == "acme-deployer" {
				return fmt.Sprint(m["groups"])
			}
		}
		return "none"
	}
	if err := reload(trustYAML(op.URL)); err != nil || get("/trust/deploy") != http.StatusOK || groups() != "[deployers]" {
		t.Fatalf("%v %s", err, groups())
	}
	if err := reload(strings.Replace(trustYAML(op.URL), `repository_owner_id: "789"`, `repository: "acme/train"`, 1)); !errors.Is(err, broker.ErrRejected) || get("/trust/deploy") != http.StatusOK {
		t.Errorf("a rule without an owner: %v", err)
	}
	// The name of a stored rule is taken.
	if a := h.operator("PUT", "/api/v1/trust/stored", `{"provider":"gitlab_ci","match":{"project_id":"20","ref_protected":"true"},"service_account":"acme-deployer"}`); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	if err := reload(strings.Replace(trustYAML(op.URL), "name: deploy", "name: stored", 1)); !errors.Is(err, broker.ErrRejected) {
		t.Errorf("a rule with a stored one's name: %v", err)
	}
	if err := reload(""); err != nil || get("/trust/deploy") != http.StatusNotFound || get("/trust/stored") != http.StatusOK {
		t.Errorf("%v", err)
	}
}

// check asks each issuer of the rules, and says who its jobs become.
func TestCheckAsksIssuers(t *testing.T) {
	t.Parallel()
	op := connectortest.NewOP(t)
	h := start(t, trustYAML(op.URL))
	probe := func() broker.Probe {
		t.Helper()
		cfg, _, err := h.load("127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range broker.Check(t.Context(), cfg, broker.Options{Log: discard()}) {
			if p.Name == "trust "+op.URL {
				return p
			}
		}
		t.Fatal("it is not asked")
		return broker.Probe{}
	}
	if p := probe(); !p.OK || p.Detail != "1 key; deploy as acme-deployer" {
		t.Errorf("%+v", p)
	}
	op.Set(func() {
		op.Override["/jwks"] = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
	})
	if p := probe(); p.OK || !strings.Contains(p.Detail, "502") {
		t.Errorf("%+v", p)
	}
}
