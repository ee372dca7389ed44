// Package appapi holds what the connectors for DingTalk, WeCom and Feishu have
// in common. The three are no OpenID Connect providers: an application has a
// token of its own, answers come with HTTP 200 whatever they say, and secrets
// travel in addresses.
package appapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"github.com/remotegpu/gatehouse/connectors"
)

// maxBody bounds an answer. The longest is one person with all departments.
const maxBody = 256 << 10

// ErrShape stands for every answer that cannot be read. The decoder's own error
// is left out, since it can quote the answer.
var ErrShape = errors.New("the answer is not what the API documents")

// Client calls one vendor's API.
type Client struct {
	vendor string
	http   *http.Client
}

// NewClient returns a Client that names the vendor in its errors. A redirect is
// not followed: it would take a secret or somebody's token along.
func NewClient(vendor string, hc *http.Client) *Client {
	own := *hc
	own.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return &Client{vendor: vendor, http: &own}
}

// Answer is what came back, read to its end.
type Answer struct {
	Status int
	Body   []byte
}

// Call is one request.
type Call struct {
	Method, URL string
	Query       url.Values
	Header      http.Header
	JSON        any        // the body, or
	Form        url.Values // the body
}

// Do makes the call and returns any answer that the vendor gave on purpose. No
// answer, a server in trouble and a limit that is spent are all the same to us:
// nothing was checked. No error holds more of the address than its path: the
// query can hold the application's secret or its token.
func (c *Client) Do(ctx context.Context, call Call) (Answer, error) {
	req, at, err := c.request(ctx, call)
	if err != nil {
		return Answer{}, err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Answer{}, fmt.Errorf("%s: %w: %w", at, bare(err), connectors.ErrUnavailable)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	switch {
	case err != nil:
		return Answer{}, fmt.Errorf("%s: read: %w: %w", at, bare(err), connectors.ErrUnavailable)
	case len(body) > maxBody:
		return Answer{}, fmt.Errorf("%s: the answer is too large", at)
	case resp.StatusCode >= 500, resp.StatusCode == http.StatusTooManyRequests:
		return Answer{}, fmt.Errorf("%s: status %d: %w", at, resp.StatusCode, connectors.ErrUnavailable)
	}
	return Answer{Status: resp.StatusCode, Body: body}, nil
}

func (c *Client) request(ctx context.Context, call Call) (*http.Request, string, error) {
	u, err := url.Parse(call.URL)
	if err != nil {
		return nil, "", fmt.Errorf("%s: the address of the API cannot be read", c.vendor)
	}
	at := c.vendor + ": " + call.Method + " " + u.Path
	if len(call.Query) > 0 {
		u.RawQuery = call.Query.Encode()
	}
	var body io.Reader
	kind := ""
	switch {
	case call.JSON != nil:
		js, err := json.Marshal(call.JSON)
		if err != nil {
			return nil, at, fmt.Errorf("%s: the request cannot be written", at)
		}
		body, kind = bytes.NewReader(js), "application/json; charset=utf-8"
	case call.Form != nil:
		body, kind = bytes.NewReader([]byte(call.Form.Encode())), "application/x-www-form-urlencoded"
	}
	req, err := http.NewRequestWithContext(ctx, call.Method, u.String(), body)
	if err != nil {
		return nil, at, fmt.Errorf("%s: %w", at, bare(err))
	}
	if call.Header != nil {
		req.Header = call.Header.Clone()
	}
	req.Header.Set("Accept", "application/json")
	if kind != "" {
		req.Header.Set("Content-Type", kind)
	}
	return req, at, nil
}

// Reach asks whether the API answers at all, at a path that it knows and
// without credentials: it refuses, which is an answer. What it says is not read.
func (c *Client) Reach(ctx context.Context, address string) error {
	req, at, err := c.request(ctx, Call{Method: http.MethodGet, URL: address})
	if err != nil {
		return err
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w: %w", at, bare(err), connectors.ErrUnavailable)
	}
	resp.Body.Close()
	if resp.StatusCode >= 500 {
		return fmt.Errorf("%s: status %d: %w", at, resp.StatusCode, connectors.ErrUnavailable)
	}
	return nil
}

// bare takes the address out of an error of net/http, which quotes it whole.
func bare(err error) error {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		return ue.Err
	}
	return err
}
