package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"text/tabwriter"

	"github.com/alecthomas/kong"
)

type trustCmd struct {
	List    trustListCmd    `cmd:"" help:"List the rules in the order in which they are tried."`
	Show    trustShowCmd    `cmd:"" help:"Show one rule, with its defaults."`
	Explain trustExplainCmd `cmd:"" help:"Say which rule takes a job's token, or its claims, and what differs from the others. The token is not used up."`
}

type trustListCmd struct{ admin }

// Run lists.
func (c trustListCmd) Run(e env, _ *kong.Kong) error {
	return c.list(e, "/trust", "name", "provider", "issuer", "service_account", "scope", "token_audience", "fixed")
}

type trustShowCmd struct {
	admin
	Name string `arg:"" help:"The rule's name."`
}

// Run shows.
func (c trustShowCmd) Run(e env, _ *kong.Kong) error {
	var rule map[string]any
	if err := c.call(e, http.MethodGet, "/trust/"+url.PathEscape(c.Name), nil, &rule); err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(rule)
	}
	w := tabwriter.NewWriter(e.stdout, 2, 4, 2, ' ', 0)
	for _, k := range slices.Sorted(maps.Keys(rule)) {
		switch v := rule[k].(type) {
		case map[string]any:
			for _, claim := range slices.Sorted(maps.Keys(v)) {
				fmt.Fprintf(w, "%s.%s\t%v\n", k, claim, v[claim])
			}
		case []any:
			for _, one := range v {
				fmt.Fprintf(w, "%s\t%v\n", k, one)
			}
		default:
			fmt.Fprintf(w, "%s\t%v\n", k, v)
		}
	}
	return w.Flush()
}

type trustExplainCmd struct {
	admin
	File string `arg:"" optional:"" default:"-" help:"A file with a job's ID token, or with its claims as a JSON object; - is standard input."`
}

// maxSample bounds a token or its claims, in bytes.
const maxSample = 64 << 10

// Run explains.
func (c trustExplainCmd) Run(e env, _ *kong.Kong) error {
	in := e.stdin
	if c.File != "-" {
		f, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxSample+1))
	if err != nil {
		return err
	}
	raw = bytes.TrimSpace(raw)
	if len(raw) == 0 || len(raw) > maxSample {
		return errors.New("there is no token and no JSON object in it, or far too much")
	}
	body := map[string]any{"token": string(raw)}
	if raw[0] == '{' {
		body = map[string]any{"claims": json.RawMessage(raw)}
	}
	var out struct {
		Rule      string `json:"rule"`
		Signature string `json:"signature"`
		Time      string `json:"time"`
		Used      bool   `json:"used"`
		Rules     []struct {
			Rule        string `json:"rule"`
			Differences []struct {
				Claim    string `json:"claim"`
				Wanted   string `json:"wanted"`
				Received string `json:"received"`
				Missing  bool   `json:"missing"`
				Why      string `json:"why"`
			} `json:"differences"`
		} `json:"rules"`
	}
	if c.JSON {
		var all any
		if err := c.call(e, http.MethodPost, "/trust/explain", body, &all); err != nil {
			return err
		}
		return e.printJSON(all)
	}
	if err := c.call(e, http.MethodPost, "/trust/explain", body, &out); err != nil {
		return err
	}
	if out.Rule != "" {
		fmt.Fprintln(e.stdout, "matches rule", out.Rule)
	} else {
		fmt.Fprintln(e.stdout, "matches no rule")
	}
	fmt.Fprintln(e.stdout, "signature:", out.Signature)
	if out.Time != "" {
		fmt.Fprintln(e.stdout, "not good now because of", out.Time)
	}
	if out.Used {
		fmt.Fprintln(e.stdout, "used already: a token is good once")
	}
	w := tabwriter.NewWriter(e.stdout, 2, 4, 2, ' ', 0)
	for i, r := range out.Rules {
		if i == 0 {
			fmt.Fprintln(w, "RULE\tCLAIM\tWANTED\tRECEIVED\tWHY")
		}
		for _, d := range r.Differences {
			if d.Missing {
				d.Received = "(nothing)"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Rule, d.Claim, d.Wanted, d.Received, d.Why)
		}
	}
	return w.Flush()
}
