package config

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/connectors"
)

//go:embed dev/dev.yml
var devYAML []byte

// LoadOptions say what Load works with.
type LoadOptions struct {
	// Types are the connector types that there are, in the sign-in page's order.
	Types []connectors.Type
	// Env looks up environment variables; nil is the process's.
	Env func(string) (string, bool)
	// Dev puts the demo's sections under those of the file.
	Dev bool
}

// Document is one YAML document with its name.
type Document struct {
	Name string
	YAML []byte
}

// maxFile bounds a configuration file, in bytes.
const maxFile = 1 << 20

// Load reads the configuration at path: a YAML file, or a folder whose own
// *.yml and *.yaml are merged. The error is a Findings, or says why nothing could
// be read. With Dev, a missing path is an empty configuration.
func Load(path string, opts LoadOptions) (*Config, Findings, error) {
	docs, err := read(path)
	if err != nil && !(opts.Dev && errors.Is(err, os.ErrNotExist)) {
		return nil, nil, err
	}
	return Parse(docs, opts)
}

func read(path string) ([]Document, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w (make one with: gatehouse init)", err)
	}
	files := []string{path}
	if fi.IsDir() {
		files = nil
		entries, err := os.ReadDir(path)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		for _, e := range entries {
			if ext := filepath.Ext(e.Name()); !e.IsDir() && (ext == ".yml" || ext == ".yaml") && !strings.HasPrefix(e.Name(), ".") {
				files = append(files, filepath.Join(path, e.Name()))
			}
		}
		if len(files) == 0 {
			return nil, fmt.Errorf("configuration: there is no *.yml in %s (make one with: gatehouse init): %w", path, os.ErrNotExist)
		}
	}
	var docs []Document
	for _, f := range files {
		fi, err := os.Stat(f)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		if fi.Size() > maxFile {
			return nil, fmt.Errorf("configuration: %s is larger than %d bytes", f, maxFile)
		}
		raw, err := os.ReadFile(f)
		if err != nil {
			return nil, fmt.Errorf("configuration: %w", err)
		}
		docs = append(docs, Document{Name: f, YAML: raw})
	}
	return docs, nil
}

// section is a top-level key with its value.
type section struct {
	key   *ast.MappingValueNode
	place place
	dec   *decoder
}

// Parse merges documents and decodes them strictly; then every owner looks at
// its section, and the sections are compared.
func Parse(docs []Document, opts LoadOptions) (*Config, Findings, error) {
	if opts.Env == nil {
		opts.Env = os.LookupEnv
	}
	var findings Findings
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
		merge(Document{Name: "(demo)", YAML: devYAML}, true)
	}
	c := &Config{Dev: opts.Dev}
	at := map[string]place{}
	fields := fieldsOf(reflect.TypeFor[Config]())
	shortcuts := map[string]section{}
	var list section
	for _, key := range order {
		s := sections[key]
		s.dec.at = at
		switch f, ok := fields[key]; {
		case ok:
			v := reflect.ValueOf(c).Elem().FieldByIndex(f.index)
			name := reflect.TypeFor[Config]().FieldByIndex(f.index).Name
			if f.one {
				n := s.dec.plain(s.key.Value)
				at[name] = s.place
				s.dec.slice(n, v, name, s.place, true)
			} else {
				s.dec.value(s.key.Value, v, name, s.place)
			}
			if slices.Contains(later, key) && s.place.file != "(demo)" {
				findings = append(findings, note(s.place, "later", fmt.Sprintf("%s: accepted, not served by this version.", key)))
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
	c.connectors(opts.Types, shortcuts, list, at, &findings)
	c.defaults(opts)
	complain := func(prefix string, ps []problem.Problem) {
		for _, p := range problem.Under(prefix, ps) {
			findings = append(findings, locate(p, at))
		}
	}
	owners(c, complain)
	complain("", c.Problems())
	findings = append(findings, c.devListeners(opts)...)
	findings = dedupe(findings)
	return c, findings, findings.Err()
}

// dedupe drops a complaint that a decoder and an owner both made of one place.
func dedupe(fs Findings) Findings {
	var out Findings
	for _, f := range fs {
		if !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	return out
}

func note(p place, rule, text string) Finding {
	f := Finding{Severity: SeverityNote, File: p.file, Rule: rule, Text: text}
	if p.tok != nil && p.tok.Position != nil {
		f.Line, f.Column = p.tok.Position.Line, p.tok.Position.Column
	}
	return f
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
			d.find(place{doc.Name, body.Body.GetToken()}, "yaml.documents", "A file holds one document.", "remove the --- line, or make two files")
			break
		}
		used = true
		ast.Walk(anchors{d.anchors}, body.Body)
		ps, ok := pairs(body.Body)
		if !ok {
			d.find(place{doc.Name, body.Body.GetToken()}, "yaml.mapping", "A configuration is a mapping of keys.", "issuer: https://id.example.com")
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
	return parser.ParseBytes(raw, 0)
}

type anchors struct{ m map[string]ast.Node }

// Visit remembers anchors.
func (a anchors) Visit(n ast.Node) ast.Visitor {
	if x, ok := n.(*ast.AnchorNode); ok {
		a.m[x.Name.String()] = x.Value
	}
	return a
}

func syntaxText(err error) string {
	if ye := yaml.Error(nil); errors.As(err, &ye) {
		return "This is not YAML: " + ye.GetMessage() + "."
	}
	return "This is not YAML: " + err.Error() + "."
}

type position struct{ Line, Column int }

func tokenOf(err error) *position {
	if ye := yaml.Error(nil); errors.As(err, &ye) && ye.GetToken() != nil && ye.GetToken().Position != nil {
		return &position{ye.GetToken().Position.Line, ye.GetToken().Position.Column}
	}
	return nil
}

// locate gives an owner's complaint the place of its field, or of the nearest
// part of its path that stands in a file.
func locate(p problem.Problem, at map[string]place) Finding {
	f := Finding{Severity: SeverityError, Rule: p.Rule, Text: p.Text, Fix: p.Fix}
	if p.Warning {
		f.Severity = SeverityWarning
	}
	path := p.Field
	for path != "" {
		if pl, ok := at[path]; ok {
			f.File = pl.file
			if pl.tok != nil && pl.tok.Position != nil {
				f.Line, f.Column = pl.tok.Position.Line, pl.tok.Position.Column
			}
			break
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	return f
}

// owners asks every owner about its section.
func owners(c *Config, complain func(string, []problem.Problem)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if tag := f.Tag.Get("yaml"); tag == "" || tag == "-" {
			continue
		}
		fv := v.Field(i)
		if p, ok := fv.Interface().(interface{ Problems() []problem.Problem }); ok && !fv.IsZero() {
			complain(f.Name, p.Problems())
			continue
		}
		if fv.Kind() == reflect.Slice {
			for j := range fv.Len() {
				if p, ok := fv.Index(j).Interface().(interface{ Problems() []problem.Problem }); ok {
					complain(fmt.Sprintf("%s[%d]", f.Name, j), p.Problems())
				}
			}
		}
	}
	for i, k := range c.Connectors {
		complain(fmt.Sprintf("Connectors[%d]", i), k.problems())
		if p, ok := k.Settings.(interface{ Problems() []problem.Problem }); ok {
			complain(fmt.Sprintf("Connectors[%d]", i), p.Problems())
		}
	}
}

func (k Connector) problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if !validID(k.ID) {
		add("ID", "connector.id", fmt.Sprintf("%q cannot be the id of a connector: it stands in addresses.", k.ID), "a-z, 0-9 and -, at most 40")
	} else if reserved[k.ID] && k.ID != k.Type {
		add("ID", "connector.reserved", fmt.Sprintf("The id %q is reserved.", k.ID), "another id")
	}
	if k.Allow != nil {
		if _, err := policy.Compile(policy.AtConnector, policy.Bool, *k.Allow); err != nil {
			add("Allow", "connector.allow", err.Error(), "")
		}
	} else if slices.Contains([]string{"github", "google", "gitlab"}, k.Type) && k.Served && publicUpstream(k) {
		ps = append(ps, problem.Problem{Field: "ID", Rule: "connector.public", Warning: true,
			Text: fmt.Sprintf("%s has no allow: everybody with an account there may sign in.", k.Name), Fix: "allow:, or the organizations that may"})
	}
	switch k.Signup {
	case "", "open", "invite":
	case "domains":
		if len(k.Domains) == 0 {
			add("Signup", "connector.signup", "signup: domains needs domains.", "domains: [example.com]")
		}
	default:
		add("Signup", "connector.signup", fmt.Sprintf("%q is unknown.", k.Signup), "open, domains or invite")
	}
	return ps
}

// publicUpstream reports whether the type's section names nobody in particular.
func publicUpstream(k Connector) bool {
	v := reflect.Indirect(reflect.ValueOf(k.Settings))
	if v.Kind() != reflect.Struct {
		return false
	}
	for _, name := range []string{"Organizations", "HostedDomains", "Groups"} {
		if f := v.FieldByName(name); f.IsValid() && f.Kind() == reflect.Slice && f.Len() > 0 {
			return false
		}
	}
	return true
}

func validID(s string) bool {
	if s == "" || len(s) > 40 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0) {
			return false
		}
	}
	return true
}
