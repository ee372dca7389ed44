// Package repo checks the repository itself: what its pages promise, what they
// link to, and that the files around the program agree with one another.
package repo

import (
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// walk reads every file with this ending; paths are relative to the repository.
func walk(t *testing.T, ending string, visit func(path, text string)) {
	t.Helper()
	root := filepath.Join("..", "..")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); path != root && (strings.HasPrefix(n, ".") || n == "node_modules" || n == "bin" || n == "data") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ending) {
			return nil
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		visit(rel, string(raw))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

var (
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fenced = regexp.MustCompile("(?s)```.*?```")
)

// Every link of a page to a file leads to one, and one to a heading to a heading.
func TestLinksLeadSomewhere(t *testing.T) {
	count := 0
	walk(t, ".md", func(path, text string) {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			u, err := url.Parse(m[1])
			if err != nil || u.IsAbs() {
				continue
			}
			count++
			target := filepath.Join("..", "..", path)
			if u.Path != "" {
				target = filepath.Join("..", "..", filepath.Dir(path), u.Path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s links to %s: %v", path, m[1], err)
				continue
			}
			if u.Fragment != "" && !slices.Contains(anchors(t, target), u.Fragment) {
				t.Errorf("%s links to %s, and there is no such heading", path, m[1])
			}
		}
	})
	if count < 20 {
		t.Fatalf("only %d links were found", count)
	}
}

// anchors are the names of a page's headings, as GitHub makes them.
func anchors(t *testing.T, path string) []string {
	t.Helper()
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(string(raw), -1) {
		a := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		out = append(out, strings.ReplaceAll(a, " ", "-"))
	}
	return out
}

var ruleID = regexp.MustCompile(`\b(G|ISS|UP|SP|LD|SE|GW|AD|ST|SC)-?([0-9]{1,2})\b`)

// Every rule that code or tests name stands in docs/security.md, and the files that
// the page names are there.
func TestSecurityPage(t *testing.T) {
	page := read(t, "docs/security.md")
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`\*\*([A-Z]+-?[0-9]+)\*\*`).FindAllStringSubmatch(page, -1) {
		known[m[1]] = true
	}
	if len(known) < 90 {
		t.Fatalf("only %d rules", len(known))
	}
	walk(t, ".go", func(path, text string) {
		for _, line := range strings.Split(text, "\n") {
			_, comment, ok := strings.Cut(line, "//")
			if !ok {
				continue
			}
			for _, m := range ruleID.FindAllString(comment, -1) {
				if !known[m] {
					t.Errorf("%s names %s, which docs/security.md does not know", path, m)
				}
			}
		}
	})
	for _, m := range regexp.MustCompile("`([a-z/_]+(?:/|\\.go|\\.sh|Dockerfile|go\\.mod|go\\.sum))`").FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("..", "..", m[1])); err != nil {
			t.Errorf("docs/security.md names %s: %v", m[1], err)
		}
	}
}

// The pages speak of what the program is called on the public surface.
func TestReadmeFirstScreen(t *testing.T) {
	page := read(t, "README.md")
	first := strings.Join(strings.SplitN(page, "\n", 21)[:20], "\n")
	for _, want := range []string{"make run", "make test", "![", "docs/README.zh-CN.md"} {
		if !strings.Contains(first, want) {
			t.Errorf("the first screen does not show %s", want)
		}
	}
	if licence := read(t, "LICENSE"); !strings.Contains(licence, "Apache License") || !strings.Contains(licence, "Version 2.0") {
		t.Error("the licence is not Apache 2.0")
	}
	// The command line that the README shows exists.
	for _, c := range regexp.MustCompile(`(?m)^bin/gatehouse ([a-z-]+)`).FindAllStringSubmatch(page, -1) {
		if _, err := os.Stat(filepath.Join("..", "..", "cmd", "gatehouse", strings.ReplaceAll(c[1], "-", "_")+".go")); err != nil {
			t.Errorf("gatehouse %s: %v", c[1], err)
		}
	}
}
