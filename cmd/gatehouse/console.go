package main

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/alecthomas/kong"
)

type consoleCmd struct {
	Put  consolePutCmd  `cmd:"" help:"Lend a console, or keep a lease alive by saying the same again."`
	List consoleListCmd `cmd:"" help:"List what is lent."`
	Rm   consoleRmCmd   `cmd:"" help:"Take a console back: what is open closes within a second."`
}

type consolePutCmd struct {
	admin
	ID         string        `arg:"" help:"The console's label in the host name: a-z, 0-9 and -."`
	Upstream   string        `required:"" help:"Where it is; within consoles.networks." placeholder:"URL"`
	ServerName string        `help:"Name in the certificate of an https upstream." placeholder:"NAME"`
	Node       string        `help:"Name of the node or environment."`
	Kind       string        `help:"jupyter, vscode, terminal or a label of your own."`
	Title      string        `help:"What people read."`
	Owner      string        `help:"Whose it is: id, e-mail address or user name." placeholder:"USER"`
	User       []string      `help:"Who else may enter; repeatable." placeholder:"USER"`
	Group      []string      `help:"Whose members may enter; repeatable." placeholder:"GROUP"`
	Allow      string        `help:"CEL: whom else it lets in." placeholder:"RULE"`
	ReadOnly   bool          `help:"All but the owner may look and not act."`
	TTL        time.Duration `help:"How long it lives without being put again." default:"15m"`
}

// Run lends.
func (c consolePutCmd) Run(e env, _ *kong.Kong) error {
	body := map[string]any{"upstream": c.Upstream, "node": c.Node, "kind": c.Kind, "title": c.Title, "owner": c.Owner, "users": c.User,
		"groups": c.Group, "allow": c.Allow, "read_only": c.ReadOnly, "ttl": c.TTL.String()}
	if c.ServerName != "" {
		body["tls"] = map[string]string{"server_name": c.ServerName}
	}
	var lease map[string]any
	if err := c.call(e, http.MethodPut, "/consoles/"+url.PathEscape(c.ID), body, &lease); err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(lease)
	}
	_, err := fmt.Fprintln(e.stdout, "lent", c.ID, "until", lease["expires"], "at", lease["url"])
	return err
}

type consoleListCmd struct {
	admin
	Owner string `help:"Only those of this user." xor:"by" placeholder:"USER"`
	Node  string `help:"Only those of this node." xor:"by"`
}

// Run lists.
func (c consoleListCmd) Run(e env, _ *kong.Kong) error {
	path := "/consoles?limit=500"
	if c.Owner != "" {
		path += "&owner=" + url.QueryEscape(c.Owner)
	}
	if c.Node != "" {
		path += "&node=" + url.QueryEscape(c.Node)
	}
	return c.list(e, path, "id", "node", "kind", "owner", "upstream", "expires")
}

type consoleRmCmd struct {
	admin
	ID string `arg:"" help:"The console's label."`
}

// Run takes back.
func (c consoleRmCmd) Run(e env, _ *kong.Kong) error {
	if err := c.call(e, http.MethodDelete, "/consoles/"+url.PathEscape(c.ID), nil, nil); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.stdout, "taken back", c.ID)
	return err
}
