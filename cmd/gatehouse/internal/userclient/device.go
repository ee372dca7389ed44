package userclient

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// slowDown is what each slow_down adds to the interval (RFC 8628 section 3.5).
const slowDown = 5 * time.Second

// ByDevice signs in with a code that a person enters in a browser elsewhere (RFC
// 8628). show is told address and code, then the token endpoint is asked at the
// issuer's pace until there is an answer or the code has expired; while the
// issuer cannot be reached, ever more slowly.
func (c *Client) ByDevice(ctx context.Context, scopes []string, deviceName string, show func(Prompt) error) (Tokens, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Tokens{}, err
	}
	if m.Device == "" {
		return Tokens{}, fmt.Errorf("%s offers no sign-in by code (device flow); use --browser", c.opts.Issuer)
	}
	verifier, challenge := pkce()
	form := url.Values{"client_id": {ClientID}, "scope": {strings.Join(scopes, " ")}, "code_challenge": {challenge}, "code_challenge_method": {"S256"}}
	if name := Printable(deviceName, 60); name != "" {
		form.Set("device_name", name)
	}
	var a struct {
		DeviceCode string  `json:"device_code"`
		UserCode   string  `json:"user_code"`
		URI        string  `json:"verification_uri"`
		Complete   string  `json:"verification_uri_complete"`
		Expires    float64 `json:"expires_in"`
		Interval   float64 `json:"interval"`
	}
	began := c.opts.Now()
	if err := c.form(ctx, m.Device, form, &a); err != nil {
		return Tokens{}, err
	}
	if !opaque(a.DeviceCode, 4096) || !typed(a.UserCode) {
		return Tokens{}, fmt.Errorf("a code is missing or malformed: %w", ErrHostile)
	}
	if _, err := c.own(a.URI); err != nil {
		return Tokens{}, fmt.Errorf("verification_uri: %w", err)
	}
	if a.Complete != "" {
		if _, err := c.own(a.Complete); err != nil {
			return Tokens{}, fmt.Errorf("verification_uri_complete: %w", err)
		}
	}
	if a.Expires <= 0 {
		return Tokens{}, fmt.Errorf("the code does not say how long it lives: %w", ErrHostile)
	}
	ends := began.Add(time.Duration(min(a.Expires, 1800)) * time.Second)
	if err := show(Prompt{URL: a.URI, Complete: a.Complete, Code: a.UserCode, Expires: ends}); err != nil {
		return Tokens{}, err
	}
	interval := 5 * time.Second // where the issuer says nothing (RFC 8628 section 3.2)
	if a.Interval > 0 {
		interval = time.Duration(min(max(a.Interval, 1), 60)) * time.Second
	}
	return c.poll(ctx, a.DeviceCode, verifier, interval, ends)
}

// poll asks for the tokens until somebody has decided.
func (c *Client) poll(ctx context.Context, code, verifier string, interval time.Duration, ends time.Time) (Tokens, error) {
	wait := interval
	for {
		left := ends.Sub(c.opts.Now())
		if left <= 0 {
			return Tokens{}, ErrExpired
		}
		if err := c.opts.Sleep(ctx, min(wait, left)); err != nil {
			return Tokens{}, err
		}
		t, err := c.signedIn(ctx, url.Values{"grant_type": {grantDevice}, "device_code": {code}, "code_verifier": {verifier}}, "")
		switch {
		case err == nil:
			return t, nil
		case refused(err, "authorization_pending"):
			wait = interval
		case refused(err, "slow_down"):
			interval += slowDown
			wait = interval
		case refused(err, "access_denied"):
			return Tokens{}, fmt.Errorf("%w: %w", ErrDenied, err)
		case refused(err, "expired_token"):
			return Tokens{}, fmt.Errorf("%w: %w", ErrExpired, err)
		case errors.Is(err, ErrUnreachable):
			wait = min(2*wait, time.Minute)
		default:
			return Tokens{}, err
		}
	}
}

// typed reports whether a code can be read out and typed: letters, digits and
// dashes.
func typed(code string) bool {
	return len(code) >= 4 && len(code) <= 32 && !strings.ContainsFunc(code, func(r rune) bool {
		return r != '-' && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	})
}
