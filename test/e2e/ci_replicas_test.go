//go:build e2e

package e2e

import (
	"net/http"
	"sync"
	"testing"
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
