package oidc

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/oauth2"

	"github.com/remotegpu/gatehouse/connectors"
)

// maxToken bounds any token that we take (docs/security.md, section 8).
const maxToken = 16 << 10

// tokens is an answer of the token endpoint.
type tokens struct{ access, refresh, idToken string }

// method says how we authenticate at the token endpoint. It is chosen
// beforehand: trying one after the other would send the secret twice.
func (c *Connector) method(p *provider) string {
	switch {
	case c.cfg.AuthMethod != "":
		return c.cfg.AuthMethod
	case c.key.Reveal() != nil:
		return "private_key_jwt"
	case c.cfg.ClientSecret.IsZero():
		return "none"
	case len(p.AuthMethods) > 0 && !slices.Contains(p.AuthMethods, "client_secret_basic") && slices.Contains(p.AuthMethods, "client_secret_post"):
		return "client_secret_post"
	}
	return "client_secret_basic" // the default of RFC 8414
}

func (c *Connector) oauth(p *provider, callbackURL string) *oauth2.Config {
	oc := &oauth2.Config{
		ClientID: c.cfg.ClientID, RedirectURL: cmp.Or(c.cfg.RedirectURI, callbackURL), Scopes: c.scopes(p),
		Endpoint: oauth2.Endpoint{AuthURL: p.Authorize, TokenURL: p.Token, AuthStyle: oauth2.AuthStyleInParams},
	}
	switch c.method(p) {
	case "client_secret_basic":
		oc.ClientSecret, oc.Endpoint.AuthStyle = c.cfg.ClientSecret.Reveal(), oauth2.AuthStyleInHeader
	case "client_secret_post":
		oc.ClientSecret = c.cfg.ClientSecret.Reveal()
	}
	return oc
}

// calling gives the OAuth library our client, which signs what it posts where
// the provider wants that.
func (c *Connector) calling(ctx context.Context, p *provider) context.Context {
	hc := *c.client
	if c.method(p) == "private_key_jwt" {
		hc.Transport = asserting{hc.Transport, func() (string, error) { return c.assertion(p) }}
	}
	return context.WithValue(ctx, oauth2.HTTPClient, &hc)
}

// exchange redeems the code.
func (c *Connector) exchange(ctx context.Context, p *provider, code, verifier, callbackURL string) (tokens, error) {
	t, err := c.oauth(p, callbackURL).Exchange(c.calling(ctx, p), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return tokens{}, fmt.Errorf("oidc: code exchange: %w", tokenError(ctx, err))
	}
	return read(t)
}

// refresh redeems a refresh token.
func (c *Connector) refresh(ctx context.Context, p *provider, token string) (tokens, error) {
	t, err := c.oauth(p, "").TokenSource(c.calling(ctx, p), &oauth2.Token{RefreshToken: token}).Token()
	if err != nil {
		return tokens{}, fmt.Errorf("oidc: refresh: %w", tokenError(ctx, err))
	}
	return read(t)
}

func read(t *oauth2.Token) (tokens, error) {
	idToken, _ := t.Extra("id_token").(string)
	out := tokens{access: t.AccessToken, refresh: t.RefreshToken, idToken: idToken}
	switch {
	case !strings.EqualFold(t.Type(), "bearer"):
		return tokens{}, errors.New("oidc: the access token is not a bearer token")
	case !opaque(out.access), out.refresh != "" && !opaque(out.refresh), len(out.idToken) > maxToken:
		return tokens{}, fmt.Errorf("oidc: a token is longer than %d bytes or has characters that no token has", maxToken)
	}
	return out, nil
}

// tokenError says what a refusal means, and takes the provider's own text out:
// the library prints the whole answer (docs/security.md G7, section 8).
func tokenError(ctx context.Context, err error) error {
	re, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		if ctx.Err() != nil { // in the middle of the answer, of which the library keeps the text alone
			return fmt.Errorf("%w: %w", ctx.Err(), connectors.ErrUnavailable)
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			return fmt.Errorf("%w: %w", withoutURL(ue), connectors.ErrUnavailable)
		}
		return errors.New("the answer is not what RFC 6749 says")
	}
	switch status := re.Response.StatusCode; {
	case status >= 500 || status == http.StatusTooManyRequests || re.ErrorCode == "temporarily_unavailable":
		return fmt.Errorf("status %d: %w", status, connectors.ErrUnavailable)
	case re.ErrorCode == "invalid_grant":
		return errInvalidGrant
	case re.ErrorCode != "":
		return fmt.Errorf("refused with %s", word(re.ErrorCode))
	default:
		return fmt.Errorf("unexpected status %d", status)
	}
}

// errInvalidGrant: the code or refresh token is not good, or no longer.
var errInvalidGrant = errors.New("refused with invalid_grant")

// assertion proves who we are (RFC 7523 section 3). Its audience is the issuer
// alone: a token endpoint's address can be another provider's.
func (c *Connector) assertion(p *provider) (string, error) {
	opts := (&jose.SignerOptions{}).WithType("JWT")
	if c.cfg.PrivateKeyID != "" {
		opts = opts.WithHeader("kid", c.cfg.PrivateKeyID)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algOf(c.key.Reveal()), Key: c.key.Reveal()}, opts)
	if err != nil {
		return "", err
	}
	now := c.now()
	claims, err := json.Marshal(map[string]any{
		"iss": c.cfg.ClientID, "sub": c.cfg.ClientID, "aud": p.Issuer, "jti": rand.Text(),
		"iat": now.Unix(), "exp": now.Add(time.Minute).Unix(),
	})
	if err != nil {
		return "", err
	}
	jws, err := signer.Sign(claims)
	if err != nil {
		return "", err
	}
	return jws.CompactSerialize()
}

// asserting adds our assertion to a form on its way to the token endpoint: the
// OAuth library has no other place for it at a refresh.
type asserting struct {
	next http.RoundTripper
	sign func() (string, error)
}

// RoundTrip sends the form with the assertion in it.
func (a asserting) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	r.Body.Close()
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, err
	}
	signed, err := a.sign()
	if err != nil {
		return nil, fmt.Errorf("client assertion: %w", err)
	}
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", signed)
	r = r.Clone(r.Context())
	text := form.Encode()
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(text)), int64(len(text))
	return a.next.RoundTrip(r)
}
