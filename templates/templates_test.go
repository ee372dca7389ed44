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
			if strings.HasSuffix(id, ".") || id == "error.type" || id == "signin.failed" || id == "signin.succeeded" || id == "signin.lockout" || id == "signin.new_device" || strings.HasPrefix(id, "consent.g") && id != "consent.gone" || id == "consent.revoked" || id == "consent.gone" {
				continue // a prefix, an event, an error code or an attribute of a trace
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

// What a connector refuses with has a text where that kind of connector shows
// it.
func TestRefusalsHaveTexts(t *testing.T) {
	en := texts(t, "en")
	code := regexp.MustCompile(`\bcode[A-Z]\w* *= *"([a-z_]+)"|\brefuse\("([a-z_]+)"`)
	for dir, prefix := range map[string]string{"ldap": "password.", "github": "error.connector.", "dingtalk": "error.connector.", "wecom": "error.connector.", "feishu": "error.connector."} {
		n := 0
		files, err := filepath.Glob("../connectors/" + dir + "/*.go")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			raw, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, m := range code.FindAllStringSubmatch(string(raw), -1) {
				if n++; m[1] == "account_locked" {
					continue // answered as a wrong password: it comes without the right one too (LD-7)
				}
				if id := prefix + m[1] + m[2]; en[id] == "" {
					t.Errorf("%s refuses with %q, and there is no text %q", file, m[1]+m[2], id)
				}
			}
		}
		if n == 0 {
			t.Errorf("found no refusal in connectors/%s: the pattern no longer fits", dir)
		}
	}
}

// A text that nobody shows is a text that nobody keeps right.
func TestNoTextIsUnused(t *testing.T) {
	var all strings.Builder
	for _, root := range []string{".", "../broker", "../connectors"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(p, ".html") && !strings.HasSuffix(p, ".go") || strings.HasSuffix(p, "_test.go") {
				return err
			}
			raw, err := os.ReadFile(p)
			all.Write(raw)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	source := all.String()
	made := regexp.MustCompile(`^(event|sessions\.kind|keys\.state|home\.kind|notify\.(you|event)|role|consent\.scope|password|error\.connector|error\.saml)\.`) // put together where they are shown; of events, by the readers of the log
	for id := range texts(t, "en") {
		base := strings.TrimSuffix(id, ".help")
		if !strings.Contains(source, `"`+base+`"`) && !made.MatchString(base) {
			t.Errorf("%s is shown nowhere", id)
		}
	}
}

// The Chinese is written as a product of the mainland is: polite, with a space
// between Han and Latin, and one word for one thing.
func TestChineseStyle(t *testing.T) {
	wrong := map[string]*regexp.Regexp{
		"no space between Han and Latin":   regexp.MustCompile(`\p{Han}[A-Za-z0-9{]|[A-Za-z0-9}]\p{Han}`),
		"ASCII punctuation or bracket":     regexp.MustCompile(`\p{Han} ?[,;:?!()]|[,;:?!()] ?\p{Han}|\.$|\.\.\.`),
		"a space at a full-width mark":     regexp.MustCompile(` [，。；：？！（）、]|[，。；：？！（）、] `),
		"你 where 您 belongs":                regexp.MustCompile(`你`),
		"登出, 登陆 or 注销 for 退出登录 or 登录":      regexp.MustCompile(`登出|登陆|注销`),
		"電腦, 帳號, 網路, 默認, 用戶 or 賬 for ours": regexp.MustCompile(`電|帳|網|賬|戶|登錄|默认帐`),
		"帐号 for 账号":                        regexp.MustCompile(`帐`),
		"an English sentence":              regexp.MustCompile(`[A-Za-z]+ [a-z]+ [a-z]+`),
	}
	for id, z := range texts(t, "zh-CN") {
		for what, re := range wrong {
			if m := re.FindString(z); m != "" {
				t.Errorf("%s: %s (%s): %s", id, what, m, z)
			}
		}
		if !regexp.MustCompile(`\p{Han}`).MatchString(z) && !map[string]bool{"home.api": true, "home.kind.jupyter": true, "home.kind.vscode": true}[id] {
			t.Errorf("%s is not Chinese: %s", id, z)
		}
	}
	for id, e := range texts(t, "en") {
		if m := regexp.MustCompile(`(?i)\b(please|oops|whoops)\b|!$|\p{Han}`).FindString(e); m != "" {
			t.Errorf("%s: %q in %s", id, m, e)
		}
	}
}
