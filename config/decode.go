package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// place is where something stands.
type place struct {
	file string
	tok  *token.Token
}

// decoder fills structs from YAML nodes, strictly: an unknown key, a value of
// the wrong kind and a variable that is not set are findings with their place.
// It remembers where every field stood, for the owners' complaints.
type decoder struct {
	env      func(string) (string, bool)
	readFile func(string) ([]byte, error)
	findings *Findings
	at       map[string]place // by Go path: "Users[2].PasswordHash"
	anchors  map[string]ast.Node
	depth    int
	values   int // decoded so far
}

// maxDepth bounds nesting, maxValues what is decoded from one file: an alias of
// a list of aliases of a list multiplies.
const (
	maxDepth  = 40
	maxValues = 200_000
)

func (d *decoder) find(p place, rule, text, fix string) {
	f := Finding{Severity: SeverityError, File: p.file, Rule: rule, Text: text, Fix: fix}
	if p.tok != nil && p.tok.Position != nil {
		f.Line, f.Column = p.tok.Position.Line, p.tok.Position.Column
	}
	*d.findings = append(*d.findings, f)
}

// spend counts values before they are decoded and reports whether that is still
// allowed.
func (d *decoder) spend(n int, p place) bool {
	if d.values > maxValues {
		return false
	}
	if d.values += n; d.values > maxValues {
		d.find(p, "yaml.size", fmt.Sprintf("With its aliases this file holds more than %d values.", maxValues), "")
		return false
	}
	return true
}

// field is a struct's field by its YAML name.
type field struct {
	index []int
	one   bool // a list that may be written as its only element
	later bool // accepted, not served by this version
	some  bool // a list that would mean everybody if it were empty
	typ   reflect.Type
}

func fieldsOf(t reflect.Type) map[string]field {
	out := map[string]field{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if !f.IsExported() || name == "" || name == "-" {
			continue
		}
		words := strings.Split(opts, ",")
		out[name] = field{index: f.Index, one: slices.Contains(words, "one"), later: slices.Contains(words, "later"), some: slices.Contains(words, "some"), typ: f.Type}
	}
	return out
}

func names(m map[string]field) []string {
	out := make([]string, 0, len(m))
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

var secretType = reflect.TypeFor[redact.String]()

// value decodes n into v; path is v's Go path for later complaints.
func (d *decoder) value(n ast.Node, v reflect.Value, path string, p place) {
	if d.depth++; d.depth > maxDepth {
		d.find(p, "yaml.depth", "The document is nested too deeply.", "")
		return
	}
	defer func() { d.depth-- }()
	n, ok := d.plain(n, p)
	if !ok {
		return
	}
	key := p
	p.tok = start(n)
	d.at[path] = p
	if _, null := n.(*ast.NullNode); null {
		// Absent and empty are not the same: an allow, a secret or a list of
		// networks that somebody meant to write must not count as none.
		d.find(key, "yaml.empty", "This key has no value.", "write one, or leave the key out")
		return
	}
	if v.Kind() == reflect.Pointer {
		v.Set(reflect.New(v.Type().Elem()))
		d.value(n, v.Elem(), path, p)
		return
	}
	if v.Type() == reflect.TypeFor[time.Duration]() {
		s, ok := d.text(n, p)
		if !ok {
			return
		}
		dur, err := time.ParseDuration(s)
		if err != nil {
			if s != "0" {
				d.find(p, "yaml.duration", fmt.Sprintf("%q is not a duration.", s), "a number with a unit: 10s, 15m, 720h")
				return
			}
		}
		v.SetInt(int64(dur))
		return
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		if s, ok := d.text(n, p); ok {
			if err := u.UnmarshalText([]byte(s)); err != nil {
				d.find(p, "yaml.value", err.Error(), "")
			}
			if s == "" && v.Type() == secretType {
				d.find(p, "secret.empty", "This secret is empty.", "write it, or leave the key out")
			}
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		if s, ok := d.text(n, p); ok {
			v.SetString(s)
		}
	case reflect.Bool:
		if b, ok := n.(*ast.BoolNode); ok {
			v.SetBool(b.Value)
		} else if s, ok := d.text(n, p); ok {
			b, err := strconv.ParseBool(s)
			if err != nil {
				d.find(p, "yaml.bool", fmt.Sprintf("%q is not true or false.", s), "true or false")
			}
			v.SetBool(b)
		}
	case reflect.Int, reflect.Int64:
		if s, ok := d.text(n, p); ok {
			i, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				d.find(p, "yaml.number", fmt.Sprintf("%q is not a whole number.", s), "")
			}
			v.SetInt(i)
		}
	case reflect.Float64:
		if s, ok := d.text(n, p); ok {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				d.find(p, "yaml.number", fmt.Sprintf("%q is not a number.", s), "")
			}
			v.SetFloat(f)
		}
	case reflect.Slice:
		d.slice(n, v, path, p, false)
	case reflect.Map:
		d.mapping(n, v, path, p)
	case reflect.Struct:
		d.structure(n, v, path, p, nil)
	default:
		d.find(p, "yaml.kind", fmt.Sprintf("a value of kind %s cannot be configured", v.Kind()), "")
	}
}

func (d *decoder) slice(n ast.Node, v reflect.Value, path string, p place, one bool) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		if _, isMap := pairs(n); isMap && one {
			e := reflect.New(v.Type().Elem()).Elem()
			d.value(n, e, path+"[0]", p)
			v.Set(reflect.Append(v, e))
			return
		}
		d.find(p, "yaml.list", "Here a list is needed.", "[a, b] or lines that begin with -")
		return
	}
	if !d.spend(len(seq.Values), p) {
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, e := range seq.Values {
		d.value(e, out.Index(i), fmt.Sprintf("%s[%d]", path, i), p)
	}
	v.Set(out)
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string, p place) {
	ps, ok := d.merged(n, p)
	if !ok {
		d.find(p, "yaml.mapping", "Here keys with values are needed.", "key: value")
		return
	}
	if !d.spend(len(ps), p) {
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, kv := range ps {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(kv.Value, e, path+"."+keyOf(kv), place{p.file, kv.Key.GetToken()})
		out.SetMapIndex(reflect.ValueOf(keyOf(kv)).Convert(v.Type().Key()), e)
	}
	v.Set(out)
}

// structure decodes a mapping into a struct. other are keys that somebody else
// decodes from the same mapping; any but these is unknown.
func (d *decoder) structure(n ast.Node, v reflect.Value, path string, p place, other []string) {
	ps, ok := d.merged(n, p)
	if !ok {
		d.find(p, "yaml.mapping", "Here keys with values are needed.", "key: value")
		return
	}
	if !d.spend(len(ps), p) {
		return
	}
	fs := fieldsOf(v.Type())
	seen := map[string]bool{}
	for _, kv := range ps {
		key := keyOf(kv)
		kp := place{p.file, kv.Key.GetToken()}
		if seen[key] {
			d.find(kp, "yaml.duplicate", fmt.Sprintf("The key %q is there twice.", key), "keep one of them")
			continue
		}
		seen[key] = true
		if f, ok := fs[key]; ok {
			if f.typ == secretType && seen[key+"_file"] {
				d.twice(kp, key+"_file")
				continue
			}
			d.field(kv, f, v, path, kp)
			continue
		}
		if base, ok := strings.CutSuffix(key, "_file"); ok {
			if f, ok := fs[base]; ok && f.typ == secretType {
				if seen[base] {
					d.twice(kp, key)
				} else {
					d.secretFile(kv, v.FieldByIndex(f.index), joinPath(path, v.Type().FieldByIndex(f.index).Name), kp)
				}
				continue
			}
		}
		if slices.Contains(other, key) {
			continue
		}
		if slices.Contains(other, anyKey) {
			continue
		}
		known := append(names(fs), other...)
		fix := "one of " + strings.Join(known, ", ")
		if near := nearest(key, known); near != "" {
			fix = fmt.Sprintf("did you mean %q?", near)
		}
		d.find(kp, "yaml.unknown_key", fmt.Sprintf("The key %q is unknown here.", key), fix)
	}
}

// field decodes the value of a key that v has a field for.
func (d *decoder) field(kv *ast.MappingValueNode, f field, v reflect.Value, path string, p place) {
	fv := v.FieldByIndex(f.index)
	fp := joinPath(path, v.Type().FieldByIndex(f.index).Name)
	if f.one {
		if n, ok := d.plain(kv.Value, p); ok {
			d.at[fp] = place{p.file, start(n)}
			d.slice(n, fv, fp, place{p.file, start(n)}, true)
		}
	} else {
		d.value(kv.Value, fv, fp, p)
	}
	if f.some && fv.Kind() == reflect.Slice && !fv.IsNil() && fv.Len() == 0 {
		d.find(p, "yaml.empty", "This list is empty, which would count as no limit at all.", "leave the key out, or name who may")
	}
	if f.later && !fv.IsZero() {
		*d.findings = append(*d.findings, note(p, "later", keyOf(kv)+": accepted, not served by this version."))
	}
}

// anyKey among other keys means that somebody else has looked for unknown ones.
const anyKey = "*"

func joinPath(a, b string) string {
	if a == "" {
		return b
	}
	return a + "." + b
}
