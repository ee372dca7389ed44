package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"time"

	"github.com/alecthomas/kong"
)

type auditCmd struct {
	Search  auditSearchCmd  `cmd:"" help:"Find events, newest first."`
	Export  auditExportCmd  `cmd:"" help:"Write all events that a search finds, as JSON lines or CSV."`
	Verify  auditVerifyCmd  `cmd:"" help:"Check that the log is as it was sealed, and say where it is not."`
	Restore auditRestoreCmd `cmd:"" help:"Make events of an archive found again that the log does not hold any more."`
	Key     auditKeyCmd     `cmd:"" help:"Print the public key for verify --key; keep it away from the server."`
}

// auditFilter says which events are wanted.
type auditFilter struct {
	After     string        `help:"Not before this time or day (UTC), such as 2026-11-26 or 2026-11-26T08:00:00Z." placeholder:"TIME"`
	Before    string        `help:"Before this time or day." placeholder:"TIME"`
	Since     time.Duration `help:"Of the last hours, such as 24h; in place of --after." placeholder:"DURATION"`
	Name      string        `help:"Names or patterns, separated by commas: signin.failed,key.*." placeholder:"NAMES"`
	Actor     string        `help:"Who did it: id, e-mail address or user name; operator for data/admin.token." placeholder:"WHO"`
	Target    string        `help:"Whom or what it was done to." placeholder:"WHO"`
	Person    string        `help:"Who did it or to whom it was done." placeholder:"WHO"`
	IP        string        `name:"ip" help:"Address of the client." placeholder:"ADDRESS"`
	Connector string        `help:"Id of a connector." placeholder:"ID"`
	Client    string        `help:"Id of an OIDC client." placeholder:"ID"`
	Ref       string        `help:"Reference of an error page (GH-7F3K-29QD), or a request's id." placeholder:"REF"`
	Severity  string        `help:"info, warning or critical: that and graver." enum:",info,warning,critical" default:""`
	Text      string        `help:"Part of any id, name or detail." placeholder:"TEXT"`
	Oldest    bool          `help:"Oldest first."`
	Limit     int           `help:"How many at most." placeholder:"N"`
}

func (f auditFilter) values(now time.Time) url.Values {
	q := url.Values{}
	for name, v := range map[string]string{"after": f.After, "before": f.Before, "name": f.Name, "actor": f.Actor, "target": f.Target, "person": f.Person, "ip": f.IP,
		"connector": f.Connector, "client": f.Client, "ref": f.Ref, "severity": f.Severity, "text": f.Text} {
		if v != "" {
			q.Set(name, v)
		}
	}
	if f.Since > 0 {
		q.Set("after", now.Add(-f.Since).UTC().Format(time.RFC3339))
	}
	if f.Oldest {
		q.Set("order", "oldest")
	}
	return q
}

type auditSearchCmd struct {
	admin
	auditFilter
	Names bool `help:"Show how users are called now beside their ids."`
}

// searchLimit is how many events are shown unless --limit says otherwise.
const searchLimit = 50

// Run searches.
func (c auditSearchCmd) Run(e env, _ *kong.Kong) error {
	q := c.values(time.Now())
	if c.Limit == 0 {
		c.Limit = searchLimit
	}
	if c.Names {
		q.Set("names", "true")
	}
	var all rows
	behind := false
	for {
		q.Set("limit", strconv.Itoa(min(500, c.Limit-len(all.Items))))
		var page struct {
			rows
			Behind bool `json:"behind"`
		}
		if err := c.call(e, http.MethodGet, "/audit/events?"+q.Encode(), nil, &page); err != nil {
			return err
		}
		all.Items, behind = append(all.Items, page.Items...), behind || page.Behind
		if page.Next == "" || len(all.Items) >= c.Limit {
			break
		}
		q.Set("cursor", page.Next)
	}
	if behind {
		fmt.Fprintln(e.stderr, "gatehouse: the log is still being indexed; events may be missing")
	}
	columns := []string{"time", "severity", "name", "actor", "target", "connector", "ip", "ref"}
	if c.Names {
		columns = []string{"time", "severity", "name", "actor", "actor_name", "target", "target_name", "connector", "ip", "ref"}
	}
	return c.show(e, all, columns...)
}

type auditExportCmd struct {
	admin
	auditFilter
	Names  bool   `help:"Add how users are called now."`
	Format string `help:"jsonl or csv." enum:"jsonl,csv" default:"jsonl"`
	Output string `short:"o" help:"File to write; it must not exist. Default: stdout." placeholder:"FILE"`
}

// Run exports.
func (c auditExportCmd) Run(e env, _ *kong.Kong) error {
	q := c.values(time.Now())
	q.Set("format", c.Format)
	if c.Names {
		q.Set("names", "true")
	}
	if c.Limit > 0 {
		q.Set("limit", strconv.Itoa(c.Limit))
	}
	in, err := c.send(e.ctx, e, http.MethodGet, "/audit/events?"+q.Encode(), nil)
	if err != nil {
		return err
	}
	defer in.Close()
	out, done, err := create(e, c.Output)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if cerr := done(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("the export is not whole: %w", err)
	}
	return nil
}

// create opens a new file for what is worth protecting, or stdout for "".
func create(e env, path string) (io.Writer, func() error, error) {
	if path == "" {
		return e.stdout, func() error { return nil }, nil
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, nil, err
	}
	return f, f.Close, nil
}

type auditKeyCmd struct{ admin }

// auditKey is the answer of the API.
type auditKey struct {
	ID      string    `json:"id"`
	Alg     string    `json:"alg"`
	Key     string    `json:"public_key"`
	Created time.Time `json:"created"`
}

// Run prints the key.
func (c auditKeyCmd) Run(e env, _ *kong.Kong) error {
	var k auditKey
	if err := c.call(e, http.MethodGet, "/audit/key", nil, &k); err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(k)
	}
	_, err := fmt.Fprint(e.stdout, k.Key)
	return err
}

// bundle opens the log with its chain as the running server gives it.
// It may be long, so that no time bounds it, but a server that falls silent does.
func (a admin) bundle(ctx context.Context, e env) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silent := time.AfterFunc(silence, func() { cancel(errSilent) })
	body, err := a.send(ctx, e, http.MethodGet, "/audit/bundle", nil)
	if err != nil {
		silent.Stop()
		err = errors.Join(err, context.Cause(ctx))
		cancel(nil)
		return nil, err
	}
	return &heard{ReadCloser: body, ctx: ctx, cancel: cancel, silent: silent}, nil
}

// silence is how long a server may say nothing while it streams; it sends what it
// has in pieces of a few thousand records. A test shortens it.
var silence = 2 * time.Minute

var errSilent = errors.New("the server fell silent in the middle of the log; try again, and see to its own log")

// heard is a stream of a server that must go on speaking.
type heard struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	silent *time.Timer
}

// Read waits for the next piece as long as silence.
func (h *heard) Read(p []byte) (int, error) {
	n, err := h.ReadCloser.Read(p)
	if n > 0 {
		h.silent.Reset(silence)
	}
	if cause := context.Cause(h.ctx); err != nil && cause != nil {
		err = cause
	}
	return n, err
}

// Close ends the request.
func (h *heard) Close() error {
	h.silent.Stop()
	h.cancel(nil)
	return h.ReadCloser.Close()
}
