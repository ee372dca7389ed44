package notify

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	netmail "net/mail"
	"net/textproto"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/wneessen/go-mail"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/web"
)

// smtpPatience bounds one exchange with the server, from dialling to QUIT;
// smtpStep every single step of it.
const (
	smtpPatience = 60 * time.Second
	smtpStep     = 15 * time.Second
	// smtpAnswers bounds what a server may say in one exchange, certificates
	// included, in bytes: a reply is a few lines, and the library that reads them
	// knows no end of a line or of a reply.
	smtpAnswers = 256 << 10
)

// bounded is a connection that gives so many bytes and no more.
type bounded struct {
	net.Conn
	left int
}

// Read fails when the other side has said too much.
func (c *bounded) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("the mail server says more than %d bytes, which no mail server needs", smtpAnswers)
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

var _ Checker = (*smtpSender)(nil)

type smtpSender struct {
	cfg   *SMTP
	from  *netmail.Address
	proxy *url.URL
	tls   *tls.Config
	now   func() time.Time

	mu   sync.Mutex
	sent []string // message and recipient of what was taken lately
}

// keptSent is how many deliveries are remembered, so that a try after one
// recipient failed does not write to the others again.
const keptSent = 1000

// NewSMTP returns the sender of mail by one server.
func NewSMTP(c SMTP, env Env) (Sender, error) {
	if err := env.check(); err != nil {
		return nil, err
	}
	if err := refuse(c.Problems()); err != nil {
		return nil, fmt.Errorf("smtp: %w", err)
	}
	from, err := netmail.ParseAddress(c.From)
	if err != nil {
		return nil, fmt.Errorf("smtp: from: %w", err)
	}
	local, domain, _ := web.ValidEmail(from.Address) // Problems has looked
	from.Address = local + "@" + domain
	s := &smtpSender{cfg: &c, from: from, now: env.Now}
	if c.Proxy != "" {
		if s.proxy, err = url.Parse(c.Proxy); err != nil || s.proxy.Host == "" {
			return nil, errors.New("smtp: proxy is not a URL such as http://proxy.example:3128")
		}
	}
	pool, err := web.RootCAs(cmp.Or(c.CAFile, env.CAFile))
	if err != nil {
		return nil, fmt.Errorf("smtp: %w", err)
	}
	s.tls = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.Host, RootCAs: pool}
	return s, nil
}

// Problems complains about a mail server that could not be used.
func (c SMTP) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	if c.Host == "" || c.From == "" {
		add("Host", "smtp.host", "Mail needs a host and a from address.", "host: smtp.example.com, from: gatehouse@example.com")
	} else if strings.ContainsAny(c.Host, "/:@ ") && net.ParseIP(c.Host) == nil {
		add("Host", "smtp.host", "The host is a name without scheme and port.", "host: smtp.example.com, port: 587")
	}
	if c.From != "" {
		if a, err := netmail.ParseAddress(c.From); err != nil {
			add("From", "smtp.from", "from is no e-mail address.", "gatehouse@example.com, or RemoteGPU <gatehouse@example.com>")
		} else if _, _, ok := web.ValidEmail(a.Address); !ok {
			add("From", "smtp.from", "from is no e-mail address that every mail server takes.", "gatehouse@example.com, or RemoteGPU <gatehouse@example.com>")
		}
	}
	for i, to := range c.To {
		if _, _, ok := web.ValidEmail(to); !ok {
			add(fmt.Sprintf("To[%d]", i), "smtp.to", "This is no e-mail address.", "ops@example.com")
		}
	}
	if c.Port < 0 || c.Port > 65535 {
		add("Port", "smtp.port", "There is no such port.", "587, or 465 with tls: implicit")
	}
	switch c.TLS {
	case "", "starttls", "implicit":
	case "none":
		p := problem.Problem{Field: "TLS", Rule: "smtp.clear", Text: "Mail, and who gets it, travels readable over the network.", Fix: "tls: starttls", Warning: true}
		if !loopback(c.Host) {
			ps = append(ps, p)
		}
		if c.Username != "" {
			add("Username", "smtp.clear", "Without TLS the password would travel in clear.", "tls: starttls or implicit, or no username")
		}
	default:
		add("TLS", "smtp.tls", fmt.Sprintf("%q is unknown.", c.TLS), "starttls, implicit or none")
	}
	if (c.Username == "") != c.Password.IsZero() {
		add("Username", "smtp.login", "username and password belong together.", "both, or none for a server that asks for neither")
	}
	return ps
}

func (s *smtpSender) port() int {
	def := map[string]int{"implicit": 465, "none": 25}[s.cfg.TLS]
	return cmp.Or(s.cfg.Port, def, 587)
}

// Send writes to each recipient by themselves: nobody learns of the others, and
// one that does not exist keeps nobody from getting theirs.
func (s *smtpSender) Send(ctx context.Context, m Message) error {
	to := m.To
	if len(to) == 0 {
		to = s.cfg.To
	}
	if len(to) == 0 {
		return Permanent{errors.New("smtp: nobody to write to: list the readers under smtp.to")}
	}
	var messages []*mail.Msg
	var keys []string
	for _, address := range to {
		key := m.ID + " " + address
		if s.wasSent(key) {
			continue
		}
		msg, err := s.message(m, address)
		if err != nil {
			return Permanent{fmt.Errorf("smtp: %w", err)}
		}
		messages, keys = append(messages, msg), append(keys, key)
	}
	if len(messages) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, smtpPatience)
	defer cancel()
	err := s.exchange(ctx, messages)
	for i, msg := range messages {
		if msg.IsDelivered() {
			s.remember(keys[i])
		}
	}
	if err == nil || !slices.ContainsFunc(messages, func(msg *mail.Msg) bool { return !msg.IsDelivered() }) {
		return nil // what went wrong after the last one was taken is nothing to us
	}
	return s.judge(err, messages)
}

// Check connects, changes to TLS and gives the password, as Send does, and writes
// to nobody.
func (s *smtpSender) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, smtpPatience)
	defer cancel()
	if err := s.exchange(ctx, nil); err != nil {
		return s.judgeDial(err)
	}
	return nil
}

// exchange dials and sends. The connection is ours, so that it is closed
// whatever happens, and at once when the context ends.
func (s *smtpSender) exchange(ctx context.Context, messages []*mail.Msg) error {
	var raw net.Conn
	defer func() {
		if raw != nil {
			raw.Close()
		}
	}()
	stop := func() bool { return true }
	defer func() { stop() }()
	dial := func(dialing context.Context, network, address string) (net.Conn, error) {
		var err error
		if s.proxy != nil {
			raw, err = web.Tunnel(dialing, s.proxy, address)
		} else {
			raw, err = (&net.Dialer{Timeout: smtpStep}).DialContext(dialing, network, address)
		}
		if err != nil {
			return nil, err
		}
		raw = &bounded{Conn: raw, left: smtpAnswers}
		conn := raw
		stop = context.AfterFunc(ctx, func() { conn.Close() })
		if s.cfg.TLS != "implicit" {
			return raw, nil
		}
		secure := tls.Client(raw, s.tls)
		return secure, secure.HandshakeContext(dialing)
	}
	domain := s.from.Address[strings.LastIndex(s.from.Address, "@")+1:]
	opts := []mail.Option{
		mail.WithPort(s.port()), mail.WithTimeout(smtpStep), mail.WithTLSConfig(s.tls.Clone()), mail.WithDialContextFunc(dial), mail.WithHELO(domain),
		mail.WithoutSMTPUTF8(), // addresses are ASCII; with it relays that do not know it bounce
	}
	switch s.cfg.TLS {
	case "implicit":
		opts = append(opts, mail.WithSSL())
	case "none":
		opts = append(opts, mail.WithTLSPolicy(mail.NoTLS))
	default:
		opts = append(opts, mail.WithTLSPolicy(mail.TLSMandatory))
	}
	if s.cfg.Username != "" {
		opts = append(opts, mail.WithUsername(s.cfg.Username), mail.WithPassword(s.cfg.Password.Reveal()),
			mail.WithOpportunisticSMTPAuth(mail.SMTPAuthSCRAMSHA256, mail.SMTPAuthPlain, mail.SMTPAuthLogin, mail.SMTPAuthSCRAMSHA1, mail.SMTPAuthCramMD5))
	}
	client, err := mail.NewClient(s.cfg.Host, opts...)
	if err != nil {
		return fmt.Errorf("set up: %w", err)
	}
	session, err := client.DialToSMTPClientWithContext(ctx)
	if err == nil {
		err = client.SendWithSMTPClient(session, messages...)
		_ = client.CloseWithSMTPClient(session) // QUIT; what was taken is taken
	}
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

func (s *smtpSender) wasSent(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.sent, key)
}

func (s *smtpSender) remember(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.sent) >= keptSent {
		s.sent = slices.Delete(s.sent, 0, keptSent/10)
	}
	s.sent = append(s.sent, key)
}

// judge says what becomes of a mail that somebody did not get. As long as one
// recipient may still get it, it is tried again; those who have it are not
// written to twice.
func (s *smtpSender) judge(err error, messages []*mail.Msg) error {
	again, never, theirs := "", "", true
	for _, msg := range messages {
		if se, ok := errors.AsType[*mail.SendError](msg.SendError()); ok && !msg.IsDelivered() {
			line := fmt.Sprintf("%s: %s", masked(recipient(msg)), s.reply(se))
			// 421 ends the connection, whatever it answers (RFC 5321, 3.8).
			theirs = theirs && se.Reason == mail.ErrSMTPRcptTo && se.ErrorCode() >= 400 && se.ErrorCode() != 421
			if se.IsTemp() || se.ErrorCode() < 500 {
				again = cmp.Or(again, line)
			} else {
				never = cmp.Or(never, line)
			}
		}
	}
	of := func(err error) error {
		if theirs {
			return refusedReader{err}
		}
		return err
	}
	switch {
	case again != "":
		return of(errors.New("smtp: " + again))
	case never != "":
		return Permanent{of(errors.New("smtp: " + never + ": correct the address, or ask whoever runs the mail server"))}
	}
	return s.judgeDial(err)
}

// judgeDial judges what went wrong before there was a message to send.
func (s *smtpSender) judgeDial(err error) error {
	at := net.JoinHostPort(s.cfg.Host, strconv.Itoa(s.port()))
	if te, ok := errors.AsType[*textproto.Error](err); ok {
		text := fmt.Errorf("smtp: %s: %d %s", at, te.Code, s.hide(te.Msg))
		switch {
		case te.Code == 530 || te.Code == 534 || te.Code == 535 || te.Code == 538:
			return Permanent{fmt.Errorf("%w: the server refuses username and password, or wants some: correct them", text)}
		case te.Code >= 500:
			return Permanent{text}
		}
		return text
	}
	switch _, badCert := errors.AsType[*tls.CertificateVerificationError](err); {
	case badCert:
		return fmt.Errorf("smtp: %s: %w: name the authority in ca_file, or the host by the name in its certificate", at, err)
	case strings.Contains(err.Error(), "does not support STARTTLS"):
		return Permanent{fmt.Errorf("smtp: %s offers no STARTTLS: tls: implicit (port 465), or tls: none if the network is your own", at)}
	case strings.Contains(err.Error(), "does not support SMTP AUTH"), errors.Is(err, mail.ErrNoSupportedAuthDiscovered):
		return Permanent{fmt.Errorf("smtp: %s takes no password in a way that we send one: leave username out, or ask whoever runs the server", at)}
	}
	return fmt.Errorf("smtp: %s: %w", at, spoken{s.hide(err.Error()), err})
}

// spoken is an error in which the server may have had its say, as it may be shown.
type spoken struct {
	text string
	error
}

// Error is what may be shown.
func (e spoken) Error() string { return e.text }

// Unwrap returns the cause.
func (e spoken) Unwrap() error { return e.error }

// reply is what the server said of one recipient, without the address.
func (s *smtpSender) reply(se *mail.SendError) string {
	text := se.Error()
	if i := strings.Index(text, ", affected "); i >= 0 {
		text = text[:i]
	}
	return s.hide(text)
}

// hide masks the addresses of a text (docs/security.md NO-5), and shortens it.
func (s *smtpSender) hide(text string) string {
	const most, between = 2000, " <>,;:()[]\"'\n\r\t"
	if len(text) > most { // an address that is cut in two would not be known for one
		text = text[:strings.LastIndexAny(text[:most], between)+1]
	}
	words := strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(between, r) })
	for _, w := range words {
		if strings.Contains(w, "@") {
			text = strings.ReplaceAll(text, w, masked(w))
		}
	}
	if p := s.cfg.Password.Reveal(); p != "" {
		text = strings.ReplaceAll(text, p, "***")
	}
	return cut(oneLine(text), 200)
}

// masked shows an address to somebody who is not its owner.
func masked(address string) string {
	local, domain, ok := web.ValidEmail(address)
	if !ok {
		return "***"
	}
	return local[:1] + "***@" + domain
}

func recipient(msg *mail.Msg) string {
	if to := msg.GetTo(); len(to) > 0 {
		return to[0].Address
	}
	return ""
}
