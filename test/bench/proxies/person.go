package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// person is a browser without a screen; *.localhost is this machine.
type person struct{ client *http.Client }

func newPerson() (*person, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &person{&http.Client{Jar: jar, Timeout: 30 * time.Second,
		Transport: &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			_, port, err := net.SplitHostPort(addr)
			if err != nil {
				return nil, err
			}
			return (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort("127.0.0.1", port))
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

var attemptField = regexp.MustCompile(`name="attempt" value="([A-Z2-7]{26})"`)

// open goes to a page, signs in as demo where it is asked to, and returns the
// Cookie header that the page's host gets from then on.
func (p *person) open(at string) (string, error) {
	next, form := at, url.Values(nil)
	for range 20 {
		method, body := http.MethodGet, io.Reader(nil)
		if form != nil {
			method, body = http.MethodPost, strings.NewReader(form.Encode())
		}
		req, err := http.NewRequest(method, next, body)
		if err != nil {
			return "", err
		}
		req.Header.Set("Accept", "text/html")
		if form != nil {
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			req.Header.Set("Origin", req.URL.Scheme+"://"+req.URL.Host)
		}
		resp, err := p.client.Do(req)
		if err != nil {
			return "", err
		}
		page, err := io.ReadAll(io.LimitReader(resp.Body, 2<<20))
		resp.Body.Close()
		if err != nil {
			return "", err
		}
		form = nil
		to := resp.Header.Get("Location")
		if _, refresh, ok := strings.Cut(resp.Header.Get("Refresh"), "url="); to == "" && ok {
			to = refresh
		}
		attempt := attemptField.FindStringSubmatch(string(page))
		switch {
		case to != "":
			u, err := req.URL.Parse(to)
			if err != nil {
				return "", err
			}
			next = u.String()
		case attempt != nil:
			next = req.URL.Scheme + "://" + req.URL.Host + "/signin/local"
			form = url.Values{"username": {"demo"}, "password": {"demo"}, "attempt": {attempt[1]}}
		case resp.StatusCode != http.StatusOK:
			return "", fmt.Errorf("%s: %s: %.300s", next, resp.Status, page)
		default:
			u, err := url.Parse(at)
			if err != nil {
				return "", err
			}
			var cookies []string
			for _, c := range p.client.Jar.Cookies(u) {
				cookies = append(cookies, c.Name+"="+c.Value)
			}
			return strings.Join(cookies, "; "), nil
		}
	}
	return "", errors.New("redirects without end from " + at)
}
