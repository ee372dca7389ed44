package repo

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// keysOf lists the keys of a configuration struct, those of its sections with the
// section's in front.
func keysOf(t reflect.Type, prefix string) []string {
	var out []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "" || name == "-" {
			continue
		}
		key := prefix + name
		ft := f.Type
		for ft.Kind() == reflect.Slice || ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if ft.Kind() == reflect.Struct {
			out = append(out, keysOf(ft, key+".")...)
		} else {
			out = append(out, key)
		}
	}
	return out
}

// allKeys are the keys of the frame, of connectors and of their types.
func allKeys() []string {
	out := append(keysOf(reflect.TypeFor[config.Config](), ""), keysOf(reflect.TypeFor[config.Connector](), "connectors.")...)
	for _, typ := range broker.Types() {
		out = append(out, keysOf(reflect.TypeOf(typ.NewConfig()).Elem(), typ.Name+".")...)
	}
	return out
}

// Every key stands in docs/configuration.md with all of its path, and no other.
func TestEveryKeyIsDocumented(t *testing.T) {
	page := read(t, "docs/configuration.md")
	keys := allKeys()
	if len(keys) < 200 {
		t.Fatalf("only %d keys were found", len(keys))
	}
	for _, key := range keys {
		if !strings.Contains(page, "`"+key+"`") {
			t.Errorf("`%s` is not in docs/configuration.md", key)
		}
	}
	// A section by itself may be named too.
	known := slices.Clone(keys)
	for _, k := range keys {
		for i, c := range k {
			if c == '.' {
				known = append(known, k[:i])
			}
		}
	}
	for _, row := range regexp.MustCompile(`(?m)^\| (`+"`[^|]*`"+`) \|`).FindAllStringSubmatch(page, -1) {
		for _, m := range regexp.MustCompile("`([a-z_0-9.]+)`").FindAllStringSubmatch(row[1], -1) {
			if !slices.Contains(known, m[1]) && !strings.HasPrefix(m[1], "GATEHOUSE_") {
				t.Errorf("docs/configuration.md tells of `%s`, which is no key", m[1])
			}
		}
	}
}

// The full example holds every key, so that the tests that load it see every one.
func TestFullExampleHasEveryKey(t *testing.T) {
	var tree map[string]any
	// The library alone does not read this key (config/guard.go mends it).
	text := strings.ReplaceAll(read(t, "config/testdata/full/gatehouse.yml"), "{deployments:write:", `{"deployments:write":`)
	if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch x := v.(type) {
		case map[string]any:
			for k, e := range x {
				p := strings.TrimPrefix(path+"."+k, ".")
				have[p] = true
				walk(e, p)
			}
		case []any:
			for _, e := range x {
				if m, ok := e.(map[string]any); ok && path == "connectors" {
					typ, _ := m["type"].(string)
					walk(m, typ) // the type's keys, too, are known by the type's name
				}
				walk(e, path)
			}
		}
	}
	walk(tree, "")
	// Sections of one struct are decoded alike.
	same := map[string]string{"wechat": "dingtalk", "slack": "dingtalk", "feishu": "dingtalk", "oss": "s3", "cos": "s3", "minio": "s3"}
	for _, key := range allKeys() {
		section, rest, _ := strings.Cut(key, ".")
		if !have[key] && !have[same[section]+"."+rest] {
			t.Errorf("%s is not in the full example", key)
		}
	}
}

// Every variable of the environment that the program reads is in the documentation.
func TestEveryVariableIsDocumented(t *testing.T) {
	page := read(t, "docs/configuration.md")
	seen := map[string]bool{}
	walk(t, ".go", func(path, text string) {
		if strings.HasSuffix(path, "_test.go") || strings.HasPrefix(path, "test"+string(filepath.Separator)) {
			return
		}
		for _, v := range regexp.MustCompile(`"(GATEHOUSE_[A-Z_]+)"|env:"(GATEHOUSE_[A-Z_]+)"`).FindAllStringSubmatch(text, -1) {
			seen[v[1]+v[2]] = true
		}
	})
	if len(seen) < 8 {
		t.Fatalf("only %v", seen)
	}
	for v := range seen {
		if !strings.Contains(page, "`"+v+"`") {
			t.Errorf("%s is not in docs/configuration.md", v)
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join("../..", path))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}
