package broker_test

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	ber "github.com/go-asn1-ber/asn1-ber"
	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/broker/console"
)

// directory is an LDAP server without TLS in which everybody has one entry and
// the password "right". What it says to whom can be changed.
type directory struct {
	yaml string

	mu     sync.Mutex
	attrs  map[string]map[string]string // of a person, beside the name
	refuse map[string]string            // diagnostic of a refused bind
	gone   map[string]bool
}

func startDirectory(t testing.TB) *directory {
	l := listen(t, "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(l.Addr().String())
	d := &directory{attrs: map[string]map[string]string{}, refuse: map[string]string{}, gone: map[string]bool{}}
	d.yaml = "ldap: {host: 127.0.0.1, port: " + port + ", base_dn: 'dc=example,dc=com', allow_plaintext: true, reset_url: 'https://reset.example.com/'}\n"
	var all sync.WaitGroup
	var open sync.Map
	t.Cleanup(func() {
		l.Close()
		open.Range(func(c, _ any) bool { c.(net.Conn).Close(); return true })
		all.Wait()
	})
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, true)
			all.Go(func() { defer c.Close(); d.serve(c) })
		}
	})
	return d
}

func (d *directory) set(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func octets(s string) *ber.Packet {
	return ber.NewString(ber.ClassUniversal, ber.TypePrimitive, ber.TagOctetString, s, "")
}

func (d *directory) serve(c net.Conn) {
	for {
		p, err := ber.ReadPacket(c)
		if err != nil || len(p.Children) < 2 {
			return
		}
		send := func(tag ber.Tag, parts ...*ber.Packet) {
			op := ber.Encode(ber.ClassApplication, ber.TypeConstructed, tag, nil, "")
			for _, x := range parts {
				op.AppendChild(x)
			}
			m := ber.NewSequence("")
			m.AppendChild(ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagInteger, p.Children[0].Value, ""))
			m.AppendChild(op)
			_, _ = c.Write(m.Bytes())
		}
		done := func(tag ber.Tag, code int, text string) {
			send(tag, ber.NewInteger(ber.ClassUniversal, ber.TypePrimitive, ber.TagEnumerated, code, ""), octets(""), octets(text))
		}
		switch op := p.Children[1]; op.Tag {
		case goldap.ApplicationExtendedRequest:
			done(goldap.ApplicationExtendedResponse, goldap.LDAPResultProtocolError, "")
		case goldap.ApplicationBindRequest:
			name, _, _ := strings.Cut(strings.TrimPrefix(op.Children[1].Data.String(), "uid="), ",")
			d.mu.Lock()
			text := d.refuse[name]
			d.mu.Unlock()
			switch {
			case text != "":
				done(goldap.ApplicationBindResponse, goldap.LDAPResultInvalidCredentials, text)
			case op.Children[2].Data.String() != "right":
				done(goldap.ApplicationBindResponse, goldap.LDAPResultInvalidCredentials, "AcceptSecurityContext error, data 52e, v2580")
			default:
				done(goldap.ApplicationBindResponse, 0, "")
			}
		case goldap.ApplicationSearchRequest:
			if name := d.found(op.Children[6]); name != "" {
				send(goldap.ApplicationSearchResultEntry, octets("uid="+name+",dc=example,dc=com"), d.entry(name))
			}
			done(goldap.ApplicationSearchResultDone, 0, "")
		default:
			return
		}
	}
}

// found returns who is asked for by name or by entryUUID.
func (d *directory) found(filter *ber.Packet) string {
	text, _ := goldap.DecompileFilter(filter)
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range []string{"alice", "bob", "carol", "dave", "eve", "frank"} {
		if !d.gone[name] && (strings.Contains(text, "(uid="+name+")") || strings.Contains(text, uuidOf(name))) {
			return name
		}
	}
	return ""
}

func uuidOf(name string) string {
	return fmt.Sprintf("00000000-0000-4000-8000-%012x", name)
}

func (d *directory) entry(name string) *ber.Packet {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := ber.NewSequence("")
	add := func(attribute, value string) {
		set := ber.Encode(ber.ClassUniversal, ber.TypeConstructed, ber.TagSet, nil, "")
		set.AppendChild(octets(value))
		a := ber.NewSequence("")
		a.AppendChild(octets(attribute))
		a.AppendChild(set)
		list.AppendChild(a)
	}
	add("uid", name)
	add("entryUUID", uuidOf(name))
	for k, v := range d.attrs[name] {
		add(k, v)
	}
	return list
}

// byDirectory sends the form of the directory and returns the answer.
func (b *browser) byDirectory(user, password string) answer {
	b.h.t.Helper()
	return b.post("/signin/ldap", url.Values{"username": {user}, "password": {password}, "attempt": {field(b.h.t, attemptField, b.get("/signin/ldap"))}})
}

// LD-7, LD-8 on the page: what the directory says only with the right password
// is told, with the page that mends it; everything else is one answer, letter
// for letter, and what the directory wrote is on no page.
func TestDirectoryRefusals(t *testing.T) {
	t.Parallel()
	d := startDirectory(t)
	h := start(t, d.yaml)
	code := func(data string) string {
		return "80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data " + data + ", v2580"
	}
	d.refuse["bob"], d.refuse["carol"], d.refuse["dave"], d.refuse["eve"] = code("533"), code("775"), code("532"), code("530")
	same := map[string][]string{}
	for _, who := range []string{"alice", "nobody", "bob", "carol"} {
		a := h.browser().byDirectory(who, "wrong")
		text := strings.ReplaceAll(a.Body, `value="`+who+`"`, "")
		if i := strings.Index(text, "<main"); i >= 0 {
			text = text[i:strings.Index(text, "</main>")]
		}
		text = strings.Join(strings.Fields(regexp.MustCompile(`[A-Z2-7]{26}`).ReplaceAllString(text, "")), " ")
		key := fmt.Sprint(a.StatusCode, text)
		same[key] = append(same[key], who)
		if strings.Contains(a.Body, "DSID") || strings.Contains(a.Body, "dc=example") {
			t.Errorf("%s: the page quotes the directory", who)
		}
	}
	if len(same) != 1 {
		t.Errorf("told apart: %v", same)
	}
	for who, text := range map[string]string{"dave": "Your password has expired", "eve": "may not sign in at this time"} {
		a := h.browser().byDirectory(who, "right")
		if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, text) || who == "dave" && !strings.Contains(a.Body, "https://reset.example.com/") {
			t.Errorf("%s: %d\n%s", who, a.StatusCode, a.Body)
		}
	}
	// A name that is no name reaches nothing (LD-2): 1 MB is too much for the form.
	for name, status := range map[string]int{"*": 422, "a)(uid=*": 422, `alice\`: 422, "O'Brien, Jr.": 422, "张三": 422, strings.Repeat("A", 257): 422, strings.Repeat("A", 1<<20): 400} {
		if a := h.browser().byDirectory(name, "right"); a.StatusCode != status {
			t.Errorf("%.20q: %d, want %d", name, a.StatusCode, status)
		}
	}
}

// A password that ends within a week is spoken of once the person is in, with
// the way to change it and the way on.
func TestDirectoryPasswordEnds(t *testing.T) {
	t.Parallel()
	d := startDirectory(t)
	h := start(t, strings.Replace(d.yaml, "ldap: {", "ldap: {preset: active_directory, user_filter: '(uid=%s)', attributes: {username: uid}, groups: {name: dn}, ", 1))
	ends := func(in time.Duration) map[string]string {
		return map[string]string{"msDS-UserPasswordExpiryTimeComputed": fmt.Sprint((time.Now().Add(in).Unix() + 11644473600) * 1e7)}
	}
	d.attrs["alice"], d.attrs["bob"], d.attrs["carol"] = ends(75*time.Hour), ends(20*time.Hour), ends(10*24*time.Hour)
	for who, text := range map[string]string{"alice": "Days until your password expires: 3", "bob": "expires within a day", "carol": "", "dave": ""} {
		b := h.browser()
		a := b.follow(b.byDirectory(who, "right"))
		shown := strings.Contains(a.Body, "Your password ends soon")
		if shown != (text != "") || !strings.Contains(a.Body, text) || shown && (!strings.Contains(a.Body, `href="https://reset.example.com/"`) || !strings.Contains(a.Body, `href="/"`)) {
			t.Errorf("%s: %d at %s\n%s", who, a.StatusCode, a.Request.URL, a.Body)
		}
		if !b.in() {
			t.Errorf("%s is not in", who)
		}
	}
}

// SE-11 by a directory: groups and account follow at a token refresh and for a
// browser that has nothing but a console's WebSocket.
func TestDirectoryChangesReachUs(t *testing.T) {
	t.Parallel()
	d := startDirectory(t)
	up := newUpstream(t, echoes)
	h := start(t, strings.TrimSpace(d.yaml)+"\n"+up.routesYAML(plainRoutes))
	h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "x", Groups: []string{"ldap:gpu"}})
	d.attrs["alice"] = map[string]string{"memberOf": "cn=gpu,dc=example,dc=com"}
	d.attrs["bob"] = map[string]string{"memberOf": "cn=gpu,dc=example,dc=com"}
	at := h.at("n1.console", "/")
	enter := func(who string) *browser {
		b := h.browser()
		b.follow(b.byDirectory(who, "right"))
		b.open(at)
		return b
	}
	alice, bob := enter("alice"), enter("bob")
	tok := h.redeem(alice.code(authRequest())).json(t)
	of, other := alice.opensSocket(at), bob.opensSocket(at)
	if g := fmt.Sprint(claims(t, tok["id_token"])["groups"]); g != "[ldap:gpu]" {
		t.Errorf("groups %s", g)
	}
	d.set(func() { d.attrs["alice"], d.gone["bob"] = nil, true })
	h.wait(16 * time.Minute)
	closes(t, "who left the group", of, 4403)
	closes(t, "whose entry is gone", other, 4401)
	a := h.refreshed(tok["refresh_token"])
	if a.StatusCode != http.StatusOK {
		t.Fatalf("who left the group: %d %s", a.StatusCode, a.Body)
	}
	tok = a.json(t)
	if g := claims(t, tok["id_token"])["groups"]; g != nil && fmt.Sprint(g) != "[]" {
		t.Errorf("groups at the refresh: %v", g)
	}
	d.set(func() { d.attrs["alice"] = map[string]string{"userAccountControl": "514"} })
	h.wait(16 * time.Minute)
	if a := h.refreshed(tok["refresh_token"]); a.StatusCode != http.StatusBadRequest {
		t.Errorf("a disabled account is refreshed: %d", a.StatusCode)
	}
	if alice.in() || bob.in() {
		t.Error("the portal is still open")
	}
}

// UP-8: a connector that is taken out of the configuration lets nobody go on, at
// no entry; back in it, it does.
func TestRemovedConnectorEndsItsSessions(t *testing.T) {
	t.Parallel()
	d := startDirectory(t)
	up := newUpstream(t, nil)
	routes := up.routesYAML(plainRoutes)
	h := start(t, strings.TrimSpace(d.yaml)+"\n"+routes)
	lend := func() { h.lend(console.Lease{ID: "n1", Upstream: up.URL, Owner: "x", Groups: []string{"ldap:gpu"}}) }
	lend()
	d.attrs["alice"] = map[string]string{"memberOf": "cn=gpu,dc=example,dc=com"}
	b, at := h.browser(), h.at("n1.console", "/")
	b.follow(b.byDirectory("alice", "right"))
	b.open(at)
	tok := h.redeem(b.code(authRequest())).json(t)
	for _, there := range []bool{false, true} {
		h.yaml = routes
		if there {
			h.yaml = strings.TrimSpace(d.yaml) + "\n" + routes
		}
		h.restart()
		lend()
		if in := b.in(); in != there {
			t.Errorf("connector there: %v; portal open: %v", there, in)
		}
		if a := b.get(at, "Sec-Fetch-Dest", "empty", "Accept", "application/json"); (a.StatusCode == http.StatusOK) != there {
			t.Errorf("connector there: %v; console: %d", there, a.StatusCode)
		}
		if a := h.bearer(h.URL+"/oauth2/userinfo", tok["access_token"]); (a.StatusCode == http.StatusOK) != there {
			t.Errorf("connector there: %v; userinfo: %d %s", there, a.StatusCode, a.Body)
		}
		if a := h.refreshed(tok["refresh_token"]); (a.StatusCode == http.StatusOK) != there {
			t.Errorf("connector there: %v; refresh: %d %s", there, a.StatusCode, a.Body)
		}
	}
}
