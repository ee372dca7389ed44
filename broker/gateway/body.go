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
	in, out *http.Request // out is set when the upstream's request has been made
	limited bool          // by the route's max_body
	left    int64         // of it
	idle    *idle
	mu      sync.Mutex
	broken  error
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
		b.idle.moved()
	}
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.idle.sent()
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
}

// Read reads on.
func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		cleanTrailer(b.resp.Trailer)
	}
	return n, err
}

// Close closes the body.
func (b *responseBody) Close() error {
	err := b.ReadCloser.Close()
	cleanTrailer(b.resp.Trailer)
	return err
}
