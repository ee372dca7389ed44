package robots

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// Slack is an incoming webhook: POST /services/T…/B…/….
type Slack struct {
	Receiver
	Path  string // /services/T0/B0/key
	Burst int    // messages in one second; default 1
}

type slackText struct {
	Type  string `json:"type"`
	Text  string `json:"text"`
	Emoji bool   `json:"emoji"`
}

type slackBlock struct {
	Type     string            `json:"type"`
	Text     *slackText        `json:"text"`
	Fields   []slackText       `json:"fields"`
	Elements []json.RawMessage `json:"elements"`
}

type slackMessage struct {
	Text        string       `json:"text"`
	Blocks      []slackBlock `json:"blocks"`
	Attachments []struct {
		Color  string       `json:"color"`
		Blocks []slackBlock `json:"blocks"`
	} `json:"attachments"`
	Unfurl    bool   `json:"unfurl_links"`
	Media     bool   `json:"unfurl_media"`
	LinkNames bool   `json:"link_names"`
	Parse     string `json:"parse"`
}

// ServeHTTP says ok, or a word with a status.
func (s *Slack) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.scripted(w) {
		return
	}
	say := func(status int, word string) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, word)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var m slackMessage
	blocks := func() (all []slackBlock) {
		all = append(all, m.Blocks...)
		for _, a := range m.Attachments {
			all = append(all, a.Blocks...)
		}
		return all
	}
	switch {
	case err != nil || r.Method != http.MethodPost || !strings.HasPrefix(r.URL.Path, "/services/"):
		say(404, "no_service")
	case r.URL.Path != s.Path:
		say(403, "invalid_token")
	case !jsonType(r) || strict(body, &m) != nil:
		say(400, "invalid_payload")
	case m.Text == "" && len(blocks()) == 0:
		say(400, "no_text")
	case len(m.Attachments) > 100:
		say(400, "too_many_attachments")
	case !slackBlocks(blocks()):
		say(400, "invalid_blocks")
	case s.over(time.Second, limit{max(s.Burst, 1), time.Second}):
		w.Header().Set("Retry-After", "1")
		say(429, "rate_limited")
	default:
		s.take(r, body)
		say(200, "ok")
	}
}

// slackBlocks checks Block Kit's limits.
func slackBlocks(bs []slackBlock) bool {
	text := func(t slackText, max int) bool {
		n := utf8.RuneCountInString(t.Text)
		return t.Type == "plain_text" && n > 0 && n <= max
	}
	if len(bs) > 50 {
		return false
	}
	for _, b := range bs {
		ok := false
		switch b.Type {
		case "header":
			ok = b.Text != nil && text(*b.Text, 150) && b.Fields == nil && b.Elements == nil
		case "section":
			ok = b.Elements == nil && (b.Text != nil || len(b.Fields) > 0) && len(b.Fields) <= 10
			if b.Text != nil {
				ok = ok && text(*b.Text, 3000)
			}
			for _, f := range b.Fields {
				ok = ok && text(f, 2000)
			}
		case "context":
			ok = len(b.Elements) > 0 && len(b.Elements) <= 10
			for _, e := range b.Elements {
				var t slackText
				ok = ok && strict(e, &t) == nil && text(t, 3000)
			}
		case "actions":
			ok = len(b.Elements) > 0 && len(b.Elements) <= 25
			for _, e := range b.Elements {
				var button struct {
					Type  string    `json:"type"`
					Text  slackText `json:"text"`
					URL   string    `json:"url"`
					Style string    `json:"style"`
				}
				ok = ok && strict(e, &button) == nil && button.Type == "button" && text(button.Text, 75) && len(button.URL) <= 3000 &&
					strings.HasPrefix(button.URL, "http") && (button.Style == "" || button.Style == "danger" || button.Style == "primary")
			}
		}
		if !ok {
			return false
		}
	}
	return true
}
