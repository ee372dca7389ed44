// Package userclient is the user's side of the command line: signing in to an
// issuer, keeping what that gave, and handing out fresh tokens. It believes
// nothing that a server says: addresses must be the issuer's own, texts are
// stripped of control characters, everything is bounded in time and size. It
// prints nothing and reads no flags; that is the commands' business.
package userclient

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

// ClientID is the OAuth client that the command line is; every issuer of ours
// knows it.
const ClientID = "gatehouse-cli"

// callTime bounds one request with its answer; maxAnswer an answer, in bytes.
const (
	callTime  = 30 * time.Second
	maxAnswer = 1 << 20
)

// Options are what New needs.
type Options struct {
	// Issuer is the address of the server: what Normal returns.
	Issuer string
	// CAFile adds certificate authorities to the system's.
	CAFile string
	// Version goes into the User-Agent.
	Version string
	// Now is the clock, time.Now but in tests.
	Now func() time.Time
	// Sleep waits between two polls or tries; Sleep of this package but in tests.
	Sleep func(ctx context.Context, d time.Duration) error
}

// Client speaks to one issuer. It is safe for concurrent use once it has been
// asked for its metadata.
type Client struct {
	opts   Options
	issuer *url.URL
	fetch  web.FetchConfig
	http   *http.Client
	meta   *metadata
}

// New makes a client of an issuer. Proxies come from the environment
// (HTTPS_PROXY, NO_PROXY); loopback never goes through one.
func New(o Options) (*Client, error) {
	issuer, err := Normal(o.Issuer)
	if err != nil {
		return nil, err
	}
	o.Issuer = issuer
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = Sleep
	}
	u, err := url.Parse(issuer)
	if err != nil {
		return nil, fmt.Errorf("issuer: %w", err)
	}
	proxy, err := http.ProxyFromEnvironment(&http.Request{URL: u})
	if err != nil {
		return nil, fmt.Errorf("the proxy of the environment: %w", err)
	}
	fetch := web.FetchConfig{AllowHosts: []string{u.Hostname()}, Proxy: proxy, CAFile: o.CAFile, Timeout: callTime, MaxBody: maxAnswer,
		UserAgent: fmt.Sprintf("gatehouse/%s (%s; %s)", Printable(o.Version, 40), runtime.GOOS, runtime.GOARCH)}
	hc, err := web.NewClient(fetch)
	if err != nil {
		return nil, err
	}
	return &Client{opts: o, issuer: u, fetch: fetch, http: hc}, nil
}

// Long returns a client with the same reach for answers of any length, such as an
// export of the audit log; the context of a request bounds its time.
func (c *Client) Long() (*http.Client, error) {
	fetch := c.fetch
	fetch.Timeout, fetch.MaxBody = 24*time.Hour, 1<<40
	return web.NewClient(fetch)
}

// Issuer is the address that the client was made for.
func (c *Client) Issuer() string { return c.opts.Issuer }

// Sleep waits, or returns early with the error of ctx.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// ErrIssuer means that an address is none that an issuer can have.
var ErrIssuer = errors.New("not an issuer's address")

// Normal returns an issuer's address in the one form that is compared: https
// unless another scheme is written, no slash at the end. http is for loopback
// alone, where nobody listens in between.
func Normal(raw string) (string, error) {
	s := strings.TrimSpace(raw)
	if s != "" && !strings.Contains(s, "://") {
		s = "https://" + s
	}
	u, err := url.Parse(s)
	switch {
	case s == "" || err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || u.Opaque != "":
		return "", fmt.Errorf("%q: %w; write it as https://id.example.com", Printable(raw, 200), ErrIssuer)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return "", fmt.Errorf("%s: %w: http is for this machine alone (127.0.0.1), since tokens would travel in clear; use https", Printable(raw, 200), ErrIssuer)
	case u.Scheme != "https" && u.Scheme != "http":
		return "", fmt.Errorf("%s: %w: use https", Printable(raw, 200), ErrIssuer)
	}
	u.Host, u.Path, u.RawPath = strings.ToLower(u.Host), strings.TrimRight(u.Path, "/"), ""
	return u.String(), nil
}

func loopback(host string) bool {
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// own checks that an address which the server named is on the issuer's own
// scheme, host and port: only such are called, opened and shown.
func (c *Client) own(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil || len(raw) > 4096 || strings.ContainsFunc(raw, func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
		return nil, fmt.Errorf("the issuer names an address that is malformed: %w", ErrHostile)
	}
	if u.Scheme != c.issuer.Scheme || !strings.EqualFold(u.Host, c.issuer.Host) || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("the issuer names an address elsewhere, %s: %w", Printable(u.Scheme+"://"+u.Host, 200), ErrHostile)
	}
	return u, nil
}

// ErrHostile means that the server said what no issuer of ours says; nothing of
// it was used.
var ErrHostile = errors.New("the answer is not to be trusted")

// ErrUnreachable means that no usable answer came: the network, the server or a
// proxy is at fault, and trying again later can help.
var ErrUnreachable = errors.New("the server does not answer")

// AnswerError is an answer that refuses.
type AnswerError struct {
	Status int
	Code   string // of RFC 6749 section 5.2 and its extensions, or of the API
	Text   string // for people
	Ref    string // finds it in the server's log
}

// Error says what the server said, on one line.
func (e *AnswerError) Error() string {
	s := e.Text
	if s == "" {
		s = fmt.Sprintf("the server answered %d", e.Status)
	}
	if e.Code != "" {
		s += " (" + e.Code
		if e.Ref != "" {
			s += ", reference " + e.Ref
		}
		s += ")"
	}
	return s
}

// Is has answers that may be others soon count as ErrUnreachable.
func (e *AnswerError) Is(target error) bool {
	return target == ErrUnreachable && (e.Status >= 500 || e.Status == http.StatusTooManyRequests)
}

// refused reports whether err is an answer with one of these codes.
func refused(err error, codes ...string) bool {
	a, ok := errors.AsType[*AnswerError](err)
	if !ok || a.Status >= 500 {
		return false
	}
	for _, c := range codes {
		if a.Code == c {
			return true
		}
	}
	return false
}

// form posts a form and decodes the answer.
func (c *Client) form(ctx context.Context, to string, form url.Values, into any) error {
	return c.do(ctx, http.MethodPost, to, strings.NewReader(form.Encode()), http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}, into)
}

// API calls /api/v1 with a token: body is sent as JSON unless it is nil, and the
// answer decoded into into unless that is nil.
func (c *Client) API(ctx context.Context, token, method, path string, body, into any) error {
	h := http.Header{"Authorization": {"Bearer " + token}}
	var rd io.Reader
	if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			return err
		}
		rd = strings.NewReader(string(js))
		h.Set("Content-Type", "application/json")
	}
	return c.do(ctx, method, c.opts.Issuer+"/api/v1"+path, rd, h, into)
}

func (c *Client) do(ctx context.Context, method, to string, body io.Reader, header http.Header, into any) error {
	if _, err := c.own(to); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, to, body)
	if err != nil {
		return err
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Accept", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	switch {
	case errors.Is(err, web.ErrTooLarge):
		return fmt.Errorf("%s: the answer is larger than %d bytes: %w", c.opts.Issuer, maxAnswer, ErrHostile)
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fmt.Errorf("%s answers with a redirect, which is not followed; is this the issuer's own address? %w", c.opts.Issuer, ErrHostile)
	case resp.StatusCode >= 400:
		return answerError(resp, raw)
	case into == nil || len(raw) == 0:
		return nil
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("%s answers with what is no JSON of the expected form: %w", c.opts.Issuer, ErrHostile)
	}
	return nil
}

// answerError reads the error form of the token endpoint (RFC 6749 section 5.2)
// and that of the API.
func answerError(resp *http.Response, raw []byte) error {
	var body struct {
		Error       any    `json:"error"`
		Description string `json:"error_description"`
		Code        string `json:"code"`
		Message     string `json:"message"`
		Ref         string `json:"ref"`
	}
	out := &AnswerError{Status: resp.StatusCode}
	if json.Unmarshal(raw, &body) != nil {
		out.Text = "the server answered " + Printable(resp.Status, 60)
		return out
	}
	out.Code, out.Text, out.Ref = body.Code, body.Message, Printable(body.Ref, 60)
	if s, ok := body.Error.(string); ok && out.Code == "" {
		out.Code = s
	}
	if out.Text == "" {
		out.Text = body.Description
	}
	out.Code, out.Text = Printable(out.Code, 60), Printable(out.Text, 300)
	return out
}

// get reads JSON with a token.
func (c *Client) get(ctx context.Context, from, token string, into any) error {
	return c.do(ctx, http.MethodGet, from, nil, http.Header{"Authorization": {"Bearer " + token}}, into)
}
