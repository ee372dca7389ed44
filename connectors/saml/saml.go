package saml

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
)

// Formats of a NameID (SAML core section 8.3).
const (
	formatPersistent  = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
	formatTransient   = "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"
	formatEmail       = "urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress"
	formatUnspecified = "urn:oasis:names:tc:SAML:1.1:nameid-format:unspecified"
)

// Connector signs people in at one SAML identity provider.
type Connector struct {
	id      string
	cfg     Config
	url     string
	source  *source
	keys    func(ctx context.Context, use string) ([]connectors.KeyPair, error)
	parsing chan struct{} // bounds how many documents are read at once (docs/security.md G9)
	now     func() time.Time
	log     *slog.Logger
}

var (
	_ connectors.RedirectConnector = (*Connector)(nil)
	_ connectors.Screener          = (*Connector)(nil)
	_ connectors.LogoutConnector   = (*Connector)(nil)
	_ connectors.Describer         = (*Connector)(nil)
	_ connectors.CertificateHolder = (*Connector)(nil)
)

// parsingAtOnce is enough for thousands of sign-ins a minute.
const parsingAtOnce = 8

// Open makes the connector. It calls nobody and reads no file.
func Open(env connectors.Env, cfg Config) (connectors.Connector, error) {
	for _, p := range cfg.Problems() {
		if !p.Warning {
			return nil, p
		}
	}
	if env.URL == "" || env.KeyPairs == nil || env.HTTPUpTo == nil || env.Now == nil {
		return nil, errors.New("saml: the environment is incomplete")
	}
	log := env.Log
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	pin, err := cfg.pin()
	if err != nil {
		return nil, err
	}
	s := &source{cfg: cfg, pin: pin, now: env.Now, log: log}
	if cfg.MetadataURL != "" {
		u, err := url.Parse(cfg.MetadataURL)
		if err != nil {
			return nil, fmt.Errorf("saml: metadata_url: %w", err)
		}
		if s.client, err = env.HTTPUpTo(maxMetadata, cfg.Proxy, cfg.CAFile, u.Hostname()); err != nil {
			return nil, fmt.Errorf("saml: outgoing client: %w", err)
		}
	}
	return &Connector{id: env.ID, cfg: cfg, url: env.URL, source: s, keys: env.KeyPairs, parsing: make(chan struct{}, parsingAtOnce), now: env.Now, log: log}, nil
}

// Check reads the metadata when its schedule says so. While a copy is good, one
// that cannot be had is no outage.
func (c *Connector) Check(ctx context.Context) error {
	if c.source.due() {
		if err := c.source.refresh(ctx); err != nil {
			if c.source.usable() == nil {
				return err
			}
			c.log.WarnContext(ctx, "saml: the metadata was not read again; the copy from before stays in use", "err", err)
		}
	}
	p, err := c.source.get(ctx)
	if err != nil {
		return err
	}
	if len(c.trusted(p)) == 0 {
		return fmt.Errorf("saml: every signing certificate in the metadata is over: %w", connectors.ErrUnavailable)
	}
	return nil
}

func (c *Connector) acs() string      { return c.url + "/callback" }
func (c *Connector) slo() string      { return c.url + "/slo" }
func (c *Connector) entityID() string { return c.url + "/metadata" }

// Certificates are the identity provider's signing certificates and our own,
// whose end is when the successor takes over: by then it must be known there.
func (c *Connector) Certificates(ctx context.Context) ([]connectors.Certificate, error) {
	p, err := c.source.get(ctx)
	if err != nil {
		return nil, err
	}
	var out []connectors.Certificate
	for _, k := range p.Keys {
		out = append(out, connectors.Certificate{Fingerprint: fingerprint(k.Raw), Ends: k.NotAfter})
	}
	for _, use := range []string{connectors.KeySigning, connectors.KeyEncryption} {
		pairs, err := c.keys(ctx, use)
		if err != nil {
			return nil, err
		}
		for _, k := range pairs {
			if k.State == connectors.KeyCurrent {
				out = append(out, connectors.Certificate{Fingerprint: fingerprint(k.Certificate.Raw), Ends: k.Until, Ours: true})
			}
		}
	}
	return out, nil
}

func fingerprint(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
