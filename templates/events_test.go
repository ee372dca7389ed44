package templates_test

import (
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Each event has words in both languages, and no words are left over.
func TestEventsHaveTexts(t *testing.T) {
	seen := map[string]bool{}
	for _, n := range event.All() {
		if seen[string(n)] {
			t.Errorf("%s is there twice", n)
		}
		seen[string(n)] = true
	}
	for _, lang := range []string{"en", "zh-CN"} {
		words := texts(t, lang)
		for n := range seen {
			if words["event."+n] == "" {
				t.Errorf("%s has no text in %s", n, lang)
			}
			if words["notify.event."+n] == "" {
				t.Errorf("%s: a notification in %s says no more than its name", n, lang)
			}
		}
		for id := range words {
			if n, ok := strings.CutPrefix(id, "event."); ok && !seen[n] {
				t.Errorf("%s: %s is no event", lang, id)
			}
			if n, ok := strings.CutPrefix(id, "notify.event."); ok && !seen[n] {
				t.Errorf("%s: %s is no event", lang, id)
			}
		}
	}
}
