package userclient

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// Names of secrets.
const (
	refreshToken = "refresh"
	accessToken  = "access"
)

// lockTime bounds how long a process waits for others that renew.
const lockTime = 2 * time.Minute

// Session is a profile at work: its store and the issuer that it is of.
type Session struct {
	Store  *Store
	Client *Client
	Name   string
	// Early renews when half of a token's life is over, for those who hand it on;
	// otherwise it happens in the last minute, or the last third of a short life.
	Early bool
}

// fresh reports whether a secret is good for a while yet.
func (s *Session) fresh(t Secret) bool {
	life := max(t.Expires.Sub(t.Issued), 0)
	margin := min(time.Minute, life/3)
	if s.Early {
		margin = life / 2
	}
	return t.Value != "" && s.Client.opts.Now().Before(t.Expires.Add(-margin))
}

// SignIn keeps what a sign-in gave, in the keyring if that is wanted and works,
// else in a file, and returns the profile and why the keyring was not used, if
// it was wanted. What the profile held before is revoked.
func (s *Session) SignIn(ctx context.Context, t Tokens, caFile string, ends Ends, useKeyring bool) (*Profile, error, error) {
	if t.Refresh == "" {
		return nil, nil, fmt.Errorf("%s gave no refresh token, so that the sign-in would be over in minutes; nothing was kept", s.Client.Issuer())
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	old, before := s.before()
	now := s.Client.opts.Now()
	p := &Profile{Name: s.Name, Issuer: s.Client.Issuer(), CAFile: caFile, Kept: KeptFile, Who: t.Who, Scope: t.Scope, Since: now.UTC().Truncate(time.Second), Ends: ends}
	held := secrets{refreshToken: {Value: t.Refresh, Issued: now}, accessToken: {Value: t.Access, Issued: t.Issued, Expires: t.Expires}}
	var why error
	if useKeyring {
		p.Kept = KeptKeyring
		if why = s.Store.keep(p, held); why != nil {
			p.Kept = KeptFile
		}
	}
	if p.Kept == KeptFile {
		if err := s.Store.keep(p, held); err != nil {
			return nil, why, err
		}
		if old != nil && old.Kept == KeptKeyring {
			_ = s.Store.Keyring.forget(s.Name) // what is there is revoked below
		}
	}
	if before != "" && before != t.Refresh {
		_ = s.Client.Revoke(ctx, before) // the new one stands; an old session that stays is seen on the page of sessions
	}
	return p, why, nil
}

// before is the profile that a sign-in takes the place of, with its refresh token.
func (s *Session) before() (*Profile, string) {
	old, err := s.Store.Load(s.Name)
	if err != nil || old.Issuer != s.Client.Issuer() {
		return nil, ""
	}
	r, _, err := s.Store.secret(old, refreshToken)
	if err != nil {
		return old, ""
	}
	return old, r.Value
}

func (s *Session) lock(ctx context.Context) (func(), error) {
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	return s.Store.Lock(ctx, s.Name)
}

// Token returns an access token that is good for a while yet, for the issuer or
// for another audience. Of many processes that ask at once one renews, the
// others wait and take what it stored.
func (s *Session) Token(ctx context.Context, audience string) (Secret, error) {
	name := accessToken
	if audience != "" {
		name += " " + audience
	}
	return s.cached(ctx, name, func(ctx context.Context, p *Profile) (Secret, error) {
		if audience == "" {
			return s.renew(ctx, p, "", name)
		}
		return s.audience(ctx, p, audience, name)
	})
}

// cached returns a secret that is kept and fresh, or gets it under the profile's
// lock.
func (s *Session) cached(ctx context.Context, name string, get func(context.Context, *Profile) (Secret, error)) (Secret, error) {
	p, err := s.Store.Load(s.Name)
	if err != nil {
		return Secret{}, err
	}
	if t, ok, err := s.Store.secret(p, name); err != nil || ok && s.fresh(t) {
		return t, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Secret{}, err
	}
	defer unlock()
	// Somebody else may have renewed meanwhile, or signed out.
	if p, err = s.Store.Load(s.Name); err != nil {
		return Secret{}, err
	}
	if t, ok, err := s.Store.secret(p, name); err != nil || ok && s.fresh(t) {
		return t, err
	}
	return get(ctx, p)
}

// renew uses the refresh token. The caller holds the lock.
func (s *Session) renew(ctx context.Context, p *Profile, audience, name string) (Secret, error) {
	r, ok, err := s.Store.secret(p, refreshToken)
	if err != nil {
		return Secret{}, err
	}
	if !ok {
		return Secret{}, fmt.Errorf("profile %s: %w", p.Name, ErrSignedOut)
	}
	// The refresh token is used up by using it: whether its successor can be
	// written down is found out before (a full disk, a read-only home).
	if err := s.Store.Save(p); err != nil {
		return Secret{}, fmt.Errorf("nothing was renewed, since it could not be kept: %w", err)
	}
	t, err := s.Client.refresh(ctx, r.Value, audience)
	if refused(err, "invalid_grant") {
		// A home on a network whose locks do not reach the other machines: one of
		// them may have renewed in between. Its token is the good one.
		if p2, lerr := s.Store.Load(s.Name); lerr == nil {
			if r2, ok, _ := s.Store.secret(p2, refreshToken); ok && r2.Value != r.Value {
				t, err = s.Client.refresh(ctx, r2.Value, audience)
				p = p2
			}
		}
	}
	if refused(err, "invalid_grant") {
		return Secret{}, errors.Join(fmt.Errorf("profile %s: %w: %w", p.Name, ErrSignedOut, err), s.expire(p))
	}
	if err != nil {
		return Secret{}, err
	}
	add := secrets{name: {Value: t.Access, Issued: t.Issued, Expires: t.Expires}}
	if t.Refresh != "" {
		add[refreshToken] = Secret{Value: t.Refresh, Issued: t.Issued}
	}
	if audience == "" && t.Scope != "" {
		p.Scope = t.Scope
	}
	return add[name], s.Store.keep(p, add)
}

// expire drops the secrets of a profile whose session is over; the profile stays,
// so that the next sign-in knows its issuer.
func (s *Session) expire(p *Profile) error {
	if p.Kept == KeptKeyring {
		return s.Store.Keyring.forget(p.Name)
	}
	p.Secrets = nil
	return s.Store.Save(p)
}

// audience gets a token for another audience: by token exchange where the issuer
// offers it, else by a refresh with resource. The caller holds the lock.
func (s *Session) audience(ctx context.Context, p *Profile, audience, name string) (Secret, error) {
	offered, err := s.Client.exchanges(ctx)
	if err != nil {
		return Secret{}, err
	}
	if !offered {
		return s.renew(ctx, p, audience, name)
	}
	base, ok, err := s.Store.secret(p, accessToken)
	if err != nil {
		return Secret{}, err
	}
	if !ok || !s.fresh(base) {
		if base, err = s.renew(ctx, p, "", accessToken); err != nil {
			return Secret{}, err
		}
	}
	t, err := s.Client.exchange(ctx, base.Value, audience)
	if refused(err, "unauthorized_client", "unsupported_grant_type") {
		return s.renew(ctx, p, audience, name)
	}
	if err != nil {
		return Secret{}, err
	}
	got := Secret{Value: t.Access, Issued: t.Issued, Expires: t.Expires}
	return got, s.Store.keep(p, secrets{name: got})
}

// SignOut revokes the profile's session at the issuer and forgets it here, this
// also if the issuer could not be told; that is the error then.
func (s *Session) SignOut(ctx context.Context) error {
	unlock, err := s.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	p, err := s.Store.Load(s.Name)
	if err != nil {
		return err
	}
	r, ok, told := s.Store.secret(p, refreshToken)
	if told == nil && ok {
		told = s.Client.Revoke(ctx, r.Value)
	}
	if err := s.Store.Forget(p); err != nil {
		return errors.Join(err, told)
	}
	if told != nil {
		return fmt.Errorf("%w: %w", ErrNotRevoked, told)
	}
	return nil
}

// ErrNotRevoked means that a profile is forgotten here and may still be good at
// the issuer.
var ErrNotRevoked = errors.New("forgotten here, but the server could not be told")

// Ends is when a session is over: if it is not used, and at most. Zero is not
// known.
type Ends struct {
	Unused time.Time `json:"unused,omitzero"`
	Last   time.Time `json:"last,omitzero"`
}

// Ends asks the issuer when the session of a token ends; nothing is known if it
// does not say, as to a token without gatehouse:account.
func (c *Client) Ends(ctx context.Context, token string) Ends {
	var page struct {
		Items []struct {
			Current bool      `json:"current"`
			Unused  time.Time `json:"idle_until"`
			Last    time.Time `json:"expires"`
		} `json:"items"`
	}
	if c.API(ctx, token, http.MethodGet, "/me/sessions", nil, &page) != nil {
		return Ends{}
	}
	for _, s := range page.Items {
		if s.Current {
			return Ends{s.Unused, s.Last}
		}
	}
	return Ends{}
}
