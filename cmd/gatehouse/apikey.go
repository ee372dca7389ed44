package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/alecthomas/kong"
)

type apikeyCmd struct {
	Create apikeyCreateCmd `cmd:"" help:"Make a key of a service account and print it, once."`
	List   apikeyListCmd   `cmd:"" help:"List keys."`
	Revoke apikeyRevokeCmd `cmd:"" help:"Revoke a key: dead on every replica within a second."`
}

type apikeyCreateCmd struct {
	admin
	Account string        `arg:"" help:"Service account; made if it does not exist."`
	Name    string        `help:"What the key is for." default:"cli"`
	Scope   []string      `help:"What it may do; repeatable." placeholder:"SCOPE"`
	CIDR    []string      `help:"Where it may be used from; repeatable." placeholder:"NETWORK"`
	Expires time.Duration `help:"How long it lives." default:"2160h"`
}

// Run makes.
func (c apikeyCreateCmd) Run(e env, _ *kong.Kong) error {
	var accounts rows
	if err := c.call(e, http.MethodGet, "/service-accounts", nil, &accounts); err != nil {
		return err
	}
	there := false
	for _, a := range accounts.Items {
		there = there || a["name"] == c.Account
	}
	if !there {
		if err := c.call(e, http.MethodPost, "/service-accounts", map[string]string{"name": c.Account}, nil); err != nil {
			return err
		}
	}
	var key map[string]any
	if err := c.call(e, http.MethodPost, "/service-accounts/"+url.PathEscape(c.Account)+"/api-keys",
		map[string]any{"name": c.Name, "scopes": c.Scope, "cidrs": c.CIDR, "expires_in": c.Expires.String()}, &key); err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(key)
	}
	_, err := fmt.Fprintln(e.stdout, key["key"])
	return err
}

type apikeyListCmd struct {
	admin
	Owner string `arg:"" optional:"" help:"Only those of this user or service account."`
}

// Run lists.
func (c apikeyListCmd) Run(e env, _ *kong.Kong) error {
	path := "/api-keys?limit=500"
	if c.Owner != "" {
		path = "/api-keys?owner=" + url.QueryEscape(c.Owner)
	}
	return c.list(e, path, "id", "name", "owner", "state", "scopes", "expires", "last_used")
}

type apikeyRevokeCmd struct {
	admin
	ID string `arg:"" help:"The key's id: the 12 characters after rgpu_."`
}

// Run revokes.
func (c apikeyRevokeCmd) Run(e env, _ *kong.Kong) error {
	if err := c.call(e, http.MethodDelete, "/api-keys/"+url.PathEscape(c.ID), nil, nil); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.stdout, "revoked", c.ID)
	return err
}
