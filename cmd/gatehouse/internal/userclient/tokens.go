package userclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// maxToken bounds a token, in bytes.
const maxToken = 16 << 10

// Tokens are an answer of the token endpoint.
type Tokens struct {
	Access  string
	Refresh string // "" where the issuer gives none
	Issued  time.Time
	Expires time.Time
	Scope   string
	Who     Identity // of the ID token, where there is one
}

// Identity is who signed in.
type Identity struct {
	Subject   string `json:"sub"`
	Name      string `json:"name,omitempty"`
	Email     string `json:"email,omitempty"`
	Username  string `json:"preferred_username,omitempty"`
	Connector string `json:"gatehouse:connector,omitempty"`
}

// Label is what people call somebody: the e-mail address, else a name, else the
// subject.
func (i Identity) Label() string {
	for _, s := range []string{i.Email, i.Username, i.Name, i.Subject} {
		if s != "" {
			return s
		}
	}
	return ""
}

func (i Identity) printable() Identity {
	return Identity{Subject: Printable(i.Subject, 200), Name: Printable(i.Name, 200), Email: Printable(i.Email, 320), Username: Printable(i.Username, 200), Connector: Printable(i.Connector, 100)}
}

// redeem asks the token endpoint and checks what comes (RFC 6749 section 5.1).
func (c *Client) redeem(ctx context.Context, form url.Values) (Tokens, string, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Tokens{}, "", err
	}
	form.Set("client_id", ClientID)
	var a struct {
		Access  string  `json:"access_token"`
		Type    string  `json:"token_type"`
		Expires float64 `json:"expires_in"`
		Refresh string  `json:"refresh_token"`
		ID      string  `json:"id_token"`
		Scope   string  `json:"scope"`
	}
	now := c.opts.Now()
	if err := c.form(ctx, m.Token, form, &a); err != nil {
		return Tokens{}, "", err
	}
	switch {
	case !opaque(a.Access, maxToken) || a.Refresh != "" && !opaque(a.Refresh, maxToken):
		return Tokens{}, "", fmt.Errorf("a token is missing, too long or malformed: %w", ErrHostile)
	case !strings.EqualFold(a.Type, "Bearer"):
		return Tokens{}, "", fmt.Errorf("the token is of type %q, not Bearer: %w", Printable(a.Type, 40), ErrHostile)
	}
	life := time.Duration(min(max(a.Expires, 0), 24*3600)) * time.Second
	if a.Expires == 0 { // recommended only (RFC 6749 section 5.1)
		life = time.Minute
	}
	return Tokens{Access: a.Access, Refresh: a.Refresh, Issued: now, Expires: now.Add(life), Scope: Printable(a.Scope, 2000)}, a.ID, nil
}

// identity reads an ID token that came from the token endpoint itself, over TLS
// or loopback: OpenID Connect Core section 3.1.3.7 lets that stand for the
// signature, which nothing here relies on. Issuer, audience, time and nonce must
// be right.
func (c *Client) identity(raw, nonce string) (Identity, error) {
	bad := func(what string) (Identity, error) {
		return Identity{}, fmt.Errorf("the ID token %s: %w", what, ErrHostile)
	}
	parts := strings.Split(raw, ".")
	if len(raw) > maxToken || len(parts) != 3 {
		return bad("is malformed")
	}
	js, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return bad("is malformed")
	}
	var claims struct {
		Identity
		Issuer   string  `json:"iss"`
		Audience any     `json:"aud"`
		Party    string  `json:"azp"`
		Expires  float64 `json:"exp"`
		Nonce    string  `json:"nonce"`
	}
	if json.Unmarshal(js, &claims) != nil {
		return bad("is malformed")
	}
	var aud []any
	switch a := claims.Audience.(type) {
	case string:
		aud = []any{a}
	case []any:
		aud = a
	}
	switch {
	case claims.Issuer != c.opts.Issuer:
		return bad("is of another issuer, " + Printable(claims.Issuer, 200))
	case !slices.Contains(aud, any(ClientID)), claims.Party != "" && claims.Party != ClientID:
		return bad("is for another client")
	case c.opts.Now().Add(-time.Minute).Unix() > int64(claims.Expires):
		return bad("has expired; is the clock of this machine right?")
	case claims.Nonce != nonce:
		return bad("belongs to another sign-in")
	case claims.Subject == "":
		return bad("names nobody")
	}
	return claims.Identity.printable(), nil
}

// signedIn is redeem for an answer that begins a sign-in.
func (c *Client) signedIn(ctx context.Context, form url.Values, nonce string) (Tokens, error) {
	t, id, err := c.redeem(ctx, form)
	if err != nil || id == "" {
		return t, err
	}
	t.Who, err = c.identity(id, nonce)
	return t, err
}

// retries are the waits before a refresh that got no answer is tried again. The
// server may have taken it: for tokens.refresh_grace (10 s) it then gives the
// same successor again, and after that it takes a second use for theft.
var retries = []time.Duration{500 * time.Millisecond, 2 * time.Second}

// refresh gets the next tokens, for another audience where one is named (RFC
// 8707).
func (c *Client) refresh(ctx context.Context, token, audience string) (Tokens, error) {
	form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {token}}
	if audience != "" {
		form.Set("resource", audience)
	}
	for try := 0; ; try++ {
		t, _, err := c.redeem(ctx, form)
		if err == nil || !errors.Is(err, ErrUnreachable) || try == len(retries) {
			return t, err
		}
		if serr := c.opts.Sleep(ctx, retries[try]); serr != nil {
			return Tokens{}, errors.Join(serr, err)
		}
	}
}

// exchange gets a token for another audience by token exchange (RFC 8693
// section 2.1), which leaves the refresh token alone.
func (c *Client) exchange(ctx context.Context, subject, audience string) (Tokens, error) {
	t, _, err := c.redeem(ctx, url.Values{"grant_type": {grantExchange}, "subject_token": {subject}, "subject_token_type": {typeAccess},
		"requested_token_type": {typeAccess}, "audience": {audience}})
	return t, err
}

// exchanges reports whether the issuer offers token exchange.
func (c *Client) exchanges(ctx context.Context) (bool, error) {
	m, err := c.discover(ctx)
	return err == nil && slices.Contains(m.Grants, grantExchange), err
}

// Revoke ends what a token stands for (RFC 7009).
func (c *Client) Revoke(ctx context.Context, token string) error {
	m, err := c.discover(ctx)
	if err != nil {
		return err
	}
	if m.Revocation == "" {
		return fmt.Errorf("%s offers no revocation; end the session on its page of sessions", c.opts.Issuer)
	}
	return c.form(ctx, m.Revocation, url.Values{"token": {token}, "token_type_hint": {"refresh_token"}, "client_id": {ClientID}}, nil)
}

// UserInfo asks whose an access token is (OpenID Connect Core section 5.3).
func (c *Client) UserInfo(ctx context.Context, token string) (Identity, error) {
	m, err := c.discover(ctx)
	if err != nil {
		return Identity{}, err
	}
	if m.UserInfo == "" {
		return Identity{}, fmt.Errorf("%s says nobody's name: it has no userinfo_endpoint", c.opts.Issuer)
	}
	var id Identity
	if err := c.get(ctx, m.UserInfo, token, &id); err != nil {
		return Identity{}, err
	}
	return id.printable(), nil
}
