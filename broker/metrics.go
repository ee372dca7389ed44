package broker

import (
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/remotegpu/gatehouse/broker/event"
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
	notified    *prometheus.CounterVec
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
	m.notified = counter("notifications_total", "Notifications, by channel and result: delivered, retried, rate_limited, dead, skipped or dropped.", "channel", "result")
	for _, name := range event.All() { // a counter that is not there yet has no increase
		m.events.WithLabelValues(string(name))
	}
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

func (m *metrics) notification(channel, result string) {
	m.notified.WithLabelValues(channel, result).Inc()
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

// expect makes the series of what a configuration names begin at 0, so that the
// first of them counts as an increase.
func (m *metrics) expect(connectors, routes []string) {
	for _, id := range connectors {
		for _, result := range []string{"succeeded", "failed", "lockout"} {
			m.signins.WithLabelValues(id, result)
		}
	}
	for _, name := range routes {
		m.routed.WithLabelValues(name)
	}
}

// status is a bounded label: what an upstream may answer is 100 to 599.
func status(code int) string {
	if code < 100 || code > 599 {
		return "other"
	}
	return strconv.Itoa(code)
}
