package userclient

import (
	"context"
	"fmt"
	"net/http"
	"slices"
)

// Grant types of RFC 8628 and RFC 8693.
const (
	grantDevice   = "urn:ietf:params:oauth:grant-type:device_code"
	grantExchange = "urn:ietf:params:oauth:grant-type:token-exchange"
	typeAccess    = "urn:ietf:params:oauth:token-type:access_token"
)

// metadata is what the command line needs of discovery (RFC 8414 section 2,
// RFC 8628 section 4, RFC 9207 section 3).
type metadata struct {
	Issuer        string   `json:"issuer"`
	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Device        string   `json:"device_authorization_endpoint"`
	Revocation    string   `json:"revocation_endpoint"`
	UserInfo      string   `json:"userinfo_endpoint"`
	Grants        []string `json:"grant_types_supported"`
	Scopes        []string `json:"scopes_supported"`
}

// discover reads the issuer's metadata once. What it says is used only if it
// calls itself by the name that it was asked under, and names no other host.
func (c *Client) discover(ctx context.Context) (*metadata, error) {
	if c.meta != nil {
		return c.meta, nil
	}
	var m metadata
	if err := c.do(ctx, http.MethodGet, c.opts.Issuer+"/.well-known/openid-configuration", nil, nil, &m); err != nil {
		return nil, err
	}
	if m.Issuer != c.opts.Issuer {
		return nil, fmt.Errorf("the server at %s calls itself %s; use that address: %w", c.opts.Issuer, Printable(m.Issuer, 200), ErrHostile)
	}
	for _, e := range []struct {
		name, url string
		must      bool
	}{{"token_endpoint", m.Token, true}, {"authorization_endpoint", m.Authorization, false}, {"device_authorization_endpoint", m.Device, false},
		{"revocation_endpoint", m.Revocation, false}, {"userinfo_endpoint", m.UserInfo, false}} {
		if e.url == "" && !e.must {
			continue
		}
		if _, err := c.own(e.url); err != nil {
			return nil, fmt.Errorf("%s: %w", e.name, err)
		}
	}
	c.meta = &m
	return c.meta, nil
}

// Offers reports whether people can sign in by the browser on this machine, and
// by the device flow.
func (c *Client) Offers(ctx context.Context) (browser, device bool, err error) {
	m, err := c.discover(ctx)
	if err != nil {
		return false, false, err
	}
	return m.Authorization != "", m.Device != "" && (len(m.Grants) == 0 || slices.Contains(m.Grants, grantDevice)), nil
}

// Scopes are those of wanted that the issuer knows; all, if it does not say.
func (c *Client) Scopes(ctx context.Context, wanted []string) ([]string, error) {
	m, err := c.discover(ctx)
	if err != nil || len(m.Scopes) == 0 {
		return wanted, err
	}
	return slices.DeleteFunc(slices.Clone(wanted), func(s string) bool { return !slices.Contains(m.Scopes, s) }), nil
}
