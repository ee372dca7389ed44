package google

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/jwt"

	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/oidc"
)

// Directory is how groups are read: Google puts them into no token, so that a
// service account with domain-wide delegation asks in an administrator's name.
type Directory struct {
	// ServiceAccount is the key file that Google made, a JSON document.
	ServiceAccount redact.String `yaml:"service_account"`
	// Admins are the administrators in whose name is asked, by Workspace domain.
	Admins map[string]string `yaml:"admins"`
	// Nested also counts the groups that somebody's groups are members of.
	Nested bool   `yaml:"nested"`
	URL    string `yaml:"url"` // default https://admin.googleapis.com
}

const (
	directoryURL   = "https://admin.googleapis.com"
	directoryScope = "https://www.googleapis.com/auth/admin.directory.group.readonly"
	tokenURL       = "https://oauth2.googleapis.com/token"
	maxAnswer      = 1 << 20
	// maxCalls bounds one person's walk through nested groups.
	maxCalls  = 200
	maxGroups = 5000
)

func (d Directory) on() bool { return !d.ServiceAccount.IsZero() }

func (d Directory) problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: "google.directory", Text: text, Fix: fix})
	}
	switch {
	case !d.on() && (len(d.Admins) > 0 || d.Nested || d.URL != ""):
		add("ServiceAccount", "service_account is missing: nobody may ask the directory.", "service_account_file: /run/secrets/google-directory.json")
	case d.on() && len(d.Admins) == 0:
		add("Admins", "admins is missing: a service account asks in the name of an administrator.", "admins: {acme.com: admin@acme.com}")
	}
	if d.on() {
		if _, err := parseAccount(d.ServiceAccount.Reveal()); err != nil {
			add("ServiceAccount", err.Error()+".", "the JSON key of a service account")
		}
	}
	for domain, admin := range d.Admins {
		if !domainShape(domain) || !strings.Contains(admin, "@") {
			add("Admins["+domain+"]", "An entry is a Workspace's primary domain and the address of an administrator.", "admins: {acme.com: admin@acme.com}")
		}
	}
	if d.URL != "" {
		ps = append(ps, oidc.AddressProblems("URL", "google.directory", d.URL)...)
	}
	return ps
}

// account is what is used of the key file.
type account struct {
	Type     string        `json:"type"`
	Email    string        `json:"client_email"`
	Key      redact.String `json:"private_key"`
	KeyID    string        `json:"private_key_id"`
	TokenURI string        `json:"token_uri"`
}

func parseAccount(text string) (account, error) {
	var a account
	if json.Unmarshal([]byte(text), &a) != nil || a.Type != "service_account" || a.Email == "" || a.Key == "" {
		return account{}, errors.New("service_account is not the key file of a service account")
	}
	if _, err := oidc.ParsePrivateKey(a.Key.Reveal()); err != nil {
		return account{}, fmt.Errorf("service_account: private_key: %w", err)
	}
	if a.TokenURI == "" {
		a.TokenURI = tokenURL
	}
	if u, err := url.Parse(a.TokenURI); err != nil || u.Host == "" {
		return account{}, errors.New("service_account has no token_uri that could be called")
	}
	return a, nil
}

// directory asks for groups.
type directory struct {
	cfg    *Directory
	acc    *account
	base   string
	mu     sync.Mutex
	tokens map[string]*oauth2.Token // the service account's, by administrator
}

func openDirectory(cfg Directory) (*directory, error) {
	acc, err := parseAccount(cfg.ServiceAccount.Reveal())
	if err != nil {
		return nil, err
	}
	d := &directory{cfg: &cfg, acc: &acc, base: strings.TrimRight(cfg.URL, "/"), tokens: map[string]*oauth2.Token{}}
	if d.base == "" {
		d.base = directoryURL
	}
	return d, nil
}

// trusted returns the hosts that the operator wrote; behind a proxy also
// Google's own.
func (d *directory) trusted(proxied bool) []string {
	var hosts []string
	for _, a := range []struct{ address, own string }{{d.base, directoryURL}, {d.acc.TokenURI, tokenURL}} {
		if u, err := url.Parse(a.address); err == nil && (proxied || a.address != a.own) {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

var errNoAdmin = errors.New("no administrator is configured for this Workspace")

// groups returns the addresses of somebody's groups. They are asked for by the
// account's number: an address can be given to somebody else. An answer that is
// not whole is an error: of half a list nobody can say what is missing.
func (d *directory) groups(ctx context.Context, hc *http.Client, domain, subject string) ([]string, error) {
	admin := ""
	for dom, a := range d.cfg.Admins {
		if strings.EqualFold(dom, domain) {
			admin = a
		}
	}
	if admin == "" {
		return nil, errNoAdmin
	}
	token, err := d.token(ctx, hc, admin)
	if err != nil {
		return nil, err
	}
	calls := 0
	seen := map[string]bool{}
	queue := []string{subject}
	for len(queue) > 0 {
		key := queue[0]
		queue = queue[1:]
		page := ""
		for {
			if calls++; calls > maxCalls {
				return nil, fmt.Errorf("more than %d questions for one person's groups", maxCalls)
			}
			found, next, err := d.page(ctx, hc, token, key, page)
			if err != nil {
				return nil, err
			}
			for _, g := range found {
				if g = strings.ToLower(g); g == "" || seen[g] {
					continue
				}
				if seen[g] = true; len(seen) > maxGroups {
					return nil, fmt.Errorf("more than %d groups", maxGroups)
				}
				if d.cfg.Nested {
					queue = append(queue, g)
				}
			}
			if next == "" {
				break
			}
			page = next
		}
	}
	out := make([]string, 0, len(seen))
	for g := range seen {
		out = append(out, g)
	}
	slices.Sort(out)
	return out, nil
}

// check asks whether the service account may ask for every Workspace.
func (d *directory) check(ctx context.Context, hc *http.Client) error {
	for _, admin := range d.cfg.Admins {
		if _, err := d.token(ctx, hc, admin); err != nil {
			return fmt.Errorf("google: directory: %s: %w", admin, err)
		}
	}
	return nil
}

// token returns the service account's token in an administrator's name. Nobody
// waits for another's: two at once ask twice.
func (d *directory) token(ctx context.Context, hc *http.Client, admin string) (string, error) {
	d.mu.Lock()
	kept := d.tokens[admin]
	d.mu.Unlock()
	if kept.Valid() {
		return kept.AccessToken, nil
	}
	conf := jwt.Config{Email: d.acc.Email, PrivateKey: []byte(d.acc.Key.Reveal()), PrivateKeyID: d.acc.KeyID, Subject: admin, Scopes: []string{directoryScope}, TokenURL: d.acc.TokenURI}
	t, err := conf.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, hc)).Token()
	if re, ok := errors.AsType[*oauth2.RetrieveError](err); ok && re.Response.StatusCode < 500 {
		// The library's text is the whole answer.
		return "", fmt.Errorf("the service account was refused with status %d: has it domain-wide delegation for %s?", re.Response.StatusCode, directoryScope)
	} else if ok {
		return "", fmt.Errorf("the service account got no token: status %d: %w", re.Response.StatusCode, connectors.ErrUnavailable)
	}
	if err != nil {
		return "", fmt.Errorf("the service account got no token: %w", connectors.ErrUnavailable)
	}
	d.mu.Lock()
	d.tokens[admin] = t
	d.mu.Unlock()
	return t.AccessToken, nil
}

func (d *directory) page(ctx context.Context, hc *http.Client, token, key, page string) (groups []string, next string, err error) {
	q := url.Values{"userKey": {key}, "maxResults": {"200"}}
	if page != "" {
		q.Set("pageToken", page)
	}
	body, err := oidc.Fetch(ctx, hc, d.base+"/admin/directory/v1/groups?"+q.Encode(), token, maxAnswer)
	if oidc.Refused(err) {
		d.mu.Lock()
		clear(d.tokens) // it may have been withdrawn
		d.mu.Unlock()
		// Of our own account, and no word about the person.
		return nil, "", fmt.Errorf("groups.list was refused; the administrator needs the right to read groups: %s", err)
	}
	if err != nil {
		return nil, "", fmt.Errorf("groups.list: %w", err)
	}
	var a struct {
		Groups []struct {
			Email string `json:"email"`
		} `json:"groups"`
		Next string `json:"nextPageToken"`
	}
	if json.Unmarshal(body, &a) != nil {
		return nil, "", errors.New("groups.list: the answer is not what the API documents")
	}
	for _, g := range a.Groups {
		groups = append(groups, g.Email)
	}
	return groups, a.Next, nil
}
