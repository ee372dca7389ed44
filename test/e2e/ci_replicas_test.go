//go:build e2e

package e2e

import (
	"net/http"
	"sync"
	"testing"
	"time"
)

// An ID token serves once: the second sight of it is refused, at the same replica
// and the other, and of many at once one gets through. The token that it gave is
// good on both.
func TestCIReplayOnReplicas(t *testing.T) {
	p := startPipelines(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	a, b := p.gates[0], p.gates[1]
	jti := "the-same-jti"
	for name, raw := range map[string]string{
		"GitHub, by its jti":                  p.mint(p.site.GitHub, "jti", jti),
		"GitLab, the same jti from elsewhere": p.mint(p.site.GitLab, "jti", jti),
		"Jenkins, which has no jti":           p.mint(p.site.Jenkins),
	} {
		p.at = a
		first := p.exchange(raw)
		if first.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", name, first.Status, first.Raw)
		}
		for _, g := range []*gatehouse{a, b} {
			p.at = g
			again := p.exchange(raw)
			if again.Status != http.StatusBadRequest || again.Code != "invalid_grant" || again.Token != "" {
				t.Errorf("%s, again: %d %s", name, again.Status, again.Raw)
			}
			if code := p.call(first.Token); code != http.StatusCreated {
				t.Errorf("%s: the API answered %d", name, code)
			}
			if events := p.events("workload.denied", again.Ref); len(events) != 1 || events[0].Details["claim"] != "jti" {
				t.Errorf("%s: the log says %v", name, events)
			}
		}
	}
	for name, raw := range map[string]string{"GitHub": p.mint(p.site.GitHub), "Jenkins": p.mint(p.site.Jenkins)} {
		statuses := make([]int, 32)
		var wg sync.WaitGroup
		for k := range statuses {
			wg.Go(func() {
				if got, err := p.ask(p.gates[k%2], raw); err == nil {
					statuses[k] = got.Status
				}
			})
		}
		wg.Wait()
		good := 0
		for _, s := range statuses {
			if s == http.StatusOK {
				good++
			} else if s != http.StatusBadRequest {
				t.Errorf("%s: %d", name, s)
			}
		}
		if good != 1 {
			t.Errorf("%s: %d of %d at once got a token", name, good, len(statuses))
		}
	}
	events := p.events("workload.exchanged", "")
	if len(events) != 5 || events[0].Details["rule"] == "" {
		t.Errorf("%d exchanges were recorded: %v", len(events), events)
	}
}

// A rule that the API makes on one replica lets its job in on the other within a
// second, one that it takes away no longer does; what reaches too far is refused.
func TestCIRulesByAPI(t *testing.T) {
	p := startPipelines(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	a, b := p.gates[0], p.gates[1]
	rule := map[string]any{"provider": "gitlab_ci", "issuer": p.site.GitLab.URL, "match": map[string]string{"project_id": "31", "namespace_id": "72", "ref_protected": "true"},
		"service_account": "acme-deployer", "scope": "deployments:write", "token_audience": "platform-api"}
	job := func() exchanged {
		got, err := p.ask(b, p.mint(p.site.GitLab, "project_id", "31", "project_path", "acme/serve"))
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := job(); got.Status != http.StatusBadRequest {
		t.Fatalf("before there is a rule: %d %s", got.Status, got.Raw)
	}
	if s, said := a.operate(http.MethodPut, "/trust/serve", rule); s >= 300 {
		t.Fatalf("making the rule: %d %v", s, said)
	}
	var got exchanged
	eventually(t, time.Second, "the other replica takes the job", func() bool { got = job(); return got.Status == http.StatusOK })
	p.at = b
	if code := p.call(got.Token); code != http.StatusCreated {
		t.Errorf("the API answered %d", code)
	}
	if s, said := a.operate(http.MethodDelete, "/trust/serve", nil); s >= 300 {
		t.Fatalf("taking it away: %d %v", s, said)
	}
	eventually(t, time.Second, "the other replica refuses the job", func() bool { return job().Status == http.StatusBadRequest })
	for name, match := range map[string]map[string]string{"no match": {}, "no id": {"project_path": "acme/serve"}, "a pattern for an id": {"project_id": "3*"}} {
		rule["match"] = match
		if s, said := a.operate(http.MethodPut, "/trust/serve", rule); s < 400 || s >= 500 {
			t.Errorf("%s: %d %v", name, s, said)
		}
	}
	if s, _ := a.operate(http.MethodDelete, "/trust/gitlab-production", nil); s < 400 || s >= 500 {
		t.Errorf("a rule of the configuration was taken away: %d", s)
	}
}
