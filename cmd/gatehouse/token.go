package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

type tokenCmd struct {
	account
	Audience string `help:"For this resource, by name or address, in place of the server itself." xor:"for" placeholder:"RESOURCE"`
	Storage  string `help:"The web identity token of this offer of storage credentials, for AWS_WEB_IDENTITY_TOKEN_FILE." xor:"for" placeholder:"NAME"`
	File     string `help:"Write it to this file (0600) in place of printing it." placeholder:"PATH"`
	Watch    bool   `help:"Stay, and keep the file fresh until told to end (SIGTERM)."`
	JSON     bool   `help:"Print JSON."`
}

// Validate is kong's: what does not fit together is a mistake of usage.
func (c tokenCmd) Validate() error {
	if c.Watch && c.File == "" {
		return errors.New("--watch needs --file")
	}
	if c.JSON && c.File != "" {
		return errors.New("--json and --file are not for use together")
	}
	return nil
}

// Run prints a fresh token, or keeps a file with one.
func (c tokenCmd) Run(e env, _ *kong.Kong) error {
	w := speak()
	return e.fail(w, c.JSON, c.token(e, w))
}

func (c tokenCmd) token(e env, w words) error {
	get, err := c.source(w)
	if err != nil {
		return err
	}
	if c.Watch {
		watch := userclient.Watch{Path: c.File, Get: get, Now: time.Now, Sleep: userclient.Sleep, Jitter: userclient.Jitter, Tell: func(err error) {
			if err != nil {
				e.note(w.say("renewing", err))
				return
			}
			e.note(w.say("renewed"))
		}}
		return watch.Run(e.ctx)
	}
	t, err := get(e.ctx)
	switch {
	case err != nil:
		return err
	case c.File != "":
		return userclient.WriteFile(c.File, []byte(t.Value))
	case c.JSON:
		v := map[string]any{"token": t.Value}
		if !t.Expires.IsZero() {
			v["expires_at"] = t.Expires.UTC().Format(time.RFC3339)
		}
		return e.printLine(v)
	}
	_, err = fmt.Fprintln(e.stdout, t.Value)
	return err
}

// source is where the token comes from.
func (c tokenCmd) source(w words) (func(context.Context) (userclient.Secret, error), error) {
	given := os.Getenv("GATEHOUSE_TOKEN")
	switch {
	case given != "" && c.Audience != "":
		return nil, errors.New(w.say("taken"))
	case given != "" && c.Watch && c.Storage == "":
		return nil, errors.New("GATEHOUSE_TOKEN is set and cannot be renewed; unset it to keep a file fresh")
	case given != "" && c.Storage == "":
		return fixed(given), nil
	}
	client, bearer, s, err := c.bearer()
	if err != nil {
		return nil, err
	}
	if s != nil {
		s.Early = c.File != ""
	}
	if c.Storage != "" {
		return func(ctx context.Context) (userclient.Secret, error) {
			t, err := bearer(ctx)
			if err != nil {
				return userclient.Secret{}, err
			}
			return client.StorageToken(ctx, t.Value, c.Storage)
		}, nil
	}
	return func(ctx context.Context) (userclient.Secret, error) { return s.Token(ctx, c.Audience) }, nil
}
