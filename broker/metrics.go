package broker

import (
	"context"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/token"
)

// metrics are Prometheus metrics whose labels are few and known beforehand:
// route templates, configured ids and our own words, never what a user or a
// stranger wrote (docs/security.md ST-6).
type metrics struct {
	registry    *prometheus.Registry
	requests    *prometheus.HistogramVec
	signins     *prometheus.CounterVec
	signinTime  *prometheus.HistogramVec
	tokens      *prometheus.CounterVec
	tokenErrors *prometheus.CounterVec
	routes      *prometheus.CounterVec
	routed      *prometheus.HistogramVec
	store       *prometheus.HistogramVec
	events      *prometheus.CounterVec
}

func newMetrics(version string) *metrics {
	m := &metrics{registry: prometheus.NewRegistry()}
	buckets := []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "gatehouse_" + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	histogram := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "gatehouse_" + name, Help: help, Buckets: buckets}, labels)
		m.registry.MustRegister(h)
		return h
	}
	m.requests = histogram("http_request_duration_seconds", "Time to answer, by handler and status.", buckets, "handler", "code")
	m.signins = counter("signins_total", "Sign-ins, by connector and result: succeeded, failed or lockout.", "connector", "result")
	m.signinTime = histogram("signin_duration_seconds", "Time that a connector took to decide on a sign-in.", buckets, "connector")
	m.tokens = counter("tokens_issued_total", "Answers of the token endpoint with a token, by grant type.", "grant")
	m.tokenErrors = counter("token_errors_total", "Errors of the token endpoint, by grant type and error.", "grant", "error")
	m.routes = counter("gateway_requests_total", "Requests through the gateway, by route and status.", "route", "code")
	m.routed = histogram("gateway_request_duration_seconds", "Time of requests through the gateway, by route.", buckets, "route")
	m.store = histogram("store_operation_duration_seconds", "Time of operations of the store.", []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .05, .1, .5, 1, 5}, "op")
	m.events = counter("events_total", "Events recorded, by name.", "event")
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "gatehouse_build_info", Help: "1, with the version."}, []string{"version", "go"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(build, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (m *metrics) request(handler string, code int, took time.Duration) {
	m.requests.WithLabelValues(handler, status(code)).Observe(took.Seconds())
}

func (m *metrics) signin(connector string, took time.Duration) {
	m.signinTime.WithLabelValues(connector).Observe(took.Seconds())
}

func (m *metrics) token(grantType, code string) {
	if code == "" {
		m.tokens.WithLabelValues(grantType).Inc()
		return
	}
	m.tokenErrors.WithLabelValues(grantType, code).Inc()
}

func (m *metrics) gatewayRequest(route string, code int, took time.Duration) {
	m.routes.WithLabelValues(route, status(code)).Inc()
	m.routed.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) storeOperation(op string, took time.Duration) {
	m.store.WithLabelValues(op).Observe(took.Seconds())
}

func (m *metrics) event(e event.Event) {
	m.events.WithLabelValues(string(e.Name)).Inc()
	switch e.Name {
	case event.SigninSucceeded:
		m.signins.WithLabelValues(e.Connector, "succeeded").Inc()
	case event.SigninFailed:
		m.signins.WithLabelValues(e.Connector, "failed").Inc()
	case event.SigninLockout:
		m.signins.WithLabelValues(e.Connector, "lockout").Inc()
	}
}

// status is a bounded label: what an upstream may answer is 100 to 599.
func status(code int) string {
	if code < 100 || code > 599 {
		return "other"
	}
	return strconv.Itoa(code)
}

// states are metrics that are read when somebody asks.
type states struct {
	b                             *Broker
	sessions, keyAge              *prometheus.Desc
	connector, upstreams, sockets *prometheus.Desc
	archiveLag                    *prometheus.Desc
}

func newStates(b *Broker) *states {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("gatehouse_"+name, help, labels, nil)
	}
	return &states{b: b,
		sessions:   d("sessions_active", "Sessions in use at this replica."),
		keyAge:     d("signing_key_age_seconds", "Age of the oldest signing key that is in use."),
		connector:  d("connector_up", "1 while the connector can be reached.", "connector"),
		upstreams:  d("gateway_upstream_up", "1 while the upstream of a route answered when it was last asked.", "route", "upstream"),
		sockets:    d("gateway_websockets_open", "WebSockets that are open.", "route"),
		archiveLag: d("archive_lag_seconds", "How long the oldest audit record that is not in the bucket has been waiting; at the replica that archives.", "bucket"),
	}
}

// Describe names the metrics.
func (s *states) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{s.sessions, s.keyAge, s.connector, s.upstreams, s.sockets, s.archiveLag} {
		ch <- d
	}
}

// Collect reads them.
func (s *states) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(s.sessions, float64(s.b.sessions.Cached()))
	if age, ok := s.b.keyAge(); ok {
		gauge(s.keyAge, age.Seconds())
	}
	for _, c := range s.b.current.Load().door.States() {
		if c.Served {
			gauge(s.connector, bit(c.Up), c.ID)
		}
	}
	for _, a := range s.b.current.Load().archives {
		if lag, known := a.Lag(); known {
			gauge(s.archiveLag, lag.Seconds(), a.Name())
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

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
