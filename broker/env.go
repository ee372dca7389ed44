package broker

import (
	"context"
	"errors"
	"net/http"
	"net/url"

	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/config"
	"github.com/remotegpu/gatehouse/connectors"
)

// env is what a connector gets from us.
func (b *serving) env(id string) connectors.Env {
	return connectors.Env{
		ID: id, URL: b.cfg.Issuer + "/auth/" + id, Log: b.log.With("connector", id), Now: b.now, Mapping: mapping, HTTPUpTo: b.outgoing,
		HTTP: func(proxy, caFile string, trusted ...string) (*http.Client, error) {
			return b.outgoing(0, proxy, caFile, trusted...)
		},
		KeyPairs: func(ctx context.Context, use string) ([]connectors.KeyPair, error) {
			if b.pairs == nil { // `check` opens no store for this
				return nil, nil
			}
			return b.pairs.Get(ctx, use)
		},
	}
}

// outgoing makes a connector's client. max bounds an answer, in bytes; 0 is the
// usual bound.
func (b *serving) outgoing(max int64, proxy, caFile string, trusted ...string) (*http.Client, error) {
	fc, err := b.fetching(proxy, caFile, trusted...)
	if err != nil {
		return nil, err
	}
	fc.MaxBody = max
	return web.NewClient(fc)
}

// fetching is how far a client may reach that calls hosts of the configuration.
func (b *serving) fetching(proxy, caFile string, trusted ...string) (web.FetchConfig, error) {
	fc := web.FetchConfig{CAFile: caFile, AllowHosts: trusted, ProxyUntrusted: b.cfg.Outgoing.ProxyUntrusted, UserAgent: "Gatehouse/" + b.opts.Version, Answered: b.detection.clocks.Answer}
	for _, s := range b.cfg.Outgoing.AllowPrivate {
		if p, err := config.ParsePrefix(s); err == nil {
			fc.AllowPrivate = append(fc.AllowPrivate, p)
		} else {
			fc.AllowHosts = append(fc.AllowHosts, s)
		}
	}
	if fc.CAFile == "" {
		fc.CAFile = b.cfg.Outgoing.CAFile
	}
	if proxy == "" {
		proxy = b.cfg.Outgoing.Proxy
	}
	if proxy != "" {
		u, err := url.Parse(proxy)
		if err != nil || u.Host == "" {
			return fc, errors.New("proxy is not a URL such as http://proxy.example:3128")
		}
		fc.Proxy = u
	}
	return fc, nil
}
