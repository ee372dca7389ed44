package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/test/peers/robots"
)

// Every vendor's receiver takes every form of message: with and without link,
// text and fields, in both languages and all severities, and one that is far too
// long for any of them.
func TestChatsTakeWhatWeSend(t *testing.T) {
	long := lockout()
	long.Title, long.Text = strings.Repeat("标题", 300), strings.Repeat("很长的一行。\n", 2000)
	for i := range 200 {
		long.Fields = append(long.Fields, notify.Field{Label: fmt.Sprintf("字段%d", i), Value: strings.Repeat("&<值>*_", 100)})
	}
	bare := notify.Message{ID: "t1", Time: noon, Severity: event.Info, Locale: "en", Title: "Test message"}
	digest := lockout()
	digest.Count, digest.Severity, digest.Locale = 37, event.Critical, "en"
	for _, r := range chats(t) {
		for name, m := range map[string]notify.Message{"ordinary": lockout(), "long": long, "bare": bare, "digest": digest} {
			r.clock.t = r.clock.t.Add(time.Minute)
			if err := r.send(t, m); err != nil {
				t.Errorf("%s, %s: %v", r.name, name, err)
			}
			if name == "digest" && !strings.Contains(string(r.wire.last), "×37") {
				t.Errorf("%s: the count is not in %s", r.name, r.wire.last)
			}
		}
		if n := len(r.to.Taken()); n != 4 {
			t.Errorf("%s took %d", r.name, n)
		}
	}
}

// Signatures by which the vendors know us: computed for a fixed time by two
// programs that are not this one.
func TestSignatures(t *testing.T) {
	d := dingTalk(t, &robots.DingTalk{Secret: dingSecret}, notify.Channel{Secret: dingSecret})
	d.clock.t = time.UnixMilli(1599360473000)
	var asked *url.URL
	d.wire.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL
		_, _ = w.Write([]byte(`{"errcode":0,"errmsg":"ok"}`))
	})
	if err := d.send(t, lockout()); err != nil {
		t.Fatal(err)
	}
	if want := "access_token=" + dingToken + "&timestamp=1599360473000&sign=d561CEf8%2B24KBTDxxx7rxbC2sevrU8EU2HquIb3EVHQ%3D"; asked.RawQuery != want {
		t.Errorf("dingtalk: %s", asked.RawQuery)
	}
	f := feishu(t, &robots.Feishu{}, notify.Channel{Secret: "SECtest0123456789"})
	f.clock.t = time.Unix(1599360473, 0)
	if err := f.send(t, lockout()); err != nil {
		t.Fatal(err)
	}
	if b := string(f.wire.last); !strings.HasPrefix(b, `{"timestamp":"1599360473","sign":"jUFg90ujajXXWgj1CMYTlPhPRb77fTnmP1XNcF/Thhg=",`) {
		t.Errorf("feishu: %s", b)
	}
}

// What the robot's own settings refuse is told with what to do about it, and
// never tried again by itself.
func TestSecuritySettings(t *testing.T) {
	for _, c := range []struct {
		rig  *rig
		says string
	}{
		{dingTalk(t, &robots.DingTalk{Secret: "SECanother"}, notify.Channel{Secret: dingSecret}), "加签"},
		{dingTalk(t, &robots.DingTalk{Keyword: "算力平台"}, notify.Channel{}), "自定义关键词"},
		{dingTalk(t, &robots.DingTalk{Blocked: true}, notify.Channel{}), "IP地址"},
		{feishu(t, &robots.Feishu{Secret: "another"}, notify.Channel{Secret: feishuKey}), "签名校验"},
		{feishu(t, &robots.Feishu{Keyword: "算力平台"}, notify.Channel{}), "自定义关键词"},
		{feishu(t, &robots.Feishu{Blocked: true}, notify.Channel{}), "IP 白名单"},
	} {
		err := c.rig.send(t, lockout())
		if !permanent(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.rig.name, err)
		}
		if len(c.rig.to.Taken()) != 0 {
			t.Errorf("%s took it", c.rig.name)
		}
	}
	// With the keyword configured, the message holds it in the robot's own form,
	// whatever else is in it and however little fits.
	for _, word := range []string{"算力平台", "GPU_告警*"} {
		long := lockout()
		long.Text = strings.Repeat("长", 100_000)
		for _, r := range []*rig{
			dingTalk(t, &robots.DingTalk{Keyword: word}, notify.Channel{Keyword: word}),
			feishu(t, &robots.Feishu{Keyword: word}, notify.Channel{Keyword: word}),
		} {
			for _, m := range []notify.Message{lockout(), long} {
				if err := r.send(t, m); err != nil {
					t.Errorf("%s, %s: %v", r.name, word, err)
				}
				r.clock.t = r.clock.t.Add(time.Minute)
			}
		}
	}
	// An old clock is nobody's mistake at the robot: it may be right soon.
	d := dingTalk(t, &robots.DingTalk{Secret: dingSecret}, notify.Channel{Secret: dingSecret})
	late := &robots.DingTalk{Token: dingToken, Secret: dingSecret}
	late.Now = func() time.Time { return noon.Add(61 * time.Minute) }
	d.wire.Handler = late
	if err := d.send(t, lockout()); err == nil || permanent(err) || !strings.Contains(err.Error(), "NTP") {
		t.Errorf("an old clock: %v", err)
	}
}

// Each vendor's own limit is met, told as one, and over after its time.
func TestRateLimits(t *testing.T) {
	for name, c := range map[string]struct {
		rig   *rig
		n     int
		after time.Duration
	}{
		"dingtalk": {dingTalk(t, &robots.DingTalk{}, notify.Channel{}), 20, 10 * time.Minute},
		"wechat":   {weCom(t), 20, time.Minute},
		"feishu":   {feishu(t, &robots.Feishu{}, notify.Channel{}), 5, time.Minute},
		"slack":    {slack(t), 1, time.Second},
	} {
		for i := range c.n {
			if err := c.rig.send(t, lockout()); err != nil {
				t.Fatalf("%s, message %d: %v", name, i, err)
			}
		}
		if after, ok := limited(c.rig.send(t, lockout())); !ok || after != c.after {
			t.Errorf("%s: limited %v for %s", name, ok, after)
		}
		c.rig.clock.t = c.rig.clock.t.Add(c.after)
		if err := c.rig.send(t, lockout()); err != nil {
			t.Errorf("%s, after the wait: %v", name, err)
		}
	}
}

// Every code that the pages of docs/notifications list, and what it means to us.
func TestAnswers(t *testing.T) {
	const (
		taken = iota
		again
		never
		wait
	)
	js := func(status int, body string) robots.Answer { return robots.Answer{Status: status, Body: body} }
	code := func(name string, n int, text string) robots.Answer {
		b, _ := json.Marshal(map[string]any{name: n, "errmsg": text, "msg": text})
		return robots.Answer{Status: 200, Body: string(b)}
	}
	proxy := js(200, "<html>please sign in to this network</html>")
	all := chats(t)
	ding, wecom, fei, sl := all[0], all[1], all[2], all[3]
	for _, c := range []struct {
		rig    *rig
		answer robots.Answer
		fate   int
		says   string
	}{
		{ding, code("errcode", 0, "ok"), taken, ""},
		{ding, code("errcode", -1, "系统繁忙"), again, "busy"},
		{ding, code("errcode", 130101, "send too fast"), wait, "20 messages"},
		{ding, code("errcode", 410100, "发送速度太快而限流"), wait, "20 messages"},
		{ding, code("errcode", 310000, "keywords not in content"), never, "keyword"},
		{ding, code("errcode", 310000, "sign not match"), never, "secret"},
		{ding, code("errcode", 310000, "invalid timestamp"), again, "clock"},
		{ding, code("errcode", 310000, "ip 1.2.3.4 not in whitelist"), never, "address"},
		{ding, code("errcode", 310000, "描述"), never, "安全设置"},
		{ding, code("errcode", 300001, "token is not exist"), never, "no such robot"},
		{ding, code("errcode", 300005, "token is not exist"), never, "no such robot"},
		{ding, code("errcode", 400013, "群已被解散"), never, "dissolved"},
		{ding, code("errcode", 400101, "access_token不存在"), never, "whole address"},
		{ding, code("errcode", 400102, "机器人已停用"), never, "turn it on"},
		{ding, code("errcode", 430101, "含有不安全的外链"), never, "content check"},
		{ding, code("errcode", 430104, "含有不合适的文本和图片"), never, "content check"},
		{ding, code("errcode", 460101, "message too long"), never, "too long"},
		{ding, code("errcode", 34016, "exceed 5000 bytes"), never, "too long"},
		{ding, code("errcode", 40035, "缺少参数 json"), never, "newer version"},
		{ding, code("errcode", 77777, "something with "+dingToken), again, "errcode 77777: something with ***"},
		{ding, js(200, `{}`), again, "not one of a robot"},
		{ding, js(502, "bad gateway"), again, "status 502"},
		{ding, js(403, `{"errcode":0,"errmsg":"ok"}`), again, "status 403"},
		{wecom, code("errcode", 0, "ok"), taken, ""},
		{wecom, code("errcode", -1, "system busy"), again, "busy"},
		{wecom, code("errcode", 45009, "api freq out of limit"), wait, "20 messages"},
		{wecom, code("errcode", 45033, "api concurrent out of limit"), wait, "at once"},
		{wecom, code("errcode", 93000, "invalid webhook url, hint: [1], from ip: 1.2.3.4"), never, "no such robot"},
		{wecom, code("errcode", 93008, "not in group"), never, "not in the group"},
		{wecom, code("errcode", 93017, "blocked"), never, "not in the group"},
		{wecom, code("errcode", 40008, "invalid message type"), never, "newer version"},
		{wecom, code("errcode", 40058, "Invalid input : content exceed max length. invalid Request Parameter"), never, "too long"},
		{wecom, code("errcode", 40058, "invalid Request Parameter"), never, "newer version"},
		{wecom, code("errcode", 40099, "content exceed max length"), never, "too long"},
		{wecom, code("errcode", 1, "odd, hint: [1], from ip: 1.2.3.4"), again, "errcode 1: odd"},
		{fei, js(200, `{"code":0,"msg":"success","data":{}}`), taken, ""},
		{fei, js(200, `{"Extra":null,"StatusCode":0,"StatusMessage":"success"}`), taken, ""},
		{fei, code("code", 9499, "Bad Request"), never, "newer version"},
		{fei, code("code", 11232, "frequency limited"), wait, "100 in a minute"},
		{fei, code("code", 11246, "audit"), never, "content check"},
		{fei, code("code", 11247, "audit"), never, "content check"},
		{fei, code("code", 19001, "param invalid"), never, "no such bot"},
		{fei, code("code", 19021, "sign match fail"), never, "secret"},
		{fei, code("code", 19022, "Ip Not Allowed"), never, "address"},
		{fei, code("code", 19024, "Key Words Not Found"), never, "keyword"},
		{fei, robots.Answer{Status: 400, Header: map[string]string{"x-ogw-ratelimit-reset": "17"}, Body: `{"code":99991400,"msg":"request trigger frequency limit"}`}, wait, "17s"},
		{fei, robots.Answer{Status: 429, Header: map[string]string{"Retry-After": "9"}, Body: "slow down"}, wait, "9s"},
		{fei, js(200, `{"StatusCode":1,"StatusMessage":"odd"}`), again, "code 1"},
		{fei, js(200, `{"msg":"success"}`), again, "not one of a robot"},
		{fei, js(500, `{"code":0,"msg":"success"}`), again, "status 500"},
		{sl, js(200, "ok"), taken, ""},
		{sl, js(200, `{"ok":true}`), again, "not one of a robot"},
		{sl, js(400, "invalid_payload"), never, "newer version"},
		{sl, js(400, "invalid_blocks"), never, "newer version"},
		{sl, js(400, "no_text"), never, "newer version"},
		{sl, js(400, "too_many_attachments"), never, "newer version"},
		{sl, js(400, "user_not_found"), never, "does not exist"},
		{sl, js(403, "action_prohibited"), never, "administrator"},
		{sl, js(403, "invalid_token"), never, "removed"},
		{sl, js(404, "channel_not_found"), never, "does not exist"},
		{sl, js(404, "no_service"), never, "removed"},
		{sl, js(404, "no_team"), never, "workspace"},
		{sl, js(403, "team_disabled"), never, "workspace"},
		{sl, js(410, "channel_is_archived"), never, "archived"},
		{sl, js(418, "teapot"), never, "teapot"},
		{sl, js(500, "rollup_error"), again, "rollup_error"},
		{sl, robots.Answer{Status: 429, Header: map[string]string{"Retry-After": "30"}}, wait, "30s"},
		{sl, robots.Answer{Status: 429, Header: map[string]string{"Retry-After": noon.Add(2 * time.Minute).UTC().Format(http.TimeFormat)}}, wait, "2m0s"},
		{sl, robots.Answer{Status: 429, Header: map[string]string{"Retry-After": "86400"}}, wait, "1h0m0s"},
		{sl, robots.Answer{Status: 429, Header: map[string]string{"Retry-After": "-5"}}, wait, "1s"},
		{ding, proxy, again, "not one of a robot"}, {wecom, proxy, again, "not one of a robot"}, {fei, proxy, again, "not one of a robot"}, {sl, proxy, again, "not one of a robot"},
		{ding, js(302, ""), never, "redirect"}, {wecom, js(404, "not found"), never, "no such robot"},
	} {
		c.rig.to.Script(c.answer)
		err := c.rig.send(t, lockout())
		after, isLimit := limited(err)
		fate := again
		switch {
		case err == nil:
			fate = taken
		case permanent(err):
			fate = never
		case isLimit:
			fate = wait
		}
		if fate != c.fate || err != nil && !strings.Contains(err.Error(), c.says) || isLimit && after <= 0 {
			t.Errorf("%s %d %s: fate %d, %v", c.rig.name, c.answer.Status, c.answer.Body, fate, err)
		}
		if err != nil && strings.Contains(err.Error(), "1.2.3.4") {
			t.Errorf("%s: our outgoing address is in %q", c.rig.name, err)
		}
	}
}

// An answer is read to a bound, and what the network says is told without the
// address.
func TestNetwork(t *testing.T) {
	for _, r := range append(chats(t), webhook(t, webhookKey)) {
		r.to.Script(robots.Answer{Status: 200, Body: strings.Repeat("x", 1<<20)})
		if err := r.send(t, lockout()); r.name != "webhook" && (err == nil || len(err.Error()) > 400) {
			t.Errorf("%s: %v", r.name, err)
		}
		r.wire.err = errors.New("connection refused")
		if err := r.send(t, lockout()); err == nil || permanent(err) || !strings.Contains(err.Error(), "connection refused") || strings.Contains(err.Error(), "https://") {
			t.Errorf("%s: %v", r.name, err)
		}
		r.wire.err = fmt.Errorf("tunnel to %s failed", r.own)
		if err := r.send(t, lockout()); err == nil || !strings.Contains(err.Error(), "tunnel to ***") {
			t.Errorf("%s: %v", r.name, err)
		}
		r.wire.err = context.DeadlineExceeded
		if err := r.send(t, lockout()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the cause is lost: %v", r.name, err)
		}
	}
}
