package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/connectors"
)

// section is a top-level key with its value.
type section struct {
	key   *ast.MappingValueNode
	place place
	dec   *decoder
}

// demoName stands for a file name where the demo's own sections are meant.
const demoName = "(demo)"

// Parse merges documents and decodes them strictly; then every owner looks at
// its section, and the sections are compared.
func Parse(docs []Document, opts LoadOptions) (*Config, Findings, error) {
	if opts.Env == nil {
		opts.Env = os.LookupEnv
	}
	findings := Findings{}
	sections := map[string]section{}
	var order []string
	merge := func(doc Document, under bool) {
		for _, s := range topLevel(doc, opts, &findings) {
			key := keyOf(s.key)
			if old, dup := sections[key]; dup {
				if under {
					continue
				}
				s.dec.find(s.place, "yaml.duplicate", fmt.Sprintf("The key %q is set here and in %s, line %d.", key, old.place.file, old.place.tok.Position.Line), "keep one of them")
				continue
			}
			sections[key] = s
			order = append(order, key)
		}
	}
	for _, doc := range docs {
		merge(doc, false)
	}
	if opts.Dev {
		merge(Document{Name: demoName, YAML: devYAML}, true)
	}
	c := &Config{Dev: opts.Dev}
	at := map[string]place{}
	fields := fieldsOf(reflect.TypeFor[Config]())
	shortcuts := map[string]section{}
	var list section
	for _, key := range order {
		s := sections[key]
		s.dec.at = at
		base, isFile := strings.CutSuffix(key, "_file")
		switch f, ok := fields[key]; {
		case ok:
			if !emptyList(s.key.Value, f.typ) {
				s.dec.field(s.key, f, reflect.ValueOf(c).Elem(), "", s.place)
			}
		case isFile && fields[base].typ == secretType:
			if _, both := sections[base]; both {
				s.dec.twice(s.place, key)
			} else {
				f := reflect.TypeFor[Config]().FieldByIndex(fields[base].index)
				s.dec.secretFile(s.key, reflect.ValueOf(c).Elem().FieldByIndex(f.Index), f.Name, s.place)
			}
		case key == "connectors":
			list = s
		case slices.ContainsFunc(opts.Types, func(t connectors.Type) bool { return t.Name == key }) && shortcut(key):
			shortcuts[key] = s
		default:
			known := append(append(names(fields), "connectors"), shortcutKeys...)
			fix := ""
			if near := nearest(key, known); near != "" {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			s.dec.find(s.place, "yaml.unknown_key", fmt.Sprintf("The key %q is unknown.", key), fix)
		}
	}
	if slices.ContainsFunc(findings, func(f Finding) bool { return f.Rule == "yaml.syntax" }) {
		return c, findings, findings.Err() // what is missing may stand in what could not be read
	}
	c.connectors(opts.Types, shortcuts, list, at)
	c.defaults(opts, at)
	complain := func(prefix string, ps []problem.Problem) {
		if prefix != "" {
			ps = problem.Under(prefix, ps)
		}
		for _, p := range ps {
			findings = append(findings, locate(p, at, mainFile(docs)))
		}
	}
	owners(c, complain)
	complain("", c.Problems())
	complain("", c.devListeners(opts))
	findings = tidy(findings, docs)
	return c, findings, findings.Err()
}

// emptyList reports whether a top-level list or section has no value: all that
// stood in it may be commented out.
func emptyList(n ast.Node, t reflect.Type) bool {
	_, null := n.(*ast.NullNode)
	return null && (t.Kind() == reflect.Slice || t.Kind() == reflect.Struct)
}

// mainFile is the file where a missing key belongs.
func mainFile(docs []Document) string {
	for _, d := range docs {
		if filepath.Base(d.Name) == "gatehouse.yml" {
			return d.Name
		}
	}
	if len(docs) > 0 {
		return docs[0].Name
	}
	return demoName
}

// topLevel parses a document into its top-level keys.
func topLevel(doc Document, opts LoadOptions, findings *Findings) []section {
	d := &decoder{env: opts.Env, readFile: readSecret, findings: findings, anchors: map[string]ast.Node{}}
	file, err := safeParse(doc.YAML)
	if err != nil {
		f := Finding{Severity: SeverityError, File: doc.Name, Rule: "yaml.syntax", Text: syntaxText(err)}
		if tok := tokenOf(err); tok != nil {
			f.Line, f.Column = tok.Line, tok.Column
		}
		*findings = append(*findings, f)
		return nil
	}
	var out []section
	used := false
	for _, body := range file.Docs {
		if body.Body == nil {
			continue
		}
		if _, empty := body.Body.(*ast.NullNode); empty {
			continue
		}
		if _, comment := body.Body.(*ast.CommentGroupNode); comment {
			continue
		}
		if used {
			d.find(place{doc.Name, start(body.Body)}, "yaml.documents", "A file holds one document.", "remove the --- line, or make two files")
			break
		}
		used = true
		ast.Walk(anchors{d, doc.Name}, body.Body)
		ps, ok := d.merged(body.Body, place{doc.Name, start(body.Body)})
		if !ok {
			d.find(place{doc.Name, start(body.Body)}, "yaml.mapping", "A configuration is a mapping of keys.", "issuer: https://id.example.com")
			break
		}
		seen := map[string]bool{}
		for _, kv := range ps {
			p := place{doc.Name, kv.Key.GetToken()}
			if seen[keyOf(kv)] {
				d.find(p, "yaml.duplicate", fmt.Sprintf("The key %q is there twice.", keyOf(kv)), "keep one of them")
				continue
			}
			seen[keyOf(kv)] = true
			out = append(out, section{key: kv, place: p, dec: d})
		}
	}
	return out
}

// safeParse turns a panic of the YAML library into an error: its input may be
// anything.
func safeParse(raw []byte) (f *ast.File, err error) {
	defer func() {
		if v := recover(); v != nil {
			f, err = nil, fmt.Errorf("this is not YAML that can be read (%v)", v)
		}
	}()
	tokens := lexer.Tokenize(string(raw))
	if err := guard(tokens); err != nil {
		return nil, err
	}
	return parser.Parse(mend(tokens), 0)
}

type anchors struct {
	*decoder
	file string
}

// Visit remembers anchors. A name that stands twice would make an alias mean
// what stands behind it.
func (a anchors) Visit(n ast.Node) ast.Visitor {
	if x, ok := n.(*ast.AnchorNode); ok {
		name := x.Name.String()
		if _, dup := a.anchors[name]; dup {
			a.find(place{a.file, x.Start}, "yaml.anchor", fmt.Sprintf("The anchor %q is there twice.", name), "another name")
		}
		a.anchors[name] = x.Value
	}
	return a
}

func syntaxText(err error) string {
	if ye := yaml.Error(nil); errors.As(err, &ye) {
		return "This is not YAML: " + ye.GetMessage() + "."
	}
	return "This is not YAML that can be used: " + err.Error() + "."
}

type position struct{ Line, Column int }

func tokenOf(err error) *position {
	if b := (*tooMuch)(nil); errors.As(err, &b) {
		return &position{b.at.Line, b.at.Column}
	}
	if ye := yaml.Error(nil); errors.As(err, &ye) && ye.GetToken() != nil && ye.GetToken().Position != nil {
		return &position{ye.GetToken().Position.Line, ye.GetToken().Position.Column}
	}
	return nil
}
