package main

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// visit FILE USER PASSWORD waits for an address in a file, goes there as a
// browser without JavaScript does, signs in where it is asked to, and writes
// where it ends, with the page, into FILE.page.
func visit(ts *testscript.TestScript, _ bool, args []string) {
	var raw []byte
	for deadline := time.Now().Add(time.Minute); len(raw) == 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			ts.Fatalf("nobody wrote an address into %s", args[0])
		}
		raw, _ = os.ReadFile(ts.MkAbs(args[0]))
	}
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	c := client(jar)
	read := func(resp *http.Response, err error) (*http.Response, string) {
		ts.Check(err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		ts.Check(err)
		return resp, string(body)
	}
	resp, page := read(c.Get(string(raw)))
	for range 5 {
		if _, next, ok := strings.Cut(resp.Header.Get("Refresh"), "url="); ok {
			u, err := resp.Request.URL.Parse(next)
			ts.Check(err)
			resp, page = read(c.Get(u.String()))
			continue
		}
		m := regexp.MustCompile(`name="attempt" value="([A-Z2-7]{26})"`).FindStringSubmatch(page)
		if m == nil {
			break
		}
		at := resp.Request.URL
		req, err := http.NewRequest(http.MethodPost, at.Scheme+"://"+at.Host+"/signin/local",
			strings.NewReader(url.Values{"username": {args[1]}, "password": {args[2]}, "attempt": {m[1]}}.Encode()))
		ts.Check(err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", at.Scheme+"://"+at.Host)
		resp, page = read(c.Do(req))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".page"), []byte(resp.Request.URL.String()+"\n"+page), 0o600))
}
