package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxDingTalk bounds the Markdown of one message, in bytes. Newer clients take
// 20,000; robots of older groups refuse more than 5,000 (errcode 34016).
const maxDingTalk = 5000

type dingTalk struct{ *robot }

// NewDingTalk returns the sender of one custom robot (自定义机器人) of DingTalk.
func NewDingTalk(c Channel, env Env) (Sender, error) {
	r, err := newRobot(dingTalkVendor, c, env)
	if err != nil {
		return nil, err
	}
	return dingTalk{r}, nil
}

// Send tells the robot, and believes the body of its answer.
func (d dingTalk) Send(ctx context.Context, m Message) error {
	body, err := d.body(m)
	if err != nil {
		return fmt.Errorf("dingtalk: %w", err)
	}
	extra := ""
	if d.secret.Reveal() != "" {
		at, sign := d.sign()
		extra = "timestamp=" + at + "&sign=" + url.QueryEscape(sign)
	}
	a, err := d.post(ctx, extra, body)
	if err != nil {
		return err
	}
	return d.byErrcode(a, strings.TrimSpace, dingTalkVerdict)
}

// sign returns the time in milliseconds, and the HMAC whose key is the secret
// and whose message is the time, a newline and the secret again.
func (d dingTalk) sign() (at, sign string) {
	at = strconv.FormatInt(d.now().UnixMilli(), 10)
	secret := d.secret.Reveal()
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(at + "\n" + secret))
	return at, base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// The request's body. Nobody is ever mentioned: at is sent so that it says so.
type (
	dingTalkBody struct {
		Type     string            `json:"msgtype"`
		Markdown *dingTalkMarkdown `json:"markdown,omitempty"`
		Card     *dingTalkCard     `json:"actionCard,omitempty"`
		At       *dingTalkAt       `json:"at,omitempty"`
	}
	dingTalkMarkdown struct {
		Title string `json:"title"` // in the list of chats
		Text  string `json:"text"`
	}
	dingTalkCard struct {
		Title       string `json:"title"`
		Text        string `json:"text"`
		SingleTitle string `json:"singleTitle"`
		SingleURL   string `json:"singleURL"`
	}
	dingTalkAt struct {
		All bool `json:"isAtAll"`
	}
)

func (d dingTalk) body(m Message) ([]byte, error) {
	m = fit(m, maxDingTalk, func(m Message) int { return len(d.text(m)) }, func(m Message) Message { return m })
	title := mark(m.Severity) + " " + strings.ReplaceAll(unlinked(m.Title), "@", "＠")
	text := d.text(m)
	if d.key != "" && !strings.Contains(title, d.key) {
		title += " " + d.key
	}
	if m.Link == "" {
		return marshal(dingTalkBody{Type: "markdown", Markdown: &dingTalkMarkdown{title, text}, At: &dingTalkAt{}})
	}
	return marshal(dingTalkBody{Type: "actionCard", Card: &dingTalkCard{title, text, m.LinkText, m.Link}})
}

// text is the message in DingTalk's Markdown, where a line ends with two spaces.
func (d dingTalk) text(m Message) string {
	esc := func(s string) string { return inFull(unlinked(s), dingTalkEscape) }
	var b strings.Builder
	fmt.Fprintf(&b, "#### %s %s\n\n", mark(m.Severity), esc(m.Title))
	for line := range strings.Lines(m.Text) {
		b.WriteString(lineStart(esc(strings.TrimRight(line, "\n"))) + "  \n")
	}
	b.WriteString("\n")
	for _, f := range m.Fields {
		fmt.Fprintf(&b, "**%s**%s%s  \n", esc(f.Label), m.colon(), esc(f.Value))
	}
	fmt.Fprintf(&b, "\n###### %s", esc(m.foot()))
	if d.key != "" && !strings.Contains(b.String(), d.key) {
		// The robot takes only what holds its keyword, which is the operator's own
		// word and must stand there as it is.
		b.WriteString("\n\n" + d.key)
	}
	return b.String()
}

// dingTalkEscape puts a backslash before what Markdown is made of. What could
// be a tag, an entity or a mention gets a full-width form instead: not every
// client knows backslashes.
func dingTalkEscape(r rune) string {
	switch r {
	case '<', '>', '&', '@':
		return wide[r]
	case '\\', '*', '_', '#', '[', ']', '(', ')', '!', '|', '~', '`':
		return `\` + string(r)
	}
	return string(r)
}

// lineStart keeps the first sign of a line from making a list of it.
func lineStart(line string) string {
	if line != "" && strings.ContainsRune("-+=", rune(line[0])) {
		return `\` + line
	}
	return line
}

// dingTalkVerdict knows the codes of docs/notifications/dingtalk.md. 310000
// stands for every refusal of the robot's security settings: only its text
// tells which.
func dingTalkVerdict(code int, message string) verdict {
	switch code {
	case -1:
		return verdict{do: "DingTalk is busy"}
	case 130101, 410100:
		// More than 20 in a minute: the robot is shut out for ten.
		return verdict{limited, 10 * time.Minute, "more than 20 messages in a minute"}
	case 310000:
		return dingTalkSecurity(strings.ToLower(message))
	case 300001, 300005:
		return verdict{permanent, 0, "there is no such robot any more: make one in the group and write its address to webhook_url"}
	case 400013:
		return verdict{permanent, 0, "the group was dissolved: choose another and write its robot's address to webhook_url"}
	case 400101:
		return verdict{permanent, 0, "access_token is missing: copy the whole address of the robot to webhook_url"}
	case 400102:
		return verdict{permanent, 0, "the robot was stopped (停用): turn it on in the group's settings"}
	case 430101, 430102, 430103, 430104:
		return verdict{permanent, 0, "DingTalk's content check refused the message"}
	case 34016, 460101:
		return verdict{permanent, 0, "the message is too long"}
	case 40035, 43004, 400105:
		return verdict{permanent, 0, "DingTalk does not know this form of message: look for a newer version of Gatehouse"}
	}
	return verdict{}
}

func dingTalkSecurity(message string) verdict {
	switch {
	case strings.Contains(message, "keyword"):
		return verdict{permanent, 0, "the message holds none of the robot's keywords (自定义关键词): write one of them to keyword"}
	case strings.Contains(message, "timestamp"):
		return verdict{do: "this server's clock is more than an hour off: set it by NTP"}
	case strings.Contains(message, "sign"):
		return verdict{permanent, 0, "the signature is not the robot's: copy the secret (加签, SEC…) to secret"}
	case strings.Contains(message, "ip"):
		return verdict{permanent, 0, "this server's outgoing address is not in the robot's list (IP地址): add it there"}
	}
	return verdict{permanent, 0, "the robot's security settings (安全设置) refuse the message: compare keyword, secret and the list of addresses"}
}
