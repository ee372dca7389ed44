package config

import (
	"fmt"
	"slices"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"
)

// plainTags say of a value what it is anyway.
var plainTags = []string{"!!str", "!!int", "!!float", "!!bool", "!!null", "!!map", "!!seq"}

// plain takes tags, anchors and aliases off a node; ok is false after a finding.
func (d *decoder) plain(n ast.Node, p place) (_ ast.Node, ok bool) {
	for range maxDepth {
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.AliasNode:
			n = d.anchors[x.Value.String()]
		case *ast.TagNode:
			if tag := x.Start.Value; !slices.Contains(plainTags, tag) {
				d.find(place{p.file, x.Start}, "yaml.tag", fmt.Sprintf("The tag %s means nothing here.", tag), "leave it out; ${NAME} takes a value from the environment")
				return nil, false
			}
			n = x.Value
		case nil:
			d.find(p, "yaml.alias", "This alias names no anchor that stands before it.", "")
			return nil, false
		default:
			return n, true
		}
	}
	d.find(p, "yaml.alias", "This alias leads to itself.", "")
	return nil, false
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

// start returns the first token of a node. A block mapping's own is the colon of its
// first pair.
func start(n ast.Node) *token.Token {
	if m, ok := n.(*ast.MappingNode); ok && m.IsFlowStyle {
		return n.GetToken()
	}
	if ps, ok := pairs(n); ok && len(ps) > 0 {
		return ps[0].Key.GetToken()
	}
	return n.GetToken()
}

// merged returns the pairs of a mapping with those of its merge keys (<<): what
// stands in the mapping itself comes first.
func (d *decoder) merged(n ast.Node, p place) ([]*ast.MappingValueNode, bool) {
	ps, ok := pairs(n)
	if !ok || !slices.ContainsFunc(ps, isMerge) {
		return ps, ok
	}
	if d.depth++; d.depth > maxDepth {
		d.find(p, "yaml.depth", "The document is nested too deeply.", "")
		return nil, false
	}
	defer func() { d.depth-- }()
	var own []*ast.MappingValueNode
	have := map[string]bool{}
	for _, kv := range ps {
		if !isMerge(kv) {
			own = append(own, kv)
			have[keyOf(kv)] = true
		}
	}
	for _, kv := range ps {
		if !isMerge(kv) {
			continue
		}
		p := place{p.file, kv.Key.GetToken()}
		from, ok := d.plain(kv.Value, p)
		if !ok {
			return nil, false
		}
		sources := []ast.Node{from}
		if list, isList := from.(*ast.SequenceNode); isList {
			sources = list.Values
		}
		for _, s := range sources {
			s, ok := d.plain(s, p)
			if !ok {
				return nil, false
			}
			more, ok := d.merged(s, p)
			if !ok {
				d.find(p, "yaml.merge", "<< takes in a mapping, or a list of mappings.", "<<: *name")
				return nil, false
			}
			if !d.spend(len(more), p) {
				return nil, false
			}
			for _, kv := range more {
				if !have[keyOf(kv)] {
					have[keyOf(kv)] = true
					own = append(own, kv)
				}
			}
		}
	}
	return own, true
}

func isMerge(v *ast.MappingValueNode) bool {
	_, ok := v.Key.(*ast.MergeKeyNode)
	return ok
}

func keyOf(v *ast.MappingValueNode) string {
	if s, ok := v.Key.(*ast.StringNode); ok {
		return s.Value
	}
	return v.Key.String()
}
