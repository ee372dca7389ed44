package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"
)

// TLSConfig is how servers are known, and how they know us. There is no key that
// turns verification off.
type TLSConfig struct {
	CAFile string `yaml:"ca_file"` // PEM; default: the system's roots
	// ServerName is the name in the servers' certificates; default: their host.
	ServerName string `yaml:"server_name"`
	CertFile   string `yaml:"cert_file"` // PEM, shown to servers that ask
	KeyFile    string `yaml:"key_file"`
}

// handshakeTimeout bounds a TLS handshake.
const handshakeTimeout = 5 * time.Second

// lookEvery is how often files are looked at for a change, at most.
const lookEvery = time.Second

// TLS holds certificates from files and reads them again when they change.
type TLS struct {
	cfg    TLSConfig
	now    func() time.Time
	failed func(error)
	mu     sync.Mutex
	roots  *x509.CertPool // nil: the system's
	certs  []tls.Certificate
	files  [3]stamp
	looked time.Time
}

// stamp tells that a file is another.
type stamp struct {
	modified time.Time
	size     int64
}

// NewTLS reads the files. failed is told when changed ones cannot be read later
// on: then those read before stay in use; it may be nil.
func NewTLS(cfg TLSConfig, now func() time.Time, failed func(error)) (*TLS, error) {
	if failed == nil {
		failed = func(error) {}
	}
	t := &TLS{cfg: cfg, now: now, failed: failed, looked: now()}
	t.files = t.stamps()
	return t, t.read()
}

func (t *TLS) stamps() (out [3]stamp) {
	for i, name := range []string{t.cfg.CAFile, t.cfg.CertFile, t.cfg.KeyFile} {
		if name == "" {
			continue
		}
		if fi, err := os.Stat(name); err == nil { // one that is gone is another, and read complains
			out[i] = stamp{fi.ModTime(), fi.Size()}
		}
	}
	return out
}

func (t *TLS) read() error {
	var roots *x509.CertPool
	var certs []tls.Certificate
	if t.cfg.CAFile != "" {
		pem, err := os.ReadFile(t.cfg.CAFile)
		if err != nil {
			return fmt.Errorf("ca_file: %w", err)
		}
		roots = x509.NewCertPool()
		if !roots.AppendCertsFromPEM(pem) {
			return fmt.Errorf("ca_file: there is no PEM certificate in %s", t.cfg.CAFile)
		}
	}
	if (t.cfg.CertFile == "") != (t.cfg.KeyFile == "") {
		return errors.New("cert_file and key_file belong together")
	}
	if t.cfg.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(t.cfg.CertFile, t.cfg.KeyFile)
		if err != nil {
			return fmt.Errorf("cert_file: %w", err)
		}
		certs = []tls.Certificate{pair}
	}
	t.roots, t.certs = roots, certs
	return nil
}

// Config is what the next handshake uses; serverName is for servers whose name
// the configuration does not say.
func (t *TLS) Config(serverName string) *tls.Config {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := t.now(); now.Sub(t.looked) >= lookEvery {
		t.looked = now
		if s := t.stamps(); s != t.files {
			// A pair that is half written is read whole at a later look.
			if err := t.read(); err != nil {
				t.failed(err)
			} else {
				t.files = s
			}
		}
	}
	if t.cfg.ServerName != "" {
		serverName = t.cfg.ServerName
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: t.roots, Certificates: t.certs, ServerName: serverName}
}

// Handshake makes a connection one with TLS, to a server that goes by serverName
// unless the configuration says another. It closes conn if it fails.
func (t *TLS) Handshake(ctx context.Context, conn net.Conn, serverName string, protocols ...string) (net.Conn, error) {
	c := t.Config(serverName)
	c.NextProtos = protocols
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	out := tls.Client(conn, c)
	if err := out.HandshakeContext(ctx); err != nil {
		conn.Close()
		return nil, err
	}
	return out, nil
}

// Dialer is DialTLSContext of an http.Transport: each connection uses what the
// files say then. dial opens the connection below; serverName is as for Handshake,
// "" the host that is dialled.
func (t *TLS) Dialer(dial func(ctx context.Context, network, addr string) (net.Conn, error), serverName string, protocols ...string) func(ctx context.Context, network, addr string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		name := serverName
		if name == "" {
			var err error
			if name, _, err = net.SplitHostPort(addr); err != nil {
				return nil, err
			}
		}
		c, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return t.Handshake(ctx, c, name, protocols...)
	}
}
