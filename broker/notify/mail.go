package notify

import (
	"bytes"
	"fmt"
	"html/template"
	netmail "net/mail"
	"strings"

	"github.com/wneessen/go-mail"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// maxMail bounds the text of one mail, in bytes.
const maxMail = 64 << 10

// message renders one mail: plain text, and the same as HTML without anything to
// load. Every header is one line that the library encodes, so that no value can
// add another.
func (s *smtpSender) message(m Message, to string) (*mail.Msg, error) {
	local, domain, ok := web.ValidEmail(to)
	if !ok {
		return nil, fmt.Errorf("%s is no e-mail address", masked(oneLine(to)))
	}
	plain := fit(m, maxMail, byteLen, mailText)
	m = unlinkedMessage(m.within(rooms[0]))
	var html bytes.Buffer
	if err := mailPage.Execute(&html, mailView{m, strings.Split(m.Text, "\n"), m.foot(), m.colon(), mailColor(m.Severity)}); err != nil {
		return nil, fmt.Errorf("write the mail: %w", err)
	}
	msg := mail.NewMsg(mail.WithNoDefaultUserAgent())
	msg.FromMailAddress(s.from)
	msg.ToMailAddress(&netmail.Address{Address: local + "@" + domain})
	msg.Subject(m.Title)
	msg.SetDateWithValue(s.now())
	// The same at every try and to everybody: who gets it twice may see it once.
	msg.SetMessageIDWithValue(messageID(m.ID) + s.from.Address[strings.LastIndex(s.from.Address, "@"):])
	msg.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no answers by machines
	msg.SetGenHeader("X-Auto-Response-Suppress", "All")
	msg.SetGenHeader("Content-Language", languageOf(m.Locale))
	if m.Severity == event.Critical {
		msg.SetImportance(mail.ImportanceHigh)
	}
	msg.SetBodyString(mail.TypeTextPlain, plain)
	msg.AddAlternativeString(mail.TypeTextHTML, html.String())
	return msg, nil
}

// messageID keeps of an id what a Message-ID may hold without quotes.
func messageID(id string) string {
	return strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'A' && r <= 'Z' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, id)
}

func languageOf(locale string) string {
	if strings.HasPrefix(locale, "zh") {
		return "zh-CN"
	}
	return "en"
}

// unlinkedMessage breaks what a mail program would make links of: in a mail of
// ours there is one link, and it is ours.
func unlinkedMessage(m Message) Message {
	m.Title, m.Text = unlinked(m.Title), unlinked(m.Text)
	fields := make([]Field, len(m.Fields))
	for i, f := range m.Fields {
		fields[i] = Field{unlinked(f.Label), unlinked(f.Value)}
	}
	m.Fields, m.LinkText = fields, unlinked(m.LinkText)
	return m
}

// mailText is the plain half. within has cleaned the message.
func mailText(m Message) string {
	m = unlinkedMessage(m)
	var b strings.Builder
	b.WriteString(m.Title + "\n")
	if m.Text != "" {
		b.WriteString("\n" + m.Text + "\n")
	}
	b.WriteString("\n")
	for _, f := range m.Fields {
		b.WriteString(f.Label + m.colon() + f.Value + "\n")
	}
	if m.Link != "" {
		b.WriteString("\n" + m.LinkText + m.colon() + "\n" + m.Link + "\n")
	}
	b.WriteString("\n-- \n" + m.foot() + "\n")
	return b.String()
}

func mailColor(s event.Severity) string {
	switch s {
	case event.Critical:
		return "#b42318"
	case event.Warning:
		return "#b54708"
	}
	return "#175cd3"
}

type mailView struct {
	M     Message
	Lines []string
	Foot  string
	Colon string
	Color string
}

// mailPage is the HTML half: inline styles, no images, no scripts, one link.
var mailPage = template.Must(template.New("mail").Parse(`<!DOCTYPE html>
<html lang="{{.M.Locale}}"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>{{.M.Title}}</title></head>
<body style="font-family:system-ui,-apple-system,'Segoe UI','PingFang SC','Microsoft YaHei',sans-serif;font-size:15px;line-height:1.5;max-width:38em;margin:1.5em auto;padding:0 1em">
<h1 style="font-size:18px;border-left:4px solid {{.Color}};padding-left:10px">{{.M.Title}}</h1>
{{range .Lines}}{{if .}}<p>{{.}}</p>
{{end}}{{end}}{{if .M.Fields}}<table role="presentation" style="border-collapse:collapse">
{{range .M.Fields}}<tr><td style="padding:2px 16px 2px 0;vertical-align:top;opacity:.75">{{.Label}}</td><td style="padding:2px 0;word-break:break-word">{{.Value}}</td></tr>
{{end}}</table>
{{end}}{{if .M.Link}}<p style="margin:1.5em 0"><a href="{{.M.Link}}" style="background:#175cd3;color:#fff;padding:10px 16px;border-radius:6px;text-decoration:none">{{.M.LinkText}}</a></p>
{{end}}<p style="font-size:13px;opacity:.75">{{.Foot}}</p>
</body></html>
`))
