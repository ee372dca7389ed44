package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/remotegpu/gatehouse/broker/gateway"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
)

// Listeners are where a broker listens.
type Listeners struct{ Public, Gateway, Admin net.Listener }

// Listen opens the listeners of the configuration. Admin comes last, so that
// who sees it can use the others.
func (b *Broker) Listen() (Listeners, error) {
	var l Listeners
	for _, x := range []struct {
		key, addr string
		to        *net.Listener
		tls       bool
	}{{"listen", b.cfg.Listen, &l.Public, true}, {"gateway_listen", b.cfg.GatewayListen, &l.Gateway, true}, {"admin_listen", b.cfg.AdminListen, &l.Admin, false}} {
		if x.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", x.addr)
		if err != nil {
			l.close()
			return l, fmt.Errorf("%s: %w", x.key, err)
		}
		if x.tls && b.cfg.TLS.CertFile != "" {
			cert := &certificate{certFile: b.cfg.TLS.CertFile, keyFile: b.cfg.TLS.KeyFile, now: time.Now, log: b.log}
			if err := cert.load(); err != nil {
				ln.Close()
				l.close()
				return l, fmt.Errorf("tls: %w", err)
			}
			b.certificates = append(b.certificates, cert)
			ln = tls.NewListener(ln, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: cert.get, NextProtos: []string{"h2", "http/1.1"}})
		}
		*x.to = ln
	}
	return l, nil
}

func (l Listeners) close() {
	for _, ln := range []net.Listener{l.Public, l.Gateway, l.Admin} {
		if ln != nil {
			ln.Close()
		}
	}
}

// maxHeader bounds what is read of a request's header, in bytes; see web.MaxHeader.
const maxHeader = 3 * web.MaxHeader

// server serves a door; with h2c it takes HTTP/2 without TLS by prior knowledge
// (RFC 9113 section 3.3), which is refused wherever no route asks for it.
func (b *Broker) server(h http.Handler, h2c bool) *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(h2c)
	return &http.Server{
		Protocols: &protocols,
		Handler:   h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 120 * time.Second, MaxHeaderBytes: maxHeader,
		// A connection of HTTP/2 with open streams is never idle: one whose client
		// is gone, or takes nothing, is noticed so.
		HTTP2:    &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: time.Minute},
		ErrorLog: log.New(serverLog{b.log}, "", 0),
	}
}

type serverLog struct{ log *slog.Logger }

func (l serverLog) Write(p []byte) (int, error) {
	l.log.Debug("http server", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}

// shutdownGrace is how long requests may take to end.
const shutdownGrace = 30 * time.Second

// Serve answers on the listeners and runs the jobs until ctx ends; then it lets
// requests end, tells open sockets, and returns.
func (b *Broker) Serve(ctx context.Context, l Listeners) error {
	handler, admin := b.Handler(), b.AdminHandler()
	jobs, stopJobs := context.WithCancel(context.WithoutCancel(ctx))
	defer stopJobs()
	var running errgroup.Group
	for _, run := range []func(context.Context) error{b.keys.Run, b.users.Run, b.sessions.Run, b.ledger.Run, b.runDoors, b.consoles.Run, b.accounts.Run, b.apiKeys.Run, b.workloads.Run, b.errorPages.Run, b.current.Load().gateway.Run, b.sweep, b.runSinks, b.sentry.Run, b.runArchives, b.detection.probes.Run, b.notifier.Run} {
		running.Go(func() error { return run(jobs) })
	}
	var servers []*http.Server
	failed := make(chan error, 4)
	start := func(s *http.Server, ln net.Listener) {
		servers = append(servers, s)
		running.Go(func() error {
			if err := s.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- err
				return err
			}
			return nil
		})
	}
	if b.demo != nil {
		start(demoServer(), b.demo)
	}
	h2c := slices.ContainsFunc(b.cfg.Routes, func(r gateway.Route) bool { return r.H2C })
	start(b.server(handler, h2c), l.Public)
	if l.Gateway != nil {
		start(b.server(handler, h2c), l.Gateway)
	}
	if l.Admin != nil {
		start(b.server(admin, false), l.Admin)
	}
	var cause error
	select {
	case <-ctx.Done():
	case cause = <-failed:
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownGrace)
	defer cancel()
	b.current.Load().gateway.Shutdown(grace)
	for _, s := range servers[min(len(servers), b.demoServers()):] {
		_ = s.Shutdown(grace)
	}
	for _, s := range servers {
		s.Close()
	}
	stopJobs()
	if err := running.Wait(); err != nil && cause == nil {
		cause = err
	}
	return cause
}

// demoServers is how many of the servers are the demo upstream, which goes last.
func (b *Broker) demoServers() int {
	if b.demo != nil {
		return 1
	}
	return 0
}

// sweepEvery is how often what has expired is removed from an embedded store.
const sweepEvery = time.Minute

// sweep is a job of one replica.
func (b *Broker) sweep(ctx context.Context) error {
	t := time.NewTicker(sweepEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		held, release, err := b.store.Lease(ctx, "sweep", sweepEvery)
		if errors.Is(err, store.ErrLeaseHeld) {
			continue
		}
		if err == nil {
			err = b.store.Sweep(held, b.now())
			release()
		}
		if err != nil && ctx.Err() == nil {
			b.log.WarnContext(ctx, "what has expired was not removed; tried again", "err", err)
		}
	}
}

func loopbackName(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
