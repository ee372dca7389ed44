package userclient

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Credentials are short-lived ones of an object store.
type Credentials struct {
	Name     string    `json:"name"`
	Provider string    `json:"provider"`
	KeyID    string    `json:"access_key_id"`
	Key      string    `json:"secret_access_key"`
	Session  string    `json:"session_token"`
	Expires  time.Time `json:"expiration"`
	Bucket   string    `json:"bucket"`
	Region   string    `json:"region"`
	Endpoint string    `json:"endpoint"`
	Prefix   string    `json:"prefix"`
}

// storageMargin is how long credentials must be good for yet: SDKs ask again so
// long before the end.
const storageMargin = 5 * time.Minute

// request names an offer; without a name the only one is meant.
type request struct {
	Name string `json:"name,omitempty"`
}

// Credentials gets credentials of an offer, or those of before that are good for
// five minutes yet.
func (s *Session) Credentials(ctx context.Context, offer string) (Credentials, error) {
	var c Credentials
	name := "storage " + offer
	use := func(t Secret) bool {
		return json.Unmarshal([]byte(t.Value), &c) == nil && s.Client.opts.Now().Before(t.Expires.Add(-storageMargin))
	}
	p, err := s.Store.Load(s.Name)
	if err != nil {
		return Credentials{}, err
	}
	if t, ok, err := s.Store.secret(p, name); err != nil || ok && use(t) {
		return c, err
	}
	token, err := s.Token(ctx, "")
	if err != nil {
		return Credentials{}, err
	}
	if c, err = s.Client.Credentials(ctx, token.Value, offer); err != nil {
		return Credentials{}, err
	}
	js, err := json.Marshal(c)
	if err != nil {
		return Credentials{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Credentials{}, err
	}
	defer unlock()
	if p, err = s.Store.Load(s.Name); err != nil { // signed out meanwhile: these die by themselves
		return Credentials{}, err
	}
	return c, s.Store.keep(p, secrets{name: {Value: string(js), Issued: s.Client.opts.Now(), Expires: c.Expires}})
}

// Credentials asks for credentials with a token. What comes is checked for what
// would be more than a word in a shell or a file of configuration.
func (c *Client) Credentials(ctx context.Context, token, offer string) (Credentials, error) {
	var out Credentials
	if err := c.API(ctx, token, http.MethodPost, "/storage/credentials", request{offer}, &out); err != nil {
		return Credentials{}, err
	}
	for _, s := range []string{out.KeyID, out.Key} {
		if !opaque(s, maxToken) {
			return Credentials{}, fmt.Errorf("the credentials are missing or malformed: %w", ErrHostile)
		}
	}
	for _, s := range []string{out.Session, out.Name, out.Provider, out.Bucket, out.Region, out.Endpoint, out.Prefix} {
		if s != "" && s != Printable(s, maxToken) {
			return Credentials{}, fmt.Errorf("the credentials hold characters that they cannot have: %w", ErrHostile)
		}
	}
	if !out.Expires.After(c.opts.Now()) {
		return Credentials{}, fmt.Errorf("the credentials have expired already; is the clock of this machine right? %w", ErrHostile)
	}
	return out, nil
}

// StorageToken gets the web identity token itself, for SDKs that go to the
// vendor with it (AWS_WEB_IDENTITY_TOKEN_FILE). It is not kept.
func (c *Client) StorageToken(ctx context.Context, token, offer string) (Secret, error) {
	var out struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expiration"`
	}
	if err := c.API(ctx, token, http.MethodPost, "/storage/token", request{offer}, &out); err != nil {
		return Secret{}, err
	}
	now := c.opts.Now()
	if !opaque(out.Token, maxToken) || !out.Expires.After(now) {
		return Secret{}, fmt.Errorf("the token is missing, malformed or has expired: %w", ErrHostile)
	}
	return Secret{Value: out.Token, Issued: now, Expires: out.Expires}, nil
}
