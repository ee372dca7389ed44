package notify

import (
	"context"

	"github.com/remotegpu/gatehouse/broker/event"
)

// toPerson is the mail to whom an event is about, in their language, to the
// address that the directory has now and that somebody proved; ok is false when
// there is none.
func (w *writer) toPerson(ctx context.Context, i item) (m Message, ok bool, err error) {
	p, ok, err := w.n.cfg.Person(ctx, i.Person)
	if err != nil || !ok || p.Email == "" {
		return Message{}, false, err
	}
	switch p.Locale {
	case "en", "zh-CN":
		w.locale = p.Locale
	}
	e := i.Event
	args := map[string]any{"brand": w.set.Brand}
	m = Message{Time: e.Time.In(w.set.Zone), Severity: e.Severity, Count: 1, Events: []event.Event{e}, To: []string{p.Email},
		Title: w.text("notify.you."+string(e.Name), args), Text: w.text("notify.you."+string(e.Name)+".text", args)}
	add := func(label, value string) {
		if value != "" {
			m.Fields = append(m.Fields, Field{w.text(label, nil), value})
		}
	}
	// Whoever is not the person themselves is not named: an operator's name is
	// not theirs to know.
	if e.Actor != "" && e.Actor != i.Person {
		add("notify.field.by", w.text("notify.operator", nil))
	}
	for _, key := range shapes()[e.Name].details {
		if key != "reason" { // the operator's own words
			add(labels()[key], e.Details[key])
		}
	}
	add("notify.field.connector", e.Connector)
	add("notify.field.ip", e.IP)
	add("notify.field.agent", e.Agent)
	if page := pageFor(e.Name); page != "" {
		m.Link, m.LinkText = w.set.Issuer+page, w.text("notify.you.open", nil)
	}
	return m, true, nil
}

// pageFor is where people see to what a mail tells them.
func pageFor(n event.Name) string {
	switch n {
	case event.SigninNewDevice, event.DeviceApproved:
		return "/account/sessions"
	case event.IdentityLinked, event.IdentityUnlinked:
		return "/account/links"
	case event.APIKeyCreated:
		return "/account/keys"
	case event.UserResumed:
		return "/account"
	}
	return "" // who is locked out or suspended cannot open one
}
