package broker

import (
	"slices"

	"github.com/remotegpu/gatehouse/broker/signin"
)

// ownsDomain reports whether a connector may speak for an e-mail domain: the
// operator wrote the domain down for it (docs/security.md AD-7), and the address
// is verified: by the upstream, or by trust_email where the protocol has no word
// for that.
func (b *serving) ownsDomain(connector, domain string, verified bool) bool {
	return verified && slices.ContainsFunc(b.methods, func(m signin.Method) bool { return m.ID == connector && slices.Contains(m.Domains, domain) })
}

// disabled returns the ids of connectors that are configured and switched off.
func (b *serving) disabled() []string {
	var out []string
	for _, k := range b.cfg.Connectors {
		if k.Disabled {
			out = append(out, k.ID)
		}
	}
	return out
}
