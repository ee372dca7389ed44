package tracing

import (
	"net/url"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the `tracing` section. Without an endpoint nothing is traced, and
// headers of others about traces pass through the gateway as they are.
type Config struct {
	// OTLPEndpoint is a collector's address for OTLP over HTTP; /v1/traces is added
	// where it is missing, as OTEL_EXPORTER_OTLP_ENDPOINT has it.
	OTLPEndpoint string `yaml:"otlp_endpoint"`
	// SampleRatio is the part of all traces that is kept, 0 to 1; default 0.1. A
	// trace that a trusted proxy has begun is kept when the proxy says so.
	SampleRatio *float64 `yaml:"sample_ratio"`
	// Headers go with every export: credentials of a hosted collector.
	Headers map[string]redact.String `yaml:"headers"`
	Proxy   string                   `yaml:"proxy"`
	CAFile  string                   `yaml:"ca_file"`
}

const (
	defaultRatio = 0.1
	tracesPath   = "/v1/traces" // opentelemetry.io, "OTLP Specification", section OTLP/HTTP Request
)

// Ratio is SampleRatio or its default.
func (c Config) Ratio() float64 {
	if c.SampleRatio == nil {
		return defaultRatio
	}
	return *c.SampleRatio
}

// URL is where traces are posted.
func (c Config) URL() (*url.URL, error) {
	u, err := url.Parse(c.OTLPEndpoint)
	if err != nil {
		return nil, err
	}
	if u.Path = strings.TrimRight(u.Path, "/"); !strings.HasSuffix(u.Path, tracesPath) {
		u.Path += tracesPath
	}
	return u, nil
}

// Problems complains about an endpoint that is none, and a ratio.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if c.OTLPEndpoint != "" {
		u, err := url.Parse(c.OTLPEndpoint)
		if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			ps = append(ps, problem.Problem{Field: "OTLPEndpoint", Rule: "tracing.url", Text: "This is no URL with a host, of the scheme https or http, without user and query.", Fix: "http://127.0.0.1:4318; credentials are written as tracing.headers"})
		}
	}
	if r := c.Ratio(); !(r >= 0 && r <= 1) {
		ps = append(ps, problem.Problem{Field: "SampleRatio", Rule: "tracing.ratio", Text: "sample_ratio is a part of all traces.", Fix: "0.1, at most 1"})
	}
	return ps
}
