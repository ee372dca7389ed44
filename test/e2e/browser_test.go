//go:build e2e

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browser runs one of test/e2e/browser/*.mjs in headless Chromium.
func browser(t *testing.T, env []string, name string, args ...string) {
	t.Helper()
	dir := filepath.Join(root(t), ".peers", "browser")
	if _, err := os.Stat(filepath.Join(dir, "browser.mjs")); err != nil {
		t.Fatalf("%v: install Chromium and its driver with: test/e2e/install.sh core", err)
	}
	raw, err := os.ReadFile(filepath.Join(root(t), "test", "e2e", "browser", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := script(t, 6*time.Minute, env, "node", append([]string{filepath.Join(dir, name)}, args...)...)
	t.Log(out)
	if err != nil || strings.Contains(out, "FAIL") || !strings.Contains(out, "PASS") {
		t.Fatalf("%s: %v", name, err)
	}
}

// A person signs in, opens the API and the console, signs out, finds both
// closed; and forms end at clients on another site. With scripts and without.
func TestBrowserFlow(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	t.Run("scripts on", func(t *testing.T) { browser(t, nil, "flow.mjs", g.URL, "demo", "demo") })
	t.Run("scripts off", func(t *testing.T) { browser(t, []string{"NOJS=1"}, "flow.mjs", g.URL, "demo", "demo") })
}

// Every page, both languages, both themes, wide and narrow: no violation of
// WCAG 2.2 AA, nothing sideways, nobody else asked.
func TestBrowserPages(t *testing.T) {
	g := serve(t, t.TempDir(), []string{"--dev"})
	browser(t, nil, "pages.mjs", g.URL, "demo", "demo")
}
