package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

// paste FILE N OUT runs the Nth thing to try that the demo printed to FILE, as
// somebody pastes it into a shell of another folder, and writes its output to OUT.
func paste(ts *testscript.TestScript, _ bool, args []string) {
	_, rest, found := strings.Cut(ts.ReadFile(args[0]), "\n  "+args[1]+". ")
	if !found {
		ts.Fatalf("there is no %s. in\n%s", args[1], ts.ReadFile(args[0]))
	}
	block, _, _ := strings.Cut(rest, "\n\n")
	_, commands, _ := strings.Cut(block, "\n")
	ts.Check(os.MkdirAll(ts.MkAbs("elsewhere"), 0o700))
	ts.Check(ts.Exec("bash", "-c", "cd elsewhere && "+strings.TrimSpace(commands)+" > ../"+args[2]))
}

// curl is as much of curl as the printed commands use, so that `make test` needs
// none; make e2e-core runs them with the real one.
func curl() int {
	method, target, form := "", "", []string(nil)
	header := http.Header{}
	dial := map[string]string{}
	for args := os.Args[1:]; len(args) > 0; args = args[1:] {
		arg := args[0]
		if arg == "-s" {
			continue
		}
		if !strings.HasPrefix(arg, "-") {
			target = arg
			continue
		}
		args = args[1:]
		switch arg {
		case "-u":
			user, password, _ := strings.Cut(args[0], ":")
			r := &http.Request{Header: http.Header{}}
			r.SetBasicAuth(user, password)
			header["Authorization"] = r.Header["Authorization"]
		case "-d":
			form = append(form, args[0])
		case "-X":
			method = args[0]
		case "-H":
			k, v, _ := strings.Cut(args[0], ":")
			header.Set(k, strings.TrimSpace(v))
		case "--resolve":
			p := strings.SplitN(args[0], ":", 3)
			dial[net.JoinHostPort(p[0], p[1])] = net.JoinHostPort(p[2], p[1])
		default:
			fmt.Fprintln(os.Stderr, "curl:", arg, "is not known to this test")
			return 2
		}
	}
	var body io.Reader
	if form != nil {
		body = strings.NewReader(strings.Join(form, "&"))
		header.Set("Content-Type", "application/x-www-form-urlencoded")
		if method == "" {
			method = http.MethodPost
		}
	}
	req, err := http.NewRequest(method, target, body)
	if err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		return 3
	}
	req.Header = header
	host := req.URL.Host
	if to, ok := dial[host]; ok {
		req.Host, req.URL.Host = host, to
	}
	resp, err := client(nil).Do(req)
	if err != nil {
		fmt.Fprintln(os.Stderr, "curl:", err)
		return 7
	}
	defer resp.Body.Close()
	_, _ = io.Copy(os.Stdout, resp.Body)
	return 0
}

// address FILE LABEL NAME sets a variable to the address printed behind a label.
func address(ts *testscript.TestScript, _ bool, args []string) {
	m := regexp.MustCompile(`(?m)^  ` + regexp.QuoteMeta(args[1]) + ` +(http\S+)`).FindStringSubmatch(ts.ReadFile(args[0]))
	if m == nil {
		ts.Fatalf("%s is not in\n%s", args[1], ts.ReadFile(args[0]))
	}
	ts.Setenv(args[2], m[1])
}
