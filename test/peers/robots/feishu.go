package robots

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Feishu is a custom bot: POST /open-apis/bot/v2/hook/ID.
type Feishu struct {
	Receiver
	ID      string
	Secret  string // "" for a bot without signing
	Keyword string
	Blocked bool // our address is not in its list
	Old     bool // answers as bots of the first generation do
}

type feishuText struct {
	Tag     string `json:"tag"`
	Content string `json:"content"`
}

type feishuMessage struct {
	Timestamp string `json:"timestamp"`
	Sign      string `json:"sign"`
	Type      string `json:"msg_type"`
	Card      struct {
		Config struct {
			Wide bool `json:"wide_screen_mode"`
		} `json:"config"`
		Header struct {
			Title    feishuText `json:"title"`
			Template string     `json:"template"`
		} `json:"header"`
		Elements []struct {
			Tag    string      `json:"tag"`
			Text   *feishuText `json:"text"`
			Fields []struct {
				Short bool       `json:"is_short"`
				Text  feishuText `json:"text"`
			} `json:"fields"`
			Actions []struct {
				Tag  string     `json:"tag"`
				Text feishuText `json:"text"`
				Type string     `json:"type"`
				URL  string     `json:"url"`
			} `json:"actions"`
			Elements []feishuText `json:"elements"`
		} `json:"elements"`
	} `json:"card"`
}

// ServeHTTP tells by code; the status is 200 but for its gateway's.
func (f *Feishu) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.scripted(w) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	no := func(code int, message string) {
		reply(w, 200, map[string]any{"code": code, "msg": message, "data": map[string]any{}})
	}
	var m feishuMessage
	switch {
	case err != nil || r.Method != http.MethodPost || r.URL.Path != "/open-apis/bot/v2/hook/"+f.ID:
		no(19001, "param invalid: incoming webhook access token invalid")
	case !jsonType(r) || len(body) > 20<<10 || strict(body, &m) != nil || !m.wellFormed():
		no(9499, "Bad Request")
	case f.Secret != "" && !f.signed(m):
		no(19021, "sign match fail or timestamp is not within one hour from current time")
	case f.Blocked:
		no(19022, "Ip Not Allowed")
	case f.Keyword != "" && !strings.Contains(string(body), f.Keyword):
		no(19024, "Key Words Not Found")
	case f.over(time.Minute, limit{5, time.Second}, limit{100, time.Minute}):
		no(11232, "frequency limited psm[lark.oapi.app_platform_runtime]appID[1500]")
	default:
		f.take(r, body)
		if f.Old {
			reply(w, 200, map[string]any{"Extra": nil, "StatusCode": 0, "StatusMessage": "success"})
			return
		}
		reply(w, 200, map[string]any{"code": 0, "msg": "success", "data": map[string]any{}, "Extra": nil, "StatusCode": 0, "StatusMessage": "success"})
	}
}

// signed checks timestamp (seconds, at most an hour off) and sign: the key is
// both in one, and the message empty.
func (f *Feishu) signed(m feishuMessage) bool {
	s, err := strconv.ParseInt(m.Timestamp, 10, 64)
	if err != nil || f.now().Sub(time.Unix(s, 0)).Abs() > time.Hour {
		return false
	}
	h := hmac.New(sha256.New, []byte(m.Timestamp+"\n"+f.Secret))
	return m.Sign == base64.StdEncoding.EncodeToString(h.Sum(nil))
}

func (m feishuMessage) wellFormed() bool {
	text := func(t feishuText) bool { return (t.Tag == "plain_text" || t.Tag == "lark_md") && t.Content != "" }
	if m.Type != "interactive" || m.Card.Header.Title.Tag != "plain_text" || m.Card.Header.Title.Content == "" || len(m.Card.Elements) == 0 ||
		!slices.Contains([]string{"blue", "wathet", "turquoise", "green", "yellow", "orange", "red", "carmine", "violet", "purple", "indigo", "grey"}, m.Card.Header.Template) {
		return false
	}
	for _, e := range m.Card.Elements {
		ok := false
		switch e.Tag {
		case "div":
			ok = (e.Text != nil || len(e.Fields) > 0) && e.Actions == nil && e.Elements == nil
		case "action":
			ok = len(e.Actions) > 0 && e.Text == nil && e.Fields == nil && e.Elements == nil
		case "note":
			ok = len(e.Elements) > 0 && e.Text == nil && e.Fields == nil && e.Actions == nil
		}
		if e.Text != nil && !text(*e.Text) {
			return false
		}
		for _, f := range e.Fields {
			ok = ok && text(f.Text)
		}
		for _, t := range e.Elements {
			ok = ok && text(t)
		}
		for _, a := range e.Actions {
			u, err := url.Parse(a.URL)
			ok = ok && a.Tag == "button" && text(a.Text) && err == nil && u.Host != "" && slices.Contains([]string{"default", "primary", "danger"}, a.Type)
		}
		if !ok {
			return false
		}
	}
	return true
}
