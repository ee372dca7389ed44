package notify_test

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	netmail "net/mail"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/test/peers/mailbox"
)

const mailPassword = "mail-password-0123456789"

func server(t *testing.T, cfg mailbox.Config) *mailbox.Server {
	t.Helper()
	s, err := mailbox.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// post makes the sender that fits a server; change may spoil it.
func post(t *testing.T, s *mailbox.Server, mode string, change func(*notify.SMTP)) notify.Sender {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, []byte(s.CA), 0o600); err != nil {
		t.Fatal(err)
	}
	c := notify.SMTP{Host: s.Host, Port: s.Port, TLS: mode, From: "RemoteGPU 平台 <gatehouse@id.example.com>", To: []string{"ops@example.com"}, CAFile: ca}
	if change != nil {
		change(&c)
	}
	sender, err := notify.NewSMTP(c, notify.Env{Now: func() time.Time { return noon }, HTTP: func(string, string, ...string) (*http.Client, error) {
		return nil, errors.New("mail needs no HTTP client")
	}})
	return ok(t, sender, err)
}

func login(c *notify.SMTP) { c.Username, c.Password = "gatehouse", mailPassword }

// Every way to a server that is encrypted, by itself and with a password; and
// the one that is not, when it was asked for.
func TestMailTransport(t *testing.T) {
	for _, c := range []struct {
		mode string
		auth bool
	}{{"", false}, {"starttls", true}, {"implicit", true}, {"implicit", false}, {"none", false}} {
		cfg := mailbox.Config{TLS: c.mode}
		if c.mode == "" {
			cfg.TLS = "starttls"
		}
		var change func(*notify.SMTP)
		if c.auth {
			cfg.User, cfg.Password, change = "gatehouse", mailPassword, login
		}
		s := server(t, cfg)
		if err := post(t, s, c.mode, change).Send(context.Background(), lockout()); err != nil {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		m := s.Mails()[0]
		if m.TLS != (c.mode != "none") || (m.User == "gatehouse") != c.auth || m.From != "gatehouse@id.example.com" || m.Helo != "id.example.com" || strings.Contains(m.Params, "SMTPUTF8") {
			t.Errorf("%+v: %+v", c, m)
		}
	}
}

// Nothing is sent in clear unless somebody wrote so, and no password ever.
func TestMailIsNotSentInClear(t *testing.T) {
	plain := server(t, mailbox.Config{TLS: "none"})
	if err := post(t, plain, "starttls", nil).Send(context.Background(), lockout()); !permanent(err) || !strings.Contains(err.Error(), "offers no STARTTLS") {
		t.Errorf("no STARTTLS: %v", err)
	}
	s := server(t, mailbox.Config{TLS: "starttls"})
	strange := post(t, s, "starttls", func(c *notify.SMTP) { c.CAFile = "" })
	if err := strange.Send(context.Background(), lockout()); err == nil || permanent(err) || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("a stranger's certificate: %v", err)
	}
	other := post(t, server(t, mailbox.Config{TLS: "implicit"}), "implicit", func(c *notify.SMTP) { c.CAFile = "" })
	if err := other.Send(context.Background(), lockout()); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("a stranger's certificate: %v", err)
	}
	if len(plain.Mails())+len(s.Mails()) != 0 {
		t.Error("something was sent")
	}
	if ps := (notify.SMTP{Host: "mail.example.com", From: "a@example.com", TLS: "none", Username: "a", Password: "b"}).Problems(); len(ps) != 2 {
		t.Errorf("%v", ps)
	}
	if ps := (notify.SMTP{Host: "https://mail.example.com", From: "nobody", To: []string{"a"}, Port: 99999, TLS: "ssl", Username: "a"}).Problems(); len(ps) != 6 {
		t.Errorf("%v", ps)
	}
}

// part reads one alternative of a mail.
func part(t *testing.T, raw, kind string) string {
	t.Helper()
	m, err := netmail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		p, err := r.NextRawPart()
		if err != nil {
			t.Fatalf("no part %s: %v", kind, err)
		}
		if strings.HasPrefix(p.Header.Get("Content-Type"), kind) {
			b, err := io.ReadAll(quotedprintable.NewReader(p))
			if err != nil {
				t.Fatal(err)
			}
			return strings.ReplaceAll(string(b), "\r\n", "\n")
		}
	}
}

// Two halves of the same, and headers that tell machines what it is.
func TestMailContent(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "starttls"})
	m := lockout()
	m.Severity, m.Count = event.Critical, 3
	if err := post(t, s, "starttls", nil).Send(context.Background(), m); err != nil {
		t.Fatal(err)
	}
	raw := s.Mails()[0].Raw
	msg, err := netmail.ReadMessage(strings.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(msg.Header.Get("Subject"))
	if err != nil || subject != "账号被锁定：alice ×3" {
		t.Errorf("subject %q, %v", subject, err)
	}
	from, err := netmail.ParseAddress(msg.Header.Get("From"))
	if err != nil || from.Name != "RemoteGPU 平台" || from.Address != "gatehouse@id.example.com" {
		t.Errorf("from %v, %v", from, err)
	}
	for k, want := range map[string]string{"Message-Id": "<EVT01HZX7@id.example.com>", "Auto-Submitted": "auto-generated", "Content-Language": "zh-CN", "Importance": "high", "To": "<ops@example.com>"} {
		if got := msg.Header.Get(k); got != want {
			t.Errorf("%s: %q", k, got)
		}
	}
	if date, err := msg.Header.Date(); err != nil || !date.Equal(noon) {
		t.Errorf("date %v %v", date, err)
	}
	if text := part(t, raw, "text/plain"); text != "账号被锁定：alice ×3\n\n多次登录失败。\n\n账号：alice\n来源：203.0.113.7\n连接器：corp\n\n查看详情：\nhttps://id.example.com/admin/audit?event=EVT01HZX7\n\n-- \n2026-11-26 12:00:00 +08:00 · EVT01HZX7\n" {
		t.Errorf("%s", text)
	}
	html := part(t, raw, "text/html")
	for _, want := range []string{"<h1 ", "账号被锁定：alice ×3", "<td ", "203.0.113.7", `href="https://id.example.com/admin/audit?event=EVT01HZX7"`, "EVT01HZX7</p>"} {
		if !strings.Contains(html, want) {
			t.Errorf("%q is not in %s", want, html)
		}
	}
	for _, never := range []string{"<script", "<img", "src=", "url("} {
		if strings.Contains(html, never) {
			t.Errorf("%q is in %s", never, html)
		}
	}
}

// NO-2: no value becomes a header, a tag or a link; the one link is ours.
func TestMailHostileValues(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "starttls"})
	sender := post(t, s, "starttls", nil)
	for i, value := range hostile {
		m := hostileMessage(value+"\r\nBcc: evil@evil.example\r\nX-Evil: 1", value+"\n.\n"+value, value, value, 3, true)
		m.ID = "m" + strings.Repeat("x", i)
		if i > 50 {
			m.ID = "n" + strings.Repeat("x", i-50)
		}
		if err := sender.Send(context.Background(), m); err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		mails := s.Mails()
		if len(mails) != i+1 {
			t.Fatalf("%q: %d mails", value, len(mails))
		}
		got := mails[i]
		msg, err := netmail.ReadMessage(strings.NewReader(got.Raw))
		if err != nil {
			t.Fatalf("%q: %v", value, err)
		}
		if len(got.To) != 1 || got.To[0] != "ops@example.com" || msg.Header.Get("Bcc") != "" || msg.Header.Get("X-Evil") != "" {
			t.Errorf("%q: to %v, %v", value, got.To, msg.Header)
		}
		text, html := part(t, got.Raw, "text/plain"), part(t, got.Raw, "text/html")
		const ours = "https://id.example.com/admin/audit?event=EVT01HZX7&x=%281%29%5B2%5D"
		if rest := strings.Replace(text, ours, "", 1); link.MatchString(rest) {
			t.Errorf("%q: a link in %s", value, rest)
		}
		if n := strings.Count(html, "<a "); n != 1 || strings.Count(html, "href=") != 1 || strings.Contains(html, "<script") || strings.Contains(html, "<img") || strings.Contains(html, "<at") {
			t.Errorf("%q: %s", value, html)
		}
	}
}

// Each reader gets a mail of their own; one that fails keeps nobody from
// theirs, is tried again alone, and is told of without their address (NO-5).
func TestMailRecipients(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "starttls"})
	sender := post(t, s, "starttls", nil)
	m := lockout()
	m.To = []string{"a@example.com", "greylist@example.com", "nobody@example.com"}
	count := func() map[string]int {
		n := map[string]int{}
		for _, m := range s.Mails() {
			if len(m.To) != 1 {
				t.Errorf("together: %v", m.To)
			}
			n[m.To[0]]++
		}
		return n
	}
	err := sender.Send(context.Background(), m)
	if err == nil || permanent(err) || !strings.Contains(err.Error(), "g***@example.com") || strings.Contains(err.Error(), "greylist@") {
		t.Errorf("greylisted: %v", err)
	}
	if n := count(); n["a@example.com"] != 1 || len(n) != 1 {
		t.Errorf("%v", n)
	}
	err = sender.Send(context.Background(), m)
	if !permanent(err) || !strings.Contains(err.Error(), "n***@example.com") || strings.Contains(err.Error(), "nobody@") || !strings.Contains(err.Error(), "550") && !strings.Contains(err.Error(), "no such user") {
		t.Errorf("unknown: %v", err)
	}
	if n := count(); n["a@example.com"] != 1 || n["greylist@example.com"] != 1 || len(n) != 2 {
		t.Errorf("%v", n)
	}
	m.To = []string{"full@example.com"}
	if err := sender.Send(context.Background(), m); !permanent(err) {
		t.Errorf("full: %v", err)
	}
	m.To = []string{"a@example.com\r\nRCPT TO:<evil@evil.example>"}
	if err := sender.Send(context.Background(), m); !permanent(err) || strings.Contains(err.Error(), "evil@") {
		t.Errorf("two in one: %v", err)
	}
	m.To = nil
	nobody := post(t, s, "starttls", func(c *notify.SMTP) { c.To = nil })
	if err := nobody.Send(context.Background(), m); !permanent(err) || !strings.Contains(err.Error(), "smtp.to") {
		t.Errorf("nobody: %v", err)
	}
}

// What the server says about us is told with what to do, and without secrets.
func TestMailRefused(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "starttls", User: "gatehouse", Password: mailPassword})
	wrong := post(t, s, "starttls", func(c *notify.SMTP) { c.Username, c.Password = "gatehouse", redact.String("wrong-"+mailPassword) })
	if err := wrong.Send(context.Background(), lockout()); !permanent(err) || strings.Contains(err.Error(), mailPassword) || !strings.Contains(err.Error(), "username and password") {
		t.Errorf("a wrong password: %v", err)
	}
	if err := post(t, s, "starttls", nil).Send(context.Background(), lockout()); !permanent(err) {
		t.Errorf("no password: %v", err)
	}
	open := server(t, mailbox.Config{TLS: "starttls"})
	if err := post(t, open, "starttls", login).Send(context.Background(), lockout()); !permanent(err) || !strings.Contains(err.Error(), "leave username out") {
		t.Errorf("nobody asked for a password: %v", err)
	}
	rude := server(t, mailbox.Config{TLS: "starttls", Hostile: "554 5.7.1 \x1b[2J" + strings.Repeat("no ", 1000)})
	if err := post(t, rude, "starttls", nil).Send(context.Background(), lockout()); !permanent(err) || len(err.Error()) > 400 || strings.Contains(err.Error(), "\x1b") {
		t.Errorf("rude: %v", err)
	}
}

// check tries the server without writing to anybody.
func TestMailCheck(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "starttls", User: "gatehouse", Password: mailPassword})
	check := func(sender notify.Sender) error { return sender.(notify.Checker).Check(context.Background()) }
	if err := check(post(t, s, "starttls", login)); err != nil {
		t.Error(err)
	}
	if err := check(post(t, s, "starttls", func(c *notify.SMTP) { c.Username, c.Password = "gatehouse", "wrong" })); !permanent(err) {
		t.Errorf("a wrong password: %v", err)
	}
	closed := post(t, s, "starttls", login)
	s.Close()
	if err := check(closed); err == nil || permanent(err) {
		t.Errorf("nobody there: %v", err)
	}
	if len(s.Mails()) != 0 {
		t.Errorf("somebody was written to: %v", s.Mails())
	}
}

// A server that says nothing holds nobody up, and no connection stays behind.
func TestMailHanging(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "starttls", Mute: true})
	sender := post(t, s, "starttls", nil)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := sender.Send(ctx, lockout()); err == nil || permanent(err) || time.Since(began) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	for i := 0; s.Open() > 0; i++ {
		if i > 100 {
			t.Fatalf("%d connections stay", s.Open())
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// Mail goes through a proxy that allows it, and nowhere past one that does not.
func TestMailByProxy(t *testing.T) {
	s := server(t, mailbox.Config{TLS: "implicit"})
	allow := true
	proxy := http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || r.Header.Get("Proxy-Authorization") != "Basic dTpwcm94eS1wYXNzd29yZA==" || !allow {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, buffered, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			_, _ = io.Copy(to, buffered)
			to.Close()
		}()
		_, _ = io.Copy(from, to)
	})}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = proxy.Serve(l) }()
	t.Cleanup(func() { proxy.Close() })
	sender := post(t, s, "implicit", func(c *notify.SMTP) { c.Proxy = "http://u:proxy-password@" + l.Addr().String() })
	if err := sender.Send(context.Background(), lockout()); err != nil || len(s.Mails()) != 1 {
		t.Errorf("%d mails, %v", len(s.Mails()), err)
	}
	allow = false
	m := lockout()
	m.ID = "another"
	if err := sender.Send(context.Background(), m); err == nil || permanent(err) || !strings.Contains(err.Error(), "does the proxy allow") || strings.Contains(err.Error(), "proxy-password") {
		t.Errorf("refused: %v", err)
	}
	if s.Total() != 1 {
		t.Errorf("%d connections", s.Total())
	}
}
