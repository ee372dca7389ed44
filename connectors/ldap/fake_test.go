package ldap

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	serviceDN = "cn=gatehouse,ou=services,dc=example,dc=com"
	aliceUUID = "11111111-2222-3333-4444-555555555555"
)

type attrs map[string][]string

// object is one entry of the fake directory.
type object struct {
	dn       string
	password string
	attrs    attrs
	code     int    // result of a bind; 0 compares the password
	diag     string // diagnostic of a refused bind
	policy   int    // error of the password policy control, -1: none
	control  string // the whole value of that control, instead
	sid      string
}

// directory is a small LDAP server: bind, search with filters and paging,
// StartTLS. It serves what no OpenLDAP can be made to say.
type directory struct {
	t        *testing.T
	listener net.Listener
	tls      *tls.Config
	ca       string // file

	mu       sync.Mutex
	objects  []object
	startTLS int // result of StartTLS; 0 works
	ldaps    bool
	hang     bool   // answer nothing but StartTLS
	search   int    // result of each search but the health check's, if not 0
	drop     int    // that many searches end the connection
	flood    string // searches whose filter has this get entries without end
	opened   int
	open     map[net.Conn]bool
	binds    []bind
	searches []string
}

type bind struct {
	dn, password string
	encrypted    bool
	conn         int // number of the connection
}

func newDirectory(t *testing.T, objects ...object) *directory {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &directory{t: t, listener: l, objects: append(objects, object{dn: serviceDN, password: "service", policy: -1}, object{dn: "dc=example,dc=com", policy: -1}), open: map[net.Conn]bool{}}
	d.certificate()
	t.Cleanup(func() { d.stop() })
	go func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			d.mu.Lock()
			d.opened++
			n := d.opened
			d.open[nc] = true
			d.mu.Unlock()
			go d.serve(nc, n)
		}
	}()
	return d
}

func (d *directory) certificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		d.t.Fatal(err)
	}
	d.ca = filepath.Join(d.t.TempDir(), "ca.crt")
	if err := os.WriteFile(d.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.tls = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// stop closes the listener and cuts every connection.
func (d *directory) stop() {
	_ = d.listener.Close()
	d.cut()
}

func (d *directory) cut() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c := range d.open {
		_ = c.Close()
	}
}

// set changes the directory while it serves.
func (d *directory) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// seen returns what was bound, and how many connections are and were open.
func (d *directory) seen() (binds []bind, open, opened int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]bind(nil), d.binds...), len(d.open), d.opened
}

func (d *directory) config(change func(*Config)) Config {
	host, port, _ := net.SplitHostPort(d.listener.Addr().String())
	n, _ := strconv.Atoi(port)
	cfg := Config{Host: host, Port: n, CAFile: d.ca, BaseDN: "dc=example,dc=com", BindDN: serviceDN, BindPassword: "service"}
	if change != nil {
		change(&cfg)
	}
	return cfg
}

func (d *directory) connector(change func(*Config)) *Connector {
	d.t.Helper()
	c, err := Open(connectors.Env{ID: "corp", Log: slog.New(slog.DiscardHandler), Now: time.Now}, d.config(change))
	if err != nil {
		d.t.Fatal(err)
	}
	lc := c.(*Connector)
	d.t.Cleanup(func() { _ = lc.Close() })
	return lc
}

func (d *directory) serve(nc net.Conn, n int) {
	defer func() {
		_ = nc.Close()
		d.set(func() { delete(d.open, nc) })
	}()
	var conn = nc
	d.mu.Lock()
	encrypted := d.ldaps
	d.mu.Unlock()
	if encrypted {
		conn = tls.Server(nc, d.tls)
	}
	for {
		p, err := ber.ReadPacket(conn)
		if err != nil || len(p.Children) < 2 {
			return
		}
		id, op := p.Children[0], p.Children[1]
		send := func(tag ber.Tag, code int, diag string, controls ...*ber.Packet) bool {
			r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
			r.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""))
			r.AppendChild(octets(""))
			r.AppendChild(octets(diag))
			return reply(conn, id, r, controls...)
		}
		d.mu.Lock()
		hang, startTLS, searchCode, flood := d.hang, d.startTLS, d.search, d.flood
		d.mu.Unlock()
		switch op.Tag {
		case goldap.ApplicationExtendedRequest:
			if !send(goldap.ApplicationExtendedResponse, startTLS, "no such extended operation in cn=secret") || startTLS != 0 {
				continue
			}
			conn, encrypted = tls.Server(nc, d.tls), true
			continue
		case goldap.ApplicationUnbindRequest:
			return
		}
		if hang {
			continue
		}
		switch op.Tag {
		case goldap.ApplicationBindRequest:
			dn, password := op.Children[1].Data.String(), op.Children[2].Data.String()
			d.set(func() { d.binds = append(d.binds, bind{dn, password, encrypted, n}) })
			code, diag, policy := d.bind(dn, password)
			var controls []*ber.Packet
			if policy != "" {
				controls = append(controls, control(goldap.ControlTypeBeheraPasswordPolicy, policy))
			}
			send(goldap.ApplicationBindResponse, code, diag, controls...)
		case goldap.ApplicationSearchRequest:
			base := op.Children[0].Data.String()
			if base == "" { // the health check
				send(goldap.ApplicationSearchResultDone, goldap.LDAPResultNoSuchObject, "")
				continue
			}
			drop := false
			d.set(func() {
				if drop = d.drop > 0; drop {
					d.drop--
				}
			})
			if drop {
				return
			}
			if searchCode != 0 {
				send(goldap.ApplicationSearchResultDone, searchCode, "server text about cn=secret")
				continue
			}
			if text, _ := goldap.DecompileFilter(op.Children[6]); flood != "" && strings.Contains(text, flood) {
				for i := 0; entryReply(conn, p, fmt.Sprintf("cn=g%d,dc=example,dc=com", i), attrs{"cn": {"x"}, "uid": {"x"}}); i++ {
				}
				return
			}
			d.find(conn, p, base, send)
		}
	}
}

func (d *directory) bind(dn, password string) (code int, diag, policy string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, o := range d.objects {
		if sameDN(o.dn, dn) && o.password != "" {
			policy = o.control
			if o.policy >= 0 {
				policy = string([]byte{0x30, 3, 0x81, 1, byte(o.policy)})
			}
			if o.code != 0 {
				return o.code, o.diag, policy
			}
			if o.password == password {
				return 0, "", policy
			}
		}
	}
	return goldap.LDAPResultInvalidCredentials, "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data 52e, v2580", ""
}

// find answers a search, in pages where pages are wanted.
func (d *directory) find(conn net.Conn, p *ber.Packet, base string, send func(ber.Tag, int, string, ...*ber.Packet) bool) {
	op := p.Children[1]
	scope, limit := op.Children[1].Value.(int64), int(op.Children[3].Value.(int64))
	text, _ := goldap.DecompileFilter(op.Children[6])
	d.mu.Lock()
	d.searches = append(d.searches, text)
	var hits []object
	for _, o := range d.objects {
		under := strings.HasSuffix(strings.ToLower(o.dn), strings.ToLower(base))
		if scope == goldap.ScopeBaseObject {
			under = sameDN(o.dn, base) || base == "<SID="+o.sid+">"
		}
		if under && matches(op.Children[6], o, d.objects) {
			hits = append(hits, o)
		}
	}
	d.mu.Unlock()
	start, end, cookie := 0, len(hits), ""
	paged := false
	if len(p.Children) > 2 {
		for _, c := range p.Children[2].Children {
			if ctl, err := goldap.DecodeControl(c); err == nil {
				if pg, ok := ctl.(*goldap.ControlPaging); ok {
					paged = true
					start, _ = strconv.Atoi(string(pg.Cookie))
					if end = start + int(pg.PagingSize); end < len(hits) {
						cookie = strconv.Itoa(end)
					} else {
						end = len(hits)
					}
				}
			}
		}
	}
	code := 0
	if limit > 0 && end-start > limit {
		end, code = start+limit, goldap.LDAPResultSizeLimitExceeded
	}
	for _, o := range hits[start:end] {
		entryReply(conn, p, o.dn, o.attrs)
	}
	if paged {
		value := ber.NewSequence("")
		value.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, 0, ""))
		value.AppendChild(octets(cookie))
		send(goldap.ApplicationSearchResultDone, code, "", control(goldap.ControlTypePaging, string(value.Bytes())))
		return
	}
	send(goldap.ApplicationSearchResultDone, code, "")
}

// entryReply sends one entry of a search's answer.
func entryReply(conn net.Conn, p *ber.Packet, dn string, of attrs) bool {
	r := ber.Encode(ber.ClassApplication, ber.TypeConstructed, goldap.ApplicationSearchResultEntry, nil, "")
	r.AppendChild(octets(dn))
	list := ber.NewSequence("")
	for _, want := range p.Children[1].Children[7].Children {
		for name, values := range of {
			if !strings.EqualFold(name, want.Data.String()) {
				continue
			}
			a := ber.NewSequence("")
			a.AppendChild(octets(name))
			set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
			for _, v := range values {
				set.AppendChild(octets(v))
			}
			a.AppendChild(set)
			list.AppendChild(a)
		}
	}
	r.AppendChild(list)
	return reply(conn, p.Children[0], r)
}

func reply(conn net.Conn, id, op *ber.Packet, controls ...*ber.Packet) bool {
	m := ber.NewSequence("")
	m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, id.Value, ""))
	m.AppendChild(op)
	if len(controls) > 0 {
		list := ber.Encode(ber.ClassContext, ber.TypeConstructed, 0, nil, "")
		for _, c := range controls {
			list.AppendChild(c)
		}
		m.AppendChild(list)
	}
	_, err := conn.Write(m.Bytes())
	return err == nil
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func control(oid, value string) *ber.Packet {
	c := ber.NewSequence("")
	c.AppendChild(octets(oid))
	c.AppendChild(octets(value))
	return c
}
