package config

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// defaults fills in what nobody set, then what the environment overrides:
// GATEHOUSE_LISTEN, GATEHOUSE_ADMIN_LISTEN, GATEHOUSE_DATA, GATEHOUSE_STORE.
func (c *Config) defaults(opts LoadOptions) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Listen, "127.0.0.1:8080")
	def(&c.AdminListen, "127.0.0.1:9091")
	def(&c.SecretKeyFile, filepath.Join("data", "secret.key"))
	def(&c.DefaultLocale, "zh-CN")
	def(&c.Brand, "RemoteGPU")
	c.DataDir = "data"
	if c.Store == "" {
		c.Store = redact.String("sqlite:" + filepath.Join("data", "gatehouse.db"))
	}
	if v, ok := opts.Env("GATEHOUSE_LISTEN"); ok && v != "" {
		c.Listen = v
	}
	if v, ok := opts.Env("GATEHOUSE_ADMIN_LISTEN"); ok && v != "" {
		c.AdminListen = v
	}
	if v, ok := opts.Env("GATEHOUSE_STORE"); ok && v != "" {
		c.Store = redact.String(v)
	}
	if dir, ok := opts.Env("GATEHOUSE_DATA"); ok && dir != "" {
		c.DataDir = dir
		c.SecretKeyFile = filepath.Join(dir, filepath.Base(c.SecretKeyFile))
		if rest, ok := strings.CutPrefix(c.Store.Reveal(), "sqlite:"); ok {
			file, query, has := strings.Cut(rest, "?")
			s := "sqlite:" + filepath.Join(dir, filepath.Base(file))
			if has {
				s += "?" + query
			}
			c.Store = redact.String(s)
		}
	}
	if c.Dev {
		c.devDefaults(opts)
	}
}

// devDefaults makes the demo fit the address that it listens on.
func (c *Config) devDefaults(opts LoadOptions) {
	_, port, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return
	}
	if c.Issuer == "" {
		c.Issuer = "http://127.0.0.1:" + port
	}
	if v, _ := opts.Env("GATEHOUSE_DEV_CONTAINER"); v == "1" {
		// The demo console is another container of the same network.
		c.Consoles.Networks = append(c.Consoles.Networks, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
	}
	upstream, set := opts.Env("GATEHOUSE_DEMO_UPSTREAM")
	for i := range c.Routes {
		if c.Routes[i].Upstream == DemoUpstream && set && upstream != "" {
			c.Routes[i].Upstream = upstream
		}
	}
	for i := range c.Resources {
		if c.Resources[i].Name == "demo-api" && c.Resources[i].URI == "" {
			c.Resources[i].URI = "http://api.localhost:" + port
		}
	}
}

// devListeners refuses to show the demo's public passwords to a network.
func (c *Config) devListeners(opts LoadOptions) []Finding {
	if v, _ := opts.Env("GATEHOUSE_DEV_CONTAINER"); !c.Dev || v == "1" {
		return nil
	}
	var out []Finding
	for _, l := range []string{c.Listen, c.GatewayListen, c.AdminListen} {
		if l == "" {
			continue
		}
		if host, _, err := net.SplitHostPort(l); err != nil || !loopback(host) {
			out = append(out, Finding{Severity: SeverityError, Rule: "dev.listen", Text: fmt.Sprintf("--dev listens on loopback addresses alone, and %s is none: its passwords are public.", l), Fix: "127.0.0.1:8080, or leave --dev out"})
		}
	}
	return out
}

// DemoUpstream stands in dev.yml for the address of the demo upstream, which is
// known when it listens.
const DemoUpstream = "http://demo-upstream.invalid"
