package broker

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/templates"
)

// openNotifier makes the part of notifications that outlives a reload: queues
// and what is under way.
func (b *Broker) openNotifier() (*notify.Notifier, error) {
	return notify.New(notify.Config{
		KV: b.store, Log: b.store, Leaser: b.store, Sealer: b.sealer, Record: b.events.Record, Person: b.person,
		Observe: b.metrics.notification, Now: b.now, Logger: b.log,
	})
}

// notifications opens the channels of a configuration.
func (b *serving) notifications() (*notify.Plan, error) {
	cfg := b.cfg
	zone := time.UTC
	if cfg.TimeZone != "" {
		var err error
		if zone, err = time.LoadLocation(cfg.TimeZone); err != nil {
			return nil, err
		}
	}
	text, err := web.Texts(templates.FS)
	if err != nil {
		return nil, err
	}
	return notify.Prepare(notify.Settings{
		DingTalk: cfg.DingTalk, WeChat: cfg.WeChat, Slack: cfg.Slack, Feishu: cfg.Feishu, Webhooks: cfg.Webhooks, SMTP: cfg.SMTP, Rules: cfg.Notify,
		Locale: cfg.DefaultLocale, Zone: zone, Issuer: cfg.Issuer, Brand: cfg.Brand, Text: text,
		Env: notify.Env{Now: b.now, CAFile: cfg.Outgoing.CAFile, HTTP: func(proxy, caFile string, trusted ...string) (*http.Client, error) {
			return b.outgoing(0, proxy, caFile, trusted...)
		}},
	})
}

// person is what notifications may say of somebody, looked up when they are
// sent; only an address that was proved is written to.
func (b *Broker) person(ctx context.Context, id string) (notify.Person, bool, error) {
	u, err := b.users.Get(ctx, id)
	if errors.Is(err, user.ErrNotFound) {
		return notify.Person{}, false, nil
	}
	if err != nil {
		return notify.Person{}, false, err
	}
	p := notify.Person{Name: u.Name, Username: u.Username, Locale: web.PickLocale(u.Locale)}
	if u.EmailVerified {
		p.Email = u.Email
	}
	return p, true, nil
}
