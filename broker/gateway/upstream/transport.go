package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
)

// MaxRetries is how many more servers a request is sent to. Retries are bounded for each request and, so that a group in trouble is not
// burdened more, for all that are open.
const (
	MaxRetries     = 2
	retriesAlways  = 3 // at one time, however little is open
	retriesPerOpen = 5 // beyond that one for so many open requests
)

// RoundTrip sends a request to one server, and if that did not hear it and
// sending it twice does no harm, to another.
func (g *Group) RoundTrip(req *http.Request) (*http.Response, error) {
	var tried Tried
	for n := 0; ; n++ {
		a, ok := g.Begin(req.Context(), tried)
		if !ok {
			return nil, errors.New("no upstream is left") // not reached: tried has not all of them
		}
		resp, err := g.cfg.Transport.RoundTrip(toward(req, a))
		if err == nil {
			a.Judge(req.Context(), resp.StatusCode)
			resp.Body = &openBody{ReadCloser: resp.Body, release: a.Release}
			return resp, nil
		}
		a.Release()
		if !g.cfg.Blame(req.Context(), err) {
			a.Dropped()
			return nil, err
		}
		a.Failed(req.Context(), err.Error())
		tried.Add(a)
		if n == MaxRetries || n+1 == len(g.members) || !Repeatable(req) || !Unheard(err) || !g.mayRetry() {
			return nil, err
		}
		defer g.retrying.Add(-1)
	}
}

// mayRetry takes one of the retries that are allowed at a time; who has it
// gives it back.
func (g *Group) mayRetry() bool {
	open := int64(0)
	for _, m := range g.members {
		open += m.load.Load()
	}
	if g.retrying.Add(1) > max(retriesAlways, open/retriesPerOpen) {
		g.retrying.Add(-1)
		return false
	}
	return true
}

// toward is the request to one server.
func toward(req *http.Request, a Attempt) *http.Request {
	out, u := *req, *req.URL
	u.Scheme, u.Host = a.m.url.Scheme, a.m.url.Host
	out.URL = &u
	return &out
}

// Judge counts the status of an answer: one that a proxy or a server gives when
// it cannot serve is a failure. A 500 is none: it is about the request, and
// whoever can cause one could take out all servers.
func (a Attempt) Judge(ctx context.Context, status int) {
	switch status {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		a.Failed(ctx, fmt.Sprintf("status %d", status))
	default:
		a.Worked(ctx)
	}
}

// Repeatable reports whether a request may be sent twice: its method is
// idempotent (RFC 9110 section 9.2.2) and it has no body, which is gone once it
// was read.
func Repeatable(req *http.Request) bool {
	return slices.Contains([]string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete}, req.Method) &&
		(req.Body == nil || req.Body == http.NoBody)
}

// Unheard reports whether an error means that no connection came about, or that
// it was closed before the first byte of an answer. An upstream that is slow has
// heard, and is not asked twice.
func Unheard(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return true
	}
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	if errors.As(err, &cert) || errors.As(err, &alert) || errors.As(err, &record) {
		return true
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// openBody knows when an answer has been read or given up.
type openBody struct {
	io.ReadCloser
	once    sync.Once
	release func()
}

// Close closes the body.
func (b *openBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.release)
	return err
}
