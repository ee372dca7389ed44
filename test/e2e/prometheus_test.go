//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// promtool runs Prometheus' own tool.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	cmd := exec.Command("promtool", args...)
	cmd.Dir, cmd.Stdin = filepath.Join(root(t), "config", "prometheus"), strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v (missing? test/e2e/install.sh core)\n%s", strings.Join(args, " "), err, out)
	}
}

// asked is the answer of Prometheus to a query.
type asked struct {
	Status, Error string
	Data          struct {
		Result []struct {
			Metric map[string]string
			Value  []any
		}
	}
}

func ask(t *testing.T, base, query string) asked {
	t.Helper()
	resp, err := http.Get(base + "/api/v1/query?query=" + url.QueryEscape(query))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var a asked
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatalf("%s: %s", query, body)
	}
	return a
}

// boardQueries are the queries of all boards as Grafana sends them, by where they
// stand.
func boardQueries(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root(t), "config", "grafana", "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%q, %v", files, err)
	}
	out := map[string]string{}
	for _, f := range files {
		js, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var b struct {
			Panels []struct {
				Title   string
				Targets []struct{ RefID, Expr string }
			}
			Annotations struct{ List []struct{ Name, Expr string } }
		}
		if err := json.Unmarshal(js, &b); err != nil {
			t.Fatal(err)
		}
		say := strings.NewReplacer("$job", "gatehouse", "$__rate_interval", "15s")
		for _, p := range b.Panels {
			for _, q := range p.Targets {
				out[filepath.Base(f)+": "+p.Title+" "+q.RefID] = say.Replace(q.Expr)
			}
		}
		for _, a := range b.Annotations.List {
			out[filepath.Base(f)+": annotation "+a.Name] = say.Replace(a.Expr)
		}
	}
	return out
}

// sometimes are queries that have no data while all is well, or where nothing is
// archived, notified or signed by a certificate.
var sometimes = regexp.MustCompile(`notifications_total|archive_lag|certificate_expiry|code=~"5\.\."|: annotation`)

// A real Prometheus takes the configuration as it is shipped, finds the metrics
// well formed, fires no alert at an instance that is well and under load, and has
// an answer to every query of every board.
func TestPrometheus(t *testing.T) {
	promtool(t, "", "check", "config", "prometheus.yml")
	promtool(t, "", "test", "rules", "tests/signin.yml", "tests/operation.yml")
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := serve(t, dir, []string{"--dev"})
	rules := filepath.Join(root(t), "config", "prometheus")
	prom := startPeer(t, "prometheus", freePorts(t, 2), "TARGET="+g.Admin+"/metrics", "RULES="+rules+"/rules.yml "+rules+"/alerts.yml", "INTERVAL=1s", "NO_ALERTMANAGER=1")["PROMETHEUS_URL"]
	api := strings.Replace(g.URL, "127.0.0.1", "api.localhost", 1) + "/echo"
	round := 0
	for end := time.Now().Add(25 * time.Second); time.Now().Before(end); time.Sleep(500 * time.Millisecond) {
		p := newPerson(t, g)
		_, tokens := p.redeem(p.code("openid groups offline_access"))
		if status := p.send(http.MethodGet, api, nil, "Authorization", fmt.Sprintf("Bearer %v", tokens["access_token"])).StatusCode; status != http.StatusOK {
			t.Fatalf("the gateway answers %d", status)
		}
		p.refresh(tokens["refresh_token"])
		p.refresh("no-such-token")
		if round++; round%4 == 0 { // few enough for rate_limits
			newPerson(t, g).trySignIn(fmt.Sprint("nobody-", round), "wrong")
		}
		newPerson(t, g).send(http.MethodGet, api, nil, "Authorization", "Bearer nonsense")
		newPerson(t, g).send(http.MethodGet, g.URL+"/nothing-here", nil)
	}
	resp, err := http.Get(g.Admin + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, string(metrics), "check", "metrics")
	queries := boardQueries(t)
	if len(queries) < 60 {
		t.Fatalf("only %d queries", len(queries))
	}
	for where, q := range queries {
		a := ask(t, prom, q)
		if a.Status != "success" {
			t.Errorf("%s: %s: %s\n%s", where, a.Status, a.Error, q)
		} else if len(a.Data.Result) == 0 && !sometimes.MatchString(q) && !sometimes.MatchString(where) {
			t.Errorf("%s has no data: %s", where, q)
		}
	}
	if a := ask(t, prom, "job:gatehouse_http_errors:ratio_rate5m"); len(a.Data.Result) != 1 || a.Data.Result[0].Value[1] != "0" {
		t.Errorf("the rules record %+v", a)
	}
	for _, r := range ask(t, prom, `ALERTS{alertstate="firing"}`).Data.Result {
		t.Errorf("an alert fires: %v", r.Metric)
	}
}
