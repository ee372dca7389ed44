package main

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/alecthomas/kong"
)

type userCmd struct {
	List    userListCmd    `cmd:"" help:"List users."`
	Show    userShowCmd    `cmd:"" help:"Show one user, by id, e-mail or user name."`
	Suspend userSuspendCmd `cmd:"" help:"Suspend: everything of the user ends within a second."`
	Resume  userResumeCmd  `cmd:"" help:"Let a suspended user sign in again."`
}

type userListCmd struct{ admin }

// Run lists.
func (c userListCmd) Run(e env, _ *kong.Kong) error {
	return c.list(e, "/users", "id", "username", "email", "suspended", "created")
}

// find returns the one user that is meant.
func (a admin) find(e env, who string) (map[string]any, error) {
	var found rows
	if err := a.call(e, http.MethodGet, "/users?q="+url.QueryEscape(who), nil, &found); err != nil {
		return nil, err
	}
	switch len(found.Items) {
	case 0:
		return nil, fmt.Errorf("there is no user %q", who)
	case 1:
		return found.Items[0], nil
	}
	return nil, fmt.Errorf("%d users are called %q; use the id", len(found.Items), who)
}

type userShowCmd struct {
	admin
	Who string `arg:"" help:"Id, e-mail address or user name."`
}

// Run shows.
func (c userShowCmd) Run(e env, _ *kong.Kong) error {
	u, err := c.find(e, c.Who)
	if err != nil {
		return err
	}
	return e.printJSON(u)
}

type userSuspendCmd struct {
	admin
	Who string `arg:"" help:"Id, e-mail address or user name."`
}

// Run suspends.
func (c userSuspendCmd) Run(e env, _ *kong.Kong) error {
	return c.set(e, c.Who, "suspend", "suspended")
}

type userResumeCmd struct {
	admin
	Who string `arg:"" help:"Id, e-mail address or user name."`
}

// Run resumes.
func (c userResumeCmd) Run(e env, _ *kong.Kong) error { return c.set(e, c.Who, "resume", "resumed") }

func (a admin) set(e env, who, action, done string) error {
	u, err := a.find(e, who)
	if err != nil {
		return err
	}
	id := fmt.Sprint(u["id"])
	if err := a.call(e, http.MethodPost, "/users/"+url.PathEscape(id)+"/"+action, nil, nil); err != nil {
		return err
	}
	_, err = fmt.Fprintln(e.stdout, done, id)
	return err
}

type sessionCmd struct {
	List   sessionListCmd   `cmd:"" help:"List the sessions of a user."`
	Revoke sessionRevokeCmd `cmd:"" help:"End a session."`
}

type sessionListCmd struct {
	admin
	Who string `arg:"" help:"The user: id, e-mail address or user name."`
}

// Run lists.
func (c sessionListCmd) Run(e env, _ *kong.Kong) error {
	u, err := c.find(e, c.Who)
	if err != nil {
		return err
	}
	return c.list(e, "/sessions?user="+url.QueryEscape(fmt.Sprint(u["id"])), "id", "kind", "connector", "ip", "agent", "last_seen", "expires")
}

type sessionRevokeCmd struct {
	admin
	ID string `arg:"" help:"The session's id."`
}

// Run revokes.
func (c sessionRevokeCmd) Run(e env, _ *kong.Kong) error {
	if err := c.call(e, http.MethodDelete, "/sessions/"+url.PathEscape(c.ID), nil, nil); err != nil {
		return err
	}
	_, err := fmt.Fprintln(e.stdout, "ended", c.ID)
	return err
}

type clientCmd struct {
	List clientListCmd `cmd:"" help:"List OIDC clients."`
}

type clientListCmd struct{ admin }

// Run lists.
func (c clientListCmd) Run(e env, _ *kong.Kong) error {
	return c.list(e, "/clients", "client_id", "client_name", "trusted", "scope")
}
