package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

// account are the flags of commands that work with somebody's sign-in.
type account struct {
	Profile string `help:"Which sign-in, by name; needed where there are several." env:"GATEHOUSE_PROFILE" placeholder:"NAME"`
	Issuer  string `help:"The server, such as https://id.example.com; default: that of the only sign-in." env:"GATEHOUSE_ISSUER" placeholder:"URL"`
	CAFile  string `name:"ca-file" help:"Certificate authorities (PEM) to believe beside the system's." env:"GATEHOUSE_CA_FILE" placeholder:"FILE"`
}

// store opens the place where sign-ins are kept.
func (account) store() (*userclient.Store, error) {
	dir, err := userclient.Folder(os.Getenv)
	if err != nil {
		return nil, err
	}
	return &userclient.Store{Dir: dir, Keyring: userclient.SystemKeyring(os.Getenv)}, nil
}

// session returns the sign-in that is meant.
func (a account) session() (*userclient.Session, *userclient.Profile, error) {
	store, err := a.store()
	if err != nil {
		return nil, nil, err
	}
	p, err := store.Find(a.Profile, a.Issuer)
	if err != nil {
		return nil, nil, err
	}
	s, err := a.of(store, p)
	return s, p, err
}

// of makes a session of a profile.
func (a account) of(store *userclient.Store, p *userclient.Profile) (*userclient.Session, error) {
	ca := a.CAFile
	if ca == "" {
		ca = p.CAFile
	}
	c, err := userclient.New(userclient.Options{Issuer: p.Issuer, CAFile: ca, Version: version})
	if err != nil {
		return nil, err
	}
	return &userclient.Session{Store: store, Client: c, Name: p.Name}, nil
}

// bearer returns the client of the issuer that is meant and a way to get a token
// for it: the environment's GATEHOUSE_TOKEN, which wins, or the sign-in's.
func (a account) bearer() (*userclient.Client, func(context.Context) (userclient.Secret, error), *userclient.Session, error) {
	given := os.Getenv("GATEHOUSE_TOKEN")
	if given != "" && a.Issuer != "" && a.Profile == "" {
		c, err := userclient.New(userclient.Options{Issuer: a.Issuer, CAFile: a.CAFile, Version: version})
		return c, fixed(given), nil, err
	}
	s, _, err := a.session()
	if given != "" && errors.Is(err, userclient.ErrSignedOut) {
		return nil, nil, nil, fmt.Errorf("GATEHOUSE_TOKEN is of which server? Set GATEHOUSE_ISSUER or --issuer: %w", err)
	}
	if err != nil {
		return nil, nil, nil, err
	}
	if given != "" {
		return s.Client, fixed(given), nil, nil
	}
	return s.Client, func(ctx context.Context) (userclient.Secret, error) { return s.Token(ctx, "") }, s, nil
}

func fixed(token string) func(context.Context) (userclient.Secret, error) {
	return func(context.Context) (userclient.Secret, error) { return userclient.Secret{Value: token}, nil }
}

// keptIn says where a sign-in's tokens are, in words.
func keptIn(store *userclient.Store, p *userclient.Profile) string {
	if p.Kept == userclient.KeptKeyring {
		return store.Keyring.Label
	}
	return store.Path(p.Name)
}

// absolute makes a path that is written down good for other folders too.
func absolute(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	return filepath.Abs(path)
}
