package notify

import (
	"testing"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// The example that the libraries of Standard Webhooks are tested with.
func TestWebhookSignature(t *testing.T) {
	keys, err := webhookKeys("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		t.Fatal(err)
	}
	w := &webhook{keys: redact.Hide(keys)}
	if got := w.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`)); got != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("%s", got)
	}
}

// What a text is made of after cleaning, cutting and escaping.
func TestText(t *testing.T) {
	for in, want := range map[string]string{
		" a \t b\r\nc ": "a b c", "\u202etxt": "txt", "a\u200bb\u2060c\ufeff": "abc", "\x00\x1b[2J": "[2J", "a\xff": "a\uFFFD", "\u2028a\u2029b\u00a0c": "a b c", "👩‍🦰": "👩🦰", "\U000E0041": "", "e\u0301": "e\u0301",
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{{"长长长", 3, "长长长"}, {"长长长长", 3, "长长…"}, {"a", 0, ""}, {"ab", 1, "…"}, {"", 5, ""}} {
		if got := cut(c.in, c.n); got != c.want {
			t.Errorf("%q to %d: %q", c.in, c.n, got)
		}
	}
	for in, want := range map[string]string{
		"https://evil.example": "https：//evil．example", "10.0.0.1": "10.0.0.1", "v1.2.3": "v1.2.3", "a.b": "a.b", "x.io": "x．io", "例子.中国": "例子．中国", "end. Next": "end. Next", "a.b.example.com": "a.b．example．com", "3.14": "3.14", ".hidden": ".hidden",
	} {
		if got := unlinked(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
	amp := func(r rune) string {
		if r == '&' {
			return "&amp;"
		}
		return string(r)
	}
	for _, c := range []struct {
		in   string
		max  int
		want string
	}{{"&&", 10, "&amp;&amp;"}, {"&&", 9, "&amp;…"}, {"长长", 6, "长长"}, {"长长长", 8, "长…"}, {"", 3, ""}} {
		if got := escaped(c.in, c.max, byteLen, amp); got != c.want || len(got) > c.max {
			t.Errorf("%q in %d: %q", c.in, c.max, got)
		}
	}
	if long := clean(string(make([]byte, 1<<20))+"tail", 10); long != "…" {
		t.Errorf("a text of nothing: %q", long)
	}
	for b := byte(0); b < 4; b++ { // whichever byte of a character the bound falls on
		in := string(make([]byte, b)) + "😀😀😀"
		for range 8 {
			in += in
		}
		if got := clean(in, 5); got != "😀😀😀😀…" {
			t.Errorf("%d: %q", b, got)
		}
	}
}

// A place's last resort is under every vendor's limit, also with a label, a
// value, a title and a link that are as long as they may be.
func TestLastRoom(t *testing.T) {
	long := make([]rune, 3000)
	for i := range long {
		long[i] = '😀'
	}
	m := Message{ID: string(long), Title: string(long), Text: string(long), LinkText: string(long), Link: "https://id.example.com/", Count: 1 << 62}
	for range 100 {
		m.Fields = append(m.Fields, Field{string(long), string(long)})
	}
	for len(m.Link) < maxLink {
		m.Link += "a"
	}
	last := m.within(rooms[len(rooms)-1])
	if n := len(weComText(last)); n > maxWeComMarkdown {
		t.Errorf("WeCom: %d", n)
	}
	if n := len(dingTalk{&robot{}}.text(last)); n > maxDingTalk {
		t.Errorf("DingTalk: %d", n)
	}
	if js, err := marshal(feishuBody{Card: feishu{&robot{}}.card(last)}); err != nil || len(js) > maxFeishu {
		t.Errorf("Feishu: %d, %v", len(js), err)
	}
}
