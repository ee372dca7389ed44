package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
	"github.com/remotegpu/gatehouse/config"
)

// admin are the flags of commands that talk to the operator's API.
type admin struct {
	account
	AdminURL string `help:"Address of the private listener; default: admin_listen of the configuration." env:"GATEHOUSE_ADMIN_URL" placeholder:"URL"`
	JSON     bool   `help:"Print JSON."`
}

// call speaks to the running server; see target.
func (a admin) call(e env, method, path string, body, into any) error {
	var rd io.Reader
	if body != nil {
		js, err := json.Marshal(body)
		if err != nil {
			return err
		}
		rd = bytes.NewReader(js)
	}
	ctx, cancel := context.WithTimeout(e.ctx, 30*time.Second)
	defer cancel()
	answer, err := a.send(ctx, e, method, path, rd)
	if err != nil {
		return err
	}
	defer answer.Close()
	raw, err := io.ReadAll(io.LimitReader(answer, maxAnswer))
	if err != nil {
		return err
	}
	if into != nil && len(raw) > 0 {
		return json.Unmarshal(raw, into)
	}
	return nil
}

// maxAnswer bounds an answer that is read whole, in bytes.
const maxAnswer = 8 << 20

// send makes a request and returns the body of an answer that does not refuse.
func (a admin) send(ctx context.Context, e env, method, path string, body io.Reader) (io.ReadCloser, error) {
	base, tok, client, err := a.target(ctx, e)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(base, "/")+"/api/v1"+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+tok)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := client.Do(req) // ctx bounds it
	if err != nil {
		return nil, fmt.Errorf("the server does not answer: %w", err)
	}
	if resp.StatusCode < 300 {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, err
	}
	var fail struct{ Message, Code, Ref string }
	out := &answerError{status: resp.StatusCode, body: raw, text: "the server answered " + resp.Status}
	if json.Unmarshal(raw, &fail) == nil && fail.Message != "" {
		out.text = fmt.Sprintf("%s (%s, reference %s)", userclient.Printable(fail.Message, maxPrinted), userclient.Printable(fail.Code, maxPrinted), userclient.Printable(fail.Ref, maxPrinted))
		if fail.Code == "policy.stepup" && os.Getenv("GATEHOUSE_TOKEN") == "" {
			out.text += "; run: gatehouse login --browser --fresh"
		}
	}
	return nil, out
}

// target finds out which server is meant and what opens it, the first of:
// GATEHOUSE_TOKEN (an access token, an API key or the operator's), for the issuer
// if one is named, else for the private listener; the sign-in that --profile or
// --issuer names; data/admin.token of the configuration, for the private
// listener; the only sign-in that there is. A named server is never answered
// with another one's.
func (a admin) target(ctx context.Context, e env) (base, tok string, client *http.Client, err error) {
	given := os.Getenv("GATEHOUSE_TOKEN")
	if a.AdminURL == "" && (a.Profile != "" || a.Issuer != "") {
		return a.signedIn(ctx)
	}
	base = a.AdminURL
	addr, data := "", ""
	if base == "" || given == "" {
		addr, data = e.private()
	}
	if base == "" {
		base = "http://" + reachable(addr)
	}
	if given != "" {
		return base, given, &http.Client{}, nil
	}
	raw, err := os.ReadFile(filepath.Join(data, "admin.token"))
	if err == nil {
		return base, strings.TrimSpace(string(raw)), &http.Client{}, nil
	}
	if a.AdminURL == "" {
		base, tok, client, serr := a.signedIn(ctx)
		if serr == nil || !errors.Is(serr, userclient.ErrSignedOut) && !errors.Is(serr, userclient.ErrNoFolder) {
			return base, tok, client, serr
		}
	}
	return "", "", nil, fmt.Errorf("the operator's token: %w (run where the server runs, set GATEHOUSE_TOKEN, or sign in: gatehouse login --browser --scope gatehouse:admin)", err)
}

// signedIn is the API of the issuer that somebody is signed in at.
func (a admin) signedIn(ctx context.Context) (base, tok string, client *http.Client, err error) {
	c, bearer, _, err := a.bearer()
	if err != nil {
		return "", "", nil, speak().explain(err)
	}
	t, err := bearer(ctx)
	if err != nil {
		return "", "", nil, speak().explain(err)
	}
	client, err = c.Long()
	return c.Issuer(), t.Value, client, err
}

// maxPrinted bounds what is printed of a server's words, in characters
// (docs/security.md G8).
const maxPrinted = 1000

// answerError is an answer of the API that refuses.
type answerError struct {
	status int
	body   []byte
	text   string
}

// Error is the server's message.
func (e *answerError) Error() string { return e.text }

// private returns the private listener's address and the data folder of the
// configuration. A mistake elsewhere in it does not matter here, and a demo may
// have none.
func (e env) private() (addr, data string) {
	opts := config.LoadOptions{Types: broker.Types(), Dev: true}
	cfg, _, _ := config.Load(e.config, opts)
	if cfg == nil {
		cfg, _, _ = config.Parse(nil, opts)
	}
	return cfg.AdminListen, cfg.DataDir
}

// reachable makes an address to call of one to listen on.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	if host == "" || host == "0.0.0.0" || host == "::" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port)
}

type rows struct {
	Items []map[string]any `json:"items"`
	Next  string           `json:"next"`
}

// show prints a list as a table of some members, or as JSON.
func (a admin) show(e env, list rows, columns ...string) error {
	if a.JSON {
		return e.printJSON(list.Items)
	}
	w := tabwriter.NewWriter(e.stdout, 2, 4, 2, ' ', 0)
	fmt.Fprintln(w, strings.ToUpper(strings.Join(columns, "\t")))
	for _, it := range list.Items {
		cells := make([]string, len(columns))
		for i, c := range columns {
			if v, ok := it[c]; ok && v != nil {
				cells[i] = fmt.Sprint(v)
			}
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	return w.Flush()
}

func (a admin) list(e env, path string, columns ...string) error {
	var all rows
	after := ""
	for {
		u := path
		if after != "" {
			sep := "?"
			if strings.Contains(path, "?") {
				sep = "&"
			}
			u += sep + "after=" + url.QueryEscape(after)
		}
		var page rows
		if err := a.call(e, http.MethodGet, u, nil, &page); err != nil {
			return err
		}
		all.Items = append(all.Items, page.Items...)
		if after = page.Next; after == "" {
			return a.show(e, all, columns...)
		}
	}
}

type healthcheckCmd struct {
	URL string `help:"Address of /readyz; default: that of admin_listen." placeholder:"URL"`
}

// Run is for container health checks.
func (c healthcheckCmd) Run(e env, _ *kong.Kong) error {
	u := c.URL
	if u == "" {
		addr, _ := e.private()
		u = "http://" + reachable(addr) + "/readyz"
	}
	ctx, cancel := context.WithTimeout(e.ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", u, resp.Status)
	}
	return nil
}
