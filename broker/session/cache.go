package session

import (
	"sync"
	"time"
)

// cache holds what this replica has read. What is in it holds without asking
// the store as long as the bus is heard; every message about a session removes
// it. generation keeps a slow read from putting back what was just removed.
//
// When messages may have been lost nothing is removed, but all is in doubt: it
// is read again at its next use, and goes on for sessions.outage_grace if the
// store is out of reach, too (docs/security.md SE-3).
type cache struct {
	mu       sync.RWMutex
	gen      uint64
	doubts   uint64 // how often messages may have been lost
	sessions map[string]*entry
	handles  map[string]heldHandle
	watched  map[string]*watch
	used     map[string]time.Time // last uses of what was removed, until they are written
}

type entry struct {
	mu       sync.Mutex
	s        Session
	seen     time.Time // last use, not yet in the store when after written
	written  time.Time
	verified time.Time // when the store last said so, or for one in doubt the bus was last heard
	asked    time.Time // when a recheck was last asked for
	loose    bool      // not in the cache: its uses are kept by usedLoose
	traces   [2]trace  // from where it is used
	doubts   uint64    // the cache's when it was read; another now means doubt
}

type heldHandle struct {
	handle
	doubts uint64
}

type watch struct {
	ended chan struct{}
	n     int
}

// cacheMax bounds sessions and handles; a dropped one costs a read.
const cacheMax = 10_000

func newCache() *cache {
	return &cache{sessions: map[string]*entry{}, handles: map[string]heldHandle{}, watched: map[string]*watch{}, used: map[string]time.Time{}}
}

func (c *cache) generation() uint64 {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.gen
}

// get returns what is held of a session, and whether it is beyond doubt.
func (c *cache) get(id string) (e *entry, sure bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e = c.sessions[id]
	return e, e != nil && e.doubts == c.doubts
}

func (c *cache) handle(id string) (h handle, held, sure bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	hh, ok := c.handles[id]
	return hh.handle, ok, ok && hh.doubts == c.doubts
}

// put keeps what was read after gen was taken, unless something was removed
// since.
func (c *cache) put(gen uint64, s Session, now time.Time) *entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := &entry{s: s, seen: s.Seen, written: s.Seen, verified: now, doubts: c.doubts}
	if at := c.used[s.ID]; at.After(e.seen) {
		e.seen = at
	}
	if c.gen != gen {
		e.loose = true
		return e
	}
	delete(c.used, s.ID)
	if old := c.sessions[s.ID]; old != nil {
		old.mu.Lock()
		if old.seen.After(e.seen) {
			e.seen = old.seen
		}
		e.asked, e.traces = old.asked, old.traces
		old.mu.Unlock()
	}
	if len(c.sessions) >= cacheMax {
		n := 0
		for id, old := range c.sessions {
			old.mu.Lock()
			dirty := old.seen.After(old.written)
			old.mu.Unlock()
			if !dirty {
				delete(c.sessions, id)
				if n++; n >= cacheMax/10 {
					break
				}
			}
		}
		if n == 0 { // every entry waits to be written: drop some all the same
			for id := range c.sessions {
				c.remove(id)
				if n++; n >= cacheMax/10 {
					break
				}
			}
		}
	}
	c.sessions[s.ID] = e
	return e
}

func (c *cache) putHandle(gen uint64, id string, h handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gen != gen {
		return
	}
	if len(c.handles) >= cacheMax {
		n := 0
		for id := range c.handles {
			delete(c.handles, id)
			if n++; n >= cacheMax/10 {
				break
			}
		}
	}
	c.handles[id] = heldHandle{h, c.doubts}
}

// remove drops a session and keeps what the store does not know of it yet: a
// session that is used after hours is rechecked there and then, read again, and
// would idle out all the same.
func (c *cache) remove(id string) {
	e := c.sessions[id]
	if e == nil {
		return
	}
	delete(c.sessions, id)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loose = true // somebody may hold it and use it yet
	if e.seen.After(e.written) {
		c.used[id] = e.seen
	}
}

// forget removes a session so that the next use reads it. With ended, whoever
// watches it is told.
func (c *cache) forget(id string, ended bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	c.remove(id)
	if ended {
		delete(c.used, id)
		if w := c.watched[id]; w != nil {
			close(w.ended)
			delete(c.watched, id)
		}
	}
}

// askAgain lets the next use of a session ask for a recheck at once.
func (c *cache) askAgain(id string) {
	c.mu.Lock()
	e := c.sessions[id]
	c.mu.Unlock()
	if e != nil {
		e.mu.Lock()
		e.asked = time.Time{}
		e.mu.Unlock()
	}
}

func (c *cache) forgetHandle(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	delete(c.handles, id)
}

// forgetUser removes a user's sessions and returns the ids of those that are
// watched and must be looked at again: the user's, and whose nobody knows.
func (c *cache) forgetUser(userID string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	var ids []string
	for id := range c.watched {
		if e := c.sessions[id]; e == nil || e.s.UserID == userID {
			ids = append(ids, id)
		}
	}
	for id, e := range c.sessions {
		if e.s.UserID == userID {
			c.remove(id)
		}
	}
	return ids
}

// doubt puts everything in doubt. heard is when the bus was last heard: until
// then all of it was true.
func (c *cache) doubt(heard time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, e := range c.sessions {
		e.mu.Lock()
		if e.doubts == c.doubts && heard.After(e.verified) {
			e.verified = heard
		}
		e.mu.Unlock()
	}
	c.doubts++
}

func (c *cache) watch(id string) *watch {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watched[id]
	if w == nil {
		w = &watch{ended: make(chan struct{})}
		c.watched[id] = w
	}
	w.n++
	return w
}

func (c *cache) unwatch(id string, w *watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.n--; w.n == 0 && c.watched[id] == w {
		delete(c.watched, id)
	}
}

func (c *cache) watchedIDs() []string {
	c.mu.RLock()
	defer c.mu.RUnlock()
	ids := make([]string, 0, len(c.watched))
	for id := range c.watched {
		ids = append(ids, id)
	}
	return ids
}

// seen is the last use that this replica knows of.
func (c *cache) seen(id string) (time.Time, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e := c.sessions[id]
	if e == nil {
		at, ok := c.used[id]
		return at, ok
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.seen, true
}

// use is when a session was last used, and from where.
type use struct {
	at     time.Time
	traces [2]trace
}

// dirty returns the uses that are not in the store yet, those at least step old
// and those of which nothing else is left here.
func (c *cache) dirty(step time.Duration) map[string]use {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out map[string]use
	if len(c.used) > 0 {
		out = make(map[string]use, len(c.used))
		for id, at := range c.used {
			out[id] = use{at: at}
		}
		clear(c.used)
	}
	for id, e := range c.sessions {
		e.mu.Lock()
		_, owed := out[id] // and used again since, perhaps
		if e.seen.After(e.written) && (owed || e.seen.Sub(e.written) >= step) {
			if out == nil {
				out = map[string]use{}
			}
			out[id] = use{e.seen, e.traces}
			e.written = e.seen
			for i := range e.traces {
				e.traces[i].times = 0
			}
		}
		e.mu.Unlock()
	}
	return out
}

// usedLoose keeps a use of a session that was read while something changed, and
// is therefore not in the cache.
func (c *cache) usedLoose(id string, at time.Time) { c.unwritten(map[string]use{id: {at: at}}) }

// unwritten takes back uses that dirty returned and nobody could write.
func (c *cache) unwritten(uses map[string]use) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, u := range uses {
		if u.at.After(c.used[id]) {
			c.used[id] = u.at
		}
	}
}

// drop removes sessions that ended by time.
func (c *cache) drop(over func(Session, time.Time) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, e := range c.sessions {
		e.mu.Lock()
		gone := over(e.s, e.seen)
		e.mu.Unlock()
		if gone {
			delete(c.sessions, id)
			if w := c.watched[id]; w != nil {
				close(w.ended)
				delete(c.watched, id)
			}
		}
	}
	for id, h := range c.handles {
		if over(Session{Expires: h.Expires}, time.Time{}) {
			delete(c.handles, id)
		}
	}
}

func (c *cache) size() int {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return len(c.sessions)
}
