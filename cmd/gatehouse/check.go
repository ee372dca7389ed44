package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/config"
)

type checkCmd struct {
	Offline bool `help:"Validate alone, probe nothing."`
	Send    bool `help:"Also send what people see: a test message by every notification channel, a beat to push monitors."`
	JSON    bool `help:"Print JSON."`
	Dev     bool `help:"Check as serve --dev would read it."`
}

type checkReport struct {
	OK       bool            `json:"ok"`
	Findings config.Findings `json:"findings"`
	Probes   []broker.Probe  `json:"probes,omitempty"`
}

// Run prints findings and probes; the exit code is 1 if one that is required fails.
func (c checkCmd) Run(e env, _ *kong.Kong) error {
	cfg, findings, err := config.Load(e.config, config.LoadOptions{Types: broker.Types(), Dev: c.Dev})
	var fs config.Findings
	if err != nil && !errors.As(err, &fs) { // nothing could be read
		findings = config.Findings{{Severity: config.SeverityError, File: e.config, Rule: "file", Text: err.Error()}}
	}
	report := checkReport{OK: err == nil, Findings: findings}
	if err == nil && !c.Offline {
		report.Probes = broker.Check(e.ctx, cfg, broker.Options{Version: version, Log: broker.NewLogger(e.stderr, config.LogConfig{Level: "error", Format: "text"}), SecretKeys: redact.String(os.Getenv("GATEHOUSE_SECRET_KEY")), Send: c.Send})
		for _, p := range report.Probes {
			report.OK = report.OK && (p.OK || !p.Required)
		}
	}
	if c.JSON {
		if err := e.printJSON(report); err != nil {
			return err
		}
	} else {
		for _, f := range report.Findings {
			fmt.Fprintln(e.stdout, f)
		}
		if len(report.Probes) > 0 {
			w := tabwriter.NewWriter(e.stdout, 2, 4, 2, ' ', 0)
			fmt.Fprintln(w, "SYSTEM\tRESULT\tTOOK\tDETAIL")
			for _, p := range report.Probes {
				result := "ok"
				switch {
				case p.Skipped:
					result = "skipped"
				case !p.OK && p.Required:
					result = "FAILED"
				case !p.OK:
					result = "unavailable"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", p.Name, result, time.Duration(p.Millis)*time.Millisecond, p.Detail)
			}
			w.Flush()
		}
		if report.OK {
			fmt.Fprintln(e.stdout, "ok")
		}
	}
	if !report.OK {
		return errReported
	}
	return nil
}
