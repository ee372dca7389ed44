package notify_test

import (
	"context"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/test/peers/robots"
)

type maker func(notify.Channel, notify.Env) (notify.Sender, error)

// NO-1: where robots may be, and what is said about an address that is none's.
func TestRobotHosts(t *testing.T) {
	vendors := map[string]struct {
		new  maker
		ask  func(notify.Channel) []problem.Problem
		good []redact.String
		bad  []redact.String
	}{
		"dingtalk": {notify.NewDingTalk, notify.DingTalkProblems, []redact.String{"https://oapi.dingtalk.com/robot/send?access_token=hunter2hunter2"},
			[]redact.String{"https://oapi.dingtalk.com/robot/send", "https://oapi.dingtalk.com/robot/send?access_token=", "https://oapi.dingtalk.com.evil.example/robot/send?access_token=hunter2hunter2", "https://oapi.dingtalk.com:8443/robot/send?access_token=hunter2hunter2"}},
		"wechat": {notify.NewWeCom, notify.WeComProblems, []redact.String{"https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=hunter2hunter2"},
			[]redact.String{"https://qyapi.weixin.qq.com/cgi-bin/message/send?key=hunter2hunter2", "https://weixin.qq.com/cgi-bin/webhook/send?key=hunter2hunter2"}},
		"feishu": {notify.NewFeishu, notify.FeishuProblems, []redact.String{"https://open.feishu.cn/open-apis/bot/v2/hook/hunter2hunter2", "https://open.larksuite.com/open-apis/bot/v2/hook/hunter2hunter2"},
			[]redact.String{"https://open.feishu.cn/open-apis/bot/hook/hunter2hunter2", "https://open.feishu.cn/open-apis/bot/v2/hook/"}},
		"slack": {notify.NewSlack, notify.SlackProblems, []redact.String{"https://hooks.slack.com/services/T0/B0/hunter2hunter2", "https://hooks.slack-gov.com/services/T0/B0/hunter2hunter2", "https://HOOKS.slack.com/services/T0/B0/hunter2hunter2"},
			[]redact.String{"https://hooks.slack.com/triggers/T0/1/hunter2hunter2", "https://slack.com/services/T0/B0/hunter2hunter2"}},
	}
	env := (&rig{wire: &direct{}, clock: &clock{noon}}).env()
	for name, v := range vendors {
		for _, u := range v.good {
			if ps := v.ask(notify.Channel{WebhookURL: u}); len(ps) != 0 {
				t.Errorf("%s: %v", name, ps)
			}
			if _, err := v.new(notify.Channel{WebhookURL: u}, env); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		bad := append(v.bad, "", "hunter2hunter2", "https://%zz/hunter2hunter2", "ftp://a/hunter2hunter2", "https://user:hunter2hunter2@a/", "https://169.254.169.254/hunter2hunter2", redact.String(strings.Replace(v.good[0].Reveal(), "https:", "http:", 1)), v.good[0]+"#hunter2")
		for _, u := range bad {
			ps := v.ask(notify.Channel{WebhookURL: u})
			_, err := v.new(notify.Channel{WebhookURL: u}, env)
			if len(ps) == 0 || ps[0].Warning || err == nil {
				t.Errorf("%s takes %s", name, u.Reveal())
				continue
			}
			if strings.Contains(ps[0].Error()+err.Error(), "hunter2") {
				t.Errorf("%s: the secret is in %v, %v", name, ps, err)
			}
		}
		// A private deployment is written down as one; in clear it is warned of.
		for u, n := range map[redact.String]int{"https://chat.corp.example/x": 0, "http://127.0.0.1:9/x": 0, "http://chat.corp.example/x": 1} {
			if ps := v.ask(notify.Channel{WebhookURL: u, Private: true}); len(ps) != n || n == 1 && !ps[0].Warning {
				t.Errorf("%s, private %s: %v", name, u.Reveal(), ps)
			}
		}
		signs := name == "dingtalk" || name == "feishu"
		for _, c := range []notify.Channel{{Secret: "s"}, {Keyword: "k"}} {
			c.WebhookURL = v.good[0]
			if ps := v.ask(c); (len(ps) == 0) != signs {
				t.Errorf("%s: %v", name, ps)
			}
		}
		if ps := v.ask(notify.Channel{WebhookURL: v.good[0], Keyword: "a\nb"}); len(ps) != 1 {
			t.Errorf("%s, keyword of two lines: %v", name, ps)
		}
		if _, err := v.new(notify.Channel{WebhookURL: v.good[0]}, notify.Env{}); err == nil {
			t.Errorf("%s works without an Env", name)
		}
		env := env
		env.HTTP = func(string, string, ...string) (*http.Client, error) { return nil, errors.New("no such ca_file") }
		if _, err := v.new(notify.Channel{WebhookURL: v.good[0]}, env); err == nil || !strings.Contains(err.Error(), "no such ca_file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What may be seen of an address.
func TestShown(t *testing.T) {
	for u, want := range map[redact.String]string{
		"https://oapi.dingtalk.com/robot/send?access_token=0123456789abcdef": "oapi.dingtalk.com/…cdef",
		"https://hooks.slack.com/services/T0/B0/0123456789abcdef":            "hooks.slack.com/…cdef",
		"https://siem.example.com/hook":                                      "siem.example.com",
		"https://siem.example.com:8443":                                      "siem.example.com:8443",
		"https://user:secret@siem.example.com/":                              "siem.example.com",
		"https://%zz/secret":                                                 "", "": "",
	} {
		if got := notify.Shown(u); got != want {
			t.Errorf("%s: %q", u.Reveal(), got)
		}
	}
}

// G6: by the client that the broker makes, a private deployment is reached, over
// TLS by its own authority, and a redirect is followed nowhere.
func TestByTheRealClient(t *testing.T) {
	var elsewhere int
	trap := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere++ }))
	defer trap.Close()
	ding := &robots.DingTalk{Token: dingToken, Secret: dingSecret}
	s := httptest.NewTLSServer(ding)
	defer s.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	env := notify.Env{Now: time.Now, HTTP: func(proxy, caFile string, trusted ...string) (*http.Client, error) {
		cfg := web.FetchConfig{CAFile: caFile, AllowHosts: trusted}
		if proxy != "" {
			u, err := url.Parse(proxy)
			if err != nil {
				return nil, err
			}
			cfg.Proxy = u
		}
		return web.NewClient(cfg)
	}}
	c := notify.Channel{WebhookURL: redact.String(s.URL + "/robot/send?access_token=" + dingToken), Secret: dingSecret, Private: true, CAFile: ca}
	sender := ok2(t)(notify.NewDingTalk(c, env))
	if err := sender.Send(context.Background(), lockout()); err != nil || len(ding.Taken()) != 1 {
		t.Errorf("%d taken, %v", len(ding.Taken()), err)
	}
	ding.Script(robots.Answer{Status: 307, Header: map[string]string{"Location": trap.URL}})
	if err := sender.Send(context.Background(), lockout()); !permanent(err) || elsewhere != 0 {
		t.Errorf("redirected %d times: %v", elsewhere, err)
	}
	c.CAFile = ""
	stranger := ok2(t)(notify.NewDingTalk(c, env))
	if err := stranger.Send(context.Background(), lockout()); err == nil || permanent(err) || strings.Contains(err.Error(), dingToken) {
		t.Errorf("a stranger's certificate: %v", err)
	}
	hook := &robots.Webhook{Secret: webhookKey}
	h := httptest.NewServer(hook)
	defer h.Close()
	mine := ok2(t)(notify.NewWebhook(notify.Webhook{URL: redact.String(h.URL + webhookPath), Secret: webhookKey}, env))
	if err := mine.Send(context.Background(), lockout()); err != nil || len(hook.Taken()) != 1 {
		t.Errorf("%d taken, %v", len(hook.Taken()), err)
	}
	h.Close()
	if err := mine.Send(context.Background(), lockout()); err == nil || permanent(err) || strings.Contains(err.Error(), "webhook-path") {
		t.Errorf("nobody there: %v", err)
	}
	// A proxy of the channel's own carries what is for the vendor's host.
	var asked string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.Method + " " + r.Host
		w.WriteHeader(http.StatusBadGateway)
	}))
	defer proxy.Close()
	far := ok2(t)(notify.NewSlack(notify.Channel{WebhookURL: "https://hooks.slack.com" + slackPath, Proxy: proxy.URL}, env))
	if err := far.Send(context.Background(), lockout()); err == nil || permanent(err) || strings.Contains(err.Error(), slackPath) || asked != "CONNECT hooks.slack.com:443" {
		t.Errorf("%s: %v", asked, err)
	}
}

// ok2 is ok for the two values of a constructor.
func ok2(t *testing.T) func(notify.Sender, error) notify.Sender {
	return func(s notify.Sender, err error) notify.Sender {
		t.Helper()
		return ok(t, s, err)
	}
}
