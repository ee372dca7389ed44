package uptimekuma

import (
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the `uptime_kuma` section. Without a URL nothing is pushed.
type Config struct {
	// PushURL is the address that a monitor of the type Push shows. Its path ends
	// with the monitor's token, which is a secret.
	PushURL redact.String `yaml:"push_url"`
	Every   time.Duration `yaml:"every"` // default 60s, at least 5s
	Proxy   string        `yaml:"proxy"`
	CAFile  string        `yaml:"ca_file"`
}

const (
	defaultEvery = time.Minute
	shortest     = 5 * time.Second
)

// Problems complains about what could not be pushed to. It never repeats the URL.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if !c.PushURL.IsZero() {
		u, err := url.Parse(c.PushURL.Reveal())
		switch {
		case err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || u.Fragment != "" || u.User != nil:
			ps = append(ps, problem.Problem{Field: "PushURL", Rule: "uptime_kuma.url", Text: "This is no URL with a host, of the scheme https or http.", Fix: "the push URL that the monitor shows"})
		case !strings.Contains(u.Path, "/api/push/"):
			ps = append(ps, problem.Problem{Field: "PushURL", Rule: "uptime_kuma.url", Text: "This is no push URL of Uptime Kuma: its path has no /api/push/.", Fix: "the push URL that the monitor shows"})
		}
	}
	if c.Every != 0 && c.Every < shortest {
		ps = append(ps, problem.Problem{Field: "Every", Rule: "uptime_kuma.every", Text: "This is more often than a monitor can make use of.", Fix: "60s, at least 5s"})
	}
	return ps
}
