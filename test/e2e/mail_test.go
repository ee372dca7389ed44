//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// taken is one mail in the peer's record.
type taken struct {
	TLS     bool
	User    string
	Helo    string
	From    string
	To      []string
	Headers [][2]string
	Text    string
	HTML    string
}

func mails(t *testing.T, peer map[string]string) []taken {
	t.Helper()
	f, err := os.Open(peer["MAIL"])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []taken
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var m taken
		if err := json.Unmarshal(sc.Bytes(), &m); err != nil {
			t.Fatal(err)
		}
		out = append(out, m)
	}
	return out
}

// A mail server that nobody here wrote takes our mail by STARTTLS and by TLS,
// with a password, and reads in it what we meant; what it refuses is judged by
// its own words.
func TestMailServer(t *testing.T) {
	peer := startPeer(t, "mail-sink", freePorts(t, 2), "SMTP_REQUIRE_AUTH=1", "SMTP_REQUIRE_TLS=1")
	number := func(key string) int {
		n, err := strconv.Atoi(peer[key])
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	sender := func(mode, port string, change func(*notify.SMTP)) notify.Sender {
		c := notify.SMTP{Host: peer["SMTP_HOST"], Port: number(port), TLS: mode, Username: peer["SMTP_USER"], Password: redact.String(peer["SMTP_PASSWORD"]),
			From: "RemoteGPU 平台 <gatehouse@id.example.com>", To: []string{"ops@example.com"}, CAFile: peer["SMTP_CA"]}
		if change != nil {
			change(&c)
		}
		s, err := notify.NewSMTP(c, notify.Env{Now: time.Now, HTTP: func(string, string, ...string) (*http.Client, error) {
			return nil, errors.New("mail needs no HTTP client")
		}})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	message := notify.Message{ID: "EVT01", Time: time.Now(), Severity: event.Critical, Locale: "zh-CN", Title: strings.Repeat("账号被锁定 alice\r\nBcc: evil@evil.example ", 3),
		Text: "多次登录失败。\n.\n第二段", Fields: []notify.Field{{Label: "来源", Value: "<b>203.0.113.7</b> https://evil.example"}}, Link: "https://id.example.com/admin/audit", LinkText: "查看详情"}
	ctx := context.Background()
	for i, s := range []notify.Sender{sender("starttls", "SMTP_PORT", nil), sender("implicit", "SMTPS_PORT", nil)} {
		if err := s.Send(ctx, message); err != nil {
			t.Fatal(err)
		}
		all := mails(t, peer)
		if len(all) != i+1 {
			t.Fatalf("%d mails", len(all))
		}
		m := all[i]
		header := func(name string) (out string) {
			for _, h := range m.Headers {
				if strings.EqualFold(h[0], name) {
					out += h[1]
				}
			}
			return out
		}
		if m.User != "peer" || m.From != "gatehouse@id.example.com" || !slices.Equal(m.To, []string{"ops@example.com"}) || m.Helo != "id.example.com" {
			t.Errorf("envelope: %+v", m)
		}
		if header("Bcc") != "" || !strings.HasPrefix(strings.TrimSpace(header("Subject")), "账号被锁定 alice Bcc: evil@evil．example") || // a long one begins on the next line
			header("From") != "RemoteGPU 平台 <gatehouse@id.example.com>" || header("Message-ID") != "<EVT01@id.example.com>" || header("Auto-Submitted") != "auto-generated" {
			t.Errorf("headers: %v", m.Headers)
		}
		m.Text = strings.ReplaceAll(m.Text, "\r\n", "\n")
		if !strings.Contains(m.Text, "\n.\n第二段") || strings.Contains(m.Text, "https://evil") || !strings.Contains(m.Text, "https://id.example.com/admin/audit") {
			t.Errorf("text: %q", m.Text)
		}
		if strings.Contains(m.HTML, "<b>") || strings.Count(m.HTML, "href=") != 1 || !strings.Contains(m.HTML, "查看详情") {
			t.Errorf("HTML: %q", m.HTML)
		}
	}
	s := sender("starttls", "SMTP_PORT", nil)
	for to, permanent := range map[string]bool{"busy@example.com": false, "nobody@example.com": true, "full@example.com": true, "greylist@example.com": false} {
		message.ID, message.To = "EVT02", []string{to}
		err := s.Send(ctx, message)
		_, given := errors.AsType[notify.Permanent](err)
		if err == nil || given != permanent || strings.Contains(err.Error(), to) {
			t.Errorf("%s: %v", to, err)
		}
	}
	message.To = []string{"greylist@example.com"}
	if err := s.Send(ctx, message); err != nil {
		t.Errorf("greylisted, the second time: %v", err)
	}
	message.To = nil
	for name, change := range map[string]func(*notify.SMTP){
		"wrong password": func(c *notify.SMTP) { c.Password = "wrong-password" },
		"no password":    func(c *notify.SMTP) { c.Username, c.Password = "", "" },
	} {
		message.ID = name
		err := sender("starttls", "SMTP_PORT", change).Send(ctx, message)
		if _, given := errors.AsType[notify.Permanent](err); !given || strings.Contains(err.Error(), "wrong-password") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := sender("starttls", "SMTP_PORT", func(c *notify.SMTP) { c.CAFile = "" }).Send(ctx, message); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("a stranger's certificate: %v", err)
	}
}
