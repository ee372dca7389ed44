//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/goccy/go-yaml"
)

// printed runs a program with its output in a file until the test ends, and
// returns the file.
func printed(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		_ = cmd.Wait()
	})
	return out.Name()
}

// waitReady bounds a start, builds included.
const waitReady = 2 * time.Minute

// awaitReady waits until the private listener says so.
func awaitReady(t *testing.T, port int) {
	t.Helper()
	eventually(t, waitReady, "the program is ready", func() bool {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", port))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// tryOut runs the first n printed things with bash and the real curl, in another
// folder than the program's.
func tryOut(t *testing.T, out string, n int) {
	t.Helper()
	raw, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile(`\n  [1-9]\. [^\n]*\n`).Split(string(raw), -1)
	if len(blocks) != 4 {
		t.Fatalf("%d things to try in\n%s", len(blocks)-1, raw)
	}
	for i, check := range []func(map[string]any) bool{
		func(m map[string]any) bool {
			return strings.HasPrefix(fmt.Sprint(m["access_token"]), "ey") && m["token_type"] == "Bearer"
		},
		func(m map[string]any) bool {
			return m["status"] == "accepted" && fmt.Sprint(m["request"]) == "map[image:myapp:latest]"
		},
		func(m map[string]any) bool { _, ok := m["items"].([]any); return ok },
	} {
		commands, _, _ := strings.Cut(blocks[i+1], "\n\n")
		if i >= n {
			break
		}
		cmd := exec.Command("bash", "-c", commands)
		cmd.Dir = t.TempDir()
		answer, err := cmd.CombinedOutput()
		var m map[string]any
		if err != nil || json.Unmarshal(answer, &m) != nil || !check(m) {
			t.Errorf("%s\n%v\n%s", commands, err, answer)
		}
	}
}

// make run: what it prints works when it is pasted, with the real curl.
func TestMakeRun(t *testing.T) {
	port, admin, data := freePort(t), freePort(t), filepath.Join(t.TempDir(), "it's data")
	out := printed(t, root(t), []string{fmt.Sprintf("GATEHOUSE_LISTEN=127.0.0.1:%d", port), fmt.Sprintf("GATEHOUSE_ADMIN_LISTEN=127.0.0.1:%d", admin), "GATEHOUSE_DATA=" + data}, "make", "run")
	awaitReady(t, admin)
	tryOut(t, out, 3)
}

// docker-compose.yml without containers: the same commands with the same
// environment, on a Redis that is started as the file starts it.
func TestComposeCommands(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join(root(t), "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Services map[string]struct {
			Command     []string          `yaml:"command"`
			Environment map[string]string `yaml:"environment"`
			Healthcheck struct {
				Test []string `yaml:"test"`
			} `yaml:"healthcheck"`
		} `yaml:"services"`
	}
	if err := yaml.Unmarshal(raw, &file); err != nil {
		t.Fatal(err)
	}
	port, admin, redis, upstream := freePort(t), freePort(t), freePort(t), freePort(t)
	here := strings.NewReplacer("0.0.0.0:8080", fmt.Sprintf("0.0.0.0:%d", port), "127.0.0.1:9091", fmt.Sprintf("127.0.0.1:%d", admin),
		"0.0.0.0:9000", fmt.Sprintf("127.0.0.1:%d", upstream), "demo-upstream:9000", fmt.Sprintf("127.0.0.1:%d", upstream), "redis:6379", fmt.Sprintf("127.0.0.1:%d", redis))
	run := func(service, program string, more ...string) string {
		s := file.Services[service]
		var env []string
		for k, v := range s.Environment {
			env = append(env, k+"="+here.Replace(v))
		}
		dir := t.TempDir()
		args := strings.Fields(here.Replace(strings.Join(s.Command, " ")))
		if program == "" {
			program, args = args[0], args[1:]
		}
		return printed(t, dir, append(env, "GATEHOUSE_DATA="+filepath.Join(dir, "data"), "GATEHOUSE_CONFIG="+dir), program, append(args, more...)...)
	}
	run("redis", "", "--port", fmt.Sprint(redis))
	check := file.Services["redis"].Healthcheck.Test
	eventually(t, waitReady, "Redis is healthy", func() bool {
		return exec.Command(check[1], append([]string{"-p", fmt.Sprint(redis)}, check[2:]...)...).Run() == nil
	})
	bin := filepath.Join(root(t), "bin", "gatehouse")
	run("demo-upstream", bin)
	out := run("gatehouse", bin)
	awaitReady(t, admin)
	tryOut(t, out, 2) // the third is for docker compose exec
}
