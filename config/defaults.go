package config

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
)

// defaults fills in what nobody set, then what the environment overrides:
// GATEHOUSE_LISTEN, GATEHOUSE_ADMIN_LISTEN, GATEHOUSE_STORE, GATEHOUSE_DATA.
func (c *Config) defaults(opts LoadOptions, at map[string]place) {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	def(&c.Listen, "127.0.0.1:8080")
	def(&c.AdminListen, "127.0.0.1:9091")
	def(&c.DataDir, "data")
	def(&c.SecretKeyFile, filepath.Join(c.DataDir, "secret.key"))
	def(&c.DefaultLocale, "zh-CN")
	def(&c.Brand, "RemoteGPU")
	if c.Store == "" {
		c.Store = redact.String("sqlite:" + filepath.Join(c.DataDir, "gatehouse.db"))
	}
	override := func(name, field string, set func(string)) {
		if v, ok := opts.Env(name); ok && v != "" {
			set(v)
			at[field] = place{file: "$" + name}
		}
	}
	override("GATEHOUSE_LISTEN", "Listen", func(v string) { c.Listen = v })
	override("GATEHOUSE_ADMIN_LISTEN", "AdminListen", func(v string) { c.AdminListen = v })
	override("GATEHOUSE_STORE", "Store", func(v string) { c.Store = redact.String(v) })
	override("GATEHOUSE_DATA", "DataDir", c.moveData)
	if c.Dev {
		c.devDefaults(opts)
	}
}

// moveData puts the data folder elsewhere, and with it what lies in it. A secret
// key or a store that the file puts somewhere else stays there.
func (c *Config) moveData(dir string) {
	move := func(path string) string {
		rel, err := filepath.Rel(c.DataDir, path)
		if err != nil || rel == ".." || strings.HasPrefix(rel, ".."+string(filepath.Separator)) {
			return path
		}
		return filepath.Join(dir, rel)
	}
	c.SecretKeyFile = move(c.SecretKeyFile)
	if rest, ok := strings.CutPrefix(c.Store.Reveal(), "sqlite:"); ok {
		file, query, has := strings.Cut(rest, "?")
		s := "sqlite:" + move(file)
		if has {
			s += "?" + query
		}
		c.Store = redact.String(s)
	}
	c.DataDir = dir
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
func (c *Config) devListeners(opts LoadOptions) []problem.Problem {
	if v, _ := opts.Env("GATEHOUSE_DEV_CONTAINER"); !c.Dev || v == "1" {
		return nil
	}
	var out []problem.Problem
	for _, l := range []struct{ field, addr string }{{"Listen", c.Listen}, {"GatewayListen", c.GatewayListen}, {"AdminListen", c.AdminListen}} {
		if l.addr == "" {
			continue
		}
		if host, _, err := net.SplitHostPort(l.addr); err != nil || !loopback(host) {
			out = append(out, problem.Problem{Field: l.field, Rule: "dev.listen", Text: fmt.Sprintf("--dev listens on loopback addresses alone, and %s is none: its passwords are public.", l.addr), Fix: "127.0.0.1:8080, or leave --dev out"})
		}
	}
	return out
}

// DemoUpstream stands in dev.yml for the address of the demo upstream, which is
// known when it listens.
const DemoUpstream = "http://demo-upstream.invalid"
