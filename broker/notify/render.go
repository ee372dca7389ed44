package notify

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// writer puts events into the words of one language.
type writer struct {
	n      *Notifier
	set    Settings
	locale string
	known  map[string]string // people looked up for this message
}

func (w *writer) text(id string, args map[string]any) string { return w.set.Text(w.locale, id, args) }

// message is what a channel is told; ok is false when there is nobody to tell.
func (s *sender) message(ctx context.Context, st progress, items []item, sums []repeats) (m Message, ok bool, err error) {
	w := &writer{n: s.n, set: s.plan.set, locale: s.plan.set.Locale, known: map[string]string{}}
	for _, i := range items {
		if i.Locale != "" {
			w.locale = i.Locale
			break
		}
	}
	if len(items) == 0 && len(sums) > 0 && sums[0].Locale != "" {
		w.locale = sums[0].Locale
	}
	switch {
	case s.ch.kind == "people":
		if m, ok, err = w.toPerson(ctx, items[0]); !ok || err != nil {
			return m, false, err
		}
	case len(items) == 1 && len(sums) == 0:
		m = w.single(ctx, items[0].Event)
	case len(items) == 0 && len(sums) == 1:
		m = w.single(ctx, sums[0].Event)
		m.Count = sums[0].Count
		m.Text = join(m.Text, w.text("notify.repeats", map[string]any{"count": sums[0].Count, "minutes": int(quietFor / time.Minute)}))
	default:
		m = w.digest(ctx, items, sums)
	}
	if st.Dropped > 0 {
		m.Text = join(m.Text, w.text("notify.dropped", map[string]any{"count": st.Dropped}))
	}
	m.ID, m.Locale = st.Batch.ID, w.locale
	return m, true, nil
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "\n" + b
}

// single is one event.
func (w *writer) single(ctx context.Context, e event.Event) Message {
	m := Message{Time: e.Time.In(w.set.Zone), Severity: e.Severity, Title: w.title(ctx, e), Text: w.text("notify.event."+string(e.Name), nil), Count: 1, Events: []event.Event{e}}
	sh := shapes()[e.Name]
	add := func(label, value string) {
		if value != "" {
			m.Fields = append(m.Fields, Field{w.text(label, nil), value})
		}
	}
	about := w.target(ctx, sh.target, e)
	add(targetLabel(sh.target), about)
	if by := w.who(ctx, e.Actor); by != about {
		add("notify.field.by", by)
	}
	if sh.target != connector {
		add("notify.field.connector", e.Connector)
	}
	if sh.target != client {
		add("notify.field.client", e.Client)
	}
	for _, key := range sh.details {
		add(labels()[key], e.Details[key])
	}
	add("notify.field.ip", e.IP)
	add("notify.field.agent", e.Agent)
	add("notify.field.event", string(e.Name)+" "+e.ID)
	return m
}

// title names the event and what it is about.
func (w *writer) title(ctx context.Context, e event.Event) string {
	t := w.text("event."+string(e.Name), nil)
	about := w.about(ctx, e)
	if about == "" {
		return t
	}
	if w.locale == "zh-CN" {
		return t + "：" + about
	}
	return t + ": " + about
}

// about is what an event is about: its target, else who did it.
func (w *writer) about(ctx context.Context, e event.Event) string {
	if t := w.target(ctx, shapes()[e.Name].target, e); t != "" {
		return t
	}
	return w.who(ctx, e.Actor)
}

// target is the event's target as people know it.
func (w *writer) target(ctx context.Context, k kindOf, e event.Event) string {
	switch k {
	case nothing:
		return ""
	case person:
		return w.who(ctx, e.Target)
	}
	return e.Target
}

// who names somebody: by name, with a masked address, since the readers of a
// chat are not those of the directory (docs/security.md NO-5).
func (w *writer) who(ctx context.Context, id string) string {
	switch id {
	case "":
		return ""
	case "operator":
		return w.text("notify.operator", nil)
	}
	if name, ok := w.known[id]; ok {
		return name
	}
	p, ok, err := w.n.cfg.Person(ctx, id)
	if err != nil { // the id is enough to go on; the message must not wait for a name
		w.n.cfg.Logger.LogAttrs(ctx, slog.LevelDebug, "somebody in a notification was not looked up", slog.String("id", id), slog.Any("err", err))
	}
	name := id
	if ok && err == nil {
		name = nameOf(p, id)
	}
	w.known[id] = name
	return name
}

func nameOf(p Person, id string) string {
	name, email := p.Name, maskEmail(p.Email)
	if name == "" {
		name = p.Username
	}
	if strings.Contains(name, "@") {
		name = maskEmail(name)
	}
	switch {
	case name == "" && email == "":
		return id
	case name == "":
		return email
	case email == "" || email == name:
		return name
	}
	return fmt.Sprintf("%s (%s)", name, email)
}

// maskEmail keeps the first two letters and the domain: li…@acme.com.
func maskEmail(s string) string {
	local, domain, ok := strings.Cut(s, "@")
	if !ok {
		return s
	}
	head := []rune(local)
	return string(head[:min(2, len(head)/2)]) + "…@" + domain
}

const (
	// digestLines and digestNames bound a digest: kinds of events, and names for
	// each of them.
	digestLines = 12
	digestNames = 3
)

// digest is many events in one message: a line for each kind of event.
func (w *writer) digest(ctx context.Context, items []item, sums []repeats) Message {
	type line struct {
		name  event.Name
		count int
		about []string
		seen  map[string]bool
	}
	var lines []*line
	byName := map[event.Name]*line{}
	m := Message{Severity: event.Info}
	add := func(e event.Event, count int) {
		l := byName[e.Name]
		if l == nil {
			l = &line{name: e.Name, seen: map[string]bool{}}
			byName[e.Name] = l
			lines = append(lines, l)
		}
		l.count += count
		m.Count += count
		if e.Severity.AtLeast(m.Severity) {
			m.Severity = e.Severity
		}
		if e.Time.After(m.Time) {
			m.Time = e.Time
		}
		m.Events = append(m.Events, e)
		if key := e.Target + "\x00" + e.Actor; !l.seen[key] {
			l.seen[key] = true
			if len(l.about) == digestNames { // no need to look up whom nobody will read
				return
			}
			if about := w.about(ctx, e); about != "" {
				l.about = append(l.about, about)
			}
		}
	}
	for _, i := range items {
		add(i.Event, 1)
	}
	for _, r := range sums {
		add(r.Event, r.Count)
	}
	m.Time = m.Time.In(w.set.Zone)
	m.Title = w.text("notify.digest", map[string]any{"count": m.Count})
	for i, l := range lines {
		if i == digestLines {
			m.Text = w.text("notify.digest_more", map[string]any{"count": len(lines) - i})
			break
		}
		value := fmt.Sprintf("×%d", l.count)
		if len(l.about) > 0 {
			value += "  " + strings.Join(l.about, ", ")
		}
		if len(l.seen) > digestNames {
			value += " …"
		}
		m.Fields = append(m.Fields, Field{w.text("event."+string(l.name), nil), value})
	}
	return m
}

// testMessage is what a test of a channel sends.
func (p *Plan) testMessage(id string, now time.Time) Message {
	text := func(key string) string {
		return p.set.Text(p.set.Locale, key, map[string]any{"brand": p.set.Brand})
	}
	return Message{ID: id, Time: now.In(p.set.Zone), Severity: event.Info, Locale: p.set.Locale, Title: text("notify.test.title"), Text: text("notify.test.text"),
		Fields: []Field{{text("notify.field.about"), p.set.Issuer}}, Link: p.set.Issuer + "/", LinkText: text("notify.open"), Count: 1}
}
