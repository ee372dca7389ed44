package robots

import (
	"io"
	"net/http"
	"net/url"
	"time"
	"unicode/utf8"
)

// WeCom is a group robot: POST /cgi-bin/webhook/send?key=.
type WeCom struct {
	Receiver
	Key string
}

type weComMessage struct {
	Type     string `json:"msgtype"`
	Markdown *struct {
		Content string `json:"content"`
	} `json:"markdown"`
	Card *weComCard `json:"template_card"`
}

type weComCard struct {
	Type   string `json:"card_type"`
	Source struct {
		Desc  string `json:"desc"`
		Color int    `json:"desc_color"`
	} `json:"source"`
	Title struct {
		Title string `json:"title"`
		Desc  string `json:"desc"`
	} `json:"main_title"`
	Text string `json:"sub_title_text"`
	Rows []struct {
		Key   string `json:"keyname"`
		Value string `json:"value"`
	} `json:"horizontal_content_list"`
	Jumps []struct {
		Type  int    `json:"type"`
		URL   string `json:"url"`
		Title string `json:"title"`
	} `json:"jump_list"`
	Action struct {
		Type int    `json:"type"`
		URL  string `json:"url"`
	} `json:"card_action"`
}

// ServeHTTP answers 200 whatever it says.
func (c *WeCom) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c.scripted(w) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	no := func(code int, message string) { reply(w, 200, map[string]any{"errcode": code, "errmsg": message}) }
	var m weComMessage
	switch {
	case err != nil || r.Method != http.MethodPost || r.URL.Path != "/cgi-bin/webhook/send" || r.URL.Query().Get("key") != c.Key:
		no(93000, "invalid webhook url, hint: [1700000000_1_a], from ip: 203.0.113.9, more info at https://open.work.weixin.qq.com/devtool/query?e=93000")
	case strict(body, &m) != nil:
		no(40058, "invalid Request Parameter")
	case m.Type == "markdown" && m.Markdown != nil && m.Card == nil:
		switch n := len(m.Markdown.Content); {
		case n == 0:
			no(44004, "empty content")
		case n > 4096:
			no(40058, "Invalid input : content exceed max length. invalid Request Parameter")
		default:
			c.finish(w, r, body)
		}
	case m.Type == "template_card" && m.Card != nil && m.Markdown == nil:
		if fault := m.Card.fault(); fault != "" {
			no(40058, fault+" invalid Request Parameter")
			return
		}
		c.finish(w, r, body)
	default:
		no(40008, "invalid message type")
	}
}

func (c *WeCom) finish(w http.ResponseWriter, r *http.Request, body []byte) {
	if c.over(time.Minute, limit{20, time.Minute}) {
		reply(w, 200, map[string]any{"errcode": 45009, "errmsg": "api freq out of limit"})
		return
	}
	c.take(r, body)
	reply(w, 200, map[string]any{"errcode": 0, "errmsg": "ok"})
}

func (k *weComCard) fault() string {
	web := func(s string) bool {
		u, err := url.Parse(s)
		return err == nil && u.Host != ""
	}
	switch {
	case k.Type != "text_notice":
		return "card_type"
	case k.Action.Type != 1 || !web(k.Action.URL):
		return "card_action"
	case k.Title.Title == "" || utf8.RuneCountInString(k.Title.Title) > 26 || utf8.RuneCountInString(k.Title.Desc) > 30:
		return "main_title"
	case utf8.RuneCountInString(k.Text) > 112:
		return "sub_title_text"
	case len(k.Rows) > 6:
		return "horizontal_content_list"
	case len(k.Jumps) > 3:
		return "jump_list"
	case k.Source.Color < 0 || k.Source.Color > 3:
		return "desc_color"
	}
	for _, r := range k.Rows {
		if r.Key == "" || r.Value == "" || utf8.RuneCountInString(r.Value) > 26 {
			return "horizontal_content_list"
		}
	}
	for _, j := range k.Jumps {
		if j.Type != 1 || j.Title == "" || !web(j.URL) {
			return "jump_list"
		}
	}
	return ""
}
