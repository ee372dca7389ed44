package broker_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// h2wire speaks HTTP/2 frame by frame, so that it can say what no client would.
type h2wire struct {
	t     testing.TB
	conn  *tls.Conn
	f     *http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	next  uint32
}

// h2 opens a connection of HTTP/2 to one of the broker's listeners.
func (h *harness) h2(t testing.TB, addr, host string) *h2wire {
	t.Helper()
	w := &h2wire{t: t, conn: h.handshake(addr, host, "h2"), next: 1}
	if got := w.conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Fatalf("ALPN chose %q", got)
	}
	w.f = http2.NewFramer(w.conn, w.conn)
	w.f.AllowIllegalWrites, w.f.ReadMetaHeaders = true, hpack.NewDecoder(4096, nil)
	w.enc = hpack.NewEncoder(&w.block)
	w.raw([]byte(http2.ClientPreface))
	w.must(w.f.WriteSettings())
	return w
}

// must fails the test for what could not be written.
func (w *h2wire) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *h2wire) raw(b []byte) {
	w.t.Helper()
	_, err := w.conn.Write(b)
	w.must(err)
}

// headers encodes header fields: names and values in turn, as they are.
func (w *h2wire) headers(fields ...string) []byte {
	w.t.Helper()
	w.block.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		w.must(w.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}))
	}
	return bytes.Clone(w.block.Bytes())
}

// open begins a stream.
func (w *h2wire) open(end bool, fields ...string) uint32 {
	w.t.Helper()
	id := w.next
	w.next += 2
	w.must(w.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: w.headers(fields...), EndStream: end, EndHeaders: true}))
	return id
}

// fate is how a stream ended: its status, or by what it was refused.
func (w *h2wire) fate(id uint32) string {
	w.t.Helper()
	_ = w.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	said := ""
	for {
		f, err := w.f.ReadFrame()
		if err != nil {
			if said == "" {
				return "closed"
			}
			return said
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = w.f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				_ = w.f.WritePing(true, f.Data)
			}
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				return "goaway " + f.ErrCode.String()
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id && said == "" {
				return "reset " + f.ErrCode.String()
			}
			if f.StreamID == id {
				return said
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id && said == "" {
				said = f.PseudoValue("status")
			}
			if f.StreamID == id && f.StreamEnded() {
				return said
			}
		case *http2.DataFrame:
			if n := uint32(len(f.Data())); n > 0 {
				_ = w.f.WriteWindowUpdate(0, n)
			}
			if f.StreamID == id && f.StreamEnded() {
				return said
			}
		}
	}
}

// ended waits until the server closes the connection and returns the error code
// that it gave, if any.
func (w *h2wire) ended(within time.Duration) (http2.ErrCode, error) {
	_ = w.conn.SetReadDeadline(time.Now().Add(within))
	code := http2.ErrCodeNo
	for {
		f, err := w.f.ReadFrame()
		if g, ok := f.(*http2.GoAwayFrame); ok && err == nil {
			code = g.ErrCode
		}
		if err != nil {
			if ne, ok := err.(interface{ Timeout() bool }); ok && ne.Timeout() {
				return code, fmt.Errorf("still open after %v: %w", within, err)
			}
			return code, nil
		}
	}
}

// bystander asks again and again on a connection of its own until it is stopped,
// and reports what went wrong with it.
func (h *harness) bystander(t testing.TB, url, token string) (stop func()) {
	t.Helper()
	quit, done := make(chan struct{}), make(chan struct{})
	c := h.browser().client
	c.Transport.(*http.Transport).ForceAttemptHTTP2 = true
	go func() {
		defer close(done)
		n := 0
		for {
			select {
			case <-quit:
				if n == 0 {
					t.Error("the bystander was not served once")
				}
				return
			case <-time.After(10 * time.Millisecond):
			}
			req, err := http.NewRequest(http.MethodGet, url, nil)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+token)
			began := time.Now()
			resp, err := c.Do(req)
			if err != nil || resp.StatusCode != http.StatusOK || time.Since(began) > 10*time.Second {
				t.Errorf("the bystander: %d, %v after %v", status(resp), err, time.Since(began))
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			n++
		}
	}()
	return func() { close(quit); <-done }
}
