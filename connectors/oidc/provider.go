package oidc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/jwks"
)

const (
	maxMetadata = 256 << 10
	// metadataFresh is how long a discovery document is used without a question,
	// metadataStale how long when the question has no answer.
	metadataFresh = time.Hour
	metadataStale = 24 * time.Hour
	// retryAfter keeps a crowd from asking a provider in trouble one by one.
	retryAfter = 2 * time.Second
)

// provider is what is used of the discovery document (OpenID Connect
// Discovery 1.0 section 3, RFC 8414).
type provider struct {
	Issuer       string   `json:"issuer"`
	Authorize    string   `json:"authorization_endpoint"`
	Token        string   `json:"token_endpoint"`
	JWKS         string   `json:"jwks_uri"`
	UserInfo     string   `json:"userinfo_endpoint"`
	EndSession   string   `json:"end_session_endpoint"`
	Scopes       []string `json:"scopes_supported"`
	AuthMethods  []string `json:"token_endpoint_auth_methods_supported"`
	IssParameter bool     `json:"authorization_response_iss_parameter_supported"`
}

// lazy holds the discovery document once somebody needed it: a provider that is
// down does not stop our start, and is asked again at the next need.
type lazy struct {
	turn  chan struct{} // holds one: who asks
	mu    sync.Mutex
	have  *provider
	at    time.Time // when it was read
	err   error
	errAt time.Time
}

func (l *lazy) init() { l.turn = make(chan struct{}, 1) }

// known returns what need not be asked for: a fresh document, an old one or an
// error for as long as the last question failed not long ago. old is a document
// that may be used when there is no better one.
func (l *lazy) known(now time.Time) (p, old *provider, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	age, failed := now.Sub(l.at), now.Sub(l.errAt)
	if l.have != nil && age < metadataStale {
		old = l.have
	}
	switch {
	case l.have != nil && age < metadataFresh, old != nil && l.err != nil && failed < jwks.RefetchEvery:
		return l.have, old, nil
	case l.err != nil && failed < retryAfter:
		return nil, old, l.err
	}
	return nil, old, nil
}

// get returns the document, and asks for it when there is none or it is old. Of
// many who come at once one asks, and who has an old one does not wait for it.
func (l *lazy) get(ctx context.Context, c *Connector) (*provider, error) {
	p, old, err := l.known(c.now())
	if p != nil || err != nil {
		return p, err
	}
	if old != nil {
		select {
		case l.turn <- struct{}{}:
		default:
			return old, nil
		}
	} else {
		select {
		case l.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, fmt.Errorf("oidc: waited for discovery: %w: %w", ctx.Err(), connectors.ErrUnavailable)
		}
	}
	defer func() { <-l.turn }()
	if p, _, err := l.known(c.now()); p != nil || err != nil { // somebody has asked meanwhile
		return p, err
	}
	p, err = l.ask(ctx, c)
	if err != nil && old != nil {
		c.log.WarnContext(ctx, "oidc: the discovery document was not renewed; the last one is used", "err", err)
		return old, nil
	}
	return p, err
}

// ask asks without regard to what is there.
func (l *lazy) ask(ctx context.Context, c *Connector) (*provider, error) {
	p, err := c.discover(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case err == nil:
		l.have, l.at, l.err = p, c.now(), nil
	case !errors.Is(ctx.Err(), context.Canceled): // a visitor who left says nothing about the provider
		l.err, l.errAt = err, c.now()
	}
	return p, err
}

// discover reads the document, puts what the operator wrote over it, and checks
// what is left.
func (c *Connector) discover(ctx context.Context) (*provider, error) {
	p := &provider{Issuer: c.cfg.Issuer}
	if c.cfg.AuthorizeURL == "" || c.cfg.TokenURL == "" || c.cfg.JWKSURL == "" {
		body, err := c.fetch(ctx, strings.TrimSuffix(c.cfg.Issuer, "/")+"/.well-known/openid-configuration", "", maxMetadata)
		if err != nil {
			return nil, fmt.Errorf("oidc: discovery: %w", err)
		}
		if json.Unmarshal(body, p) != nil {
			return nil, errors.New("oidc: discovery: the answer is no discovery document")
		}
		// Anything else is another provider's document (OpenID Connect Discovery
		// 1.0 section 4.3).
		if p.Issuer != c.cfg.Issuer {
			return nil, fmt.Errorf("oidc: discovery: the document is of issuer %q, not of %q: issuer must be written as the provider writes it", short(p.Issuer), c.cfg.Issuer)
		}
	}
	for _, o := range []struct {
		at      *string
		written string
		name    string
		needed  bool
	}{
		{&p.Authorize, c.cfg.AuthorizeURL, "authorization_endpoint", true}, {&p.Token, c.cfg.TokenURL, "token_endpoint", true},
		{&p.JWKS, c.cfg.JWKSURL, "jwks_uri", true}, {&p.UserInfo, c.cfg.UserInfoURL, "userinfo_endpoint", false},
		{&p.EndSession, c.cfg.EndSessionURL, "end_session_endpoint", false},
	} {
		*o.at = cmp.Or(o.written, *o.at)
		if *o.at == "" && !o.needed {
			continue
		}
		u, err := url.Parse(*o.at)
		if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http" {
			return nil, fmt.Errorf("oidc: discovery: %s is missing or no address", o.name)
		}
		// A document that came over https does not lead back to http.
		if o.written == "" && u.Scheme == "http" && strings.HasPrefix(c.cfg.Issuer, "https:") {
			return nil, fmt.Errorf("oidc: discovery: %s is not https", o.name)
		}
	}
	return p, nil
}

// errStatus is an answer other than 200.
type errStatus int

func (e errStatus) Error() string { return fmt.Sprintf("status %d", int(e)) }

// fetch reads a document to its end. No answer and a server in trouble are
// ErrUnavailable; a body is never quoted.
func (c *Connector) fetch(ctx context.Context, address, token string, limit int64) ([]byte, error) {
	return Fetch(ctx, c.client, address, token, limit)
}

// Fetch gets a JSON document with a bearer token, or without.
func Fetch(ctx context.Context, hc *http.Client, address, token string, limit int64) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", withoutURL(err), connectors.ErrUnavailable)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	switch {
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, fmt.Errorf("%w: %w", errStatus(resp.StatusCode), connectors.ErrUnavailable)
	case resp.StatusCode != http.StatusOK:
		return nil, errStatus(resp.StatusCode)
	case err != nil:
		return nil, fmt.Errorf("read: %w: %w", err, connectors.ErrUnavailable)
	case int64(len(body)) > limit:
		return nil, fmt.Errorf("the answer is larger than %d bytes", limit)
	}
	return body, nil
}

// Refused reports whether an answer said that the token is not good, or not for
// that.
func Refused(err error) bool {
	var s errStatus
	return errors.As(err, &s) && (s == http.StatusUnauthorized || s == http.StatusForbidden)
}

// withoutURL takes the address off a client's error: a query may hold what is
// nobody's business.
func withoutURL(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		if u, perr := url.Parse(ue.URL); perr == nil {
			return fmt.Errorf("%s %s://%s%s: %w", ue.Op, u.Scheme, u.Host, u.Path, ue.Err)
		}
		return ue.Err
	}
	return err
}

func short(s string) string { return s[:min(len(s), 128)] }

// scopes returns what is asked for: openid always, and by default what the
// provider says it has of profile, e-mail, groups and a refresh token.
func (c *Connector) scopes(p *provider) []string {
	s := slices.Clone(c.cfg.Scopes)
	if len(s) == 0 {
		if s = slices.Clone(c.flavour.Scopes); len(s) == 0 {
			s = []string{"openid", "profile", "email"}
			if slices.Contains(p.Scopes, "groups") {
				s = append(s, "groups")
			}
		}
		if slices.Contains(p.Scopes, "offline_access") && !slices.Contains(s, "offline_access") {
			s = append(s, "offline_access") // docs/security.md UP-9
		}
	}
	if !slices.Contains(s, "openid") {
		s = append([]string{"openid"}, s...)
	}
	return s
}
