// Package workload verifies the ID tokens of CI jobs and of other programs that
// an OpenID Connect issuer vouches for: GitHub Actions, GitLab CI, Jenkins, any
// other. It knows keys and signatures; what a token may be exchanged for is
// judged by broker/workload.
package workload

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/jwks"
	"github.com/remotegpu/gatehouse/connectors/oidc"
)

const (
	// maxToken bounds a token, in bytes.
	maxToken = 16 << 10
	// maxMetadata bounds a discovery document, in bytes.
	maxMetadata = 256 << 10
	// patience bounds all calls for one token together.
	patience = 15 * time.Second
	// checkPatience bounds the question whether the issuer is there.
	checkPatience = 8 * time.Second
	// retryAfter is how long after a failed question an issuer of which we have no
	// keys is left alone, whoever sends how many tokens.
	retryAfter = 5 * time.Second
)

// Config says whose tokens are verified, and where the keys are.
type Config struct {
	// Provider is github_actions, gitlab_ci, jenkins or oidc.
	Provider string
	// Issuer is the iss of the tokens, to the letter.
	Issuer string
	// JWKSURI replaces what discovery says; JWKSFile replaces both.
	JWKSURI, JWKSFile string
	Proxy, CAFile     string
	// Listed says that the operator wrote this into the configuration, so that the
	// hosts may be private (docs/security.md G6).
	Listed bool
}

// Connector verifies the tokens of one issuer.
type Connector struct {
	cfg    Config
	client *http.Client
	log    *slog.Logger
	keys   *jwks.Keys
	file   *file // instead of keys
	algs   []jose.SignatureAlgorithm
}

var _ connectors.TokenConnector = (*Connector)(nil)

// Open makes a connector. It calls nobody: an issuer that is away does not stop
// the start.
func Open(env connectors.Env, cfg Config) (*Connector, error) {
	c := &Connector{cfg: cfg, log: env.Log, algs: []jose.SignatureAlgorithm{jose.RS256, jose.ES256}}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	switch cfg.Provider {
	case "github_actions", "gitlab_ci", "jenkins":
	case "oidc":
		c.algs = append(c.algs, jose.EdDSA) // for an issuer whose key set has such a key
	default:
		return nil, fmt.Errorf("workload: there is no provider %q", cfg.Provider)
	}
	if cfg.JWKSFile != "" {
		c.file = &file{path: cfg.JWKSFile}
		return c, nil
	}
	hc, err := env.HTTP(cfg.Proxy, cfg.CAFile, cfg.hosts()...)
	if err != nil {
		return nil, fmt.Errorf("workload: outgoing client: %w", err)
	}
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	c.client = &own
	now := env.Now
	if now == nil {
		now = time.Now
	}
	c.keys = jwks.New(jwks.Config{Name: "workload: " + cfg.Issuer, Fetch: c.document, Retry: retryAfter, Now: now, Log: c.log})
	return c, nil
}

// OpenWith makes a connector for an issuer whose key set is at hand.
func OpenWith(cfg Config, keys []byte) (*Connector, error) {
	set, err := jwks.Parse(keys)
	if err != nil {
		return nil, err
	}
	return &Connector{cfg: cfg, log: slog.New(slog.DiscardHandler), file: &file{set: set}, algs: []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}}, nil
}

// hosts are those that may be private.
func (c Config) hosts() []string {
	if !c.Listed {
		return nil
	}
	var out []string
	for _, a := range []string{c.Issuer, c.JWKSURI} {
		if u, err := url.Parse(a); err == nil && u.Host != "" {
			out = append(out, u.Hostname())
		}
	}
	return out
}

// document reads the key set of an issuer: its address is in the discovery
// document, which is asked for each time, since that is once an hour.
func (c *Connector) document(ctx context.Context, issuer string) ([]byte, error) {
	address := c.cfg.JWKSURI
	if address == "" {
		var err error
		if address, err = c.discover(ctx, issuer); err != nil {
			return nil, fmt.Errorf("discovery: %w", err)
		}
	}
	return oidc.Fetch(ctx, c.client, address, "", jwks.MaxBody)
}

// discover returns where the keys are (OpenID Connect Discovery 1.0 section 4).
func (c *Connector) discover(ctx context.Context, issuer string) (string, error) {
	body, err := oidc.Fetch(ctx, c.client, strings.TrimSuffix(issuer, "/")+"/.well-known/openid-configuration", "", maxMetadata)
	if err != nil {
		return "", err
	}
	var doc struct {
		Issuer string `json:"issuer"`
		JWKS   string `json:"jwks_uri"`
	}
	if json.Unmarshal(body, &doc) != nil {
		return "", errors.New("the answer is no discovery document")
	}
	if doc.Issuer != issuer { // section 4.3: another issuer's document
		return "", fmt.Errorf("the document is of issuer %q, not of %q: issuer must be written as the provider writes it, a slash at its end included", short(doc.Issuer), issuer)
	}
	from, err := url.Parse(issuer)
	if err != nil {
		return "", errors.New("the issuer is no address")
	}
	at, err := url.Parse(doc.JWKS)
	switch {
	case err != nil || at.Host == "" || at.User != nil || at.Fragment != "" || at.Scheme != "https" && at.Scheme != "http":
		return "", errors.New("jwks_uri is missing or no address")
	case at.Scheme != from.Scheme && at.Scheme != "https":
		return "", errors.New("jwks_uri is not https")
	case !strings.EqualFold(at.Host, from.Host):
		// Whoever can change the document would otherwise choose the keys' host too.
		return "", fmt.Errorf("jwks_uri is on another host, %q: write it into the rule as jwks_uri if that is right", short(at.Host))
	}
	return doc.JWKS, nil
}

// VerifyToken returns the claims of a token that one of the issuer's keys signed
// (docs/security.md CI-1, up to the signature). Numbers are json.Number, so that
// none is rounded into another. The error is ErrUnavailable where the keys could
// not be had; nothing was verified then.
func (c *Connector) VerifyToken(ctx context.Context, raw string) (map[string]any, error) {
	if raw == "" || len(raw) > maxToken || strings.Count(raw, ".") != 2 {
		return nil, errors.New("workload: this is no JWT")
	}
	jws, err := jose.ParseSignedCompact(raw, c.algs)
	if err != nil || len(jws.Signatures) != 1 {
		return nil, errors.New("workload: the token is malformed, or signed with an algorithm that is not taken")
	}
	// Another kind of JWT of the same issuer's may have the same claims (RFC 8725
	// section 3.11).
	if typ, there := jws.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]; there {
		if s, ok := typ.(string); !ok || !strings.EqualFold(s, "JWT") {
			return nil, errors.New("workload: its typ is that of another kind of token")
		}
	}
	payload, err := c.signed(ctx, raw, jws)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(strings.NewReader(string(payload)))
	d.UseNumber()
	claims := map[string]any{}
	if err := d.Decode(&claims); err != nil || claims == nil {
		return nil, errors.New("workload: the payload is no JSON object")
	}
	if claims["iss"] != c.cfg.Issuer {
		return nil, errors.New("workload: the iss is not this issuer's")
	}
	return claims, nil
}

func (c *Connector) signed(ctx context.Context, raw string, jws *jose.JSONWebSignature) ([]byte, error) {
	if c.file != nil {
		set, err := c.file.read()
		if err != nil {
			return nil, fmt.Errorf("workload: jwks_file: %w: %w", err, connectors.ErrUnavailable)
		}
		payload, err := jwks.Verify(jws, set)
		if err != nil {
			return nil, fmt.Errorf("workload: %w", err)
		}
		return payload, nil
	}
	// The keys are for all who come: who hangs up does not end the question.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	v := &jwks.Verifier{Keys: c.keys, Address: c.cfg.Issuer, Algs: c.algs}
	payload, err := v.VerifySignature(ctx, raw)
	switch {
	case v.Asked != nil && errors.Is(v.Asked, connectors.ErrUnavailable):
		return nil, v.Asked
	case v.Asked != nil: // an answer that cannot be used is no answer
		return nil, fmt.Errorf("%w: %w", v.Asked, connectors.ErrUnavailable)
	case err != nil:
		return nil, fmt.Errorf("workload: %w", err)
	}
	return payload, nil
}

// Check asks for the keys now.
func (c *Connector) Check(ctx context.Context) error {
	_, err := c.Inspect(ctx)
	return err
}

// Inspect is Check, and says what there is.
func (c *Connector) Inspect(ctx context.Context) (string, error) {
	if c.file != nil {
		set, err := c.file.read()
		if err != nil {
			return "", fmt.Errorf("workload: jwks_file: %w", err)
		}
		if c.file.path == "" {
			return count(len(set)), nil
		}
		// Nobody tells us when the issuer changes its keys: a person has to.
		return fmt.Sprintf("%s of jwks_file, as of %s", count(len(set)), c.file.changed().Format(time.DateOnly)), nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkPatience)
	defer cancel()
	set, err := c.keys.Ask(ctx, c.cfg.Issuer)
	if err != nil {
		return "", err
	}
	return count(len(set)), nil
}

func count(n int) string {
	if n == 1 {
		return "1 key"
	}
	return fmt.Sprintf("%d keys", n)
}

func short(s string) string { return s[:min(len(s), 128)] }
