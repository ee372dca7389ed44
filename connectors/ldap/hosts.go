package ldap

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"

	goldap "github.com/go-ldap/ldap/v3"
)

// server is one of the hosts that serve the directory.
type server struct {
	name, address string
	tls           *tls.Config
	down          bool // guarded by dialer.mu
}

// splitHost reads an entry of hosts: a name or an address, with a port or not.
func splitHost(s string, port int) (name string, n int, err error) {
	name, n = s, port
	if h, p, err := net.SplitHostPort(s); err == nil {
		if n, err = strconv.Atoi(p); err != nil || n < 1 || n > 65535 {
			return "", 0, fmt.Errorf("%s is not a port", p)
		}
		name = h
	}
	if !hostName.MatchString(name) {
		return "", 0, errors.New("it is a name or an address, with a port or not")
	}
	return name, n, nil
}

// servers returns host and hosts in their order.
func (c *Config) servers(base *tls.Config) ([]*server, error) {
	var out []*server
	add := func(name string, port int) {
		t := base.Clone()
		t.ServerName = name
		out = append(out, &server{name: name, address: net.JoinHostPort(name, strconv.Itoa(port)), tls: t})
	}
	if c.Host != "" {
		add(c.Host, c.Port)
	}
	for _, h := range c.Hosts {
		name, port, err := splitHost(h, c.Port)
		if err != nil {
			return nil, err
		}
		add(name, port)
	}
	return out, nil
}

// order returns the servers as they are to be tried: those that answered last,
// as they are written, and after them the others.
func (d *dialer) order() []*server {
	d.mu.Lock()
	defer d.mu.Unlock()
	var up, down []*server
	for _, s := range d.servers {
		if s.down {
			down = append(down, s)
		} else {
			up = append(up, s)
		}
	}
	return append(up, down...)
}

// failed sets a server aside until look finds it answering again, and reports
// whether another one is left.
func (d *dialer) failed(ctx context.Context, s *server, err error) (another bool) {
	d.mu.Lock()
	was := s.down
	s.down = true
	for _, o := range d.servers {
		another = another || !o.down
	}
	d.mu.Unlock()
	if !was && len(d.servers) > 1 {
		d.log.WarnContext(ctx, "ldap: a server of the directory does not answer; the others are asked", "connector", d.id, "server", s.address, "err", err)
	}
	return another
}

func (d *dialer) answers(ctx context.Context, s *server) {
	d.mu.Lock()
	was := s.down
	s.down = false
	d.mu.Unlock()
	if was && len(d.servers) > 1 {
		d.log.InfoContext(ctx, "ldap: a server of the directory answers again", "connector", d.id, "server", s.address)
	}
}

// look asks every server of several whether it answers, so that no sign-in waits
// to find that out and the first one is used again when it is back. Nobody is
// bound: a wrong bind_password must not count once for each server.
func (d *dialer) look(ctx context.Context) {
	if len(d.servers) < 2 {
		return
	}
	var wg sync.WaitGroup
	for _, s := range d.servers {
		wg.Go(func() {
			c, err := d.openAt(ctx, s)
			if err == nil {
				defer c.close()
				if !c.healthy(ctx) {
					err = errors.New("it takes connections and does not answer")
				}
			}
			switch {
			case ctx.Err() != nil:
			case err != nil:
				d.failed(ctx, s, err)
			default:
				d.answers(ctx, s)
			}
		})
	}
	wg.Wait()
}

// overloaded reports a directory that says that it cannot serve now.
func overloaded(err error) bool {
	return goldap.IsErrorAnyOf(err, goldap.LDAPResultBusy, goldap.LDAPResultUnavailable)
}
