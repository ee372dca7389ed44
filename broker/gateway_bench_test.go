//go:build unix

package broker_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"syscall"
	"testing"
)

// benchUpstream answers as a small API does.
func benchUpstream(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"ok":true}`)
}

// cpu is the processor time of this process: client, proxy and upstream. On a
// machine with other work it says more than the clock.
func cpu(b *testing.B) int64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// asks sends requests one after another on each of many connections.
func asks(b *testing.B, u string, header http.Header) {
	b.Helper()
	tr := &http.Transport{MaxIdleConnsPerHost: 256}
	defer tr.CloseIdleConnections()
	at, err := url.Parse(u)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := cpu(b)
	defer func() { b.ReportMetric(float64(cpu(b)-before)/float64(b.N), "cpu-ns/op") }()
	b.ResetTimer()
	b.SetParallelism(8)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			req := &http.Request{Method: http.MethodGet, URL: at, Host: header.Get("Host"), Header: header.Clone()}
			delete(req.Header, "Host")
			resp, err := tr.RoundTrip(req)
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				b.Errorf("status %d", resp.StatusCode)
				return
			}
		}
	})
}

// pool keeps buffers, as the gateway does.
type pool struct{ sync.Pool }

func (p *pool) Get() []byte {
	if b, ok := p.Pool.Get().(*[]byte); ok {
		return *b
	}
	return make([]byte, 32<<10)
}

func (p *pool) Put(b []byte) { p.Pool.Put(&b) }

// A cached request through the gateway beside the bare ReverseProxy in front of
// the same upstream: what is between them is what the gateway costs.
func BenchmarkGateway(b *testing.B) {
	h, up := gate(b, plainRoutes, benchUpstream)
	up.answer = nil // replaced below: this upstream remembers nothing
	up.Server.Config.Handler = http.HandlerFunc(benchUpstream)
	at, err := url.Parse(up.URL)
	if err != nil {
		b.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at); r.SetXForwarded() },
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, DisableCompression: true}})
	defer proxy.Close()
	pooled := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at); r.SetXForwarded() }, BufferPool: &pool{},
		Transport: &http.Transport{MaxIdleConns: 1024, MaxIdleConnsPerHost: 256, DisableCompression: true}})
	defer pooled.Close()
	person := h.visit(h.at("api", "/"))
	cookie := "theme=dark; gatehouse-console=" + person.cookie(h.at("api", "/"), "gatehouse-console")
	tok := h.access("openid groups")
	header := func(more ...string) http.Header {
		out := http.Header{"Host": {"api.localhost"}, "Accept": {"application/json"}, "Accept-Language": {"zh-CN,zh;q=0.9,en;q=0.8"}, "User-Agent": {"Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0"},
			"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Dest": {"empty"}, "Referer": {"http://api.localhost/"}}
		for i := 0; i+1 < len(more); i += 2 {
			out.Set(more[i], more[i+1])
		}
		return out
	}
	const path = "/v1/deployments/42?full=1"
	b.Run("bare", func(b *testing.B) { asks(b, proxy.URL+path, header("Cookie", cookie)) })
	b.Run("bare-pooled", func(b *testing.B) { asks(b, pooled.URL+path, header("Cookie", cookie)) })
	b.Run("cookie", func(b *testing.B) { asks(b, "http://"+h.host+path, header("Cookie", cookie)) })
	b.Run("bare-bearer", func(b *testing.B) { asks(b, proxy.URL+path, header("Authorization", "Bearer "+tok)) })
	b.Run("bearer", func(b *testing.B) { asks(b, "http://"+h.host+path, header("Authorization", "Bearer "+tok)) })
}
