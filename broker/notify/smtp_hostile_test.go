package notify_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/remotegpu/gatehouse/broker/notify"
)

// liar is a mail server that answers what a test wants, and counts what it could
// say.
type liar struct {
	l    net.Listener
	wg   sync.WaitGroup
	mu   sync.Mutex
	said int
}

func lie(t *testing.T, serve func(c net.Conn, in *bufio.Reader, say func(string) bool)) *liar {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &liar{l: l}
	s.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wg.Go(func() {
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(c, bufio.NewReader(c), func(text string) bool {
					n, err := io.WriteString(c, text)
					s.mu.Lock()
					defer s.mu.Unlock()
					s.said += n
					return err == nil && s.said < 256<<20
				})
			})
		}
	})
	t.Cleanup(func() { l.Close(); s.wg.Wait() })
	return s
}

func (s *liar) sender(t *testing.T) notify.Sender {
	t.Helper()
	at := s.l.Addr().(*net.TCPAddr)
	sender, err := notify.NewSMTP(notify.SMTP{Host: "127.0.0.1", Port: at.Port, TLS: "none", From: "gatehouse@id.example.com", To: []string{"ops@example.com"}},
		notify.Env{Now: func() time.Time { return noon }, HTTP: func(string, string, ...string) (*http.Client, error) {
			return nil, errors.New("mail needs no HTTP client")
		}})
	return ok(t, sender, err)
}

// script answers each command with what is next; the last one again and again.
func script(lines ...string) func(net.Conn, *bufio.Reader, func(string) bool) {
	return func(_ net.Conn, in *bufio.Reader, say func(string) bool) {
		for i := 0; ; i++ {
			if !say(lines[min(i, len(lines)-1)]) {
				return
			}
			if _, err := in.ReadString('\n'); err != nil {
				return
			}
		}
	}
}

// A mail server that lies, never stops or stops too soon is an error, which is
// short and can be shown, and costs neither memory nor time.
func TestMailFromLiars(t *testing.T) {
	const hello, ok = "220 liar\r\n", "250 OK\r\n"
	endless := func(before []string, piece string) func(net.Conn, *bufio.Reader, func(string) bool) {
		return func(_ net.Conn, in *bufio.Reader, say func(string) bool) {
			for _, line := range before {
				if !say(line) {
					return
				}
				if _, err := in.ReadString('\n'); err != nil {
					return
				}
			}
			for piece := strings.Repeat(piece, 1+(64<<10)/len(piece)); say(piece); {
			}
		}
	}
	addresses := ""
	for i := range 60_000 {
		addresses += string(rune('a'+i%26)) + strings.Repeat("x", i%5) + "@b "
	}
	for name, serve := range map[string]func(net.Conn, *bufio.Reader, func(string) bool){
		"a greeting without an end":          endless(nil, "220-welcome to the machine "),
		"a greeting of lines without an end": endless(nil, "220-welcome\r\n"),
		"extensions without an end":          endless([]string{hello}, "250-X-EXTENSION\r\n"),
		"an extension without an end":        endless([]string{hello}, "250-AUTH LOGIN "),
		"an answer to MAIL without an end":   endless([]string{hello, ok}, "250-x\r\n"),
		"an answer to RCPT without an end":   endless([]string{hello, ok, ok}, "451-x@y\r\n"),
		"nothing but line ends":              endless(nil, "\r\n"),
		"zeros":                              endless(nil, "\x00"),
		"cut in the middle of a code":        func(_ net.Conn, _ *bufio.Reader, say func(string) bool) { say("22") },
		"cut in the middle of a reply": func(_ net.Conn, in *bufio.Reader, say func(string) bool) {
			say(hello)
			_, _ = in.ReadString('\n')
			say("250-liar\r\n250-SI")
		},
		"cut after the greeting":               func(_ net.Conn, _ *bufio.Reader, say func(string) bool) { say(hello) },
		"codes that are none":                  script(hello, "abc hello\r\n"),
		"a code of a later step":               script("354 go on\r\n"),
		"an answer for every step at once":     script(hello + ok + ok + ok + "354 go on\r\n" + "550 no\r\n"),
		"many addresses in a refusal":          script(hello, ok, ok, "550 "+addresses+"\r\n"),
		"a terminal's commands in a refusal":   script(hello, ok, ok, "550 5.7.1 \x1b[2J\x1b]0;owned\x07\u202e\r\n"),
		"a terminal's commands in a non-reply": script(hello, "\x1b[2J\x1b]0;owned\x07\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := lie(t, serve)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			err := s.sender(t).Send(ctx, lockout())
			if err == nil || ctx.Err() != nil {
				t.Fatalf("%v, context: %v", err, ctx.Err())
			}
			if text := err.Error(); len(text) > 800 || strings.ContainsFunc(text, func(c rune) bool { return unicode.IsControl(c) || unicode.Is(unicode.Bidi_Control, c) }) {
				t.Errorf("it is shown as %d bytes: %.300q", len(text), text)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.said > 64<<20 { // what buffers of the system hold is some megabytes
				t.Errorf("it was listened to for %d bytes", s.said)
			}
		})
	}
}
