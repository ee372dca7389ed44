//go:build e2e

// Package e2e runs the built program against real peers: browsers, certified
// clients, directories and stores. A peer that is missing fails its test with
// the command that installs it.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// root is the repository.
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// freePort returns a port that nothing listens on.
func freePort(t testing.TB) int { return freePorts(t, 1) }

// gatehouse is the program under test.
type gatehouse struct {
	t           testing.TB
	cmd         *exec.Cmd
	dir         string // where it runs; data/ is below
	URL         string
	Admin       string
	port, aport int
	out         *bytes.Buffer
	args        []string
	env         []string
}

// serve starts the built program and waits until it is ready. env is added to
// the environment.
func serve(t testing.TB, dir string, args []string, env ...string) *gatehouse {
	t.Helper()
	g := &gatehouse{t: t, dir: dir, port: freePort(t), aport: freePort(t), args: args, env: env}
	g.URL, g.Admin = fmt.Sprintf("http://127.0.0.1:%d", g.port), fmt.Sprintf("http://127.0.0.1:%d", g.aport)
	g.start()
	t.Cleanup(func() { g.stop(syscall.SIGTERM) })
	return g
}

func (g *gatehouse) environ() []string {
	return append(os.Environ(), append([]string{
		fmt.Sprintf("GATEHOUSE_LISTEN=127.0.0.1:%d", g.port), fmt.Sprintf("GATEHOUSE_ADMIN_LISTEN=127.0.0.1:%d", g.aport),
		"GATEHOUSE_DATA=" + filepath.Join(g.dir, "data"), "GATEHOUSE_CONFIG=" + filepath.Join(g.dir, "config"),
	}, g.env...)...)
}

func (g *gatehouse) start() {
	g.t.Helper()
	bin := filepath.Join(root(g.t), "bin", "gatehouse")
	if _, err := os.Stat(bin); err != nil {
		g.t.Fatalf("%v: build it first with: make build", err)
	}
	g.out = &bytes.Buffer{}
	g.cmd = exec.Command(bin, append([]string{"serve"}, g.args...)...)
	g.cmd.Dir, g.cmd.Env = g.dir, g.environ()
	g.cmd.Stdout, g.cmd.Stderr = g.out, g.out
	if err := g.cmd.Start(); err != nil {
		g.t.Fatal(err)
	}
	done := make(chan error, 1)
	cmd := g.cmd
	go func() { done <- cmd.Wait() }()
	deadline := time.Now().Add(30 * time.Second)
	for time.Now().Before(deadline) {
		if resp, err := http.Get(g.Admin + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		select {
		case err := <-done:
			g.t.Fatalf("gatehouse ended: %v\n%s", err, g.out)
		case <-time.After(20 * time.Millisecond):
		}
	}
	g.t.Fatalf("gatehouse is not ready after 30 s\n%s", g.out)
}

func (g *gatehouse) stop(sig syscall.Signal) {
	if g.cmd.ProcessState != nil || g.cmd.Process == nil {
		return
	}
	_ = g.cmd.Process.Signal(sig)
	for range 400 {
		if err := g.cmd.Process.Signal(syscall.Signal(0)); err != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	_ = g.cmd.Process.Kill()
}

// run runs a command of the program and returns what it printed.
func (g *gatehouse) run(args ...string) string {
	g.t.Helper()
	cmd := exec.Command(filepath.Join(root(g.t), "bin", "gatehouse"), args...)
	cmd.Dir, cmd.Env = g.dir, g.environ()
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("gatehouse %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// startPeer starts test/peers/<name>/start.sh DIR PORT and returns what it wrote
// into DIR/env.
func startPeer(t testing.TB, name string, port int, env ...string) map[string]string {
	t.Helper()
	dir := t.TempDir()
	// Some peers give up root, and must still reach their own files.
	if err := os.Chmod(filepath.Dir(dir), 0o711); err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(root(t), "test", "peers", name, "start.sh")
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // Keycloak builds itself first
	defer cancel()
	cmd := exec.CommandContext(ctx, script, dir, fmt.Sprint(port))
	cmd.Env = append(os.Environ(), env...)
	log, err := os.Create(filepath.Join(dir, "start.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log // a file: daemons keep it open
	err = cmd.Run()
	t.Cleanup(func() {
		stop := exec.Command(filepath.Join(filepath.Dir(script), "stop.sh"), dir)
		if out, err := stop.CombinedOutput(); err != nil {
			t.Logf("stop %s: %v\n%s", name, err, out)
		}
	})
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("the peer %s did not start: %v; install what it needs with: test/e2e/install.sh core\n%s", name, err, text)
	}
	vars := map[string]string{"DIR": dir}
	f, err := os.Open(filepath.Join(dir, "env"))
	if err != nil {
		t.Fatalf("the peer %s wrote no env: %v", name, err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if k, v, ok := strings.Cut(strings.TrimPrefix(sc.Text(), "export "), "="); ok {
			vars[k] = strings.Trim(v, `"'`)
		}
	}
	return vars
}

// script runs a program with a time limit and returns its output.
func script(t testing.TB, limit time.Duration, env []string, name string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// write puts files below a folder.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
