package main

import (
	"net/http"
	"net/url"

	"github.com/alecthomas/kong"
)

type keysCmd struct {
	List   keysListCmd   `cmd:"" help:"List the signing keys."`
	Rotate keysRotateCmd `cmd:"" help:"Put the next key to use now."`
	Revoke keysRevokeCmd `cmd:"" help:"Withdraw a key at once; what it signed is void."`
}

type keysListCmd struct{ admin }

// Run lists the keys.
func (c keysListCmd) Run(e env, _ *kong.Kong) error {
	return c.list(e, "/keys", "kid", "alg", "state", "created", "from", "until")
}

type keysRotateCmd struct {
	admin
	Alg string `arg:"" optional:"" help:"RS256 or ES256; both without." enum:"RS256,ES256," default:""`
}

// Run rotates.
func (c keysRotateCmd) Run(e env, _ *kong.Kong) error {
	algs := []string{"RS256", "ES256"}
	if c.Alg != "" {
		algs = []string{c.Alg}
	}
	var list rows
	for _, alg := range algs {
		if err := c.call(e, http.MethodPost, "/keys/rotate", map[string]string{"alg": alg}, &list); err != nil {
			return err
		}
	}
	return c.show(e, list, "kid", "alg", "state", "created", "from", "until")
}

type keysRevokeCmd struct {
	admin
	KID string `arg:"" help:"The key's id."`
}

// Run revokes.
func (c keysRevokeCmd) Run(e env, _ *kong.Kong) error {
	var list rows
	if err := c.call(e, http.MethodPost, "/keys/"+url.PathEscape(c.KID)+"/revoke", nil, &list); err != nil {
		return err
	}
	return c.show(e, list, "kid", "alg", "state", "created", "from", "until")
}
