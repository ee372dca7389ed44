package notify

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// vendor is what tells the four chats apart before anything is sent.
type vendor struct {
	section string   // of the configuration
	hosts   []string // where its robots are; a private deployment needs `private`
	example string
	looks   func(u *url.URL) bool // whether an address at one of hosts can be a robot's
	signs   bool                  // takes `secret`
	keyword bool                  // takes `keyword`
}

var (
	dingTalkVendor = vendor{"dingtalk", []string{"oapi.dingtalk.com"}, "https://oapi.dingtalk.com/robot/send?access_token=…",
		func(u *url.URL) bool { return u.Path == "/robot/send" && u.Query().Get("access_token") != "" }, true, true}
	weComVendor = vendor{"wechat", []string{"qyapi.weixin.qq.com"}, "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=…",
		func(u *url.URL) bool { return u.Path == "/cgi-bin/webhook/send" && u.Query().Get("key") != "" }, false, false}
	feishuVendor = vendor{"feishu", []string{"open.feishu.cn", "open.larksuite.com"}, "https://open.feishu.cn/open-apis/bot/v2/hook/…",
		func(u *url.URL) bool { return after(u.Path, "/open-apis/bot/v2/hook/") }, true, true}
	slackVendor = vendor{"slack", []string{"hooks.slack.com", "hooks.slack-gov.com"}, "https://hooks.slack.com/services/T…/B…/…",
		func(u *url.URL) bool { return after(u.Path, "/services/") }, false, false}
)

// after reports whether a path goes on after prefix.
func after(path, prefix string) bool {
	return strings.HasPrefix(path, prefix) && len(path) > len(prefix)
}

// Problems of a channel depend on whose it is: ask DingTalkProblems and so on.

// DingTalkProblems complains about what DingTalk's robots would not take.
func DingTalkProblems(c Channel) []problem.Problem { return c.problems(dingTalkVendor) }

// WeComProblems complains about what WeCom's robots would not take.
func WeComProblems(c Channel) []problem.Problem { return c.problems(weComVendor) }

// FeishuProblems complains about what Feishu's bots would not take.
func FeishuProblems(c Channel) []problem.Problem { return c.problems(feishuVendor) }

// SlackProblems complains about what Slack's webhooks would not take.
func SlackProblems(c Channel) []problem.Problem { return c.problems(slackVendor) }

func (c Channel) problems(v vendor) []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	u, err := url.Parse(c.WebhookURL.Reveal())
	known := err == nil && slices.Contains(v.hosts, strings.ToLower(u.Host))
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "":
		add("WebhookURL", "notify.url", "This is no URL to send to.", "the address that the chat's robot settings show: "+v.example)
	case !known && !c.Private:
		add("WebhookURL", "notify.host", fmt.Sprintf("%s is none of the hosts where %s has its robots.", u.Host, v.section), v.example+", or private: true for a private deployment")
	case known && u.Scheme != "https":
		add("WebhookURL", "notify.https", "http sends the robot's secret readable over the network.", v.example)
	case known && !v.looks(u):
		add("WebhookURL", "notify.robot", "This is not the address of a robot of "+v.section+".", v.example)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		ps = append(ps, problem.Problem{Field: "WebhookURL", Rule: "notify.https", Text: "http sends the robot's secret readable over the network.", Fix: "https", Warning: true})
	}
	if !c.Secret.IsZero() && !v.signs {
		add("Secret", "notify.secret", v.section+" signs nothing: the address itself is the secret.", "leave secret out")
	}
	switch {
	case c.Keyword != "" && !v.keyword:
		add("Keyword", "notify.keyword", v.section+" has no keywords.", "leave keyword out")
	case c.Keyword != oneLine(c.Keyword) || len(c.Keyword) > 100:
		add("Keyword", "notify.keyword", "A keyword is one short line.", "one of the words in the robot's settings")
	}
	return ps
}

// refuse returns the problem that keeps a channel from being used, if any.
func refuse(ps []problem.Problem) error {
	for _, p := range ps {
		if !p.Warning {
			return p
		}
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
