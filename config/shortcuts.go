package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"

	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// shortcutKeys are the top-level keys that are connectors with the type's name
// as their id.
var shortcutKeys = []string{"github", "google", "gitlab", "ldap", "saml", "local"}

func shortcut(key string) bool { return slices.Contains(shortcutKeys, key) }

// displayNames are what the sign-in page calls a connector without a name.
var displayNames = map[string]string{"github": "GitHub", "google": "Google", "gitlab": "GitLab", "ldap": "LDAP", "saml": "SAML", "local": "Local account", "oidc": "OpenID Connect",
	"dingtalk": "DingTalk", "wecom": "WeCom", "feishu": "Feishu"}

// connectors makes the list of connectors of the shortcuts and of `connectors`.
func (c *Config) connectors(types []connectors.Type, shortcuts map[string]section, list section, at map[string]place) {
	for _, t := range types {
		if s, ok := shortcuts[t.Name]; ok {
			c.add(t, Connector{ID: t.Name, Type: t.Name}, s.key.Value, s.dec, s.place, at)
		}
	}
	if list.key == nil {
		return
	}
	if emptyList(list.key.Value, reflect.TypeFor[[]Connector]()) {
		return
	}
	n, ok := list.dec.plain(list.key.Value, list.place)
	if !ok {
		return
	}
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		list.dec.find(list.place, "yaml.list", "connectors is a list.", "- {id: acme, type: ldap, …}")
		return
	}
	var known []string
	for _, t := range types {
		known = append(known, t.Name)
	}
	for _, n := range seq.Values {
		n, ok := list.dec.plain(n, list.place)
		if !ok {
			continue
		}
		p := place{list.place.file, start(n)}
		ps, ok := list.dec.merged(n, p)
		if !ok {
			list.dec.find(p, "yaml.mapping", "A connector is a mapping of keys.", "{id: acme, type: ldap, …}")
			continue
		}
		typ, tp := "", p
		for _, kv := range ps {
			if keyOf(kv) == "type" {
				tp = place{p.file, kv.Value.GetToken()}
				if v, ok := list.dec.plain(kv.Value, tp); ok {
					typ, _ = list.dec.text(v, tp)
				}
			}
		}
		i := slices.Index(known, typ)
		if i < 0 {
			fix := "one of " + strings.Join(known, ", ")
			if near := nearest(typ, known); near != "" {
				fix = fmt.Sprintf("did you mean %q?", near)
			}
			list.dec.find(tp, "connector.type", fmt.Sprintf("There is no connector type %q.", typ), fix)
			continue
		}
		c.add(types[i], Connector{Type: typ}, n, list.dec, p, at)
	}
}

// add decodes one connector: the operator's keys and the type's own stand in
// the same mapping.
func (c *Config) add(t connectors.Type, k Connector, n ast.Node, dec *decoder, p place, at map[string]place) {
	path := fmt.Sprintf("Connectors[%d]", len(c.Connectors))
	n, ok := dec.plain(n, p)
	if !ok {
		return
	}
	at[path] = p
	at[path+".ID"] = p
	k.Settings = t.NewConfig()
	k.Served = t.Served()
	own := reflect.TypeOf(k.Settings).Elem()
	ownKeys := names(fieldsOf(own))
	// The first of two is told the other's keys; x_file keys of the type's secrets
	// are the type's.
	for name, f := range fieldsOf(own) {
		if f.typ == secretType {
			ownKeys = append(ownKeys, name+"_file")
		}
	}
	dec.structure(n, reflect.ValueOf(&k).Elem(), path, p, ownKeys)
	dec.structure(n, reflect.ValueOf(k.Settings).Elem(), path, p, []string{anyKey})
	if k.Name == "" {
		k.Name = displayNames[t.Name]
		if k.ID != t.Name && k.ID != "" {
			k.Name = k.ID
		}
	}
	if k.Org == "" {
		k.Org = k.ID
	}
	for i, d := range k.Domains {
		if a, ok := web.Domain(d); ok { // what is none is complained about below
			k.Domains[i] = a
		}
	}
	if !k.Served {
		*dec.findings = append(*dec.findings, note(p, "later", fmt.Sprintf("%s: accepted, not served by this version.", k.ID)))
	}
	c.Connectors = append(c.Connectors, k)
}
