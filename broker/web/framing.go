package web

import (
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// lingering is how long the rest of a body is waited for that nobody wants: the
// answer is on its way, and the connection ends after it.
const lingering = 5 * time.Second

// lateTrailers is how long the trailers are waited for of a request of HTTP/2 that
// is answered before its end, and lateBody how much of its body comes before them.
const (
	lateTrailers = 2 * time.Second
	lateBody     = 256 << 10
)

// framed prepares to answer a request that has a body.
//
// Of HTTP/2, net/http ends the stream as soon as it is answered, and takes trailers
// that were on their way for a fault of the whole connection, which may be a
// proxy's with the requests of many people (golang.org/issue/58286). Who has
// announced some and is refused before the body was looked at is heard to the end.
//
// Of HTTP/1, an answer that begins before the body has been read to its end is the
// connection's last one: net/http would go on with the bytes that follow a broken
// body, or one that was waited for too long, as if they were another request
// (docs/security.md GW-7).
//
// done is to be called after the handler.
func framed(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, done func()) {
	if r.ProtoMajor == 2 && len(r.Trailer) > 0 {
		body := r.Body
		return w, func() {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lateTrailers))
			_, _ = io.CopyN(io.Discard, body, lateBody)
		}
	}
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Body == nil {
		return w, func() {}
	}
	body := &countedBody{ReadCloser: r.Body}
	body.left.Store(r.ContentLength)
	r.Body = body
	return &lastAnswer{ResponseWriter: w, body: body}, func() {
		if !body.whole() { // net/http reads on for a while, and must not wait for ever
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(lingering))
		}
	}
}

// countedBody knows whether it has been read to its end.
type countedBody struct {
	io.ReadCloser
	left  atomic.Int64 // of a Content-Length; negative: chunked
	ended atomic.Bool
}

// Read reads on.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left.Load() > 0 && b.left.Add(-int64(n)) == 0 || errors.Is(err, io.EOF) {
		b.ended.Store(true)
	}
	return n, err
}

func (b *countedBody) whole() bool { return b.ended.Load() }

// lastAnswer says that the connection ends, where the body is not whole when the
// answer begins.
type lastAnswer struct {
	http.ResponseWriter
	body  *countedBody
	begun bool
}

func (a *lastAnswer) begin() {
	if a.begun {
		return
	}
	a.begun = true
	if !a.body.whole() {
		a.Header().Set("Connection", "close")
	}
}

// WriteHeader begins the answer, unless it is an informational one.
func (a *lastAnswer) WriteHeader(code int) {
	if code >= 200 {
		a.begin()
	}
	a.ResponseWriter.WriteHeader(code)
}

// Write begins the answer if nothing has.
func (a *lastAnswer) Write(b []byte) (int, error) {
	a.begin()
	return a.ResponseWriter.Write(b)
}

// FlushError sends what is buffered; http.ResponseController finds it.
func (a *lastAnswer) FlushError() error {
	a.begin()
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController reach the connection.
func (a *lastAnswer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
