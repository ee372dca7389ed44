package notify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// Settings are the parts of the configuration that notifications are made of.
type Settings struct {
	DingTalk, WeChat, Slack, Feishu []Channel
	Webhooks                        []Webhook
	SMTP                            []SMTP
	Rules                           []Rule
	// Locale is that of a rule without one, and of people who have none.
	Locale string
	// Zone is where times are told.
	Zone *time.Location
	// Issuer begins every link; Brand is the service's name.
	Issuer, Brand string
	// Text returns a text by its id, with {places} filled in.
	Text func(locale, id string, args map[string]any) string
	Env  Env
}

// channel is one place to tell things.
type channel struct {
	id      string   // of its records in the store; fits in a path
	name    string   // as rules name it
	kind    string   // the section: dingtalk, wechat, slack, feishu, webhooks, smtp, or people
	address string   // host and the last characters, for operators (docs/security.md NO-1)
	print   string   // a hash of all its settings
	events  []string // a webhook's own rule
	mute    bool     // a mail server that says nothing of whom operators' mail goes to
	pace    pace
	sender  Sender
}

// Plan is what one configuration makes of notifications. It never changes.
type Plan struct {
	set      Settings
	channels []*channel
	rules    []rule
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// idOf makes a name fit for a path and a key: itself where it does, else a hash.
func idOf(name string) string {
	if plainName.MatchString(name) {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return "x" + hex.EncodeToString(sum[:8])
}

// Prepare opens the channels of a configuration and compiles its rules. Nothing
// is used yet: see Notifier.Use.
func Prepare(s Settings) (*Plan, error) {
	if s.Text == nil || s.Issuer == "" {
		return nil, errors.New("notify: Text and Issuer are needed")
	}
	s.Locale, s.Brand = cmp.Or(s.Locale, "zh-CN"), cmp.Or(s.Brand, "Gatehouse")
	if s.Zone == nil {
		s.Zone = time.UTC
	}
	p := &Plan{set: s}
	for _, section := range []struct {
		kind string
		list []Channel
		open func(Channel, Env) (Sender, error)
	}{{"dingtalk", s.DingTalk, NewDingTalk}, {"wechat", s.WeChat, NewWeCom}, {"slack", s.Slack, NewSlack}, {"feishu", s.Feishu, NewFeishu}} {
		for _, c := range section.list {
			sender, err := section.open(c, s.Env)
			if err := p.add(channel{kind: section.kind, name: c.Name, address: shown(c.WebhookURL), print: settingsPrint(c, c.WebhookURL, c.Secret), sender: sender}, err); err != nil {
				return nil, err
			}
		}
	}
	for i, w := range s.Webhooks {
		name := w.Name
		if name == "" && len(s.Webhooks) > 1 {
			name = fmt.Sprintf("webhooks-%s", settingsPrint(i, w.URL)[:6])
		}
		sender, err := NewWebhook(w, s.Env)
		if err := p.add(channel{kind: "webhooks", name: name, address: shown(w.URL), print: settingsPrint(w, w.URL, w.Secret), events: w.Events, sender: sender}, err); err != nil {
			return nil, err
		}
	}
	for i, m := range s.SMTP {
		sender, err := NewSMTP(m, s.Env)
		print := settingsPrint(m, m.Password)
		if err := p.add(channel{kind: "smtp", name: m.Name, address: m.Host, print: print, mute: len(m.To) == 0, sender: sender}, err); err != nil {
			return nil, err
		}
		if i == 0 { // the first server writes to people themselves
			p.channels = append(p.channels, &channel{id: peopleID, name: peopleName, kind: "people", address: m.Host, print: print, pace: paceOf("people"), sender: sender})
		}
	}
	p.rules = p.compile()
	// The senders have them: nobody else needs the secrets.
	p.set.DingTalk, p.set.WeChat, p.set.Slack, p.set.Feishu, p.set.Webhooks, p.set.SMTP = nil, nil, nil, nil, nil, nil
	return p, nil
}

// peopleID is the queue of mail to the people whom an event is about. No channel
// of the configuration can have its name.
const (
	peopleID   = "_people"
	peopleName = "people"
)

// add takes a channel whose sender was opened, or failed to with err.
func (p *Plan) add(c channel, err error) error {
	c.name = cmp.Or(c.name, c.kind)
	if err != nil {
		return fmt.Errorf("%s %s: %w", c.kind, c.name, err)
	}
	for _, other := range p.channels {
		if other.name == c.name {
			return fmt.Errorf("%s: there are two channels called %q: give each a name of its own", c.kind, c.name)
		}
	}
	c.id, c.pace = idOf(c.name), paceOf(c.kind)
	p.channels = append(p.channels, &c)
	return nil
}

// settingsPrint tells one configuration of a channel from another.
func settingsPrint(v any, secrets ...redact.String) string {
	h := sha256.New()
	fmt.Fprintf(h, "%+v", v)
	for _, s := range secrets {
		fmt.Fprintf(h, "\x00%s", s.Reveal())
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// shown is what operators see of an address that holds a secret: its host and
// its last four characters (docs/security.md NO-1).
func shown(address redact.String) string {
	u, err := url.Parse(address.Reveal())
	if err != nil {
		return ""
	}
	last := strings.TrimRight(u.Path, "/")
	if u.RawQuery != "" {
		last = u.RawQuery
	}
	if len(last) < 16 { // a short one would be told whole
		return u.Host
	}
	return u.Host + " …" + last[len(last)-4:]
}

// find returns the channel of an id, or nil.
func (p *Plan) find(id string) *channel {
	for _, c := range p.channels {
		if c.id == id {
			return c
		}
	}
	return nil
}

// sendTimeout bounds one try to send; mail is an exchange of many steps.
func (c *channel) sendTimeout() time.Duration {
	if c.kind == "smtp" || c.kind == "people" {
		return time.Minute
	}
	return 15 * time.Second
}

// test sends a message to a channel at once, past its queue.
func (p *Plan) test(ctx context.Context, c *channel, id string, now time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, c.sendTimeout())
	defer cancel()
	return c.sender.Send(ctx, p.testMessage(id, now))
}
