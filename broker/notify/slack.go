package notify

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Limits of Slack's Block Kit, in characters.
const (
	maxSlackHeader  = 150
	maxSlackText    = 3000
	maxSlackField   = 2000
	maxSlackButton  = 75
	maxSlackFields  = 10 // of one section
	maxSlackContext = 2000
)

type slack struct{ *robot }

// NewSlack returns the sender of one incoming webhook of Slack.
func NewSlack(c Channel, env Env) (Sender, error) {
	r, err := newRobot(slackVendor, c, env)
	if err != nil {
		return nil, err
	}
	return slack{r}, nil
}

// Send posts to the webhook. Slack alone of the four tells by the status; its
// yes is "ok" and nothing else.
func (s slack) Send(ctx context.Context, m Message) error {
	body, err := marshal(slackMessage(m.within(rooms[0])))
	if err != nil {
		return fmt.Errorf("slack: %w", err)
	}
	a, err := s.post(ctx, "", body)
	if err != nil {
		return err
	}
	word := strings.TrimSpace(string(a.body))
	switch {
	case a.status == http.StatusOK && bytes.Equal(a.body, []byte("ok")):
		return nil
	case a.status == http.StatusTooManyRequests:
		return s.refused("status 429", "", verdict{limited, retryAfter(a.header, s.now(), 30*time.Second), "more than one message in a second"})
	case a.status >= 400 && a.status < 500:
		if do := slackDo(word); do != "" {
			return s.refused(word, "", verdict{permanent, 0, do})
		}
		return s.refused(fmt.Sprintf("status %d", a.status), word, verdict{fate: permanent})
	}
	return s.byStatus(a)
}

// The request's body. Everything that is not ours is plain_text, without emoji
// names; the text besides is what a notification shows.
type (
	slackBody struct {
		Text        string            `json:"text"`
		Blocks      []slackBlock      `json:"blocks"`
		Attachments []slackAttachment `json:"attachments"` // a bar of colour is theirs alone
		Unfurl      bool              `json:"unfurl_links"`
		Media       bool              `json:"unfurl_media"`
		LinkNames   bool              `json:"link_names"`
		Parse       string            `json:"parse"`
	}
	slackAttachment struct {
		Color  string       `json:"color"`
		Blocks []slackBlock `json:"blocks"`
	}
	slackBlock struct {
		Type     string      `json:"type"`
		Text     *slackText  `json:"text,omitempty"`
		Fields   []slackText `json:"fields,omitempty"`
		Elements []any       `json:"elements,omitempty"` // slackText or slackButton
	}
	slackText struct {
		Type  string `json:"type"`
		Text  string `json:"text"`
		Emoji bool   `json:"emoji"`
	}
	slackButton struct {
		Type  string    `json:"type"`
		Text  slackText `json:"text"`
		URL   string    `json:"url"`
		Style string    `json:"style,omitempty"`
	}
)

func slackPlain(s string, max int) slackText {
	return slackText{Type: "plain_text", Text: slackEscaped(s, max)}
}

// slackEscaped writes the three signs that control Slack's text objects as
// entities, which leaves no mention and no link of somebody else's.
func slackEscaped(s string, max int) string {
	return escaped(unschemed(s), max, utf8.RuneCountInString, func(r rune) string {
		switch r {
		case '&':
			return "&amp;"
		case '<':
			return "&lt;"
		case '>':
			return "&gt;"
		}
		return string(r)
	})
}

// slackMessage renders a message that within has cut. It cannot be too long:
// the most it makes is 9 blocks of the 50.
func slackMessage(m Message) slackBody {
	color, style := "#3B82F6", ""
	switch m.Severity {
	case event.Critical:
		color, style = "#D92D20", "danger"
	case event.Warning:
		color = "#F79009"
	}
	var blocks []slackBlock
	if m.Text != "" {
		t := slackPlain(m.Text, maxSlackText)
		blocks = append(blocks, slackBlock{Type: "section", Text: &t})
	}
	for i := 0; i < len(m.Fields); i += maxSlackFields {
		section := slackBlock{Type: "section"}
		for _, f := range m.Fields[i:min(i+maxSlackFields, len(m.Fields))] {
			section.Fields = append(section.Fields, slackPlain(f.Label+"\n"+f.Value, maxSlackField))
		}
		blocks = append(blocks, section)
	}
	if m.Link != "" {
		blocks = append(blocks, slackBlock{Type: "actions", Elements: []any{slackButton{"button", slackPlain(m.LinkText, maxSlackButton), m.Link, style}}})
	}
	blocks = append(blocks, slackBlock{Type: "context", Elements: []any{slackPlain(m.foot(), maxSlackContext)}})
	header := slackPlain(mark(m.Severity)+" "+m.Title, maxSlackHeader)
	return slackBody{
		// The one text that is not plain_text: what could format it is broken too.
		Text:        inFull(slackEscaped(unlinked(m.Title), maxSlackText), slackUnformatted),
		Blocks:      []slackBlock{{Type: "header", Text: &header}},
		Attachments: []slackAttachment{{color, blocks}},
		Parse:       "none",
	}
}

// slackUnformatted gives a full-width form to what makes text bold or a mention
// where a client reads mrkdwn; entities stay.
func slackUnformatted(r rune) string {
	switch r {
	case '*', '_', '~', '`', '@', '|':
		return wide[r]
	}
	return string(r)
}

// slackDo knows the words of docs/notifications/slack.md.
func slackDo(word string) string {
	switch word {
	case "invalid_payload", "invalid_blocks", "no_text", "too_many_attachments":
		return "Slack does not take this form of message: look for a newer version of Gatehouse"
	case "user_not_found", "channel_not_found":
		return "the webhook's channel does not exist any more: make a webhook for another one"
	case "channel_is_archived":
		return "the webhook's channel was archived: restore it, or make a webhook for another one"
	case "action_prohibited", "posting_to_general_channel_denied":
		return "an administrator of the workspace does not allow messages there: ask them, or choose another channel"
	case "invalid_token", "no_service", "no_service_id", "no_active_hooks":
		return "the webhook was removed: make a new one in the app's settings and write its address to webhook_url"
	case "no_team", "team_disabled":
		return "the workspace does not exist any more or was disabled"
	}
	return ""
}
