package github

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
)

// errShape stands for every answer that cannot be read. The decoder's own error
// is left out, since it can quote the answer.
var errShape = errors.New("github: the answer is not what the API documents")

// grant is a token and what it may do. As JSON it is an Identity's Renewal.
type grant struct {
	Token string `json:"token"`
	Scope string `json:"scope"`
}

type account struct {
	ID        int64  `json:"id"`
	Login     string `json:"login"`
	Name      string `json:"name"`
	AvatarURL string `json:"avatar_url"`
}

type address struct {
	Email    string `json:"email"`
	Primary  bool   `json:"primary"`
	Verified bool   `json:"verified"`
}

type org struct {
	ID    int64  `json:"id"`
	Login string `json:"login"`
}

type membership struct {
	State        string `json:"state"`
	Organization org    `json:"organization"`
}

type team struct {
	Slug         string `json:"slug"`
	Organization org    `json:"organization"`
}

// returnedCode reads what the browser brought back.
func returnedCode(p url.Values) (string, error) {
	if e := p.Get("error"); e == "access_denied" {
		return "", fmt.Errorf("github: %w", connectors.ErrCancelled)
	} else if e != "" {
		// Anybody can write this address, so that its words stay out of the log.
		return "", fmt.Errorf("github: the sign-in page answered %s", word(e))
	}
	code := p["code"]
	if len(code) != 1 || !opaque(code[0]) {
		return "", errors.New("github: the answer of the sign-in page has no code")
	}
	return code[0], nil
}

func parseToken(body []byte) (grant, error) {
	var a struct {
		AccessToken string `json:"access_token"`
		TokenType   string `json:"token_type"`
		Scope       string `json:"scope"`
		Error       string `json:"error"`
	}
	if json.Unmarshal(body, &a) != nil {
		return grant{}, errShape
	}
	switch {
	case a.Error == "unverified_user_email":
		return grant{}, fmt.Errorf("github: %s: %w", a.Error, connectors.ErrNotAllowed)
	case a.Error != "":
		return grant{}, fmt.Errorf("github: refused with %s", word(a.Error))
	case !opaque(a.AccessToken) || !strings.EqualFold(a.TokenType, "bearer"):
		return grant{}, errShape
	}
	return grant{Token: a.AccessToken, Scope: a.Scope}, nil
}

// parseUser returns the account and all that was said about it.
func parseUser(body []byte) (account, map[string]any, error) {
	var u account
	var claims map[string]any
	if json.Unmarshal(body, &u) != nil || json.Unmarshal(body, &claims) != nil || u.ID <= 0 || u.Login == "" {
		return account{}, nil, fmt.Errorf("/user: %w", errShape)
	}
	return u, claims, nil
}

func parseList[T any](body []byte) ([]T, error) {
	var l []T
	// null is no list: an empty one is [].
	if json.Unmarshal(body, &l) != nil || l == nil {
		return nil, errShape
	}
	return l, nil
}

// primary returns the one e-mail address that GitHub vouches for. Addresses
// that GitHub made up to hide somebody's reach nobody.
func primary(l []address) string {
	for _, a := range l {
		if !a.Primary || !a.Verified {
			continue
		}
		local, domain, ok := strings.Cut(a.Email, "@")
		if !ok || local == "" || domain == "" || strings.ContainsFunc(a.Email, func(r rune) bool { return r <= ' ' || r == 0x7f }) ||
			strings.Contains(domain, "@") || strings.HasPrefix(strings.ToLower(domain), "users.noreply.") {
			return ""
		}
		return a.Email
	}
	return ""
}

// parseScopes reads a list of scopes. They are asked for with spaces between
// them and answered with commas.
func parseScopes(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

// message returns the API's own words for an error, for recognizing them only.
func message(body []byte) string {
	var m struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &m) != nil {
		return ""
	}
	return m.Message
}

// opaque reports whether s can be a token or a code: printable and of sane size.
func opaque(s string) bool {
	return s != "" && len(s) <= 2048 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// word returns an error code as it may stand in a log.
func word(s string) string {
	if len(s) > 64 || strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '_' && r != ' '
	}) {
		return "an unreadable error"
	}
	return s
}

func short(s string) string { return s[:min(len(s), 32)] }
