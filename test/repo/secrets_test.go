package repo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/config"
)

const marked = "MARKED-SECRET-hunter2"

// mark fills every secret of a struct, however deep, and returns how many there
// are.
func mark(v reflect.Value) int {
	if v.Type() == reflect.TypeFor[redact.String]() {
		v.SetString(marked)
		return 1
	}
	n := 0
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				n += mark(v.Field(i))
			}
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		n = mark(v.Index(0))
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.Struct && !v.Type().Elem().Implements(reflect.TypeFor[error]()) {
			v.Set(reflect.New(v.Type().Elem()))
			n = mark(v.Elem())
		}
	case reflect.Map:
		if v.Type().Key().Kind() == reflect.String {
			elem := reflect.New(v.Type().Elem()).Elem()
			n = mark(elem)
			v.Set(reflect.MakeMap(v.Type()))
			v.SetMapIndex(reflect.ValueOf("k").Convert(v.Type().Key()), elem)
		}
	}
	return n
}

// printed is every way in which something gets printed without anybody meaning to.
func printed(v any) []string {
	var js, text bytes.Buffer
	for _, log := range []*slog.Logger{slog.New(slog.NewJSONHandler(&js, nil)), slog.New(slog.NewTextHandler(&text, nil))} {
		log.With("with", v).Info("m", "v", v, "err", fmt.Errorf("wrapped: %v", v), slog.Group("g", "v", v))
	}
	out := []string{js.String(), text.String(), errors.Join(fmt.Errorf("%v", v)).Error()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "% x", "%08.3f", "%U", "%c"} {
		out = append(out, fmt.Sprintf(verb, v))
	}
	if b, err := json.Marshal(v); err == nil {
		out = append(out, string(b))
	}
	if b, err := yaml.Marshal(v); err == nil {
		out = append(out, string(b))
	}
	return out
}

// ST-2: no section of the configuration shows its secrets, whatever prints it.
func TestSecretsAreNeverPrinted(t *testing.T) {
	total := 0
	sections := map[string]any{"config": &config.Config{}}
	for _, typ := range broker.Types() {
		sections["connector "+typ.Name] = typ.NewConfig()
	}
	for name, section := range sections {
		v := reflect.ValueOf(section).Elem()
		total += mark(v)
		for _, x := range append([]any{section, v.Interface()}, fieldsOf(v)...) {
			for _, out := range printed(x) {
				for _, form := range []string{marked, fmt.Sprintf("%x", marked), fmt.Sprintf("%X", marked), fmt.Sprintf("% x", marked), fmt.Sprint([]byte(marked))} {
					if strings.Contains(out, form) {
						t.Errorf("%s: a secret is in %.300q", name, out)
					}
				}
			}
		}
	}
	if total < 30 {
		t.Fatalf("only %d secrets were found", total)
	}
}

// fieldsOf are a struct's sections by themselves.
func fieldsOf(v reflect.Value) []any {
	var out []any
	for i := range v.NumField() {
		if v.Type().Field(i).IsExported() {
			out = append(out, v.Field(i).Interface())
		}
	}
	return out
}

// secretName is how keys of secrets are named.
var secretName = regexp.MustCompile(`(^|_)(secret|password|private_key|dsn|webhook_url|push_url|access_key|secret_key|password_hash|token)$`)

// A key that is named like a secret is one: it has the type that does not print.
func TestSecretsHaveTheirType(t *testing.T) {
	found := 0
	var walk func(typ reflect.Type, path string)
	walk = func(typ reflect.Type, path string) {
		for typ.Kind() == reflect.Slice || typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Map {
			typ = typ.Elem()
		}
		if typ.Kind() != reflect.Struct {
			return
		}
		for i := range typ.NumField() {
			f := typ.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
			if name == "" || name == "-" {
				continue
			}
			if secretName.MatchString(name) {
				found++
				if f.Type != reflect.TypeFor[redact.String]() {
					t.Errorf("%s%s is a %s, which prints", path, name, f.Type)
				}
			}
			walk(f.Type, path+name+".")
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	for _, typ := range broker.Types() {
		walk(reflect.TypeOf(typ.NewConfig()), typ.Name+".")
	}
	if found < 30 {
		t.Fatalf("only %d keys were found", found)
	}
}
