package notify

import (
	"slices"
	"testing"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/redact"
)

func planOf(rules []Rule, channels ...*channel) *Plan {
	p := &Plan{set: Settings{Rules: rules, Locale: "zh-CN"}, channels: channels}
	p.rules = p.compile()
	return p
}

func TestRules(t *testing.T) {
	ops, dev, slack := &channel{id: "ops", name: "ops", kind: "dingtalk"}, &channel{id: "dev", name: "dev", kind: "dingtalk"}, &channel{id: "slack", name: "slack", kind: "slack"}
	siem, plain := &channel{id: "siem", name: "siem", kind: "webhooks", events: []string{"user.*", "signout"}}, &channel{id: "webhooks", name: "webhooks", kind: "webhooks"}
	people, mute := &channel{id: peopleID, name: peopleName, kind: "people"}, &channel{id: "smtp", name: "smtp", kind: "smtp", mute: true}
	all := []*channel{ops, dev, slack, siem, plain, mute, people}
	for what, c := range map[string]struct {
		rules  []Rule
		e      event.Event
		to     []string
		locale string // of the first
	}{
		"by default, a warning goes everywhere but to a webhook with its own list": {nil, event.Event{Name: event.SigninLockout, Severity: event.Warning}, []string{"ops", "dev", "slack", "webhooks"}, "zh-CN"},
		"by default, everyday life goes nowhere":                                   {nil, event.Event{Name: event.SigninSucceeded, Severity: event.Info}, nil, ""},
		"by default, the end of an outage is told":                                 {nil, event.Event{Name: event.ConnectorUp, Severity: event.Info}, []string{"ops", "dev", "slack", "webhooks"}, "zh-CN"},
		"a webhook's own list":                                                     {nil, event.Event{Name: event.UserCreated, Severity: event.Info}, []string{"siem"}, "zh-CN"},
		"a graver one than its name":                                               {nil, event.Event{Name: event.Signout, Severity: event.Critical}, []string{"siem", "ops", "dev", "slack", "webhooks"}, "zh-CN"},
		"a section is all of it":                                                   {[]Rule{{Events: []string{"key.rotated"}, To: []string{"dingtalk"}, Locale: "en"}}, event.Event{Name: event.KeyRotated, Severity: event.Info}, []string{"ops", "dev"}, "en"},
		"a name is one":                                                            {[]Rule{{Events: []string{"key.*"}, To: []string{"dev"}}}, event.Event{Name: event.KeyRotated, Severity: event.Info}, []string{"dev"}, "zh-CN"},
		"not grave enough":                                                         {[]Rule{{Events: []string{"*"}, To: []string{"dev"}, MinSeverity: "critical"}}, event.Event{Name: event.SigninLockout, Severity: event.Warning}, nil, ""},
		"the first rule decides, nobody hears twice": {[]Rule{{Events: []string{"key.*"}, To: []string{"dev"}, Locale: "en"}, {Events: []string{"*"}, To: []string{"dev", "slack"}, Locale: "zh-CN"}},
			event.Event{Name: event.KeyRotated, Severity: event.Info}, []string{"dev", "slack"}, "en"},
		"no failure to the one that failed": {nil, event.Event{Name: event.NotifyFailed, Target: "ops", Severity: event.Warning}, []string{"dev", "slack", "webhooks"}, "zh-CN"},
		"no beginning without a star":       {[]Rule{{Events: []string{"key."}, To: []string{"dev"}}}, event.Event{Name: event.KeyRotated, Severity: event.Info}, nil, ""},
	} {
		to, locales := planOf(c.rules, all...).route(c.e)
		var got []string
		for _, ch := range to {
			got = append(got, ch.id)
		}
		if !slices.Equal(got, c.to) || len(got) > 0 && locales[got[0]] != c.locale {
			t.Errorf("%s: to %q in %v", what, got, locales)
		}
	}
}

// What a path and a key cannot hold gets a name that they can.
func TestChannelIDs(t *testing.T) {
	seen := map[string]string{}
	for _, name := range []string{"ops", "运维群", "运维 群", "a/b", "_people", "..", "a:b", ""} {
		id := idOf(name)
		if !plainName.MatchString(id) || seen[id] != "" || id == peopleID {
			t.Errorf("%q is %q, like %q", name, id, seen[id])
		}
		seen[id] = name
	}
	if idOf("ops") != "ops" {
		t.Error("a plain name is its own id")
	}
}

// NO-1: of an address its host and last characters, of a short one its host.
func TestShown(t *testing.T) {
	for in, want := range map[string]string{
		"https://hooks.slack.com/services/T000/B000/abcdefghijkl":      "hooks.slack.com …ijkl",
		"https://oapi.dingtalk.com/robot/send?access_token=0123456789": "oapi.dingtalk.com …6789",
		"https://siem.example.com/hook":                                "siem.example.com",
		"https://%zz/secret":                                           "",
	} {
		if got := shown(redact.String(in)); got != want {
			t.Errorf("%s is shown as %q", in, got)
		}
	}
}
