package robots

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// DingTalk is a custom robot: POST /robot/send?access_token=.
type DingTalk struct {
	Receiver
	Token   string
	Secret  string // SEC…; "" for a robot without signing
	Keyword string
	Blocked bool // our address is not in its list
}

type dingTalkMessage struct {
	Type     string `json:"msgtype"`
	Markdown *struct {
		Title string `json:"title"`
		Text  string `json:"text"`
	} `json:"markdown"`
	Card *struct {
		Title       string `json:"title"`
		Text        string `json:"text"`
		SingleTitle string `json:"singleTitle"`
		SingleURL   string `json:"singleURL"`
	} `json:"actionCard"`
	At *struct {
		Mobiles []string `json:"atMobiles"`
		Users   []string `json:"atUserIds"`
		All     bool     `json:"isAtAll"`
	} `json:"at"`
}

// ServeHTTP answers 200 whatever it says.
func (d *DingTalk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d.scripted(w) {
		return
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	no := func(code int, message string) { reply(w, 200, map[string]any{"errcode": code, "errmsg": message}) }
	q := r.URL.Query()
	switch {
	case err != nil || r.Method != http.MethodPost || r.URL.Path != "/robot/send":
		no(404, "请求的URI地址不存在")
		return
	case !q.Has("access_token"):
		no(400101, "access_token is missing")
		return
	case q.Get("access_token") != d.Token:
		no(300005, "token is not exist")
		return
	case !jsonType(r):
		no(43004, "无效的HTTP HEADER Content-Type")
		return
	case d.Blocked:
		no(310000, "ip 203.0.113.9 not in whitelist")
		return
	}
	if message := d.signature(q); message != "" {
		no(310000, message)
		return
	}
	var m dingTalkMessage
	if err := strict(body, &m); err != nil {
		no(40035, "缺少参数 json: "+err.Error())
		return
	}
	title, text := "", ""
	switch {
	case m.Type == "markdown" && m.Markdown != nil && m.Card == nil:
		title, text = m.Markdown.Title, m.Markdown.Text
	case m.Type == "actionCard" && m.Card != nil && m.Markdown == nil:
		title, text = m.Card.Title, m.Card.Text
		if u, err := url.Parse(m.Card.SingleURL); err != nil || u.Host == "" || m.Card.SingleTitle == "" {
			no(40035, "缺少参数 singleURL")
			return
		}
	default:
		no(400105, "unsupported msgtype")
		return
	}
	switch {
	case title == "" || text == "":
		no(40035, "缺少参数 title")
	case len(text) > 5000 || len(body) > 20000:
		no(460101, "message too long")
	case d.Keyword != "" && !strings.Contains(title+"\n"+text, d.Keyword):
		no(310000, "keywords not in content")
	case d.over(10*time.Minute, limit{20, time.Minute}):
		reply(w, 200, map[string]any{"status": 1111, "wait": 5, "source": "x5", "punish": "deny", "uuid": "0", "errcode": 130101, "errmsg": "send too fast, exceed 20 times per minute"})
	default:
		d.take(r, body)
		reply(w, 200, map[string]any{"errcode": 0, "errmsg": "ok"})
	}
}

// signature checks timestamp (milliseconds, at most an hour off) and sign.
func (d *DingTalk) signature(q url.Values) string {
	if d.Secret == "" {
		return ""
	}
	ms, err := strconv.ParseInt(q.Get("timestamp"), 10, 64)
	if err != nil || d.now().Sub(time.UnixMilli(ms)).Abs() > time.Hour {
		return "invalid timestamp"
	}
	h := hmac.New(sha256.New, []byte(d.Secret))
	fmt.Fprintf(h, "%d\n%s", ms, d.Secret)
	if q.Get("sign") != base64.StdEncoding.EncodeToString(h.Sum(nil)) {
		return "sign not match"
	}
	return ""
}
