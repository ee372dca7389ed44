package broker_test

import (
	"fmt"
	"maps"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// published are the metrics that dashboards and alerts of others stand on: type
// and labels of each. Those marked absent appear only where something is archived
// or notified.
var published = map[string]struct {
	kind   dto.MetricType
	labels string
	absent bool
}{
	"gatehouse_http_request_duration_seconds":        {kind: dto.MetricType_HISTOGRAM, labels: "code handler"},
	"gatehouse_signins_total":                        {kind: dto.MetricType_COUNTER, labels: "connector result"},
	"gatehouse_signin_duration_seconds":              {kind: dto.MetricType_HISTOGRAM, labels: "connector"},
	"gatehouse_tokens_issued_total":                  {kind: dto.MetricType_COUNTER, labels: "grant"},
	"gatehouse_token_errors_total":                   {kind: dto.MetricType_COUNTER, labels: "error grant"},
	"gatehouse_sessions_active":                      {kind: dto.MetricType_GAUGE},
	"gatehouse_gateway_requests_total":               {kind: dto.MetricType_COUNTER, labels: "code route"},
	"gatehouse_gateway_request_duration_seconds":     {kind: dto.MetricType_HISTOGRAM, labels: "route"},
	"gatehouse_gateway_upstream_up":                  {kind: dto.MetricType_GAUGE, labels: "route upstream"},
	"gatehouse_gateway_websockets_open":              {kind: dto.MetricType_GAUGE, labels: "route"},
	"gatehouse_connector_up":                         {kind: dto.MetricType_GAUGE, labels: "connector"},
	"gatehouse_connector_certificate_expiry_seconds": {kind: dto.MetricType_GAUGE, labels: "connector"},
	"gatehouse_signing_key_age_seconds":              {kind: dto.MetricType_GAUGE},
	"gatehouse_store_operation_duration_seconds":     {kind: dto.MetricType_HISTOGRAM, labels: "op"},
	"gatehouse_store_stale":                          {kind: dto.MetricType_GAUGE},
	"gatehouse_events_total":                         {kind: dto.MetricType_COUNTER, labels: "event"},
	"gatehouse_notifications_total":                  {kind: dto.MetricType_COUNTER, labels: "channel result", absent: true},
	"gatehouse_archive_lag_seconds":                  {kind: dto.MetricType_GAUGE, labels: "bucket", absent: true},
	"gatehouse_build_info":                           {kind: dto.MetricType_GAUGE, labels: "go version"},
}

// scrape reads the metrics as Prometheus does.
func (h *harness) scrape() map[string]*dto.MetricFamily {
	h.t.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(h.browser().get(h.Admin + "/metrics").Body))
	if err != nil {
		h.t.Fatal(err)
	}
	return families
}

// An instance that has something to do shows every metric of the list with the
// type and the labels of the list, no other, and docs/monitoring.md tells of each.
func TestMetricsList(t *testing.T) {
	t.Parallel()
	d := startSAML(t, "", staff(), nil)
	h := d.harness
	d.enter(h.browser(), nil)
	tokens := h.tokens()
	h.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"no-such-token"}})
	h.bearer(strings.Replace(h.URL, "127.0.0.1", "api.localhost", 1)+"/echo", tokens["access_token"])
	until(t, "the look at certificates", func() bool { return h.scrape()["gatehouse_connector_certificate_expiry_seconds"] != nil })
	doc, err := os.ReadFile("../docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	got := h.scrape()
	for name, f := range got {
		if !strings.HasPrefix(name, "gatehouse_") {
			if !strings.HasPrefix(name, "go_") && !strings.HasPrefix(name, "process_") {
				t.Errorf("%s is neither ours, nor Go's, nor the process's", name)
			}
			continue
		}
		want, ok := published[name]
		if !ok {
			t.Errorf("%s is not in the list", name)
			continue
		}
		if f.GetType() != want.kind || f.GetHelp() == "" {
			t.Errorf("%s is a %s (%q), want a %s", name, f.GetType(), f.GetHelp(), want.kind)
		}
		for _, m := range f.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName())
			}
			if slices.Sort(labels); strings.Join(labels, " ") != want.labels {
				t.Errorf("%s has the labels %q, want %q", name, labels, want.labels)
				break
			}
		}
	}
	for name, want := range published {
		if got[name] == nil && !want.absent {
			t.Errorf("%s is not there", name)
		}
		pattern := "`" + name + `(\{` + strings.ReplaceAll(want.labels, " ", ",") + `\})?` + "`"
		if want.labels != "" {
			pattern = "`" + name + `\{` // in whatever order reads best
			for _, l := range strings.Fields(want.labels) {
				if !regexp.MustCompile("`" + name + `\{[a-z,]*\b` + l + `\b[a-z,]*\}` + "`").Match(doc) {
					t.Errorf("docs/monitoring.md does not tell of the label %s of %s", l, name)
				}
			}
		}
		if !regexp.MustCompile(pattern).Match(doc) {
			t.Errorf("docs/monitoring.md does not tell of %s", name)
		}
	}
	for _, name := range []string{"go_goroutines", "go_memstats_heap_alloc_bytes", "process_cpu_seconds_total", "process_open_fds", "process_start_time_seconds"} {
		if got[name] == nil {
			t.Errorf("%s is not there", name)
		}
	}
	if left := got["gatehouse_connector_certificate_expiry_seconds"].GetMetric()[0].GetGauge().GetValue(); left < 19*86400 || left > 20*86400 {
		t.Errorf("the provider's certificate of 20 days ends in %v s", left)
	}
	// What has not happened yet is 0, so that its first time is an increase.
	zero := map[string]bool{}
	for _, name := range []string{"gatehouse_events_total", "gatehouse_signins_total"} {
		for _, m := range got[name].GetMetric() {
			if m.GetCounter().GetValue() == 0 {
				zero[fmt.Sprint(m.GetLabel())] = true
			}
		}
	}
	for _, want := range []string{`token.refresh_reused`, `lockout`} {
		if !slices.ContainsFunc(slices.Collect(maps.Keys(zero)), func(s string) bool { return strings.Contains(s, want) }) {
			t.Errorf("%s does not begin at 0", want)
		}
	}
}
