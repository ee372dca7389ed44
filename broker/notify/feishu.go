package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// maxFeishu bounds the body of one request, in bytes; the vendor's limit is
// 20 KB. The signature is in the body.
const maxFeishu = 20_000

type feishu struct{ *robot }

// NewFeishu returns the sender of one custom bot (自定义机器人) of Feishu or Lark.
func NewFeishu(c Channel, env Env) (Sender, error) {
	r, err := newRobot(feishuVendor, c, env)
	if err != nil {
		return nil, err
	}
	return feishu{r}, nil
}

// Send tells the bot, and believes the body of its answer.
func (f feishu) Send(ctx context.Context, m Message) error {
	body, err := f.body(m)
	if err != nil {
		return fmt.Errorf("feishu: %w", err)
	}
	a, err := f.post(ctx, "", body)
	if err != nil {
		return err
	}
	var said struct {
		Code    *int   `json:"code"`
		Old     *int   `json:"StatusCode"` // bots of the first generation
		Message string `json:"msg"`
	}
	if !decoded(a, &said) || said.Code == nil && said.Old == nil {
		return f.byStatus(a)
	}
	code := said.Code
	if code == nil {
		code = said.Old
	}
	if *code == 0 {
		if a.status/100 == 2 {
			return nil
		}
		return f.byStatus(a)
	}
	v := feishuVerdict(*code)
	if v.fate == limited {
		if n, err := strconv.Atoi(a.header.Get("X-Ogw-Ratelimit-Reset")); err == nil {
			v.after = min(max(time.Duration(n)*time.Second, minAfter), maxAfter)
		}
	}
	return f.refused("code "+strconv.Itoa(*code), said.Message, v)
}

// sign returns the time in seconds, and the HMAC whose key is the time, a
// newline and the secret, and whose message is empty.
func (f feishu) sign() (at, sign string) {
	at = strconv.FormatInt(f.now().Unix(), 10)
	h := hmac.New(sha256.New, []byte(at+"\n"+f.secret.Reveal()))
	return at, base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// The request's body: a card whose texts are all plain, so that nothing in them
// is markup.
type (
	feishuBody struct {
		Timestamp string     `json:"timestamp,omitempty"`
		Sign      string     `json:"sign,omitempty"`
		Type      string     `json:"msg_type"`
		Card      feishuCard `json:"card"`
	}
	feishuCard struct {
		Config   feishuConfig    `json:"config"`
		Header   feishuHeader    `json:"header"`
		Elements []feishuElement `json:"elements"`
	}
	feishuConfig struct {
		Wide bool `json:"wide_screen_mode"`
	}
	feishuHeader struct {
		Title    feishuText `json:"title"`
		Template string     `json:"template"` // the header's colour
	}
	feishuText struct {
		Tag     string `json:"tag"`
		Content string `json:"content"`
	}
	feishuElement struct {
		Tag      string         `json:"tag"`
		Text     *feishuText    `json:"text,omitempty"`
		Fields   []feishuField  `json:"fields,omitempty"`
		Actions  []feishuButton `json:"actions,omitempty"`
		Elements []feishuText   `json:"elements,omitempty"`
	}
	feishuField struct {
		Short bool       `json:"is_short"`
		Text  feishuText `json:"text"`
	}
	feishuButton struct {
		Tag  string     `json:"tag"`
		Text feishuText `json:"text"`
		Type string     `json:"type"`
		URL  string     `json:"url"`
	}
)

// feishuTag is the beginning of a mention in other forms of message. In plain
// text it means nothing; it is broken all the same.
var feishuTag = regexp.MustCompile(`<(/?\s*[A-Za-z])`)

func feishuPlain(s string) feishuText {
	return feishuText{"plain_text", feishuTag.ReplaceAllString(unschemed(s), "＜$1")}
}

func (f feishu) body(m Message) ([]byte, error) {
	var failed error
	body := fit(m, maxFeishu, func(b []byte) int { return len(b) }, func(m Message) []byte {
		b := feishuBody{Type: "interactive", Card: f.card(m)}
		if f.secret.Reveal() != "" {
			b.Timestamp, b.Sign = f.sign()
		}
		js, err := marshal(b)
		if err != nil {
			failed = err
		}
		return js
	})
	return body, failed
}

func (f feishu) card(m Message) feishuCard {
	color, button := "blue", "default"
	switch m.Severity {
	case event.Critical:
		color, button = "red", "danger"
	case event.Warning:
		color, button = "orange", "primary"
	}
	var es []feishuElement
	text := func(s string) *feishuText {
		t := feishuPlain(s)
		return &t
	}
	if m.Text != "" {
		es = append(es, feishuElement{Tag: "div", Text: text(m.Text)})
	}
	if len(m.Fields) > 0 {
		div := feishuElement{Tag: "div"}
		for _, fd := range m.Fields {
			line := fd.Label + m.colon() + fd.Value
			div.Fields = append(div.Fields, feishuField{Short: columns(line) <= 30, Text: feishuPlain(line)})
		}
		es = append(es, div)
	}
	if m.Link != "" {
		es = append(es, feishuElement{Tag: "action", Actions: []feishuButton{{"button", feishuPlain(m.LinkText), button, m.Link}}})
	}
	foot := m.foot()
	if f.key != "" && !strings.Contains(feishuPlain(m.Title).Content, f.key) {
		foot += " · " + f.key // the bot takes only what holds its keyword
	}
	es = append(es, feishuElement{Tag: "note", Elements: []feishuText{feishuPlain(foot)}})
	return feishuCard{Config: feishuConfig{true}, Header: feishuHeader{feishuPlain(m.Title), color}, Elements: es}
}

// feishuVerdict knows the codes of docs/notifications/feishu.md.
func feishuVerdict(code int) verdict {
	switch code {
	case 11232:
		return verdict{limited, time.Minute, "too many messages: 100 in a minute, 5 in a second, fewer at full and half hours"}
	case 99991400:
		return verdict{limited, time.Minute, "Feishu's gateway limits this bot"}
	case 9499:
		return verdict{permanent, 0, "Feishu does not take this form of message: look for a newer version of Gatehouse"}
	case 11246, 11247:
		return verdict{permanent, 0, "Feishu's content check refused the message"}
	case 19001:
		return verdict{permanent, 0, "there is no such bot: copy the bot's address (Webhook 地址) to webhook_url again"}
	case 19021:
		return verdict{permanent, 0, "the signature is not the bot's: copy the secret (签名校验) to secret; if it is the same, this server's clock is more than an hour off: set it by NTP"}
	case 19022:
		return verdict{permanent, 0, "this server's outgoing address is not in the bot's list (IP 白名单): add it there"}
	case 19024:
		return verdict{permanent, 0, "the message holds none of the bot's keywords (自定义关键词): write one of them to keyword"}
	}
	return verdict{}
}
