package broker

import (
	"context"
	"fmt"
	"reflect"

	"github.com/remotegpu/gatehouse/broker/policy"
	"github.com/remotegpu/gatehouse/broker/signin"
	"github.com/remotegpu/gatehouse/config"
	"github.com/remotegpu/gatehouse/connectors"
)

// openConnectors makes a method of every configured connector. Opening reaches
// no network: a connector that is down does not stop the start. One whose section
// is as before goes on, with its connections and what it knows of its upstream.
func (b *serving) openConnectors(before *serving) ([]signin.Method, error) {
	types := map[string]connectors.Type{}
	for _, t := range Types() {
		types[t.Name] = t
	}
	var out []signin.Method
	for _, k := range b.cfg.Connectors {
		if k.Disabled { // refused at every entry: it is not there (UP-8)
			continue
		}
		m := signin.Method{ID: k.ID, Type: k.Type, Name: k.Name, Org: k.Org, Domains: k.Domains, TrustEmail: k.TrustEmail, Enforce: k.Enforce, LinkOnly: k.LinkOnly,
			Hidden: k.Hidden, Signup: k.Signup, GroupsMap: k.GroupsMap, GroupsPrefix: k.GroupsPrefix}
		if k.Allow != nil {
			e, err := policy.Compile(policy.AtConnector, policy.Bool, *k.Allow)
			if err != nil {
				return nil, fmt.Errorf("connector %s: allow: %w", k.ID, err)
			}
			m.Allow = e
		}
		if m.Connector = before.same(k, b.cfg); k.Served && m.Connector == nil {
			c, err := types[k.Type].Open(b.env(k.ID), func(into any) error { return assign(into, k.Settings) })
			if err != nil {
				return nil, fmt.Errorf("connector %s: %w", k.ID, err)
			}
			m.Connector = c
		}
		out = append(out, m)
	}
	return out, nil
}

// same returns the connector that was made of the very same section, or nil.
func (b *serving) same(k config.Connector, cfg *config.Config) connectors.Connector {
	if b == nil || !reflect.DeepEqual(b.cfg.Outgoing, cfg.Outgoing) {
		return nil
	}
	for _, old := range b.cfg.Connectors {
		if old.ID != k.ID || old.Type != k.Type || !reflect.DeepEqual(old.Settings, k.Settings) {
			continue
		}
		for _, m := range b.methods {
			if m.ID == k.ID {
				return m.Connector
			}
		}
	}
	return nil
}

// mapping compiles an expression over an upstream's claims, for a plug-in that
// sees no policy.
func mapping(source string) (connectors.Mapping, error) {
	e, err := policy.Compile(policy.AtMapping, policy.Any, source)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, claims map[string]any) (any, error) {
		return e.Value(ctx, policy.Input{Claims: claims})
	}, nil
}
