package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// The program's behaviour as scripts that anyone can read: test/scripts. Beside
// testscript's own commands there are those of commands below.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"gatehouse": func() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
		"curl":      func() { os.Exit(curl()) },
		"sts":       func() { os.Exit(sts()) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "../../test/scripts",
		Setup: func(e *testscript.Env) error {
			for _, name := range []string{"PORT", "APORT", "UPORT"} {
				port, err := freePort()
				if err != nil {
					return err
				}
				e.Setenv(name, port)
			}
			compose, err := filepath.Abs("../../docker-compose.yml")
			if err != nil {
				return err
			}
			e.Setenv("COMPOSE", compose)
			e.Setenv("GATEHOUSE_LISTEN", "127.0.0.1:"+e.Getenv("PORT"))
			e.Setenv("GATEHOUSE_ADMIN_LISTEN", "127.0.0.1:"+e.Getenv("APORT"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"address":  address,
			"composed": composed,
			"exits":    exits,
			"fetch":    fetch,
			"mode":     mode,
			"paste":    paste,
			"ready":    ready,
			"setenv":   setenv,
			"signin":   signIn,
			"visit":    visit,
		},
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port), nil
}

// exits CODE PROGRAM ARGUMENTS... runs a program that must end with CODE.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: exits code program [argument...]")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		code = e.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, not %s", code, args[0])
	}
}

// ready waits until the server is.
func ready(ts *testscript.TestScript, _ bool, _ []string) {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		resp, err := client(nil).Get("http://" + ts.Getenv("GATEHOUSE_ADMIN_LISTEN") + "/readyz")
		if err != nil {
			continue
		}
		resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			return
		}
	}
	ts.Fatalf("the server is not ready")
}

func client(jar http.CookieJar) *http.Client {
	return &http.Client{Jar: jar, Timeout: 30 * time.Second}
}

// fetch FILE URL [HEADER: VALUE]... writes status and body of a GET to a file.
func fetch(ts *testscript.TestScript, _ bool, args []string) {
	req, err := http.NewRequest(http.MethodGet, args[1], nil)
	ts.Check(err)
	for _, h := range args[2:] {
		k, v, _ := strings.Cut(h, ":")
		if v = strings.TrimSpace(v); k == "Host" {
			req.Host = v
		}
		req.Header.Set(k, v)
	}
	resp, err := client(nil).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), fmt.Appendf(nil, "%d\n%s", resp.StatusCode, body), 0o600))
}

// signin USER PASSWORD signs somebody in, as a browser without JavaScript does.
func signIn(ts *testscript.TestScript, _ bool, args []string) {
	jar, err := cookiejar.New(nil)
	ts.Check(err)
	c, base := client(jar), "http://127.0.0.1:"+ts.Getenv("PORT")
	get := func(u string) (*http.Response, string) {
		resp, err := c.Get(u)
		ts.Check(err)
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		ts.Check(err)
		return resp, string(body)
	}
	_, page := get(base + "/")
	m := regexp.MustCompile(`name="attempt" value="([A-Z2-7]{26})"`).FindStringSubmatch(page)
	if m == nil {
		ts.Fatalf("no sign-in form:\n%s", page)
	}
	req, err := http.NewRequest(http.MethodPost, base+"/signin/local", strings.NewReader(url.Values{"username": {args[0]}, "password": {args[1]}, "attempt": {m[1]}}.Encode()))
	ts.Check(err)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Origin", base)
	resp, err := c.Do(req)
	ts.Check(err)
	resp.Body.Close()
	if _, next, ok := strings.Cut(resp.Header.Get("Refresh"), "url="); ok {
		get(base + next)
	}
	if resp, page := get(base + "/account"); resp.StatusCode != http.StatusOK || resp.Request.URL.Path != "/account" {
		ts.Fatalf("not signed in: %s\n%s", resp.Request.URL, page)
	}
}

// mode PERMISSIONS FILE... checks who may touch a file.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args[1:] {
		fi, err := os.Stat(ts.MkAbs(name))
		ts.Check(err)
		if got := fmt.Sprintf("%04o", fi.Mode().Perm()); got != args[0] {
			ts.Fatalf("%s has mode %s", name, got)
		}
	}
}

// setenv NAME FILE PATTERN sets a variable to what a regular expression's group
// finds in a file.
func setenv(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(m) < 2 {
		ts.Fatalf("%s is not in %s:\n%s", args[2], args[1], ts.ReadFile(args[1]))
	}
	ts.Setenv(args[0], m[1])
}
