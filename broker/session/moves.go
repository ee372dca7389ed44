package session

import (
	"context"
	"encoding/binary"
	"net/netip"
	"time"
)

// Move says that the uses of a session went to and fro between two networks: it
// is used from both at once, which is what a stolen cookie looks like. Somebody
// who walks from one network into another changes once.
type Move struct {
	// From and To are the networks of the last change, a /24 or a /48 each, or
	// "known" for those that count as one place.
	From, To string
	// Times is how often it changed.
	Times int
}

// moveLimits are what counts as to and fro.
type moveLimits struct {
	times  int
	window time.Duration
	known  []netip.Prefix
}

// SetMoves sets how many changes of network in what time are told to Config.Moved,
// and which networks count as one place: an office has several ways out.
func (m *Manager) SetMoves(times int, window time.Duration, known []netip.Prefix) {
	m.moves.Store(&moveLimits{times, window, known})
}

// network is the /24 or /48 of an address, in one word that is compared at every
// use of a cookie; 0 is none.
type network uint64

const (
	knownNetwork network = 1
	networkIPv4  network = 1 << 63
	networkIPv6  network = 1 << 62
)

func (l *moveLimits) network(ip netip.Addr) network {
	for _, p := range l.known {
		if p.Contains(ip) {
			return knownNetwork
		}
	}
	if ip.Is4() {
		b := ip.As4()
		return networkIPv4 | network(b[0])<<16 | network(b[1])<<8 | network(b[2])
	}
	b := ip.As16()
	return networkIPv6 | network(binary.BigEndian.Uint64(b[:8])>>16)
}

// String is how events name it.
func (n network) String() string {
	switch {
	case n == knownNetwork:
		return "known"
	case n&networkIPv4 != 0:
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{byte(n >> 16), byte(n >> 8), byte(n)}), 24).String()
	case n&networkIPv6 != 0:
		var b [16]byte
		binary.BigEndian.PutUint64(b[:8], uint64(n&^networkIPv6)<<16)
		return netip.PrefixFrom(netip.AddrFrom16(b), 48).String()
	}
	return ""
}

// trace is from where a session was used last, and how often that changed since
// it was last written. IPv4 and IPv6 are apart: a browser uses both at once.
type trace struct {
	now, before network
	times       int
}

// use takes notice of a use. It is on the way of every request: it allocates
// nothing and, but for a change, writes nothing.
func (t *trace) use(n network) {
	if t.now == n {
		return
	}
	if t.now != 0 {
		t.before = t.now
		t.times++
	}
	t.now = n
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return 0
	}
	return 1
}

// Uses is what the store knows of where a session is used, by family of
// addresses; replicas that see different uses of it add up there.
type Uses struct {
	Network [2]network `json:"network,omitzero"`
	Times   [2]int     `json:"times,omitzero"`
	Since   time.Time  `json:"since,omitzero"`
}

// add puts what this replica saw to what is stored, and returns the change to
// tell of, if it is one too many.
func (u *Uses) add(ts [2]trace, now time.Time, l *moveLimits) (Move, bool) {
	if now.Sub(u.Since) > l.window {
		*u = Uses{Network: u.Network, Since: now}
	}
	var told Move
	for i, t := range ts {
		if t.now == 0 {
			continue
		}
		from := t.before
		if t.times == 0 && u.Network[i] != 0 && u.Network[i] != t.now { // another replica sees the other one
			t.times, from = 1, u.Network[i]
		}
		u.Network[i] = t.now
		if u.Times[i] += t.times; t.times > 0 && u.Times[i] >= l.times {
			told = Move{From: from.String(), To: t.now.String(), Times: u.Times[i]}
			u.Times[i] = 0
		}
	}
	return told, told.Times > 0
}

// moved tells of a session that goes to and fro.
func (m *Manager) moved(ctx context.Context, s Session, mv Move) {
	if m.cfg.Moved != nil {
		m.cfg.Moved(ctx, s, mv)
	}
}
