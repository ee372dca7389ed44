// Package notify will tell people what happened. This version decodes and
// validates its configuration; nothing is sent yet.
package notify

import (
	"fmt"
	"net/url"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Channel is a chat robot: DingTalk, WeCom (`wechat`), Slack or Feishu. Its URL
// holds a secret.
type Channel struct {
	Name       string        `yaml:"name"`
	WebhookURL redact.String `yaml:"webhook_url"`
	Secret     redact.String `yaml:"secret"`
	Proxy      string        `yaml:"proxy"`
	CAFile     string        `yaml:"ca_file"`
}

// Webhook is somebody's own endpoint.
type Webhook struct {
	Name   string        `yaml:"name"`
	URL    redact.String `yaml:"url"`
	Secret redact.String `yaml:"secret"`
	Events []string      `yaml:"events"`
	Proxy  string        `yaml:"proxy"`
	CAFile string        `yaml:"ca_file"`
}

// SMTP is the mail server.
type SMTP struct {
	Name     string        `yaml:"name"`
	Host     string        `yaml:"host"`
	Port     int           `yaml:"port"`
	TLS      string        `yaml:"tls"` // starttls (default), implicit or none
	Username string        `yaml:"username"`
	Password redact.String `yaml:"password"`
	From     string        `yaml:"from"`
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
		return []problem.Problem{{Field: field, Rule: "notify.url", Text: "This is no URL to send to.", Fix: "the address that the chat's robot settings show"}}
	}
	return nil
}

// Problems complains about a channel that nothing could be sent to.
func (c Channel) Problems() []problem.Problem { return webhookURL("WebhookURL", c.WebhookURL) }

// Problems complains about a webhook that nothing could be sent to.
func (w Webhook) Problems() []problem.Problem { return webhookURL("URL", w.URL) }

// Problems complains about a mail server that could not be used.
func (s SMTP) Problems() []problem.Problem {
	var ps []problem.Problem
	if s.Host == "" || s.From == "" {
		ps = append(ps, problem.Problem{Field: "Host", Rule: "smtp.host", Text: "Mail needs a host and a from address.", Fix: "host: smtp.example.com, from: gatehouse@example.com"})
	}
	switch s.TLS {
	case "", "starttls", "implicit", "none":
	default:
		ps = append(ps, problem.Problem{Field: "TLS", Rule: "smtp.tls", Text: fmt.Sprintf("%q is unknown.", s.TLS), Fix: "starttls, implicit or none"})
	}
	return ps
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
