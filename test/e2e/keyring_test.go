//go:build e2e

package e2e

import (
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// A desktop's keyring, GNOME's, on a session bus of its own: unlocked it holds the
// tokens and the file does not; locked, with nobody to type the password, it does
// not keep a sign-in from going on, and the file takes its place.
func TestLoginKeyring(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	for _, need := range []string{"dbus-run-session", "gnome-keyring-daemon"} {
		if _, err := exec.LookPath(need); err != nil {
			t.Fatalf("%v; install it with: test/e2e/install.sh core", err)
		}
	}
	for name, c := range map[string]struct{ before, kept, profile string }{
		"unlocked": {"printf password | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1", "Token kept in: Secret Service", `"kept": "keyring"`},
		"locked":   {"true", "Token kept in: /", `"kept": "file"`},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			opened := filepath.Join(home, "opened")
			write(t, home, map[string]string{"browser.sh": "#!/bin/sh\nprintf %s \"$1\" > " + opened + ".part && mv " + opened + ".part " + opened + "\n", "session.sh": `set -e
mkdir -m 700 run
` + c.before + `
"$GATEHOUSE" login --issuer "$ISSUER" > said 2> why
"$GATEHOUSE" whoami > who
"$GATEHOUSE" token > token
"$GATEHOUSE" token --audience demo-api > other
cp .config/gatehouse/*.json profile
"$GATEHOUSE" logout
! "$GATEHOUSE" token
`})
			if err := os.Chmod(filepath.Join(home, "browser.sh"), 0o700); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command("dbus-run-session", "--", "bash", "session.sh")
			cmd.Dir = home
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "XDG_RUNTIME_DIR=" + filepath.Join(home, "run"), "LC_ALL=C.UTF-8", "DISPLAY=:4711",
				"BROWSER=" + filepath.Join(home, "browser.sh"), "GATEHOUSE=" + filepath.Join(root(t), "bin", "gatehouse"), "ISSUER=" + g.URL}
			log, err := os.Create(filepath.Join(home, "log")) // a file: the daemon keeps it open
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			cmd.Stdout, cmd.Stderr = log, log
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			done := make(chan error, 1)
			go func() { done <- cmd.Wait() }()
			t.Cleanup(func() { _ = cmd.Process.Kill() })
			read := func(name string) string {
				raw, err := os.ReadFile(filepath.Join(home, name))
				if err != nil {
					return ""
				}
				return string(raw)
			}
			eventually(t, waitReady, "the browser is opened", func() bool { return read("opened") != "" })
			browser(t, nil, "login.mjs", "loopback", read("opened"), "demo", "demo")
			if err := <-done; err != nil {
				t.Fatalf("%v\n%s%s", err, read("log"), read("why"))
			}
			if said := read("said"); !strings.Contains(said, c.kept) {
				t.Errorf("said:\n%s%s", said, read("why"))
			}
			profile, token := read("profile"), strings.TrimSpace(read("token"))
			if !strings.Contains(profile, c.profile) || strings.Contains(profile, token) != (name == "locked") || strings.Contains(profile, "ghr_") != (name == "locked") {
				t.Errorf("in the file:\n%s", profile)
			}
			if !strings.HasPrefix(token, "ey") || !strings.HasPrefix(read("other"), "ey") || !strings.Contains(read("who"), "demo@example.com") {
				t.Errorf("token %q, whoami:\n%s", token, read("who"))
			}
			if name == "locked" && !strings.Contains(read("why"), "keyring was not used") {
				t.Errorf("it is not said why:\n%s", read("why"))
			}
			if status := bearing(t, g.URL+"/oauth2/userinfo", token); status != http.StatusUnauthorized {
				t.Errorf("after signing out the token is good for %d", status)
			}
		})
	}
}
