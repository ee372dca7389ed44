package github

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/remotegpu/gatehouse/connectors"
)

const (
	maxBody = 1 << 20
	// perPage keeps a page of teams, each with its whole organization, far
	// below maxBody; GitHub would give up to 100.
	perPage  = 50
	maxPages = 40
	// apiVersion pins the shape of the answers.
	apiVersion = "2022-11-28"
)

// answer is what came back, read to its end.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (c *Connector) request(ctx context.Context, method, address, token string, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, body)
	if err != nil {
		return nil, fmt.Errorf("github: %w", err)
	}
	req.Header.Set("Accept", "application/vnd.github+json")
	req.Header.Set("X-GitHub-Api-Version", apiVersion)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	return req, nil
}

// send returns any answer that GitHub gave on purpose. No answer, a server in
// trouble and a spent limit are all the same to us: nothing was checked.
func (c *Connector) send(req *http.Request) (answer, error) {
	at := req.Method + " " + req.URL.Path
	resp, err := c.client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("github: %w: %w", err, connectors.ErrUnavailable)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return answer{}, fmt.Errorf("github: %s: read: %w: %w", at, err, connectors.ErrUnavailable)
	}
	if len(body) > maxBody {
		return answer{}, fmt.Errorf("github: %s: the answer is too large", at)
	}
	a := answer{status: resp.StatusCode, header: resp.Header, body: body}
	switch {
	case a.status >= 500:
		return answer{}, fmt.Errorf("github: %s: status %d: %w", at, a.status, connectors.ErrUnavailable)
	case a.limited():
		return answer{}, fmt.Errorf("github: %s: status %d: the rate limit is spent, retry after %q: %w", at, a.status, short(a.header.Get("Retry-After")), connectors.ErrUnavailable)
	}
	return a, nil
}

// limited recognizes both of GitHub's rate limits. The secondary one does not
// always say when to come back, and then only its message tells.
func (a answer) limited() bool {
	switch a.status {
	case http.StatusTooManyRequests:
		return true
	case http.StatusForbidden:
		return a.header.Get("X-RateLimit-Remaining") == "0" || a.header.Get("Retry-After") != "" ||
			strings.Contains(strings.ToLower(message(a.body)), "rate limit")
	}
	return false
}

// get asks the API in somebody's name.
func (c *Connector) get(ctx context.Context, token, path string, query url.Values) (answer, error) {
	address := c.ends.api + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	req, err := c.request(ctx, http.MethodGet, address, token, nil)
	if err != nil {
		return answer{}, err
	}
	a, err := c.send(req)
	if err != nil {
		return answer{}, err
	}
	switch a.status {
	case http.StatusOK:
		return a, nil
	case http.StatusUnauthorized:
		return answer{}, fmt.Errorf("github: %s: the token is no longer good: %w", path, connectors.ErrNotAllowed)
	case http.StatusForbidden:
		if page, required := ssoRequired(a.header.Get("X-GitHub-SSO")); required {
			return answer{}, c.refuse("sso_required", c.ownPage(page), path+": the organization wants its own single sign-on")
		}
		// A refusal of GitHub's is JSON, for example for a suspended account.
		// Anything else is some proxy's page and proves nothing.
		if message(a.body) == "" {
			return answer{}, fmt.Errorf("github: %s: status 403 that is not GitHub's: %w", path, connectors.ErrUnavailable)
		}
		return answer{}, fmt.Errorf("github: %s: status 403: %w", path, connectors.ErrNotAllowed)
	}
	return answer{}, fmt.Errorf("github: %s: unexpected status %d", path, a.status)
}

// pages reads a list to its end. One that does not end is an error: of half a
// list nobody can say who is missing.
func pages[T any](ctx context.Context, c *Connector, token, path string) (all []T, sso bool, err error) {
	q := url.Values{"per_page": {strconv.Itoa(perPage)}}
	for range maxPages {
		a, err := c.get(ctx, token, path, q)
		if err != nil {
			return nil, false, err
		}
		page, err := parseList[T](a.body)
		if err != nil {
			return nil, false, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, page...)
		sso = sso || strings.HasPrefix(a.header.Get("X-GitHub-SSO"), "partial-results")
		// Of the address only the query is taken: the token goes to the
		// configured API and nowhere else, whatever a header says.
		next, more := nextPage(a.header.Values("Link"))
		if !more {
			return all, sso, nil
		}
		q = next
	}
	return nil, false, fmt.Errorf("github: %s: more than %d pages", path, maxPages)
}

// nextPage returns the query of the Link header's rel="next".
func nextPage(links []string) (url.Values, bool) {
	for _, h := range links {
		for {
			_, rest, ok := strings.Cut(h, "<")
			if !ok {
				break
			}
			target, rest, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			params := rest
			if i := strings.IndexByte(rest, '<'); i >= 0 {
				params = rest[:i]
			}
			h = rest[len(params):]
			for p := range strings.FieldsFuncSeq(params, func(r rune) bool { return r == ';' || r == ',' || r == ' ' }) {
				if !strings.EqualFold(p, `rel="next"`) && !strings.EqualFold(p, "rel=next") {
					continue
				}
				if u, err := url.Parse(target); err == nil && u.RawQuery != "" {
					return u.Query(), true
				}
			}
		}
	}
	return nil, false
}

// ssoRequired reads "required; url=https://…".
func ssoRequired(h string) (page string, required bool) {
	what, rest, _ := strings.Cut(h, ";")
	if strings.TrimSpace(what) != "required" {
		return "", false
	}
	page, _ = strings.CutPrefix(strings.TrimSpace(rest), "url=")
	return page, true
}

// ownPage returns a page that people may be sent to: one of the server where
// they sign in. For any other it returns the page about this application.
func (c *Connector) ownPage(page string) string {
	u, err := url.Parse(page)
	own, err2 := url.Parse(c.ends.authorize)
	if err != nil || err2 != nil || u.Scheme != own.Scheme || u.User != nil || !strings.EqualFold(u.Host, own.Host) {
		return c.settingsURL()
	}
	return u.String()
}

// exchange redeems the code. GitHub answers errors with status 200 as well, so
// that only an access token in the answer is a success.
func (c *Connector) exchange(ctx context.Context, code, redirectURI, verifier string) (grant, error) {
	form := url.Values{
		"grant_type": {"authorization_code"}, "client_id": {c.cfg.ClientID}, "client_secret": {c.cfg.ClientSecret.Reveal()},
		"code": {code}, "redirect_uri": {redirectURI}, "code_verifier": {verifier},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.ends.token, strings.NewReader(form.Encode()))
	if err != nil {
		return grant{}, fmt.Errorf("github: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json") // else the answer is a form
	a, err := c.send(req)
	if err != nil {
		return grant{}, err
	}
	g, err := parseToken(a.body)
	switch {
	case err == nil && a.status == http.StatusOK:
		return g, nil
	case a.status != http.StatusOK && (err == nil || errors.Is(err, errShape)):
		return grant{}, fmt.Errorf("github: code exchange: unexpected status %d", a.status)
	}
	return grant{}, fmt.Errorf("github: code exchange: %w", err)
}

// revoke gives a token back that is no longer needed. Failing is no reason to
// turn anybody away, nor is a browser that has left one not to try.
func (c *Connector) revoke(ctx context.Context, token string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokePatience)
	defer cancel()
	err := func() error {
		body, err := json.Marshal(map[string]string{"access_token": token})
		if err != nil {
			return err
		}
		req, err := c.request(ctx, http.MethodDelete, c.ends.api+"/applications/"+url.PathEscape(c.cfg.ClientID)+"/token", "", bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.SetBasicAuth(c.cfg.ClientID, c.cfg.ClientSecret.Reveal())
		req.Header.Set("Content-Type", "application/json")
		a, err := c.send(req)
		if err == nil && a.status != http.StatusNoContent {
			err = fmt.Errorf("status %d", a.status)
		}
		return err
	}()
	if err != nil {
		c.log.WarnContext(ctx, "github: a token that is no longer needed was not revoked", "err", err)
	}
}
