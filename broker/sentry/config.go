package sentry

import (
	"errors"
	"net"
	"net/url"

	sdk "github.com/getsentry/sentry-go"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// Config is the `sentry` section. Without a DSN nothing is sent.
type Config struct {
	// DSN is the project's address as Sentry shows it: https://KEY@HOST/PROJECT.
	DSN         redact.String `yaml:"dsn"`
	Environment string        `yaml:"environment"` // default production
	// TracesSampleRate is the part of requests whose traces are sent, 0 to 1;
	// default 0: errors alone.
	TracesSampleRate float64 `yaml:"traces_sample_rate"`
	Proxy            string  `yaml:"proxy"`
	CAFile           string  `yaml:"ca_file"`
}

const defaultEnvironment = "production"

// Host is the DSN's host with its port, which is no secret.
func (c Config) Host() (string, error) {
	u, err := c.endpoint()
	if err != nil {
		return "", err
	}
	return u.Host, nil
}

// endpoint is where envelopes go (develop.sentry.dev, "Envelopes", Ingestion).
func (c Config) endpoint() (*url.URL, error) {
	dsn, err := sdk.NewDsn(c.DSN.Reveal())
	if err != nil { // its text may hold the DSN
		return nil, errors.New("sentry.dsn is not of the form https://KEY@HOST/PROJECT")
	}
	return dsn.GetAPIURL(), nil
}

// Problems complains about a DSN that leads nowhere, without repeating it.
func (c Config) Problems() []problem.Problem {
	var ps []problem.Problem
	if !c.DSN.IsZero() {
		u, err := c.endpoint()
		if err == nil {
			if host, _, e := net.SplitHostPort(u.Host); e == nil && host == "" {
				err = errors.New("no host")
			}
		}
		if err != nil {
			ps = append(ps, problem.Problem{Field: "DSN", Rule: "sentry.dsn", Text: "This is no DSN of Sentry.", Fix: "https://KEY@HOST/PROJECT, from the project's settings, Client Keys"})
		}
	}
	if !(c.TracesSampleRate >= 0 && c.TracesSampleRate <= 1) {
		ps = append(ps, problem.Problem{Field: "TracesSampleRate", Rule: "sentry.rate", Text: "traces_sample_rate is a part of all requests.", Fix: "0.1, at most 1"})
	}
	return ps
}
