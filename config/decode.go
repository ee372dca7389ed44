package config

import (
	"encoding"
	"fmt"
	"os"
	"reflect"
	"regexp"
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
}

const maxDepth = 40

func (d *decoder) find(p place, rule, text, fix string) {
	f := Finding{Severity: SeverityError, File: p.file, Rule: rule, Text: text, Fix: fix}
	if p.tok != nil && p.tok.Position != nil {
		f.Line, f.Column = p.tok.Position.Line, p.tok.Position.Column
	}
	*d.findings = append(*d.findings, f)
}

// plain takes tags, anchors and aliases off a node.
func (d *decoder) plain(n ast.Node) ast.Node {
	for range maxDepth {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.AliasNode:
			n = d.anchors[x.Value.String()]
		case *ast.TagNode:
			n = x.Value
		default:
			return n
		}
	}
	return nil
}

// pairs returns the key-value pairs of a mapping.
func pairs(n ast.Node) ([]*ast.MappingValueNode, bool) {
	switch x := n.(type) {
	case *ast.MappingNode:
		return x.Values, true
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{x}, true
	}
	return nil, false
}

func keyOf(v *ast.MappingValueNode) string {
	if s, ok := v.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return v.Key.String()
}

// field is a struct's field by its YAML name.
type field struct {
	index []int
	one   bool // a list that may be written as its only element
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
		out[name] = field{index: f.Index, one: opts == "one", typ: f.Type}
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
	n = d.plain(n)
	if n == nil {
		d.find(p, "yaml.alias", "This alias names nothing.", "")
		return
	}
	p.tok = n.GetToken()
	d.at[path] = p
	if _, null := n.(*ast.NullNode); null {
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

var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}`)

// text returns a scalar's text with ${VARIABLES} filled in.
func (d *decoder) text(n ast.Node, p place) (string, bool) {
	var s string
	switch x := n.(type) {
	case *ast.StringNode:
		s = x.Value
	case *ast.LiteralNode:
		s = x.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		s = n.GetToken().Value
	default:
		d.find(p, "yaml.kind", "Here a single value is needed, not a list or a mapping.", "")
		return "", false
	}
	ok := true
	s = variable.ReplaceAllStringFunc(s, func(m string) string {
		g := variable.FindStringSubmatch(m)
		if v, set := d.env(g[1]); set {
			return v
		}
		if g[2] == "" {
			d.find(p, "env.unset", fmt.Sprintf("The environment variable %s is not set.", g[1]), fmt.Sprintf("set it, or give a default: ${%s:-…}", g[1]))
			ok = false
		}
		return g[3]
	})
	return s, ok
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
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, e := range seq.Values {
		d.value(e, out.Index(i), fmt.Sprintf("%s[%d]", path, i), p)
	}
	v.Set(out)
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string, p place) {
	ps, ok := pairs(n)
	if !ok {
		d.find(p, "yaml.mapping", "Here keys with values are needed.", "key: value")
		return
	}
	out := reflect.MakeMap(v.Type())
	for _, kv := range ps {
		e := reflect.New(v.Type().Elem()).Elem()
		d.value(kv.Value, e, path+"."+keyOf(kv), p)
		out.SetMapIndex(reflect.ValueOf(keyOf(kv)).Convert(v.Type().Key()), e)
	}
	v.Set(out)
}

// structure decodes a mapping into a struct. other are keys that somebody else
// decodes from the same mapping.
func (d *decoder) structure(n ast.Node, v reflect.Value, path string, p place, other []string) {
	ps, ok := pairs(n)
	if !ok {
		d.find(p, "yaml.mapping", "Here keys with values are needed.", "key: value")
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
			fv := v.FieldByIndex(f.index)
			fp := joinPath(path, v.Type().FieldByIndex(f.index).Name)
			if f.one {
				node := d.plain(kv.Value)
				if node != nil {
					d.at[fp] = place{p.file, node.GetToken()}
					d.slice(node, fv, fp, place{p.file, node.GetToken()}, true)
				}
				continue
			}
			d.value(kv.Value, fv, fp, kp)
			continue
		}
		if base, ok := strings.CutSuffix(key, "_file"); ok {
			if f, ok := fs[base]; ok && f.typ == secretType {
				d.secretFile(kv, v.FieldByIndex(f.index), joinPath(path, v.Type().FieldByIndex(f.index).Name), kp, seen[base])
				continue
			}
		}
		if slices.Contains(other, key) {
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

// secretFile reads x from the file that x_file names.
func (d *decoder) secretFile(kv *ast.MappingValueNode, v reflect.Value, path string, p place, both bool) {
	if both {
		d.find(p, "secret.twice", fmt.Sprintf("%s stands beside the key itself.", keyOf(kv)), "keep one of them")
		return
	}
	n := d.plain(kv.Value)
	if n == nil {
		return
	}
	name, ok := d.text(n, p)
	if !ok {
		return
	}
	d.at[path] = place{p.file, n.GetToken()}
	raw, err := d.readFile(name)
	if err != nil {
		d.find(place{p.file, n.GetToken()}, "secret.file", "The secret cannot be read: "+err.Error()+".", "")
		return
	}
	v.SetString(strings.TrimRight(string(raw), "\r\n"))
}

func joinPath(a, b string) string {
	if a == "" {
		return b
	}
	return a + "." + b
}

func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	n, err := f.Read(buf)
	if err != nil && n == 0 {
		return nil, fmt.Errorf("%s is empty or cannot be read", name)
	}
	return buf[:n], nil
}
