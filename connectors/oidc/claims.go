package oidc

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	maxUserInfo = 1 << 20
	maxGroups   = 5000
	maxText     = 256
)

// aboutToken are claims that say something of the ID token and the proof. They
// are never taken from the userinfo endpoint, and Google's hd neither: it counts
// in the verified token alone (docs/security.md UP-6).
var aboutToken = []string{"iss", "sub", "aud", "azp", "exp", "iat", "nbf", "jti", "nonce", "at_hash", "c_hash", "s_hash", "auth_time", "acr", "amr", "sid", "events", "hd", "_claim_names", "_claim_sources"}

// identify makes an identity of a verified ID token and what userinfo adds. At a
// renewal without an ID token, it is what the last one said, and old holds that.
func (c *Connector) identify(ctx context.Context, p *provider, t tokens, it idToken, old *renewal, nonce string) (connectors.Identity, error) {
	id := connectors.Identity{Connector: c.id, Subject: it.subject, Session: it.session, AuthTime: it.authTime, ACR: it.acr, AMR: it.amr}
	proof := Proof{IDToken: it.claims, AccessToken: t.access, HTTP: c.client}
	var err error
	if p.UserInfo != "" && !c.cfg.SkipUserInfo {
		if proof.UserInfo, err = c.userInfo(ctx, p, t.access, it.subject); err != nil {
			return connectors.Identity{}, err
		}
	}
	fresher := old != nil && t.idToken == "" // then userinfo is newer than the ID token
	id.Claims = merge(it.claims, proof.UserInfo, fresher)
	if err := c.fill(ctx, &id); err != nil {
		return connectors.Identity{}, err
	}
	if c.flavour.Accept != nil {
		if err := c.flavour.Accept(ctx, proof, &id); err != nil {
			return connectors.Identity{}, err
		}
	}
	id.Renewal, err = c.renewal(p, t, it, old, nonce)
	return id, err
}

// userInfo asks for the claims that are not in the ID token. An answer about
// somebody else is the answer to a token that was slipped in (Core section 5.3.2).
func (c *Connector) userInfo(ctx context.Context, p *provider, token, subject string) (map[string]any, error) {
	body, err := c.fetch(ctx, p.UserInfo, token, maxUserInfo)
	if err != nil {
		return nil, fmt.Errorf("oidc: userinfo: %w", err)
	}
	claims := map[string]any{}
	if json.Unmarshal(body, &claims) != nil {
		return nil, errors.New("oidc: userinfo: the answer is no JSON object; signed answers are not read, skip_userinfo: true leaves them alone")
	}
	if sub, _ := claims["sub"].(string); sub != subject {
		return nil, errors.New("oidc: userinfo: the answer is about somebody else (Core section 5.3.2)")
	}
	return claims, nil
}

// merge puts the two together. The ID token is signed and wins, unless userinfo
// is newer. An address and whether it was verified stay together: "verified" of
// one is no word about another.
func merge(idToken, userInfo map[string]any, fresher bool) map[string]any {
	out := maps.Clone(idToken)
	for k, v := range userInfo {
		if slices.Contains(aboutToken, k) || k == "email" || k == "email_verified" {
			continue
		}
		if _, have := out[k]; !have || fresher {
			out[k] = v
		}
	}
	mail, have := out["email"]
	switch {
	case userInfo["email"] == nil:
	case !have || fresher:
		out["email"], out["email_verified"] = userInfo["email"], userInfo["email_verified"]
	case out["email_verified"] == nil && mail == userInfo["email"]:
		out["email_verified"] = userInfo["email_verified"]
	}
	if out["email_verified"] == nil {
		delete(out, "email_verified")
	}
	return out
}

// fill takes our values from the claims: by the operator's expressions where
// there are any, else from the claims of the usual names.
func (c *Connector) fill(ctx context.Context, id *connectors.Identity) error {
	get := func(name string, usual ...string) (any, error) {
		if m := c.mapping[name]; m != nil {
			v, err := m(ctx, id.Claims)
			if err != nil {
				return nil, fmt.Errorf("oidc: claims.%s: %w: %w", name, err, connectors.ErrNotAllowed)
			}
			return v, nil
		}
		for _, u := range usual {
			if v := id.Claims[u]; v != nil && v != "" {
				return v, nil
			}
		}
		return nil, nil
	}
	text := func(at *string, name string, usual ...string) error {
		v, err := get(name, usual...)
		if err != nil {
			return err
		}
		s, ok := v.(string)
		if v != nil && !ok && c.mapping[name] != nil {
			return fmt.Errorf("oidc: claims.%s comes to %T, not to a text: %w", name, v, connectors.ErrNotAllowed)
		}
		*at = clean(s)
		return nil
	}
	if err := errors.Join(
		text(&id.Username, "username", "preferred_username", "nickname"), text(&id.Name, "name", "name"), text(&id.Email, "email", "email"),
		text(&id.Picture, "picture", "picture"), text(&id.Locale, "locale", "locale"),
	); err != nil {
		return err
	}
	if !goodEmail(id.Email) {
		id.Email = ""
	}
	if !strings.HasPrefix(id.Picture, "https://") {
		id.Picture = ""
	}
	verified, err := get("email_verified", "email_verified")
	if err != nil {
		return err
	}
	// The text "true" is no word of the provider's that we know of; an expression
	// says so where it is (docs/security.md UP-5).
	said, _ := verified.(bool)
	id.EmailVerified = said && id.Email != ""
	id.Name = cmp.Or(id.Name, id.Username, id.Email)
	groups, err := get("groups", "groups")
	if err != nil {
		return err
	}
	if c.mapping["groups"] == nil && elsewhere(id.Claims, "groups") {
		return fmt.Errorf("oidc: the person is in more groups than the provider puts into a token; have it send fewer: %w", connectors.ErrNotAllowed)
	}
	if id.Groups, err = list(groups); err != nil {
		return fmt.Errorf("oidc: groups: %w: %w", err, connectors.ErrNotAllowed)
	}
	return nil
}

// elsewhere reports that the provider left a claim out and says where it would
// be (Core section 5.6.2). Missing groups are not "no groups".
func elsewhere(claims map[string]any, name string) bool {
	names, _ := claims["_claim_names"].(map[string]any)
	return claims[name] == nil && names[name] != nil
}

// list reads names of groups. Whatever is no list of names is an error: a rule
// that looks for a group somebody must not be in would miss it.
func list(v any) ([]string, error) {
	var out []string
	add := func(s string) error {
		switch {
		case s == "":
			return nil
		case len(s) > maxText || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl):
			return errors.New("a name is too long or has control characters")
		}
		out = append(out, s)
		return nil
	}
	switch v := v.(type) {
	case nil:
	case string: // the only group, as some providers send it
		if err := add(v); err != nil {
			return nil, err
		}
	case []string:
		for _, s := range v {
			if err := add(s); err != nil {
				return nil, err
			}
		}
	case []any:
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("an entry is a %T, not a name; an expression in claims.groups can pick the names out", e)
			}
			if err := add(s); err != nil {
				return nil, err
			}
		}
	default:
		return nil, fmt.Errorf("the claim is a %T, not a list of names", v)
	}
	if len(out) > maxGroups {
		return nil, fmt.Errorf("more than %d groups", maxGroups)
	}
	slices.Sort(out) // the same in whatever order they came
	return slices.Compact(out), nil
}

// clean bounds what people see of a provider's text.
func clean(s string) string {
	if !utf8.ValidString(s) {
		return ""
	}
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) {
			return -1
		}
		return r
	}, s))
	if r := []rune(s); len(r) > maxText {
		s = string(r[:maxText])
	}
	return s
}

// goodEmail is a first look; who decides by a domain reads the address strictly
// (docs/security.md UP-7).
func goodEmail(s string) bool {
	local, domain, ok := strings.Cut(s, "@")
	return ok && local != "" && domain != "" && len(s) <= 254 && !strings.Contains(domain, "@") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}
