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

// visit FILE USER PASSWORD [ANSWER] waits for an address in a file, goes there as
// a browser without JavaScript does, signs in where it is asked to, sends the
// code that a device page has filled in and gives the answer (allow, deny), and
// writes where it ends, with the page, into FILE.page.
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
	for range 8 {
		if _, next, ok := strings.Cut(resp.Header.Get("Refresh"), "url="); ok {
			u, err := resp.Request.URL.Parse(next)
			ts.Check(err)
			resp, page = read(c.Get(u.String()))
			continue
		}
		field := func(name string) string {
			if m := regexp.MustCompile(`name="` + name + `"[^>]* value="([^"]+)"`).FindStringSubmatch(page); m != nil {
				return m[1]
			}
			return ""
		}
		at, to, form := resp.Request.URL, "/device", url.Values{"token": {field("token")}}
		switch {
		case field("attempt") != "":
			to, form = "/signin/local", url.Values{"username": {args[1]}, "password": {args[2]}, "attempt": {field("attempt")}}
		case field("request") != "":
			form.Set("request", field("request"))
			form.Set("answer", args[3])
		case field("user_code") != "":
			form.Set("user_code", field("user_code"))
		default:
			to = ""
		}
		if to == "" {
			break
		}
		req, err := http.NewRequest(http.MethodPost, at.Scheme+"://"+at.Host+to, strings.NewReader(form.Encode()))
		ts.Check(err)
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", at.Scheme+"://"+at.Host)
		resp, page = read(c.Do(req))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".page"), []byte(resp.Request.URL.String()+"\n"+page), 0o600))
}
