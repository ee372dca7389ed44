// Package console lends the consoles of GPU nodes: who may enter which, where
// it is, and until when. The platform writes the leases, the gateway routes by
// them. There is no HTTP here.
package console

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/policy"
)

// TLS is how an https upstream proves itself, beside consoles.ca_file.
type TLS struct {
	// ServerName is the name in the upstream's certificate; "" is the host of
	// its URL.
	ServerName string `json:"server_name,omitempty"`
}

// Lease lends a console to somebody until it expires. The upstream's address
// comes from here alone (docs/security.md GW-12). A lease that was read is
// shared and never changed.
type Lease struct {
	// ID is the console's label in the host name: a-z, 0-9 and -.
	ID string `json:"id"`
	// Node is the platform's name of the node or environment.
	Node string `json:"node,omitempty"`
	// Upstream is the URL of the console: http or https.
	Upstream string `json:"upstream"`
	TLS      TLS    `json:"tls,omitzero"`
	// Kind is a label: jupyter, vscode, terminal or the platform's own.
	Kind string `json:"kind,omitempty"`
	// Title is what people read; "" is the id.
	Title string `json:"title,omitempty"`
	// Owner is a user id; "" where nobody owns it. Users and Groups are invited.
	Owner  string   `json:"owner"`
	Users  []string `json:"users,omitempty"`
	Groups []string `json:"groups,omitempty"`
	// Allow is CEL over who asks: whom else it lets in.
	Allow string `json:"allow,omitempty"`
	// ReadOnly lets everybody but the owner look and not act.
	ReadOnly bool      `json:"read_only,omitempty"`
	Expires  time.Time `json:"expires"`
	// Released marks what is left of a lease that was taken back.
	Released bool `json:"released,omitempty"`

	version uint64
	rule    *policy.Expr
}

// Version tells one state of a lease from another. A heartbeat makes no other.
func (l *Lease) Version() uint64 { return l.version }

// Rule is Allow made ready; nil where there is none.
func (l *Lease) Rule() *policy.Expr { return l.rule }

// Names reports whether the lease names somebody: owner, invited, or of an
// invited group.
func (l *Lease) Names(userID string, groups []string) bool {
	return userID != "" && (l.Owner == userID || slices.Contains(l.Users, userID)) ||
		slices.ContainsFunc(l.Groups, func(g string) bool { return slices.Contains(groups, g) })
}

// Same reports whether what is open may go on by another state of the lease: it
// leads to the same console of the same owner.
func (l *Lease) Same(o *Lease) bool {
	return l.ID == o.ID && l.Upstream == o.Upstream && l.TLS == o.TLS && l.Owner == o.Owner
}

// Equal reports whether two leases say the same, expiry apart.
func (l *Lease) Equal(o *Lease) bool {
	return l.Same(o) && l.Node == o.Node && l.Kind == o.Kind && l.Title == o.Title && slices.Equal(l.Users, o.Users) &&
		slices.Equal(l.Groups, o.Groups) && l.Allow == o.Allow && l.ReadOnly == o.ReadOnly
}

// Vars is the lease as expressions see it.
func (l *Lease) Vars(admits bool) *policy.Lease {
	return &policy.Lease{ID: l.ID, Owner: l.Owner, Node: l.Node, Kind: l.Kind, Users: l.Users, Groups: l.Groups, ReadOnly: l.ReadOnly, Admits: admits}
}

// Limits of what a lease may say.
const (
	maxText    = 256 // characters of node, kind, title, server name, a user or a group
	maxInvited = 200 // users, and as many groups
	maxRule    = 2048
	maxURL     = 1024
)

// ErrInvalid is wrapped by every complaint about what a lease says.
var ErrInvalid = errors.New("the lease cannot be")

// check refuses a lease that could not serve. Networks are those of
// consoles.networks: an address that stands in the URL must be in one of them;
// a name is looked at when it is dialled.
func (l *Lease) check(networks []netip.Prefix) error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
	}
	if !ValidID(l.ID) {
		return bad("the id is the first label of a host name: a-z, 0-9 and -, at most 63")
	}
	if len(l.Upstream) > maxURL {
		return bad("upstream is longer than %d bytes", maxURL)
	}
	u, err := ParseUpstream(l.Upstream)
	if err != nil {
		return bad("%v", err)
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !Within(networks, ip) {
		return bad("upstream %s is in none of consoles.networks", ip)
	}
	if l.TLS.ServerName != "" && u.Scheme != "https" {
		return bad("tls.server_name needs an https upstream")
	}
	for name, text := range map[string]string{"node": l.Node, "kind": l.Kind, "title": l.Title, "owner": l.Owner, "tls.server_name": l.TLS.ServerName} {
		if len(text) > maxText || strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
			return bad("%s is longer than %d bytes or holds control characters", name, maxText)
		}
	}
	if l.Owner == "" && len(l.Users) == 0 && len(l.Groups) == 0 && l.Allow == "" {
		return bad("it lets nobody in: name an owner, users, groups, or a rule in allow")
	}
	for name, list := range map[string][]string{"users": l.Users, "groups": l.Groups} {
		if len(list) > maxInvited {
			return bad("there are more than %d %s", maxInvited, name)
		}
		for _, one := range list {
			if one == "" || len(one) > maxText {
				return bad("one of the %s is empty or longer than %d bytes", name, maxText)
			}
		}
	}
	if len(l.Allow) > maxRule {
		return bad("allow is longer than %d bytes", maxRule)
	}
	return nil
}

// ValidID reports whether a text is a label that a console may have.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > 63 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// ParseUpstream reads the URL of an upstream: scheme, host and maybe a path.
func ParseUpstream(s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.RawQuery != "" || u.User != nil || u.Fragment != "" {
		return nil, errors.New("upstream is not an http or https URL without query and user")
	}
	return u, nil
}

// Within reports whether an address is in one of the networks.
func Within(networks []netip.Prefix, ip netip.Addr) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip.Unmap()) })
}
