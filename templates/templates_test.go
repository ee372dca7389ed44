package templates_test

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/templates"
)

func texts(t *testing.T, name string) map[string]string {
	t.Helper()
	raw, err := fs.ReadFile(templates.FS, "locale/"+name+".json")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(name, err)
	}
	return m
}

var place = regexp.MustCompile(`\{[a-z]+\}`)

// Every text exists in both languages, with the same places.
func TestLocalesAgree(t *testing.T) {
	en, zh := texts(t, "en"), texts(t, "zh-CN")
	for id, e := range en {
		z, ok := zh[id]
		if !ok || z == "" {
			t.Errorf("%s is missing in zh-CN", id)
			continue
		}
		in := func(s string) map[string]bool {
			out := map[string]bool{}
			for _, p := range place.FindAllString(s, -1) {
				out[p] = true
			}
			return out
		}
		pe, pz := in(e), in(z)
		for p := range pe {
			if !pz[p] {
				t.Errorf("%s: %s is missing in zh-CN", id, p)
			}
		}
		for p := range pz {
			if !pe[p] {
				t.Errorf("%s: %s is missing in en", id, p)
			}
		}
	}
	for id := range zh {
		if _, ok := en[id]; !ok {
			t.Errorf("%s is missing in en", id)
		}
	}
	// Han text takes full-width punctuation.
	ascii := regexp.MustCompile(`\p{Han}[,;:?!]`)
	for id, z := range zh {
		if ascii.MatchString(z) {
			t.Errorf("%s: ASCII punctuation after Han: %s", id, z)
		}
	}
}

var used = regexp.MustCompile(`\.T "([a-z_.]+)"`)
var inGo = regexp.MustCompile(`"((?:error|signin|password|consent)\.[a-z_.]+)"`)

// Every id that a template or a package names has a text.
func TestEveryIDHasAText(t *testing.T) {
	en := texts(t, "en")
	check := func(file string, raw []byte, re *regexp.Regexp) {
		for _, m := range re.FindAllStringSubmatch(string(raw), -1) {
			id := m[1]
			if strings.HasSuffix(id, ".") || id == "signin.failed" || id == "signin.succeeded" || id == "signin.lockout" || id == "signin.new_device" || strings.HasPrefix(id, "consent.g") && id != "consent.gone" || id == "consent.revoked" || id == "consent.gone" {
				continue // a prefix, an event or an error code
			}
			if _, ok := en[id]; !ok {
				t.Errorf("%s names %q, which has no text", file, id)
			}
		}
	}
	err := fs.WalkDir(templates.FS, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".html") {
			return err
		}
		raw, err := fs.ReadFile(templates.FS, p)
		check(p, raw, used)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir("../broker", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") || strings.Contains(p, "/event/") {
			return err
		}
		raw, err := os.ReadFile(p)
		check(p, raw, inGo)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A strict policy has no room for inline scripts, handlers and styles, and a
// page of ours loads nothing from elsewhere.
func TestNothingInline(t *testing.T) {
	bad := regexp.MustCompile(`(?i)\son[a-z]+\s*=|\sstyle\s*=|<style|<script>|user-scalable|maximum-scale|(src|href)="https?:`)
	err := fs.WalkDir(templates.FS, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(p, ".html") {
			return err
		}
		raw, err := fs.ReadFile(templates.FS, p)
		if m := bad.Find(raw); m != nil {
			t.Errorf("%s holds %q", p, m)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
