package main

import (
	"errors"
	"fmt"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

type logoutCmd struct {
	account
	All  bool `help:"All sign-ins of this user on this machine."`
	JSON bool `help:"Print JSON, a line for each sign-in."`
}

// Run revokes at the server and forgets here.
func (c logoutCmd) Run(e env, _ *kong.Kong) error {
	w := speak()
	store, err := c.store()
	if err != nil {
		return err
	}
	profiles, err := c.which(store)
	if err != nil {
		return e.fail(w, c.JSON, err)
	}
	var failed []error
	for _, p := range profiles {
		s, err := c.of(store, p)
		if err == nil {
			err = s.SignOut(e.ctx)
		}
		switch {
		case err != nil:
			failed = append(failed, e.fail(w, c.JSON, fmt.Errorf("%s: %w", p.Name, err)))
		case c.JSON:
			failed = append(failed, e.printLine(signInView{Result: "signed_out", Profile: p.Name, Issuer: p.Issuer}))
		default:
			_, err := fmt.Fprint(e.stdout, w.say("signed out", p.Issuer, p.Name))
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (c logoutCmd) which(store *userclient.Store) ([]*userclient.Profile, error) {
	if !c.All {
		p, err := store.Find(c.Profile, c.Issuer)
		return []*userclient.Profile{p}, err
	}
	all, err := store.Profiles()
	if err == nil && len(all) == 0 {
		err = userclient.ErrSignedOut
	}
	return all, err
}
