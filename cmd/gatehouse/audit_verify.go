package main

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/broker/event"
)

type auditVerifyCmd struct {
	admin
	archiveFlags
	Key        string `help:"File with the audit key's public half, kept since an earlier 'gatehouse audit key'." type:"existingfile" placeholder:"FILE"`
	Checkpoint string `help:"Block that an earlier verify printed: it must still be there." placeholder:"NUMBER:HASH"`
	File       string `help:"Verify this bundle in place of the running server's log." type:"existingfile" xor:"from" placeholder:"FILE"`
	Save       string `help:"Keep what was read as a bundle; the file must not exist." xor:"from" placeholder:"FILE"`
}

// Run verifies; it fails when something is wrong.
func (c auditVerifyCmd) Run(e env, _ *kong.Kong) error {
	v := event.Verification{Now: time.Now()}
	if c.Checkpoint != "" {
		var err error
		if v.Checkpoint, err = event.ParseCheckpoint(c.Checkpoint); err != nil {
			return err
		}
	}
	if c.given() {
		if c.Key != "" {
			var err error
			if v.Key, err = c.key(e.ctx, nil); err != nil {
				return err
			}
		}
		return c.archiveFlags.verify(e, v, c.JSON)
	}
	in, done, err := c.read(e)
	if err != nil {
		return err
	}
	defer done()
	src, err := event.ReadBundle(in)
	if err != nil {
		return err
	}
	if v.Key, err = c.key(e.ctx, src); err != nil {
		return err
	}
	report, err := v.Run(e.ctx, src)
	if err != nil {
		return err
	}
	if err := done(); err != nil {
		return err
	}
	if err := c.print(e, report); err != nil {
		return err
	}
	if c.Key == "" {
		fmt.Fprintln(e.stderr, "gatehouse: checked with the key that came with the log. That shows what was changed by somebody who has not the key; who controls the server could have put another key there. Keep `gatehouse audit key` somewhere else and pass it with --key.")
	}
	if len(report.Faults) > 0 {
		return errReported
	}
	return nil
}

// read opens the bundle. done may be called twice.
func (c auditVerifyCmd) read(e env) (in io.Reader, done func() error, err error) {
	if c.File != "" {
		f, err := os.Open(c.File)
		if err != nil {
			return nil, nil, err
		}
		return f, func() error { f.Close(); return nil }, nil
	}
	body, err := c.bundle(e.ctx, e)
	if err != nil {
		return nil, nil, err
	}
	if c.Save == "" {
		return body, body.Close, nil
	}
	out, keep, err := create(e, c.Save)
	if err != nil {
		body.Close()
		return nil, nil, err
	}
	return io.TeeReader(body, out), func() error {
		body.Close()
		if err := keep(); err != nil && !errors.Is(err, os.ErrClosed) {
			return fmt.Errorf("the bundle was not kept: %w", err)
		}
		return nil
	}, nil
}

// key is the one from outside, or for want of it the log's own.
func (c auditVerifyCmd) key(ctx context.Context, src event.Source) (ed25519.PublicKey, error) {
	if c.Key != "" {
		text, err := os.ReadFile(c.Key)
		if err != nil {
			return nil, err
		}
		return event.ParsePublicKey(text)
	}
	head, err := src.Head(ctx)
	if err != nil {
		return nil, err
	}
	return event.ParsePublicKey([]byte(head.Key))
}

func (c auditVerifyCmd) print(e env, r event.Report) error {
	if c.JSON {
		return e.printJSON(r)
	}
	out := e.stdout
	if r.Removed > 0 {
		fmt.Fprintf(out, "blocks up to %d were removed by retention, signed by the audit key\n", r.Removed)
	}
	fmt.Fprintf(out, "%d blocks, %d records\n", r.Blocks, r.Records)
	if r.Unsealed > 0 {
		fmt.Fprintf(out, "%d of them are not sealed yet: they rest on the store alone\n", r.Unsealed)
	}
	if r.Newest.Number > 0 {
		fmt.Fprintf(out, "newest block of %s; for the next --checkpoint: %s\n", r.Sealed.UTC().Format(time.RFC3339), r.Newest)
	}
	if len(r.Faults) == 0 {
		_, err := fmt.Fprintln(out, "the log is as it was sealed")
		return err
	}
	fmt.Fprintln(out, "THE LOG IS NOT AS IT WAS SEALED:")
	w := tabwriter.NewWriter(out, 2, 4, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tCOUNT\tBLOCK\tPOSITION\tWHAT")
	for _, f := range r.Faults {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\n", f.Name, f.Count, span(f.Block, f.ToBlock), span(f.Position, f.ToPosition), f.Text)
	}
	if r.More {
		fmt.Fprintln(w, "…\t\t\t\tand more")
	}
	return w.Flush()
}

// span writes a range of numbers; nothing for none.
func span(from, to uint64) string {
	switch {
	case from == 0:
		return ""
	case to <= from:
		return fmt.Sprint(from)
	}
	return fmt.Sprintf("%d–%d", from, to)
}
