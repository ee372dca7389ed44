// Package robots holds receivers that stand in for the robots of DingTalk,
// WeCom, Feishu and Slack and for a webhook's receiver. Each checks what its
// vendor documents (docs/notifications), refuses with the vendor's own words,
// and keeps what it took. They were never compared with the vendors.
package robots

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"sync"
	"time"
)

// Taken is one request that a receiver accepted.
type Taken struct {
	Time   time.Time
	Header http.Header
	Body   []byte
}

// Answer is one that a receiver gives instead of its own.
type Answer struct {
	Status int
	Header map[string]string
	Body   string
}

// Receiver is what the stand-ins share.
type Receiver struct {
	Now func() time.Time // nil: time.Now

	mu     sync.Mutex
	taken  []Taken
	seen   int
	recent []time.Time
	shut   time.Time
	script []Answer
}

// Script makes the receiver give these answers, one to a request, before it goes
// back to its own.
func (r *Receiver) Script(as ...Answer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.script = append(r.script, as...)
}

// Taken returns what was accepted.
func (r *Receiver) Taken() []Taken {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Taken{}, r.taken...)
}

// Seen counts the requests, refused ones too.
func (r *Receiver) Seen() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

func (r *Receiver) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// scripted counts a request and gives the next answer of the script, if any.
func (r *Receiver) scripted(w http.ResponseWriter) bool {
	r.mu.Lock()
	r.seen++
	if len(r.script) == 0 {
		r.mu.Unlock()
		return false
	}
	a := r.script[0]
	r.script = r.script[1:]
	r.mu.Unlock()
	for k, v := range a.Header {
		w.Header().Set(k, v)
	}
	w.WriteHeader(a.Status)
	_, _ = io.WriteString(w, a.Body)
	return true
}

// take keeps a request.
func (r *Receiver) take(req *http.Request, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = append(r.taken, Taken{Time: r.now(), Header: req.Header.Clone(), Body: body})
}

// limit is so many requests in a time.
type limit struct {
	n  int
	in time.Duration
}

// over counts a request against limits; whoever is over one is shut out for a
// while, each further try included.
func (r *Receiver) over(shut time.Duration, limits ...limit) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if now.Before(r.shut) {
		return true
	}
	for _, l := range limits {
		n := 0
		for _, t := range r.recent {
			if now.Sub(t) < l.in {
				n++
			}
		}
		if n >= l.n {
			r.shut = now.Add(shut)
			return true
		}
	}
	r.recent = append(r.recent, now)
	return false
}

// strict decodes JSON and refuses fields that the vendor does not know, so that
// a misspelt one is seen.
func strict(body []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return io.ErrUnexpectedEOF
	}
	return nil
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json;charset=utf-8")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

func jsonType(r *http.Request) bool {
	ct := r.Header.Get("Content-Type")
	return ct == "application/json" || ct == "application/json; charset=utf-8" || ct == "application/json;charset=utf-8"
}
