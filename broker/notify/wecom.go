package notify

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of a WeCom group robot. A card has room for few and short things only;
// what does not fit goes as Markdown, whose limit counts bytes of UTF-8.
const (
	maxWeComMarkdown = 4096 // bytes
	maxWeComTitle    = 26   // runes
	maxWeComDesc     = 30   // runes
	maxWeComText     = 112  // runes
	maxWeComRows     = 6
	maxWeComKey      = 10 // columns: five Chinese characters
	maxWeComValue    = 26 // runes
)

type weCom struct{ *robot }

// NewWeCom returns the sender of one group robot (群机器人) of WeCom.
func NewWeCom(c Channel, env Env) (Sender, error) {
	r, err := newRobot(weComVendor, c, env)
	if err != nil {
		return nil, err
	}
	return weCom{r}, nil
}

// Send tells the robot, and believes the body of its answer.
func (w weCom) Send(ctx context.Context, m Message) error {
	body, err := w.body(m)
	if err != nil {
		return fmt.Errorf("wechat: %w", err)
	}
	a, err := w.post(ctx, "", body)
	if err != nil {
		return err
	}
	return w.byErrcode(a, weComSaid, weComVerdict)
}

// weComSaid drops the hint and our own outgoing address, which WeCom adds to
// its messages.
func weComSaid(message string) string {
	message, _, _ = strings.Cut(message, ", hint:")
	message, _, _ = strings.Cut(message, ", from ip:")
	return message
}

// The request's body.
type (
	weComBody struct {
		Type     string         `json:"msgtype"`
		Markdown *weComMarkdown `json:"markdown,omitempty"`
		Card     *weComCard     `json:"template_card,omitempty"`
	}
	weComMarkdown struct {
		Content string `json:"content"`
	}
	weComCard struct {
		Type   string      `json:"card_type"`
		Source weComSource `json:"source"`
		Title  weComTitle  `json:"main_title"`
		Text   string      `json:"sub_title_text,omitempty"`
		Rows   []weComRow  `json:"horizontal_content_list,omitempty"`
		Jumps  []weComJump `json:"jump_list"`
		Action weComAction `json:"card_action"`
	}
	weComSource struct {
		Desc  string `json:"desc"`
		Color int    `json:"desc_color"` // 0 grey, 1 black, 2 red, 3 green
	}
	weComTitle struct {
		Title string `json:"title"`
		Desc  string `json:"desc"`
	}
	weComRow struct {
		Key   string `json:"keyname"`
		Value string `json:"value"`
	}
	weComJump struct {
		Type  int    `json:"type"` // 1: an address
		URL   string `json:"url"`
		Title string `json:"title"`
	}
	weComAction struct {
		Type int    `json:"type"`
		URL  string `json:"url"`
	}
)

func (w weCom) body(m Message) ([]byte, error) {
	if card, ok := weComAsCard(m.within(rooms[0])); ok {
		return marshal(weComBody{Type: "template_card", Card: &card})
	}
	text := fit(m, maxWeComMarkdown, byteLen, weComText)
	return marshal(weComBody{Type: "markdown", Markdown: &weComMarkdown{text}})
}

// weComAsCard makes a card (文本通知模版卡片) of a message that fits in whole. A card
// must lead somewhere. Its texts are plain: only what a client could make a link
// of by itself is broken up.
func weComAsCard(m Message) (weComCard, bool) {
	color := map[string]int{"critical": 2, "warning": 1}[string(m.Severity)]
	c := weComCard{
		Type: "text_notice", Source: weComSource{"Gatehouse", color},
		Title: weComTitle{unlinked(m.Title), cut(m.Time.Format("2006-01-02 15:04:05 -07:00"), maxWeComDesc)}, Text: unlinked(m.Text),
		Jumps: []weComJump{{1, m.Link, m.LinkText}}, Action: weComAction{1, m.Link},
	}
	if m.Link == "" || len(m.Fields) > maxWeComRows || utf8.RuneCountInString(m.Title) > maxWeComTitle || utf8.RuneCountInString(m.Text) > maxWeComText {
		return weComCard{}, false
	}
	for _, f := range m.Fields {
		if columns(f.Label) > maxWeComKey || utf8.RuneCountInString(f.Value) > maxWeComValue {
			return weComCard{}, false
		}
		c.Rows = append(c.Rows, weComRow{unlinked(f.Label), unlinked(f.Value)})
	}
	if len(c.Rows) < maxWeComRows && utf8.RuneCountInString(m.ID) <= maxWeComValue {
		c.Rows = append(c.Rows, weComRow{"ID", m.ID})
	}
	return c, true
}

// columns is how wide a text is where Chinese characters take two.
func columns(s string) int {
	n := 0
	for _, r := range s {
		if n++; r >= 0x1100 {
			n++
		}
	}
	return n
}

// weComText is the message in WeCom's Markdown, which knows no escapes: what it
// is made of gets a full-width form.
func weComText(m Message) string {
	esc := func(s string) string {
		return inFull(unlinked(s), func(r rune) string {
			if w, ok := wide[r]; ok {
				return w
			}
			return string(r)
		})
	}
	color := "warning" // orange-red
	if m.Severity != "critical" && m.Severity != "warning" {
		color = "info"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "### <font color=\"%s\">%s</font>\n", color, esc(m.Title))
	if m.Text != "" {
		b.WriteString(esc(m.Text) + "\n")
	}
	for _, f := range m.Fields {
		fmt.Fprintf(&b, "> %s%s<font color=\"comment\">%s</font>\n", esc(f.Label), m.colon(), esc(f.Value))
	}
	if m.Link != "" {
		fmt.Fprintf(&b, "[%s](%s)\n", esc(m.LinkText), m.Link)
	}
	fmt.Fprintf(&b, "<font color=\"comment\">%s</font>", esc(m.foot()))
	return b.String()
}

// weComVerdict knows the codes of docs/notifications/wecom.md.
func weComVerdict(code int, message string) verdict {
	switch code {
	case -1:
		return verdict{do: "WeCom is busy"}
	case 45009:
		return verdict{limited, time.Minute, "more than 20 messages in a minute"}
	case 45033:
		return verdict{limited, 10 * time.Second, "too many messages at once"}
	case 93000:
		return verdict{permanent, 0, "there is no such robot: copy the robot's address (Webhook地址) to webhook_url again"}
	case 93008, 93017:
		return verdict{permanent, 0, "the robot is not in the group any more: add it there, or another one and write its address to webhook_url"}
	case 40008:
		return verdict{permanent, 0, "WeCom does not know this form of message: look for a newer version of Gatehouse"}
	case 40058, 45002:
		if strings.Contains(message, "exceed") || code == 45002 {
			return verdict{permanent, 0, "the message is too long"}
		}
		return verdict{permanent, 0, "WeCom does not take a part of the message: look for a newer version of Gatehouse"}
	}
	if strings.Contains(message, "exceed max length") {
		return verdict{permanent, 0, "the message is too long"}
	}
	return verdict{}
}
