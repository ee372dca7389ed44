package repo

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/remotegpu/gatehouse/broker/event"
)

// boardPanel is what is tested of a panel of Grafana's.
type boardPanel struct {
	ID         int               `json:"id"`
	RawType    string            `json:"type"`
	RawTitle   string            `json:"title"`
	Datasource map[string]string `json:"datasource"`
	GridPos    struct{ X, Y, W, H int }
	Targets    []struct {
		RefID, Expr string
		Datasource  map[string]string
	} `json:"targets"`
}

type board struct {
	UID, Title    string
	ID            *int
	SchemaVersion int
	Tags          []string
	Templating    struct {
		List []struct {
			Name, Type string
			Query      any
		}
	}
	Annotations struct {
		List []struct {
			Name, Expr string
			Datasource map[string]string
		}
	}
	Panels []boardPanel
}

func boards(t *testing.T) map[string]board {
	t.Helper()
	files, err := filepath.Glob("../../config/grafana/dashboards/*.json")
	if err != nil || len(files) < 8 {
		t.Fatalf("%q, %v", files, err)
	}
	out := map[string]board{}
	for _, f := range files {
		js, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var b board
		if err := json.Unmarshal(js, &b); err != nil {
			t.Fatalf("%s: %v", f, err)
		}
		out[filepath.Base(f)] = b
	}
	return out
}

var (
	metricName = regexp.MustCompile(`\b(?:gatehouse|process|go)_[a-z0-9_]+\b`)
	eventWord  = regexp.MustCompile(`event(?:=~|=)"([^"]*)"`)
)

// documented are the metrics of docs/monitoring.md, which a test of package broker
// compares with a scrape.
func documented(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, m := range regexp.MustCompile("`(gatehouse_[a-z_]+)(?:\\{[a-z,]*\\})?`").FindAllStringSubmatch(read(t, "docs/monitoring.md"), -1) {
		out = append(out, m[1])
	}
	if len(out) < 19 {
		t.Fatalf("docs/monitoring.md tells of %q", out)
	}
	return out
}

// unknownIn returns what a query asks for that there is not: a metric, or an event
// that no name of which fits.
func unknownIn(expr string, metrics []string) []string {
	var out []string
	bare := regexp.MustCompile(`job[a-z_]*:[a-z0-9_]+:[a-z0-9_]+`).ReplaceAllString(expr, "") // recorded; promtool tests them
	for _, name := range metricName.FindAllString(bare, -1) {
		base := regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")
		if strings.HasPrefix(name, "gatehouse_") && !slices.Contains(metrics, name) && !slices.Contains(metrics, base) {
			out = append(out, name)
		}
	}
	for _, m := range eventWord.FindAllStringSubmatch(expr, -1) {
		for alternative := range strings.SplitSeq(m[1], "|") {
			re := regexp.MustCompile("^(?:" + alternative + ")$")
			if !slices.ContainsFunc(event.All(), func(n event.Name) bool { return re.MatchString(string(n)) }) {
				out = append(out, alternative)
			}
		}
	}
	return out
}

// Every board can be provisioned beside the others and with any data source, and
// asks only for what there is.
func TestGrafanaBoards(t *testing.T) {
	metrics := documented(t)
	uids := map[string]string{}
	asked := map[string]bool{}
	for file, b := range boards(t) {
		if other, ok := uids[b.UID]; ok || !strings.HasPrefix(b.UID, "gatehouse-") || len(b.UID) > 40 {
			t.Errorf("%s: uid %q, also of %s", file, b.UID, other)
		}
		uids[b.UID] = file
		if b.ID != nil || b.SchemaVersion < 39 || !strings.HasPrefix(b.Title, "Gatehouse: ") || !slices.Contains(b.Tags, "gatehouse") {
			t.Errorf("%s: id %v, schema %d, title %q, tags %q", file, b.ID, b.SchemaVersion, b.Title, b.Tags)
		}
		variables := map[string]string{}
		for _, v := range b.Templating.List {
			variables[v.Name] = v.Type
		}
		if variables["datasource"] != "datasource" || variables["job"] != "query" {
			t.Errorf("%s: variables %v", file, variables)
		}
		source := func(where string, ds map[string]string) {
			if ds["type"] != "prometheus" || ds["uid"] != "${datasource}" {
				t.Errorf("%s: %s asks %v", file, where, ds)
			}
		}
		query := func(where, expr string) {
			if !strings.Contains(expr, `job="$job"`) && !strings.HasPrefix(expr, "count(ALERTS") {
				t.Errorf("%s: %s is not of the chosen job: %s", file, where, expr)
			}
			for _, v := range regexp.MustCompile(`\$\{?([a-zA-Z_]+)`).FindAllStringSubmatch(expr, -1) {
				if variables[v[1]] == "" && v[1] != "__rate_interval" {
					t.Errorf("%s: %s uses the variable %s", file, where, v[1])
				}
			}
			for _, what := range unknownIn(expr, metrics) {
				t.Errorf("%s: %s asks for %s", file, where, what)
			}
			for _, name := range metricName.FindAllString(expr, -1) {
				asked[regexp.MustCompile(`_(bucket|count|sum)$`).ReplaceAllString(name, "")] = true
			}
		}
		ids, titles := map[int]bool{}, map[string]bool{}
		for _, p := range b.Panels {
			if ids[p.ID] || p.ID == 0 || titles[p.RawTitle] || p.RawTitle == "" || p.RawType == "" || len(p.Targets) == 0 {
				t.Errorf("%s: panel %d %q of type %q with %d queries", file, p.ID, p.RawTitle, p.RawType, len(p.Targets))
			}
			ids[p.ID], titles[p.RawTitle] = true, true
			if g := p.GridPos; g.W < 1 || g.H < 1 || g.X < 0 || g.X+g.W > 24 {
				t.Errorf("%s: %q stands at %+v", file, p.RawTitle, g)
			}
			source(p.RawTitle, p.Datasource)
			refs := map[string]bool{}
			for _, q := range p.Targets {
				if refs[q.RefID] || q.RefID == "" {
					t.Errorf("%s: %q has two queries %q", file, p.RawTitle, q.RefID)
				}
				refs[q.RefID] = true
				source(p.RawTitle, q.Datasource)
				query(p.RawTitle, q.Expr)
			}
			for _, o := range b.Panels {
				a, c := p.GridPos, o.GridPos
				if o.ID != p.ID && a.X < c.X+c.W && c.X < a.X+a.W && a.Y < c.Y+c.H && c.Y < a.Y+a.H {
					t.Errorf("%s: %q covers %q", file, p.RawTitle, o.RawTitle)
				}
			}
		}
		for _, a := range b.Annotations.List {
			source(a.Name, a.Datasource)
			query(a.Name, a.Expr)
		}
	}
	for _, m := range metrics {
		if !asked[m] {
			t.Errorf("no board shows %s", m)
		}
	}
}

// Every alert says how bad it is, what it means and what to do, asks only for what
// there is, and stands in a test of promtool's.
func TestPrometheusAlerts(t *testing.T) {
	metrics := documented(t)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Record, Expr string
				Labels, Annotations map[string]string
			}
		}
	}
	recorded := map[string]bool{}
	tests := read(t, "config/prometheus/tests/signin.yml") + read(t, "config/prometheus/tests/operation.yml")
	seen := map[string]bool{}
	for _, file := range []string{"config/prometheus/rules.yml", "config/prometheus/alerts.yml"} {
		rules.Groups = nil
		if err := yaml.Unmarshal([]byte(read(t, file)), &rules); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		for _, g := range rules.Groups {
			for _, r := range g.Rules {
				for _, what := range unknownIn(r.Expr, metrics) {
					t.Errorf("%s%s asks for %s", r.Alert, r.Record, what)
				}
				for _, name := range regexp.MustCompile(`job[a-z_]*:[a-z0-9_]+:[a-z0-9_]+`).FindAllString(r.Expr, -1) {
					if !recorded[name] && r.Record != name {
						t.Errorf("%s%s asks for %s, which is not recorded", r.Alert, r.Record, name)
					}
				}
				if r.Record != "" {
					recorded[r.Record] = true
					continue
				}
				if seen[r.Alert] || !strings.HasPrefix(r.Alert, "Gatehouse") || !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) {
					t.Errorf("%q with severity %q", r.Alert, r.Labels["severity"])
				}
				seen[r.Alert] = true
				for _, text := range []string{"summary", "description", "runbook"} {
					if len(r.Annotations[text]) < 20 {
						t.Errorf("%s has no %s", r.Alert, text)
					}
				}
				if !strings.Contains(tests, r.Alert) {
					t.Errorf("%s is in no test", r.Alert)
				}
			}
		}
	}
	if len(seen) < 19 {
		t.Errorf("only %d alerts", len(seen))
	}
}
