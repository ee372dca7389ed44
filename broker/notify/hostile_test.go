package notify_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/test/peers/robots"
)

const ourLink = "https://id.example.com/admin/audit?event=EVT01HZX7&x=(1)[2]"

// hostile are values that somebody could choose as their name.
var hostile = []string{
	"alice", "", " ", "@all", "@所有人", "<@all>", "<!channel>", "<!here|x>", "<@U012345>", "<at id=all></at>", `<at user_id="all">所有人</at>`, "&lt;!channel&gt;",
	"[click](https://evil.example)", "![x](https://evil.example/x.png)", "<https://evil.example|bank>", "https://evil.example", "HTTP://EVIL.EXAMPLE", "www.evil.example", "evil.example", "例子.中国",
	"**bold**", "_it_", "~~x~~", "`code`", "# title", "> quote", "| a | b |", "\\", "\\[x\\](y)", "<font color=\"info\">x</font>", "</font><script>alert(1)</script>", "&#91;x&#93;(y)",
	"a\nb\r\nc", "a\r\nBcc: evil@evil.example\r\n\r\n<html>", "\u202etxt.exe", "a\u200bb", "\x00\x1b[2J", "\xff\xfe", "\ufeff", "😀👩‍👩‍👧", strings.Repeat("长", 2000), strings.Repeat("&<>", 1000), strings.Repeat("\\*", 2000), "\"},\"at\":{\"isAtAll\":true", "{{.Secret}}", "mailto:a@evil.example", "javascript:alert(1)", "dingtalk://dingtalkclient/page/link?url=x", ":tada:", "10.0.0.1",
}

// link finds what a client could make a link of by itself.
var link = regexp.MustCompile(`://|[\p{L}\p{N}]\.\p{L}{2}`)

// What the vendors' forms are recognised by.
var (
	backslashed  = regexp.MustCompile(`\\.`)
	dingTalkOurs = regexp.MustCompile(`(?m)^#### |^###### |^\*\*.*?\*\*(: |：)`)
	weComLink    = regexp.MustCompile(`(?m)^\[查看详情\]\(https://id\.example\.com/[^()\[\]<> ]*\)$`)
	weComFont    = regexp.MustCompile(`<font color="(info|warning|comment)">|</font>`)
	weComLine    = regexp.MustCompile(`(?m)^### |^> `)
	feishuTags   = regexp.MustCompile(`^(plain_text|div|action|note|button)$`)
	anyTag       = regexp.MustCompile(`<\s*/?[A-Za-z]`)
	looseEntity  = regexp.MustCompile(`&(?:[^algt]|$)`)
)

// texts are all strings of a JSON value by the key that they stand under.
func texts(v any, key string, to func(key, text string)) {
	switch v := v.(type) {
	case string:
		to(key, v)
	case []any:
		for _, e := range v {
			texts(e, key, to)
		}
	case map[string]any:
		for k, e := range v {
			texts(e, k, to)
		}
	}
}

func parsed(t *testing.T, r *rig) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(r.wire.last, &v); err != nil {
		t.Fatalf("%s: %v in %s", r.name, err, r.wire.last)
	}
	texts(v, "", func(_, s string) {
		if !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return c != '\n' && unicode.In(c, unicode.Cc, unicode.Cf) }) {
			t.Errorf("%s: signs that are not seen in %q", r.name, s)
		}
	})
	return v
}

// checkDingTalk: nobody is mentioned, and behind the backslashes nothing is left
// of Markdown but ours.
func checkDingTalk(t *testing.T, r *rig) {
	v := parsed(t, r)
	if at, ok := v["at"].(map[string]any); ok && at["isAtAll"] != false || strings.Count(string(r.wire.last), `"at":`) > 1 {
		t.Errorf("mentions: %s", r.wire.last)
	}
	texts(v, "", func(key, s string) {
		switch key {
		case "singleURL":
			if !strings.HasPrefix(s, "https://id.example.com/") {
				t.Errorf("leads to %s", s)
			}
		case "title":
			if link.MatchString(s) || strings.Contains(s, "@") {
				t.Errorf("title %q", s)
			}
		case "text":
			if len(s) > 5000 {
				t.Errorf("%d bytes", len(s))
			}
			if link.MatchString(s) {
				t.Errorf("a link in %q", s)
			}
			plain := backslashed.ReplaceAllString(s, "")
			plain = dingTalkOurs.ReplaceAllString(plain, "")
			if strings.ContainsAny(plain, "\\*_#[]()!|~`<>&@") {
				t.Errorf("markup in %q", plain)
			}
		}
	})
}

// checkWeCom: of Markdown nothing is left but ours; a card is plain.
func checkWeCom(t *testing.T, r *rig) {
	v := parsed(t, r)
	texts(v, "", func(key, s string) {
		switch key {
		case "url":
			if !strings.HasPrefix(s, "https://id.example.com/") {
				t.Errorf("leads to %s", s)
			}
		case "content":
			if len(s) > 4096 {
				t.Errorf("%d bytes", len(s))
			}
			s = weComLink.ReplaceAllString(s, "")
			s = weComFont.ReplaceAllString(s, "")
			s = weComLine.ReplaceAllString(s, "")
			if link.MatchString(s) || strings.ContainsAny(s, "<>&@[]()*_~#|\\`!") {
				t.Errorf("markup or a link in %q", s)
			}
		case "title", "value", "keyname", "sub_title_text":
			if link.MatchString(s) {
				t.Errorf("a link in %q", s)
			}
		}
	})
}

// checkFeishu: every text is declared plain, and every address is ours.
func checkFeishu(t *testing.T, r *rig) {
	v := parsed(t, r)
	if len(r.wire.last) > 20<<10 {
		t.Errorf("%d bytes", len(r.wire.last))
	}
	texts(v, "", func(key, s string) {
		switch key {
		case "tag":
			if !feishuTags.MatchString(s) {
				t.Errorf("tag %q", s)
			}
		case "url":
			if !strings.HasPrefix(s, "https://id.example.com/") {
				t.Errorf("leads to %s", s)
			}
		case "content":
			if strings.Contains(s, "://") || anyTag.MatchString(s) {
				t.Errorf("a tag or a link in %q", s)
			}
		}
	})
}

// checkSlack: every block's text is plain, and no control sign is left.
func checkSlack(t *testing.T, r *rig) {
	v := parsed(t, r)
	for _, key := range []string{"link_names", "unfurl_links", "unfurl_media"} {
		if v[key] != false {
			t.Errorf("%s: %v", key, v[key])
		}
	}
	if s, _ := v["text"].(string); strings.ContainsAny(s, "<>*_~`@|") || link.MatchString(s) {
		t.Errorf("fallback %q", s)
	}
	texts(v, "", func(key, s string) {
		switch key {
		case "type":
			if s == "mrkdwn" {
				t.Error("a text that is not plain")
			}
		case "url":
			if !strings.HasPrefix(s, "https://id.example.com/") {
				t.Errorf("leads to %s", s)
			}
		case "text":
			if strings.ContainsAny(s, "<>") || strings.Contains(s, "://") || looseEntity.MatchString(s) {
				t.Errorf("a control sign in %q", s)
			}
		}
	})
}

// tell sends one message to every chat: the vendor's receiver takes it, so that
// it has the vendor's form and is under the vendor's limits.
func tell(t *testing.T, rigs []*rig, m notify.Message) {
	t.Helper()
	checks := map[string]func(*testing.T, *rig){"dingtalk": checkDingTalk, "wechat": checkWeCom, "feishu": checkFeishu, "slack": checkSlack}
	for _, r := range rigs {
		r.clock.t = r.clock.t.Add(time.Minute)
		if err := r.send(t, m); err != nil {
			t.Errorf("%s: %v\n%s", r.name, err, r.wire.last)
			continue
		}
		checks[r.name](t, r)
	}
}

func hostileMessage(title, text, label, value string, n int, withLink bool) notify.Message {
	m := notify.Message{ID: "EVT01HZX7", Time: noon, Severity: event.Critical, Locale: "zh-CN", Title: title, Text: text, LinkText: "查看详情"}
	if withLink {
		m.Link = ourLink
	}
	for range n {
		m.Fields = append(m.Fields, notify.Field{Label: label, Value: value})
	}
	return m
}

// NO-2: whatever somebody calls themselves, it is their name and nothing more.
func TestHostileValues(t *testing.T) {
	rigs := chats(t)
	for _, value := range hostile {
		for _, n := range []int{1, 5, 45} {
			tell(t, rigs, hostileMessage(value, value+"\n"+value, "账号", value, n, n != 5))
			tell(t, rigs, hostileMessage("账号被锁定", "", value, "x", n, true))
		}
	}
}

// A link that is none, or would end the markup around it, is not sent.
func TestLinks(t *testing.T) {
	for raw, want := range map[string]bool{
		ourLink: true, "javascript:alert(1)": false, "//evil.example": false, "/admin": false, "https://user:pw@id.example.com/": false,
		"https://id.example.com/" + strings.Repeat("a", 1000): false, "": false, "https://id.example.com/a b": true, "https://[2001:db8::1]:8443/x": true,
	} {
		for _, r := range chats(t) {
			m := lockout()
			m.Link = raw
			if err := r.send(t, m); err != nil {
				t.Errorf("%s, %q: %v", r.name, raw, err)
			}
			if got := strings.Contains(string(r.wire.last), m.LinkText); got != want {
				t.Errorf("%s, %q: %s", r.name, raw, r.wire.last)
			}
		}
	}
}

// What is cut ends with an ellipsis, at a rune's border; what fits is whole.
func TestCut(t *testing.T) {
	for _, r := range chats(t) {
		m := lockout()
		m.Fields = []notify.Field{{Label: "设备", Value: strings.Repeat("名", 200)}}
		if err := r.send(t, m); err != nil || !strings.Contains(string(r.wire.last), strings.Repeat("名", 200)) {
			t.Errorf("%s: 200 are not whole: %v", r.name, err)
		}
		r.clock.t = r.clock.t.Add(time.Minute)
		m.Fields[0].Value += "名"
		if err := r.send(t, m); err != nil || !strings.Contains(string(r.wire.last), strings.Repeat("名", 199)+"…") {
			t.Errorf("%s: 201 are not cut: %v", r.name, err)
		}
	}
}

// FuzzChats: the same for whatever a machine thinks of.
func FuzzChats(f *testing.F) {
	for i, v := range hostile {
		f.Add(v, v, "账号", v, uint8(i), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, title, text, label, value string, n uint8, withLink bool) {
		rigs := []*rig{
			dingTalk(t, &robots.DingTalk{Secret: dingSecret}, notify.Channel{Secret: dingSecret}), weCom(t),
			feishu(t, &robots.Feishu{Secret: feishuKey}, notify.Channel{Secret: feishuKey}), slack(t),
		}
		tell(t, rigs, hostileMessage(title, text, label, value, int(n), withLink))
	})
}
