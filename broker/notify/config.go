package notify

import (
	"fmt"
	"net/url"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Channel is a chat robot: DingTalk, WeCom (`wechat`), Slack or Feishu. Its URL
// holds a secret. Its problems depend on the vendor: DingTalkProblems and so on.
type Channel struct {
	Name       string        `yaml:"name"`
	WebhookURL redact.String `yaml:"webhook_url"`
	Secret     redact.String `yaml:"secret"`  // signs; DingTalk and Feishu only
	Keyword    string        `yaml:"keyword"` // of the robot's security settings; DingTalk and Feishu only
	// Private says that webhook_url is at a private deployment of the vendor, and
	// not at one of the vendor's own hosts.
	Private bool   `yaml:"private"`
	Proxy   string `yaml:"proxy"`
	CAFile  string `yaml:"ca_file"`
}

// Webhook is somebody's own endpoint.
type Webhook struct {
	Name   string        `yaml:"name"`
	URL    redact.String `yaml:"url"`
	Secret redact.String `yaml:"secret"` // whsec_…; several, parted by blanks, all sign
	Events []string      `yaml:"events"`
	Proxy  string        `yaml:"proxy"`
	CAFile string        `yaml:"ca_file"`
}

// SMTP is the mail server.
type SMTP struct {
	Name     string        `yaml:"name"`
	Host     string        `yaml:"host"`
	Port     int           `yaml:"port"` // default 587, 465 with implicit, 25 with none
	TLS      string        `yaml:"tls"`  // starttls (default), implicit or none
	Username string        `yaml:"username"`
	Password redact.String `yaml:"password"`
	From     string        `yaml:"from"`
	To       []string      `yaml:"to,some"` // who gets what rules send here
	Proxy    string        `yaml:"proxy"`
	CAFile   string        `yaml:"ca_file"`
}

// Rule says which event goes where.
type Rule struct {
	Events      []string `yaml:"events"`
	To          []string `yaml:"to"`
	MinSeverity string   `yaml:"min_severity"`
	Locale      string   `yaml:"locale"`
}

func webhookURL(field string, s redact.String) []problem.Problem {
	u, err := url.Parse(s.Reveal())
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return []problem.Problem{{Field: field, Rule: "notify.url", Text: "This is no URL to send to.", Fix: "an address such as https://siem.example.com/hook"}}
	}
	return nil
}

// Problems complains about a rule that says nothing.
func (r Rule) Problems() []problem.Problem {
	var ps []problem.Problem
	if len(r.Events) == 0 || len(r.To) == 0 {
		ps = append(ps, problem.Problem{Rule: "notify.rule", Text: "A rule needs events and where they go.", Fix: "{events: [signin.lockout], to: [dingtalk]}"})
	}
	switch r.MinSeverity {
	case "", "info", "warning", "critical":
	default:
		ps = append(ps, problem.Problem{Field: "MinSeverity", Rule: "notify.severity", Text: fmt.Sprintf("%q is unknown.", r.MinSeverity), Fix: "info, warning or critical"})
	}
	return ps
}
