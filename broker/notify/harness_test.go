package notify_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/test/peers/robots"
)

// direct carries requests to a handler without a network.
type direct struct {
	http.Handler
	last []byte // body of the last request
	err  error  // what the network says instead
}

func (d *direct) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	d.last = body
	if d.err != nil {
		return nil, d.err
	}
	in := r.Clone(r.Context())
	in.Body = io.NopCloser(strings.NewReader(string(body)))
	w := httptest.NewRecorder()
	d.ServeHTTP(w, in)
	return w.Result(), nil
}

// clock is a time that a test moves.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

var (
	shanghai = time.FixedZone("", 8*3600)
	noon     = time.Date(2026, 11, 26, 12, 0, 0, 0, shanghai)
)

// hidden are the secrets of the rig's channels: none may be in any error.
const (
	dingToken   = "ding-token-0123456789"
	dingSecret  = "SECtest0123456789"
	weComKey    = "693a91f6-7xxx-4bc4-97a0-0ec2sifa5aaa"
	feishuHook  = "f19c0e4a-hook-0123456789"
	feishuKey   = "feishu-secret-0123456789"
	slackPath   = "/services/T0123456/B0123456/slackkey0123456789abcdef"
	webhookPath = "/hook/webhook-path-key-0123"
	webhookKey  = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
)

// rig is one receiver and the sender that writes to it.
type rig struct {
	name   string
	own    string // the secret of its address
	to     *robots.Receiver
	wire   *direct
	clock  *clock
	sender notify.Sender
}

func (r *rig) env() notify.Env {
	return notify.Env{Now: r.clock.now, HTTP: func(string, string, ...string) (*http.Client, error) { return &http.Client{Transport: r.wire}, nil }}
}

func ok(t testing.TB, s notify.Sender, err error) notify.Sender {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func dingTalk(t testing.TB, d *robots.DingTalk, c notify.Channel) *rig {
	r := &rig{name: "dingtalk", own: dingToken, to: &d.Receiver, wire: &direct{Handler: d}, clock: &clock{noon}}
	d.Token, d.Now = dingToken, r.clock.now
	c.WebhookURL = "https://oapi.dingtalk.com/robot/send?access_token=" + dingToken
	s, err := notify.NewDingTalk(c, r.env())
	r.sender = ok(t, s, err)
	return r
}

func weCom(t testing.TB) *rig {
	w := &robots.WeCom{Key: weComKey}
	r := &rig{name: "wechat", own: weComKey, to: &w.Receiver, wire: &direct{Handler: w}, clock: &clock{noon}}
	w.Now = r.clock.now
	s, err := notify.NewWeCom(notify.Channel{WebhookURL: "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=" + weComKey}, r.env())
	r.sender = ok(t, s, err)
	return r
}

func feishu(t testing.TB, f *robots.Feishu, c notify.Channel) *rig {
	r := &rig{name: "feishu", own: feishuHook, to: &f.Receiver, wire: &direct{Handler: f}, clock: &clock{noon}}
	f.ID, f.Now = feishuHook, r.clock.now
	c.WebhookURL = "https://open.feishu.cn/open-apis/bot/v2/hook/" + feishuHook
	s, err := notify.NewFeishu(c, r.env())
	r.sender = ok(t, s, err)
	return r
}

func slack(t testing.TB) *rig {
	s := &robots.Slack{Path: slackPath}
	r := &rig{name: "slack", own: slackPath, to: &s.Receiver, wire: &direct{Handler: s}, clock: &clock{noon}}
	s.Now = r.clock.now
	sender, err := notify.NewSlack(notify.Channel{WebhookURL: "https://hooks.slack.com" + slackPath}, r.env())
	r.sender = ok(t, sender, err)
	return r
}

// webhook's receiver knows the time of day by itself, as the library does.
func webhook(t testing.TB, secret redact.String) *rig {
	h := &robots.Webhook{Secret: webhookKey}
	r := &rig{name: "webhook", own: webhookPath, to: &h.Receiver, wire: &direct{Handler: h}, clock: &clock{time.Now()}}
	s, err := notify.NewWebhook(notify.Webhook{URL: "https://siem.example.com" + webhookPath, Secret: secret}, r.env())
	r.sender = ok(t, s, err)
	return r
}

// chats are the four robots as their vendors recommend them: signed where they sign.
func chats(t testing.TB) []*rig {
	return []*rig{
		dingTalk(t, &robots.DingTalk{Secret: dingSecret}, notify.Channel{Secret: dingSecret}),
		weCom(t),
		feishu(t, &robots.Feishu{Secret: feishuKey}, notify.Channel{Secret: feishuKey}),
		slack(t),
	}
}

// send sends, and looks for secrets in what went wrong.
func (r *rig) send(t testing.TB, m notify.Message) error {
	t.Helper()
	err := r.sender.Send(context.Background(), m)
	if err != nil {
		for _, s := range []string{dingToken, dingSecret, weComKey, feishuHook, feishuKey, slackPath, "slackkey0123456789abcdef", webhookPath, "webhook-path-key-0123", webhookKey, strings.TrimPrefix(webhookKey, "whsec_")} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%s: a secret is in %q", r.name, err)
			}
		}
	}
	return err
}

func permanent(err error) bool { _, ok := errors.AsType[notify.Permanent](err); return ok }

func limited(err error) (time.Duration, bool) {
	e, ok := errors.AsType[notify.RateLimited](err)
	return e.After, ok
}

// lockout is an ordinary message.
func lockout() notify.Message {
	return notify.Message{
		ID: "EVT01HZX7", Time: noon, Severity: event.Warning, Locale: "zh-CN", Title: "账号被锁定：alice", Text: "多次登录失败。",
		Fields: []notify.Field{{Label: "账号", Value: "alice"}, {Label: "来源", Value: "203.0.113.7"}, {Label: "连接器", Value: "corp"}},
		Link:   "https://id.example.com/admin/audit?event=EVT01HZX7", LinkText: "查看详情",
		Events: []event.Event{{ID: "EVT01HZX7", Time: noon, Name: event.SigninLockout, Target: "u1", IP: "203.0.113.7", Connector: "corp"}},
	}
}
