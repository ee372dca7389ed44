package broker

import (
	"crypto/tls"
	"crypto/x509"
	"log/slog"
	"os"
	"sync"
	"time"
)

// certificate is read again when one of its files is another: by time or size,
// through symbolic links too, which is how Kubernetes swaps them.
type certificate struct {
	certFile, keyFile string
	now               func() time.Time
	log               *slog.Logger

	mu     sync.Mutex
	cert   *tls.Certificate
	files  pairState // of cert
	failed pairState // of the last pair that could not be used, said once
	looked time.Time
}

// pairState tells whether files are others than before.
type pairState [2]struct {
	modified int64 // Unix nanoseconds
	size     int64
}

// lookEvery is how often the files are looked at, when somebody connects.
const lookEvery = 10 * time.Second

func (c *certificate) state() pairState {
	var s pairState
	for i, name := range []string{c.certFile, c.keyFile} {
		if fi, err := os.Stat(name); err == nil {
			s[i].modified, s[i].size = fi.ModTime().UnixNano(), fi.Size()
		}
	}
	return s
}

// load reads the pair; the state is of before, so that a change while it reads
// is seen at the next look.
func (c *certificate) load() error {
	files := c.state()
	cert, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return err
	}
	c.cert, c.files = &cert, files
	return nil
}

// leaf is the certificate that the next connection is shown.
func (c *certificate) leaf() *x509.Certificate {
	cert, err := c.get(nil)
	if err != nil || cert == nil {
		return nil
	}
	return cert.Leaf
}

// get is tls.Config.GetCertificate. A pair that is broken, or half written, is
// said and not used: the one before goes on until the files are others.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	if now.Sub(c.looked) < lookEvery {
		return c.cert, nil
	}
	c.looked = now
	files := c.state()
	if files == c.files {
		return c.cert, nil
	}
	if err := c.load(); err != nil {
		if files != c.failed {
			c.failed = files
			c.log.Error("the new TLS certificate cannot be used; the one before goes on", "cert_file", c.certFile, "key_file", c.keyFile, "err", err)
		}
		return c.cert, nil
	}
	c.log.Info("the TLS certificate was read again", "cert_file", c.certFile, "until", c.cert.Leaf.NotAfter)
	return c.cert, nil
}
