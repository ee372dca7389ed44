package broker

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/remotegpu/gatehouse/broker/token"
)

// states are metrics that are read when somebody asks.
type states struct {
	b                                *Broker
	sessions, keyAge, stale, archive *prometheus.Desc
	connector, certificate           *prometheus.Desc
	upstreams, sockets               *prometheus.Desc
}

func newStates(b *Broker) *states {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gatehouse_"+name, help, labels, nil)
	}
	return &states{b: b,
		sessions:    d("sessions_active", "Sessions in use at this replica."),
		keyAge:      d("signing_key_age_seconds", "Age of the oldest signing key that is in use."),
		stale:       d("store_stale", "1 while this replica has not heard of the others and asks the store each time."),
		archive:     d("archive_lag_seconds", "Age of the oldest audit record that one of the archives does not hold yet; at the replica that archives."),
		connector:   d("connector_up", "1 while the connector can be reached.", "connector"),
		certificate: d("connector_certificate_expiry_seconds", "Time until the connector's certificates end; negative afterwards.", "connector"),
		upstreams:   d("gateway_upstream_up", "1 while the upstream of a route answered when it was last asked.", "route", "upstream"),
		sockets:     d("gateway_websockets_open", "WebSockets that are open.", "route"),
	}
}

// Describe names the metrics.
func (s *states) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.sessions, s.keyAge, s.stale, s.archive, s.connector, s.certificate, s.upstreams, s.sockets} {
		ch <- d
	}
}

// Collect reads them.
func (s *states) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(s.sessions, float64(s.b.sessions.Cached()))
	gauge(s.stale, bit(s.b.store.Stale()))
	if age, ok := s.b.keyAge(); ok {
		gauge(s.keyAge, age.Seconds())
	}
	if lag, ok := s.b.archiveLag(); ok {
		gauge(s.archive, lag.Seconds())
	}
	now := s.b.now()
	for _, c := range s.b.current.Load().door.States() {
		if c.Served {
			gauge(s.connector, bit(c.Up), c.ID)
		}
		if !c.CertificatesEnd.IsZero() {
			gauge(s.certificate, c.CertificatesEnd.Sub(now).Seconds(), c.ID)
		}
	}
	for _, r := range s.b.current.Load().gateway.States() {
		gauge(s.sockets, float64(r.Sockets), r.Route)
		if r.Upstream != "" && r.Known {
			gauge(s.upstreams, bit(r.Up), r.Route, r.Upstream)
		}
		for _, u := range r.Servers {
			if u.Known {
				gauge(s.upstreams, bit(u.Up), r.Route, u.Server)
			}
		}
	}
}

// keyAge is the age of the oldest key that signs.
func (b *Broker) keyAge() (time.Duration, bool) {
	ks, err := b.keys.Keys(context.Background())
	if err != nil {
		return 0, false
	}
	var oldest time.Duration
	found := false
	for _, k := range ks {
		if k.State == token.Current {
			oldest, found = max(oldest, b.now().Sub(k.From)), true
		}
	}
	return oldest, found
}

// archiveLag is how far behind the slowest archive is, where this replica
// archives.
func (b *Broker) archiveLag() (time.Duration, bool) {
	var slowest time.Duration
	found := false
	for _, a := range b.current.Load().archives {
		if lag, known := a.Lag(); known {
			slowest, found = max(slowest, lag), true
		}
	}
	return slowest, found
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
