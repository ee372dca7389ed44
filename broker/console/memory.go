package console

import (
	"sync"
	"time"
)

// memory is what a replica knows of the leases.
type memory struct {
	mu       sync.RWMutex
	held     map[string]entry
	people   people
	doubts   uint64 // how often news may have been lost
	versions uint64
	next     time.Time // when the first one that is held runs out
	readers  map[*reader]struct{}
}

// entry is a lease as last read; after another doubt it is read again.
type entry struct {
	*Lease
	doubts uint64
}

// reader is a look at the store under way. What is heard of meanwhile it must
// not put into memory.
type reader struct {
	doubts uint64
	heard  map[string]bool
}

func (m *memory) init() {
	m.held, m.people, m.readers = map[string]entry{}, people{}, map[*reader]struct{}{}
}

func (m *memory) len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.held)
}

// get returns what is held; sure is false when it may be another by now.
func (m *memory) get(id string) (l *Lease, sure bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	e, ok := m.held[id]
	return e.Lease, ok && e.doubts == m.doubts
}

func (m *memory) begin() *reader {
	m.mu.Lock()
	defer m.mu.Unlock()
	rd := &reader{doubts: m.doubts}
	m.readers[rd] = struct{}{}
	return rd
}

func (m *memory) done(rd *reader) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.readers, rd)
}

// keep holds what a reader found and returns it with its version: the one
// before, if nothing but the end has moved.
func (m *memory) keep(rd *reader, l *Lease) *Lease {
	m.mu.Lock()
	defer m.mu.Unlock()
	was, had := m.held[l.ID]
	same := had && was.Equal(l)
	if same {
		l.version = was.version
	} else {
		m.versions++
		l.version = m.versions
	}
	if rd.heard[l.ID] {
		return l // for who asked, whose request began before
	}
	if had && !same {
		m.people.remove(was.Lease)
	}
	m.held[l.ID] = entry{l, rd.doubts}
	m.people.add(l)
	if m.next.IsZero() || l.Expires.Before(m.next) {
		m.next = l.Expires
	}
	return l
}

// drop forgets what a reader did not find.
func (m *memory) drop(rd *reader, id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !rd.heard[id] {
		m.remove(id)
	}
}

// forget drops a lease that is another now, also for readers under way.
func (m *memory) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for rd := range m.readers {
		if rd.heard == nil {
			rd.heard = map[string]bool{}
		}
		rd.heard[id] = true
	}
	m.remove(id)
}

func (m *memory) remove(id string) {
	if was, ok := m.held[id]; ok {
		delete(m.held, id)
		m.people.remove(was.Lease)
	}
}

// doubt makes everything that is held be read again before it is used.
func (m *memory) doubt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.doubts++
}

// unsure lists what no reader has seen since the last doubt.
func (m *memory) unsure() (ids []string) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for id, e := range m.held {
		if e.doubts != m.doubts {
			ids = append(ids, id)
		}
	}
	return ids
}

// over lists what has run out by what is known, and notes when to look again.
func (m *memory) over(now time.Time) (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.next.IsZero() || now.Before(m.next) {
		return nil
	}
	m.next = time.Time{}
	for id, e := range m.held {
		switch {
		case !now.Before(e.Expires):
			ids = append(ids, id)
		case m.next.IsZero() || e.Expires.Before(m.next):
			m.next = e.Expires
		}
	}
	if len(ids) > 0 { // those that cannot be read now are looked at again
		m.next = now
	}
	return ids
}

func (m *memory) of(userID string, groups []string, now time.Time, limit int) []*Lease {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.people.of(userID, groups, now, limit)
}
