//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// terminal is a command of the program on a pseudo-terminal.
type terminal struct {
	t    *testing.T
	cmd  *exec.Cmd
	keys io.WriteCloser
	out  string // file with what it printed
}

// onTerminal starts a command on a pseudo-terminal of script(1), on a machine
// without a browser but for what env says.
func onTerminal(t *testing.T, home string, env []string, args ...string) *terminal {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "typescript")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	words := []string{"exec", filepath.Join(root(t), "bin", "gatehouse")}
	for _, a := range args {
		words = append(words, "'"+a+"'")
	}
	cmd := exec.Command("script", "--quiet", "--flush", "--return", "--command", strings.Join(words, " "), "/dev/null")
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TERM=xterm", "LC_ALL=C.UTF-8"}, env...)
	cmd.Stdout, cmd.Stderr = out, out
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; script is of the package bsdutils", err)
	}
	term := &terminal{t: t, cmd: cmd, keys: keys, out: out.Name()}
	t.Cleanup(func() { term.keys.Close(); _ = cmd.Process.Kill() })
	return term
}

func (term *terminal) text() string {
	term.t.Helper()
	raw, err := os.ReadFile(term.out)
	if err != nil {
		term.t.Fatal(err)
	}
	return strings.ReplaceAll(string(raw), "\r\n", "\n")
}

// find waits until something is printed and returns the expression's groups.
func (term *terminal) find(expression string) []string {
	term.t.Helper()
	re := regexp.MustCompile(expression)
	var m []string
	for began := time.Now(); m == nil; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			term.t.Fatalf("the terminal does not show %s:\n%s", expression, term.text())
		}
		m = re.FindStringSubmatch(term.text())
	}
	return m
}

// ends waits for the end and checks the exit code.
func (term *terminal) ends(code int) {
	term.t.Helper()
	err := term.cmd.Wait()
	if got := term.cmd.ProcessState.ExitCode(); got != code {
		term.t.Fatalf("exit code %d (%v), not %d:\n%s", got, err, code, term.text())
	}
}

// as runs a command of somebody whose home is a folder.
func (g *gatehouse) as(home string, args ...string) (string, error) {
	g.t.Helper()
	cmd := exec.Command(filepath.Join(root(g.t), "bin", "gatehouse"), args...)
	cmd.Dir, cmd.Env = home, []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LC_ALL=C.UTF-8"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// `gatehouse login` on a machine without a browser: the code is typed in Chromium,
// and allowed, denied, or given up.
func TestLoginByCode(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	home := t.TempDir()
	ask := func() (*terminal, []string) {
		term := onTerminal(t, home, nil, "login", "--issuer", g.URL)
		return term, term.find(`(?s)  Open   (\S+)\n  Code   (\S+)          \(expires in 10 min\)\n  Waiting… Ctrl-C to stop\n`)
	}
	term, m := ask()
	browser(t, nil, "login.mjs", "allow", m[1], "demo", "demo", m[2])
	term.ends(0)
	if shown := term.text(); !strings.Contains(shown, "✓ Signed in as demo@example.com (local)") || !strings.Contains(shown, filepath.Join(home, ".config/gatehouse")) || strings.Contains(shown, "Opening") {
		t.Errorf("shown:\n%s", shown)
	}
	if out, err := g.as(home, "whoami"); err != nil || !strings.Contains(out, "demo@example.com") {
		t.Errorf("whoami: %v\n%s", err, out)
	}
	token, err := g.as(home, "token")
	if err != nil {
		t.Fatal(token, err)
	}
	if status := bearing(t, g.URL+"/oauth2/userinfo", strings.TrimSpace(token)); status != http.StatusOK {
		t.Errorf("the token is good for %d", status)
	}
	other, err := g.as(home, "token", "--audience", "demo-api")
	if err != nil || other == token {
		t.Errorf("for another audience: %v\n%s", err, other)
	}
	if out, err := g.as(home, "logout"); err != nil {
		t.Error(out, err)
	}
	if status := bearing(t, g.URL+"/oauth2/userinfo", strings.TrimSpace(token)); status != http.StatusUnauthorized {
		t.Errorf("after signing out the token is good for %d", status)
	}

	term, m = ask()
	browser(t, nil, "login.mjs", "deny", m[1], "demo", "demo", m[2])
	term.ends(1)
	if !strings.Contains(term.text(), "it was not allowed") {
		t.Errorf("denied:\n%s", term.text())
	}
	term, _ = ask()
	if _, err := io.WriteString(term.keys, "\x03"); err != nil {
		t.Fatal(err)
	}
	term.ends(1)
	if !strings.Contains(term.text(), "cancelled") {
		t.Errorf("Ctrl-C:\n%s", term.text())
	}
	if out, err := g.as(home, "whoami"); err == nil {
		t.Errorf("signed in after a denial:\n%s", out)
	}
}

// `gatehouse login` where there is a screen: by loopback, in Chromium; and where
// the browser does not open, by code.
func TestLoginInBrowser(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	home := t.TempDir()
	opened := filepath.Join(home, "opened")
	write(t, home, map[string]string{"browser.sh": "#!/bin/sh\nprintf %s \"$1\" > " + opened + ".part && mv " + opened + ".part " + opened + "\n", "broken.sh": "#!/bin/sh\nexit 1\n"})
	for _, name := range []string{"browser.sh", "broken.sh"} {
		if err := os.Chmod(filepath.Join(home, name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	term := onTerminal(t, home, []string{"DISPLAY=:99", "BROWSER=" + filepath.Join(home, "browser.sh")}, "login", "--issuer", g.URL)
	term.find("Waiting")
	address, err := os.ReadFile(opened)
	if err != nil {
		t.Fatalf("%v\n%s", err, term.text())
	}
	browser(t, nil, "login.mjs", "loopback", string(address), "demo", "demo")
	term.ends(0)
	if shown := term.text(); !strings.Contains(shown, "✓ Signed in as demo@example.com (local)") || strings.Contains(shown, "Code") {
		t.Errorf("shown:\n%s", shown)
	}
	term = onTerminal(t, home, []string{"DISPLAY=:99", "BROWSER=" + filepath.Join(home, "broken.sh")}, "login", "--issuer", g.URL, "--profile", "second")
	term.find(`(?s)signing in by code instead\.\n  Open   \S+/device\n  Code   \S+`)
	if _, err := io.WriteString(term.keys, "\x03"); err != nil {
		t.Fatal(err)
	}
	term.ends(1)
}

// A file that is kept fresh, through kill -9 of the server and its return; the
// program ends with SIGTERM.
func TestTokenWatch(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": "tokens: {access_ttl: 6s}\n"})
	g := serve(t, dir, []string{"--dev"})
	home := t.TempDir()
	term := onTerminal(t, home, nil, "login", "--issuer", g.URL, "--browser")
	browser(t, nil, "login.mjs", "loopback", term.find(`  Open   (\S+)\n`)[1], "demo", "demo")
	term.ends(0)
	file := filepath.Join(home, "token")
	watch := exec.Command(filepath.Join(root(t), "bin", "gatehouse"), "token", "--file", file, "--watch")
	watch.Env = []string{"HOME=" + home, "LC_ALL=C.UTF-8"}
	said := &strings.Builder{}
	watch.Stderr = said
	if err := watch.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Process.Kill() })
	current := func() string {
		raw, err := os.ReadFile(file)
		if err != nil {
			return ""
		}
		return string(raw)
	}
	renewed := func(from string) string {
		t.Helper()
		eventually(t, time.Minute, "the file is renewed", func() bool { return current() != from && current() != "" })
		return current()
	}
	first := renewed("")
	second := renewed(first)
	if status := bearing(t, g.URL+"/oauth2/userinfo", second); status != http.StatusOK {
		t.Errorf("the token in the file is good for %d", status)
	}
	g.stop(syscall.SIGKILL)
	time.Sleep(8 * time.Second) // longer than a token lives: it has tried by then
	g.start()
	third := renewed(current())
	if status := bearing(t, g.URL+"/oauth2/userinfo", third); status != http.StatusOK {
		t.Errorf("after the outage the token in the file is good for %d", status)
	}
	if err := watch.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := watch.Wait(); err != nil {
		t.Errorf("SIGTERM: %v\n%s", err, said)
	}
	if !strings.Contains(said.String(), "cannot be renewed now") || !strings.Contains(said.String(), "fresh again") {
		t.Errorf("said:\n%s", said)
	}
}

// bearing asks with a token and returns the status.
func bearing(t *testing.T, url, token string) int {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}
