package broker

import (
	"context"
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/remotegpu/gatehouse/broker/detect"
	"github.com/remotegpu/gatehouse/broker/session"
)

// detection is what notices odd things, as long as the process lasts. Its bounds
// are those of the configuration that serves.
type detection struct {
	raiser     *detect.Raiser
	log        *detect.Log
	probes     *detect.Probes
	clocks     *detect.Clocks
	operations *detect.Operations
	storeClock func(context.Context) (time.Time, error) // nil: the store's is this machine's
}

// openDetection makes the rules over the log and the probes; the store is
// observed from the start.
func (b *Broker) openDetection() (err error) {
	d := &b.detection
	if d.raiser, err = detect.NewRaiser(detect.RaiserConfig{KV: b.store, Sealer: b.sealer, Record: b.events.Record, Config: b.detectionConfig, Now: b.now}); err != nil {
		return err
	}
	if d.log, err = detect.NewLog(detect.LogConfig{Log: b.store, KV: b.store, Raiser: d.raiser}); err != nil {
		return err
	}
	d.probes, err = detect.NewProbes(detect.ProbesConfig{Raiser: d.raiser, Endings: b.endings, StoreClock: d.storeClock, Clocks: d.clocks, Operations: d.operations,
		Replica: replicaName(), Log: b.log})
	return err
}

// detectionConfig is the section `detection` that holds now.
func (b *Broker) detectionConfig() detect.Config {
	cfg := b.cfg
	if s := b.current.Load(); s != nil {
		cfg = s.cfg
	}
	return cfg.Detection.WithDefaults()
}

// replicaName tells this machine's findings from another's.
func replicaName() string {
	if name, err := os.Hostname(); err == nil && name != "" {
		return name
	}
	return "this replica"
}

// endings lists what stops working at a time that we know. Certificates of
// connectors have an event of their own (connector.certificate_expiring).
func (b *Broker) endings(ctx context.Context) ([]detect.Ending, error) {
	var out []detect.Ending
	add := func(kind, id, target string, leaf *x509.Certificate) {
		if leaf != nil {
			out = append(out, detect.Ending{Kind: kind, ID: id, Target: target, Begins: leaf.NotBefore, Ends: leaf.NotAfter})
		}
	}
	for _, c := range b.certificates {
		add("tls_certificate", filepath.Base(c.certFile), "tls", c.leaf())
	}
	for _, c := range b.current.Load().gateway.ClientCertificates() {
		add("upstream_certificate", c.Route, c.Route, c.Leaf)
	}
	accounts, err := b.accounts.List(ctx)
	for _, a := range accounts {
		keys, kerr := b.apiKeys.Of(ctx, a.Name)
		err = errors.Join(err, kerr)
		for _, k := range keys {
			// One that was rotated is meant to end, and of one that is long over there
			// is nothing to say.
			if k.Service && k.Revoked.IsZero() && k.Successor == "" && b.now().Sub(k.Expires) < 24*time.Hour {
				out = append(out, detect.Ending{Kind: "api_key", ID: k.ID, Target: k.ID, Owner: k.Owner, Begins: k.Created, Ends: k.Expires})
			}
		}
	}
	return out, err
}

// sessionMoved raises a session that goes to and fro between networks.
func (b *Broker) sessionMoved(ctx context.Context, s session.Session, m session.Move) {
	f := detect.Moved(s.ID, s.UserID, s.Connector, m.From, m.To, m.Times)
	f.Between(b.country(m.From), b.country(m.To))
	if err := b.detection.raiser.Raise(ctx, f); err != nil {
		b.log.ErrorContext(ctx, "a session that moves between networks was not told of; it is when it moves on", "session", s.ID, "err", err)
	}
}
