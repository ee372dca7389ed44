package config

import (
	"cmp"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// tidy puts findings in the order of the files and drops a complaint that a
// decoder and an owner both made of one place.
func tidy(fs Findings, docs []Document) Findings {
	out, seen := Findings{}, map[Finding]bool{}
	for _, f := range fs {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	rank := func(f Finding) int {
		if i := slices.IndexFunc(docs, func(d Document) bool { return d.Name == f.File }); i >= 0 {
			return i
		}
		return len(docs)
	}
	slices.SortStableFunc(out, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return out
}

func note(p place, rule, text string) Finding {
	f := Finding{Severity: SeverityNote, File: p.file, Rule: rule, Text: text}
	if p.tok != nil && p.tok.Position != nil {
		f.Line, f.Column = p.tok.Position.Line, p.tok.Position.Column
	}
	return f
}

// locate gives an owner's complaint the place of its field, or of the nearest
// part of its path that stands in a file, or else the file where it belongs.
func locate(p problem.Problem, at map[string]place, file string) Finding {
	f := Finding{Severity: SeverityError, File: file, Rule: p.Rule, Text: p.Text, Fix: p.Fix}
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
		if e, ok := k.Settings.(interface {
			Expressions() []connectors.Expression
		}); ok {
			complain(fmt.Sprintf("Connectors[%d]", i), mappingProblems(e.Expressions()))
		}
	}
}

// mappingProblems compiles what a plug-in, which sees no policy, cannot.
func mappingProblems(all []connectors.Expression) []problem.Problem {
	var ps []problem.Problem
	for _, e := range all {
		if _, err := policy.Compile(policy.AtMapping, policy.Any, e.Source); err != nil {
			ps = append(ps, problem.Problem{Field: e.Field, Rule: "connector.claims", Text: err.Error(), Fix: "an expression over `claims`, for example claims.mail"})
		}
	}
	return ps
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
	for i, d := range k.Domains {
		if a, ok := web.Domain(d); !ok || a != d {
			add(fmt.Sprintf("Domains[%d]", i), "connector.domain", fmt.Sprintf("%q is no e-mail domain.", d), "the part behind the @, such as example.com")
		} else if web.PublicMail(d) {
			if k.Enforce {
				add(fmt.Sprintf("Domains[%d]", i), "connector.public_mail", fmt.Sprintf("Everybody can have an address of %s: nobody owns it whom enforce could send here.", d), "a domain of your own")
			} else {
				ps = append(ps, problem.Problem{Field: fmt.Sprintf("Domains[%d]", i), Rule: "connector.public_mail", Warning: true,
					Text: fmt.Sprintf("Everybody can have an address of %s: the sign-in page sends nobody here by it.", d), Fix: "a domain of your own"})
			}
		}
	}
	for _, f := range []struct {
		field, key string
		set        bool
	}{{"Enforce", "enforce", k.Enforce}, {"TrustEmail", "trust_email", k.TrustEmail}} {
		if f.set && len(k.Domains) == 0 {
			ps = append(ps, problem.Problem{Field: f.field, Rule: "connector." + f.key, Warning: !k.Enforce,
				Text: f.key + " needs domains: it holds for those that stand there and no others.", Fix: "domains: [example.com]"})
		}
	}
	if k.Enforce && (k.LinkOnly || k.Disabled || !k.Served) {
		add("Enforce", "connector.enforce", "enforce sends people to a connector that lets nobody in.", "enforce: false")
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
