// Package mailbox is a mail server (RFC 5321) that keeps what it takes: with
// STARTTLS, TLS from the start, or neither, and AUTH PLAIN and LOGIN where the
// connection is encrypted. Some addresses have a fate: busy@ is refused with 451
// every time, greylist@ once, nobody@ with 550, and full@ with 552 after DATA.
package mailbox

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// Mail is one that was taken.
type Mail struct {
	Helo, From, User string
	To               []string
	TLS              bool
	Params           string // what followed the address in MAIL FROM
	Raw              string
}

// Config says how the server behaves.
type Config struct {
	TLS            string // starttls, implicit or none
	User, Password string // "" takes everybody
	Mute           bool   // takes connections and says nothing
	Hostile        string // answer to RCPT instead of any other
}

// Server is one that runs until Close.
type Server struct {
	Host, CA string // address host:port is Host and Port; CA is its authority in PEM
	Port     int

	cfg  Config
	l    net.Listener
	cert tls.Certificate
	wg   sync.WaitGroup

	mu    sync.Mutex
	mails []Mail
	grey  map[string]bool
	conns map[net.Conn]bool
	total int
}

// Start listens on a free port of the loopback.
func Start(cfg Config) (*Server, error) {
	s := &Server{Host: "127.0.0.1", cfg: cfg, grey: map[string]bool{}, conns: map[net.Conn]bool{}}
	if err := s.certificate(); err != nil {
		return nil, err
	}
	var err error
	if s.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return nil, err
	}
	s.Port = s.l.Addr().(*net.TCPAddr).Port
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		for {
			c, err := s.l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.total++
			s.mu.Unlock()
			s.wg.Add(1)
			go func() {
				defer s.wg.Done()
				s.serve(c)
				c.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
		}
	}()
	return s, nil
}

// Close ends the server and every connection.
func (s *Server) Close() {
	s.l.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Mails returns what was taken.
func (s *Server) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail{}, s.mails...)
}

// Open and Total count connections: those that are there, and all.
func (s *Server) Open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Total counts all connections.
func (s *Server) Total() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *Server) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "mailbox"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	s.cert = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	s.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return nil
}

// session is one connection's state.
type session struct {
	s    *Server
	conn net.Conn
	text *textproto.Reader
	out  io.Writer
	m    Mail
	tls  bool
	user string
	helo string
}

func (s *Server) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if s.cfg.Mute {
		_, _ = io.Copy(io.Discard, c)
		return
	}
	x := &session{s: s}
	if s.cfg.TLS == "implicit" {
		c = tls.Server(c, &tls.Config{Certificates: []tls.Certificate{s.cert}, MinVersion: tls.VersionTLS12})
		x.tls = true
	}
	x.on(c)
	x.say("220 mailbox ESMTP")
	for {
		line, err := x.text.ReadLine()
		if err != nil || !x.command(line) {
			return
		}
	}
}

func (x *session) on(c net.Conn) {
	x.conn, x.out, x.text = c, c, textproto.NewReader(bufio.NewReader(c))
}

func (x *session) say(lines ...string) {
	_, _ = io.WriteString(x.out, strings.Join(lines, "\r\n")+"\r\n")
}

func (x *session) command(line string) bool {
	verb, rest, _ := strings.Cut(line, " ")
	switch strings.ToUpper(verb) {
	case "EHLO", "HELO":
		x.helo = rest
		lines := []string{"250-mailbox", "250-8BITMIME", "250-SMTPUTF8", "250-ENHANCEDSTATUSCODES"}
		if x.s.cfg.TLS == "starttls" && !x.tls {
			lines = append(lines, "250-STARTTLS")
		}
		if x.tls && x.s.cfg.User != "" {
			lines = append(lines, "250-AUTH PLAIN LOGIN")
		}
		x.say(append(lines, "250 OK")...)
	case "STARTTLS":
		if x.s.cfg.TLS != "starttls" || x.tls {
			x.say("502 5.5.1 not here")
			return true
		}
		x.say("220 go ahead")
		c := tls.Server(x.conn, &tls.Config{Certificates: []tls.Certificate{x.s.cert}, MinVersion: tls.VersionTLS12})
		if c.Handshake() != nil {
			return false
		}
		x.tls = true
		x.on(c)
	case "AUTH":
		x.auth(rest)
	case "MAIL":
		if x.s.cfg.User != "" && x.user == "" {
			x.say("530 5.7.0 authentication required")
			return true
		}
		from, params, _ := strings.Cut(strings.TrimPrefix(rest, "FROM:<"), ">")
		x.m = Mail{Helo: x.helo, From: from, TLS: x.tls, User: x.user, Params: strings.TrimSpace(params)}
		x.say("250 2.1.0 OK")
	case "RCPT":
		x.recipient(strings.TrimSuffix(strings.TrimPrefix(rest, "TO:<"), ">"))
	case "DATA":
		x.data()
	case "RSET":
		x.m = Mail{}
		x.say("250 2.0.0 OK")
	case "NOOP":
		x.say("250 2.0.0 OK")
	case "QUIT":
		x.say("221 2.0.0 bye")
		return false
	default:
		x.say("502 5.5.1 unknown")
	}
	return true
}

func (x *session) recipient(to string) {
	local, _, _ := strings.Cut(to, "@")
	x.s.mu.Lock()
	first := !x.s.grey[to]
	x.s.grey[to] = true
	x.s.mu.Unlock()
	switch {
	case x.s.cfg.Hostile != "":
		x.say(x.s.cfg.Hostile)
	case local == "busy":
		x.say("451 4.3.0 <" + to + ">: busy, try again later")
	case local == "greylist" && first:
		x.say("451 4.7.1 <" + to + ">: greylisted, try again later")
	case local == "nobody":
		x.say("550 5.1.1 <" + to + ">: no such user")
	default:
		x.m.To = append(x.m.To, to)
		x.say("250 2.1.5 OK")
	}
}

func (x *session) data() {
	if len(x.m.To) == 0 {
		x.say("503 5.5.1 nobody to deliver to")
		return
	}
	x.say("354 go on")
	raw, err := io.ReadAll(x.text.DotReader())
	if err != nil {
		return
	}
	if strings.HasPrefix(x.m.To[0], "full@") {
		x.say("552 5.2.2 mailbox full")
		return
	}
	x.m.Raw = string(raw)
	x.s.mu.Lock()
	x.s.mails = append(x.s.mails, x.m)
	x.s.mu.Unlock()
	x.say("250 2.0.0 stored")
}

func (x *session) auth(rest string) {
	kind, initial, _ := strings.Cut(rest, " ")
	ask := func(prompt string) string {
		x.say("334 " + base64.StdEncoding.EncodeToString([]byte(prompt)))
		line, _ := x.text.ReadLine()
		b, _ := base64.StdEncoding.DecodeString(line)
		return string(b)
	}
	var user, password string
	switch {
	case !x.tls:
		x.say("538 5.7.11 encryption required")
		return
	case kind == "PLAIN":
		b, _ := base64.StdEncoding.DecodeString(initial)
		if parts := strings.Split(string(b), "\x00"); len(parts) == 3 {
			user, password = parts[1], parts[2]
		}
	case kind == "LOGIN":
		user, password = ask("Username:"), ask("Password:")
	default:
		x.say("504 5.5.4 unknown")
		return
	}
	if user != x.s.cfg.User || password != x.s.cfg.Password {
		x.say(fmt.Sprintf("535 5.7.8 no such login: %s", user))
		return
	}
	x.user = user
	x.say("235 2.7.0 welcome")
}
