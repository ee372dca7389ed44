package broker

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/portal"
	"github.com/remotegpu/gatehouse/config"
)

// Reloaded is what a reload came to: keys of the configuration.
type Reloaded struct {
	Changed []string // in use now; connectors one by one: "connectors.acme"
	Restart []string // differ too, and are as before until the next start
	// Findings are the warnings; of a refused one all there is to say.
	Findings config.Findings
}

// ErrRejected means that a configuration was refused and nothing was changed.
var ErrRejected = errors.New("the configuration was refused; nothing was changed")

// reloads are one at a time.
type reloads struct {
	mu      sync.Mutex
	swapped chan struct{} // there may be another door
}

// Reload reads the configuration again and puts it to use, or refuses it whole:
// then the error is an ErrRejected, and the findings say why. actor is who wants
// it, for the event.
func (b *Broker) Reload(ctx context.Context, actor string) (Reloaded, error) {
	b.reloads.mu.Lock()
	defer b.reloads.mu.Unlock()
	out, err := b.reloadOnce()
	e := event.Event{Name: event.ConfigReloaded, Actor: actor, Target: "configuration"}
	if err != nil {
		e.Name, e.Details = event.ConfigRejected, map[string]string{"reason": clip(out.Findings.Error())}
		for _, f := range out.Findings {
			b.log.ErrorContext(ctx, ErrRejected.Error(), "actor", actor, "finding", f.String())
		}
	} else {
		e.Details = map[string]string{"changed": clip(strings.Join(out.Changed, " ")), "restart": clip(strings.Join(out.Restart, " "))}
		b.log.InfoContext(ctx, "the configuration was read again", "actor", actor, "changed", out.Changed)
		if len(out.Restart) > 0 {
			b.log.WarnContext(ctx, "these keys are as before until the next start", "keys", out.Restart)
		}
		for _, f := range out.Findings {
			b.log.WarnContext(ctx, "the configuration", "finding", f.String())
		}
	}
	if eerr := b.events.Record(context.WithoutCancel(ctx), e); eerr != nil { // what happened has happened
		b.log.ErrorContext(ctx, "an event was not recorded", "event", e.Name, "err", eerr)
	}
	return out, err
}

func (b *Broker) reloadOnce() (Reloaded, error) {
	refuse := func(fs config.Findings) (Reloaded, error) { return Reloaded{Findings: fs}, ErrRejected }
	broken := func(rule string, err error) (Reloaded, error) {
		return refuse(config.Findings{{Severity: config.SeverityError, Rule: rule, Text: err.Error()}})
	}
	if b.opts.Load == nil {
		return broken("reload", errors.New("this server does not know where its configuration is"))
	}
	cfg, findings, err := b.opts.Load()
	if fs := (config.Findings)(nil); errors.As(err, &fs) {
		return refuse(fs)
	} else if err != nil {
		return broken("file", err)
	}
	before := b.current.Load()
	out := Reloaded{Findings: findings, Restart: pin(cfg, b.cfg)}
	// What stays as it was must fit to what is new.
	for _, p := range cfg.Problems() {
		if len(out.Restart) > 0 && !p.Warning {
			return broken(p.Rule, errors.New(p.Text+" It is so with the values that hold until a restart of: "+strings.Join(out.Restart, ", ")+"."))
		}
	}
	out.Changed = differences(before.cfg, cfg)
	next, err := b.build(cfg, before)
	if err != nil {
		return broken("build", err)
	}
	b.use(next)
	select {
	case b.reloads.swapped <- struct{}{}:
	default:
	}
	return out, nil
}

// pin sets the keys that hold until the end of the process to what they were at
// the start, and returns the names of those that differ.
func pin(cfg, start *config.Config) []string {
	var out []string
	to, from := reflect.ValueOf(cfg).Elem(), reflect.ValueOf(start).Elem()
	for _, name := range []string{"Issuer", "Listen", "GatewayListen", "AdminListen", "TLS", "DataDir", "Store", "SecretKeyFile", "Keys", "Sentry", "Tracing", "Dev"} {
		a, b := to.FieldByName(name), from.FieldByName(name)
		if !reflect.DeepEqual(a.Interface(), b.Interface()) {
			f, _ := to.Type().FieldByName(name)
			out = append(out, key(f))
			a.Set(b)
		}
	}
	if cfg.Log.Flood != start.Log.Flood {
		out, cfg.Log.Flood = append(out, "log.flood"), start.Log.Flood
	}
	if cmp.Or(cfg.Log.Format, "json") != cmp.Or(start.Log.Format, "json") {
		out, cfg.Log.Format = append(out, "log.format"), start.Log.Format
	}
	if *cfg.Sessions.WithDefaults().OutageGrace != *start.Sessions.WithDefaults().OutageGrace {
		out = append(out, "sessions.outage_grace")
	}
	cfg.Sessions.OutageGrace = start.Sessions.OutageGrace
	return out
}

// differences names the top-level keys that are not the same.
func differences(old, cfg *config.Config) []string {
	var out []string
	a, b := reflect.ValueOf(old).Elem(), reflect.ValueOf(cfg).Elem()
	for i := range a.NumField() {
		if f := a.Type().Field(i); f.Name != "Connectors" && !reflect.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			out = append(out, key(f))
		}
	}
	byID := func(c *config.Config, id string) (config.Connector, bool) {
		i := slices.IndexFunc(c.Connectors, func(k config.Connector) bool { return k.ID == id })
		if i < 0 {
			return config.Connector{}, false
		}
		return c.Connectors[i], true
	}
	for _, k := range cfg.Connectors {
		if was, there := byID(old, k.ID); !there || !reflect.DeepEqual(was, k) {
			out = append(out, "connectors."+k.ID)
		}
	}
	for _, k := range old.Connectors {
		if _, there := byID(cfg, k.ID); !there {
			out = append(out, "connectors."+k.ID)
		}
	}
	return out
}

// key is how the file names a field.
func key(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// clip bounds what an event says.
func clip(s string) string {
	const most = 1000
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

// runDoors runs the jobs of the configuration that serves, whichever it is, until
// ctx ends: the door's, and the pushes to Uptime Kuma. Those of one that was
// replaced end at once.
func (b *Broker) runDoors(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		now := b.current.Load()
		running, stop := context.WithCancel(ctx)
		all.Go(func() { _ = now.door.Run(running) }) // returns nil
		all.Go(func() { now.kuma.Run(running) })
		select {
		case <-ctx.Done():
			stop()
			return nil
		case <-b.reloads.swapped:
			stop()
		}
	}
}

// reload is Reload for the API.
func (b *Broker) reload(ctx context.Context, actor string) (portal.Reload, error) {
	r, err := b.Reload(ctx, actor)
	out := portal.Reload{Changed: append([]string{}, r.Changed...), Restart: append([]string{}, r.Restart...), Findings: []portal.Finding{}}
	for _, f := range r.Findings {
		out.Findings = append(out.Findings, portal.Finding(f))
	}
	if errors.Is(err, ErrRejected) {
		return out, portal.ErrRejected
	}
	return out, err
}
