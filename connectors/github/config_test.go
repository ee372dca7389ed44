package github

import (
	"errors"
	"net/http"
	"reflect"
	"slices"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
)

func TestCheck(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config())
	if err := c.Check(t.Context()); err != nil {
		t.Error(err)
	}
	f.override["/api/v3/rate_limit"] = status(502, "", nil)
	if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	f.srv.Close()
	if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestOpen(t *testing.T) {
	var got []any
	env := connectors.Env{HTTP: func(proxy, ca string, trusted ...string) (*http.Client, error) {
		got = []any{proxy, ca, trusted}
		return &http.Client{Transport: http.NewFileTransport(nil)}, nil
	}}
	for name, tc := range map[string]struct {
		cfg     Config
		ends    endpoints
		trusted []string
	}{
		"github.com": {Config{}, endpoints{"https://github.com/login/oauth/authorize", "https://github.com/login/oauth/access_token", "https://api.github.com"}, nil},
		"written":    {Config{BaseURL: "https://github.com/"}, endpoints{"https://github.com/login/oauth/authorize", "https://github.com/login/oauth/access_token", "https://api.github.com"}, []string{"github.com", "api.github.com"}},
		"proxy":      {Config{Proxy: "http://p:1"}, endpoints{"https://github.com/login/oauth/authorize", "https://github.com/login/oauth/access_token", "https://api.github.com"}, []string{"github.com", "api.github.com"}},
		"server":     {Config{BaseURL: "https://ghe.example", CAFile: "ca.pem"}, endpoints{"https://ghe.example/login/oauth/authorize", "https://ghe.example/login/oauth/access_token", "https://ghe.example/api/v3"}, []string{"ghe.example"}},
		"residency":  {Config{BaseURL: "https://octo.ghe.com"}, endpoints{"https://octo.ghe.com/login/oauth/authorize", "https://octo.ghe.com/login/oauth/access_token", "https://api.octo.ghe.com"}, []string{"octo.ghe.com", "api.octo.ghe.com"}},
		"override":   {Config{APIURL: "https://api.example/"}, endpoints{"https://github.com/login/oauth/authorize", "https://github.com/login/oauth/access_token", "https://api.example"}, []string{"api.example"}},
	} {
		tc.cfg.ClientID, tc.cfg.ClientSecret = "app", "s3cret"
		c, err := Open(env, tc.cfg)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if e := c.(*Connector).ends; e != tc.ends {
			t.Errorf("%s: %v", name, e)
		}
		if !reflect.DeepEqual(got, []any{tc.cfg.Proxy, tc.cfg.CAFile, tc.trusted}) {
			t.Errorf("%s: client made with %v", name, got)
		}
	}
	if _, err := Open(env, Config{}); err == nil {
		t.Error("opened without a client")
	}
	env.HTTP = func(string, string, ...string) (*http.Client, error) { return nil, errors.New("no such file") }
	if _, err := Open(env, Config{ClientID: "a", ClientSecret: "b"}); err == nil {
		t.Error("opened without a client")
	}
}

func TestProblems(t *testing.T) {
	bad := Config{
		RedirectURI: "/cb", BaseURL: "https://ghe.example/api/v3", TokenURL: "http://ghe.example/t", AuthorizeURL: "https://u@ghe.example", APIURL: "ftp://x",
		Scopes:        []string{"read:user user:email"},
		Organizations: []Organization{{Name: "acme", Teams: []string{"ml", "acme/ml", "The Team"}}, {Name: "Acme"}, {Name: "a/b", ID: -1}},
	}
	var got []string
	for _, p := range bad.Problems() {
		got = append(got, p.Field)
		if p.Warning != (p.Field == "TokenURL") {
			t.Errorf("warning: %v", p)
		}
	}
	want := []string{"ClientID", "ClientSecret", "RedirectURI", "AuthorizeURL", "TokenURL", "APIURL", "BaseURL", "Scopes[0]",
		"Organizations[0].Teams[1]", "Organizations[0].Teams[2]", "Organizations[1].Name", "Organizations[2].Name", "Organizations[2].ID"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	good := Config{ClientID: "a", ClientSecret: "b", BaseURL: "http://127.0.0.1:8080", Scopes: []string{"user"}, Organizations: []Organization{{Name: "acme", Teams: []string{"ml"}}}}
	if ps := good.Problems(); ps != nil {
		t.Errorf("got %v", ps)
	}
	if ps := (Config{ClientID: "a", ClientSecret: "b", BaseURL: "https://api.github.com"}).Problems(); len(ps) != 1 {
		t.Errorf("got %v", ps)
	}
}
