package gateway

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// requestBody remembers that the client's body broke off: that is the client's
// fault, not the upstream's (docs/security.md GW-17). At its end it hands on the
// trailers that the client announced and that may pass.
type requestBody struct {
	io.ReadCloser
	pg      *passage
	in, out *http.Request // out is set when the upstream's request has been made
	limited bool          // by the route's max_body
	left    int64         // of it
	mu      sync.Mutex
	broken  error
	whole   bool // read to its end
}

// takeBody makes the body of a request the passage's.
func (pg *passage) takeBody(r *http.Request) {
	if r.Body != nil && r.Body != http.NoBody {
		pg.body = &requestBody{ReadCloser: r.Body, pg: pg, in: r, left: pg.route.maxBody, limited: pg.route.maxBody > 0}
	}
}

// Read reads on.
func (b *requestBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.limited {
		if b.left -= int64(n); b.left < 0 {
			n, err = 0, errTooLarge
		}
	}
	if n > 0 {
		b.pg.idle.moved()
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.mu.Lock()
		b.whole = true
		b.mu.Unlock()
		b.pg.idle.sent()
		if b.out != nil {
			for name := range b.out.Trailer {
				b.out.Trailer[name] = b.in.Trailer[name]
			}
		}
	default:
		b.mu.Lock()
		b.broken = err
		b.mu.Unlock()
	}
	return n, err
}

// open reports whether more of the body may come.
func (b *requestBody) open() bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.whole && b.broken == nil
}

func (b *requestBody) err() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.broken
}

// responseBody filters the trailers, which are there only when the body has
// been read or closed.
type responseBody struct {
	io.ReadCloser
	resp *http.Response
	pg   *passage
}

// Read reads on.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		cleanTrailer(b.resp.Trailer)
	}
	return n, err
}

// Close closes the body. An upstream may end its answer while the client is
// still sending, as a gRPC server does that ends a call. Closing a body of HTTP/2
// waits for the request's, which is read from a client that waits for the answer's
// end: so the request is given up first.
func (b *responseBody) Close() error {
	if b.resp.ProtoMajor == 2 && b.pg.body.open() {
		b.pg.leave()
	}
	err := b.ReadCloser.Close()
	cleanTrailer(b.resp.Trailer)
	return err
}

// answerBody remembers why reading an upstream's answer ended too soon.
type answerBody struct {
	io.ReadCloser
	err error
}

// Read reads on.
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}
