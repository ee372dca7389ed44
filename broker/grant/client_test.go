package grant

import (
	"errors"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/broker/redact"
)

func good() Client {
	return Client{ClientID: "app", ClientSecret: redact.String("a-good-secret"), RedirectURIs: []string{"https://app.example/cb"}}
}

func open() Client {
	return Client{ClientID: "app", RedirectURIs: []string{"https://app.example/cb"}}
}

func keySet(kv ...string) JWKS {
	k := map[string]string{"kid": "k1"}
	for i := 0; i+1 < len(kv); i += 2 {
		k[kv[i]] = kv[i+1]
	}
	return JWKS{Keys: []map[string]string{k}}
}

// Every way to write a client that could not be used, and the rule that says so.
func TestClientProblems(t *testing.T) {
	no := false
	for name, c := range map[string]struct {
		base   func() Client
		change func(*Client)
		rule   string // "" for none
		field  string
	}{
		"good":   {good, func(*Client) {}, "", ""},
		"public": {open, func(*Client) {}, "", ""},
		"all it may say": {good, func(c *Client) {
			c.ClientURI, c.LogoURI, c.BackchannelLogoutURI = "https://a.example", "https://a.example/l.png", "https://a.example/out?x=1"
			c.RequirePKCE = &no
		}, "", ""},
		"no id":                        {good, func(c *Client) { c.ClientID = "" }, "client.id", "ClientID"},
		"an id with a space":           {good, func(c *Client) { c.ClientID = "my app" }, "client.id", "ClientID"},
		"an id beyond ASCII":           {good, func(c *Client) { c.ClientID = "äpp" }, "client.id", "ClientID"},
		"a long id":                    {good, func(c *Client) { c.ClientID = strings.Repeat("a", 257) }, "client.id", "ClientID"},
		"a short secret":               {good, func(c *Client) { c.ClientSecret = "1234567" }, "client.secret", "ClientSecret"},
		"a wildcard":                   {good, func(c *Client) { c.RedirectURIs = []string{"https://app.example/cb", "https://*.example/cb"} }, "client.redirect_uri", "RedirectURIs[1]"},
		"http":                         {good, func(c *Client) { c.RedirectURIs[0] = "http://app.example/cb" }, "client.redirect_uri", "RedirectURIs[0]"},
		"an app's scheme and a secret": {good, func(c *Client) { c.RedirectURIs[0] = "com.example.app:/cb" }, "client.redirect_uri", "RedirectURIs[0]"},
		"an app's scheme":              {open, func(c *Client) { c.RedirectURIs[0] = "com.example.app:/cb" }, "", ""},
		"a bad post_logout":            {good, func(c *Client) { c.PostLogoutRedirectURIs = []string{"javascript:x"} }, "client.redirect_uri", "PostLogoutRedirectURIs[0]"},
		"no redirect URI":              {good, func(c *Client) { c.RedirectURIs = nil }, "client.redirect_uris", "RedirectURIs"},
		"no redirect URI, a machine":   {good, func(c *Client) { c.RedirectURIs, c.GrantTypes = nil, []string{ClientCredentials} }, "", ""},
		"client_credentials, public":   {open, func(c *Client) { c.GrantTypes = []string{AuthorizationCode, ClientCredentials} }, "client.grant", "GrantTypes[1]"},
		"password":                     {good, func(c *Client) { c.GrantTypes = []string{"password"} }, "client.grant", "GrantTypes[0]"},
		"implicit":                     {good, func(c *Client) { c.GrantTypes = []string{"implicit"} }, "client.grant", "GrantTypes[0]"},
		"grants of later":              {good, func(c *Client) { c.GrantTypes = []string{AuthorizationCode, DeviceCode, TokenExchange} }, "", ""},
		"an exchange rule": {good, func(c *Client) {
			c.GrantTypes, c.Exchange = []string{AuthorizationCode, TokenExchange}, new(`target.audience == "api"`)
		}, "", ""},
		"an empty exchange rule":   {good, func(c *Client) { c.GrantTypes, c.Exchange = []string{AuthorizationCode, TokenExchange}, new("") }, "client.exchange", "Exchange"},
		"an exchange of no grant":  {good, func(c *Client) { c.Exchange = new("true") }, "client.exchange", "Exchange"},
		"a public resource server": {open, func(c *Client) { c.ResourceServerFor = []string{"api"} }, "client.resource_server", "ResourceServerFor"},
		"keys":                     {open, func(c *Client) { c.JWKS = keySet("kty", "EC") }, "", ""},
		"keys at an address":       {open, func(c *Client) { c.JWKSURI, c.TokenEndpointAuthSigningAlg = "https://app.example/jwks", "ES256" }, "", ""},
		"keys and a secret": {good, func(c *Client) {
			c.JWKS, c.TokenEndpointAuthMethod = keySet("kty", "EC"), AuthPrivateKeyJWT
		}, "", ""},
		"keys or a secret":                {good, func(c *Client) { c.JWKS = keySet("kty", "EC") }, "client.keys", "JWKS"},
		"two sets of keys":                {open, func(c *Client) { c.JWKS, c.JWKSURI = keySet("kty", "EC"), "https://app.example/jwks" }, "client.keys", "JWKSURI"},
		"a private key":                   {open, func(c *Client) { c.JWKS = keySet("kty", "EC", "d", "x") }, "client.keys", "JWKS.Keys[0]"},
		"a shared key":                    {open, func(c *Client) { c.JWKS = keySet("kty", "oct", "k", "x") }, "client.keys", "JWKS.Keys[0]"},
		"an unknown key":                  {open, func(c *Client) { c.JWKS = keySet("kty", "x") }, "client.keys", "JWKS.Keys[0]"},
		"keys nowhere":                    {open, func(c *Client) { c.JWKSURI = "app.example" }, "client.keys", "JWKSURI"},
		"an algorithm of nobody":          {open, func(c *Client) { c.TokenEndpointAuthSigningAlg = "ES256" }, "client.keys", "TokenEndpointAuthSigningAlg"},
		"HMAC":                            {open, func(c *Client) { c.JWKS, c.TokenEndpointAuthSigningAlg = keySet("kty", "EC"), "HS256" }, "client.keys", "TokenEndpointAuthSigningAlg"},
		"a signature without keys":        {good, func(c *Client) { c.TokenEndpointAuthMethod = AuthPrivateKeyJWT }, "client.auth", "TokenEndpointAuthMethod"},
		"none with keys":                  {open, func(c *Client) { c.JWKS, c.TokenEndpointAuthMethod = keySet("kty", "EC"), AuthNone }, "client.auth", "TokenEndpointAuthMethod"},
		"none with a secret":              {good, func(c *Client) { c.TokenEndpointAuthMethod = AuthNone }, "client.auth", "TokenEndpointAuthMethod"},
		"basic without a secret":          {open, func(c *Client) { c.TokenEndpointAuthMethod = AuthBasic }, "client.auth", "TokenEndpointAuthMethod"},
		"a method that is not served":     {good, func(c *Client) { c.TokenEndpointAuthMethod = "tls_client_auth" }, "client.auth", "TokenEndpointAuthMethod"},
		"none":                            {open, func(c *Client) { c.TokenEndpointAuthMethod = AuthNone }, "", ""},
		"alg none":                        {good, func(c *Client) { c.IDTokenSignedResponseAlg = "none" }, "client.alg", "IDTokenSignedResponseAlg"},
		"alg HS256":                       {good, func(c *Client) { c.IDTokenSignedResponseAlg = "HS256" }, "client.alg", "IDTokenSignedResponseAlg"},
		"no PKCE, public":                 {open, func(c *Client) { c.RequirePKCE = &no }, "client.pkce", "RequirePKCE"},
		"client_uri a script":             {good, func(c *Client) { c.ClientURI = "javascript:alert(1)" }, "client.uri", "ClientURI"},
		"client_uri with user":            {good, func(c *Client) { c.ClientURI = "https://u@a.example" }, "client.uri", "ClientURI"},
		"logo_uri a path":                 {good, func(c *Client) { c.LogoURI = "/logo.png" }, "client.uri", "LogoURI"},
		"backchannel with a fragment":     {good, func(c *Client) { c.BackchannelLogoutURI = "https://a.example/#x" }, "client.uri", "BackchannelLogoutURI"},
		"a claim of ours":                 {good, func(c *Client) { c.Claims = map[string]string{"sub": "user.id"} }, "client.claims", "Claims.sub"},
		"a claim in our name space":       {good, func(c *Client) { c.Claims = map[string]string{"gatehouse:kind": `"x"`} }, "client.claims", "Claims.gatehouse:kind"},
		"a claim that does not compile":   {good, func(c *Client) { c.Claims = map[string]string{"x": "user."} }, "client.claims", "Claims.x"},
		"a claim about what is not there": {good, func(c *Client) { c.Claims = map[string]string{"x": "lease.id"} }, "client.claims", "Claims.x"},
	} {
		t.Run(name, func(t *testing.T) {
			cl := c.base()
			c.change(&cl)
			ps := cl.Problems()
			if c.rule == "" {
				if len(ps) != 0 {
					t.Fatalf("%+v", ps)
				}
				return
			}
			if len(ps) != 1 || ps[0].Rule != c.rule || ps[0].Field != c.field {
				t.Fatalf("%+v, want %s at %s", ps, c.rule, c.field)
			}
			if strings.Contains(ps[0].Text, "a-good-secret") {
				t.Error("the secret is in the complaint")
			}
			// What is complained about does not start either.
			if _, err := NewClients([]Client{cl}, nil, "https://id.example"); err == nil {
				t.Error("it starts all the same")
			}
		})
	}
	if _, err := NewClients([]Client{good(), good()}, nil, "https://id.example"); err == nil {
		t.Error("two clients of one id")
	}
	if _, err := NewClients(nil, []Resource{{Name: "a", URI: "https://a"}, {Name: "b", URI: "https://a"}}, "https://id.example"); err == nil {
		t.Error("two resources of one URI")
	}
}

func TestDefaultsOfClients(t *testing.T) {
	c, p := good(), open()
	if c.Public() || !p.Public() || !c.PKCERequired() || !p.PKCERequired() || c.Name() != "app" {
		t.Error("defaults")
	}
	for method, want := range map[string][2]bool{AuthBasic: {true, false}, AuthPost: {true, false}, AuthNone: {false, true}} {
		if c.Accepts(method) != want[0] || p.Accepts(method) != want[1] {
			t.Errorf("%s", method)
		}
	}
	c.TokenEndpointAuthMethod = AuthPost
	if c.Accepts(AuthBasic) || !c.Accepts(AuthPost) {
		t.Error("another method than the registered one (ISS-10)")
	}
	cs, err := NewClients([]Client{good()}, []Resource{{Name: "api", URI: "https://api.example"}}, "https://id.example")
	if err != nil {
		t.Fatal(err)
	}
	cli, ok := cs.Get(CLI)
	if !ok || !cli.Public() || strings.Join(cli.Audiences, " ") != "https://id.example api" || cli.DeviceAdmin || !cli.DeviceOffline {
		t.Errorf("gatehouse-cli: %+v", cli)
	}
	if _, err := cs.Authenticate("app", "a-good-secret"); err != nil {
		t.Error(err)
	}
	for id, secret := range map[string]string{"app": "a-good-secreT", "nobody": "", CLI: ""} {
		if _, err := cs.Authenticate(id, secret); !errors.Is(err, ErrInvalidClient) {
			t.Errorf("%s with %q: %v", id, secret, err)
		}
	}
}

// Surface 5: aud is the one resource asked for, by name or URI, of those that
// the client may ask for; never the client's own id.
func TestAudience(t *testing.T) {
	const iss = "https://id.example"
	cs, err := NewClients([]Client{good()}, []Resource{{Name: "a", URI: "https://a.example"}, {Name: "b"}}, iss)
	if err != nil {
		t.Fatal(err)
	}
	some, none, byURI := &Client{ClientID: "x", Audiences: []string{"a", iss}}, &Client{ClientID: "x"}, &Client{ClientID: "x", Audiences: []string{"https://a.example"}}
	for _, c := range []struct {
		client *Client
		asked  []string
		want   string
	}{
		{some, nil, "a"}, {some, []string{"a"}, "a"}, {some, []string{"https://a.example"}, "a"}, {some, []string{iss}, iss}, {none, nil, iss}, {none, []string{iss}, iss}, {byURI, nil, "a"}, {byURI, []string{"a"}, "a"},
		{some, []string{"b"}, ""}, {some, []string{"a", "a"}, ""}, {some, []string{"a", iss}, ""}, {some, []string{"x"}, ""}, {some, []string{"A"}, ""}, {some, []string{"https://a.example/"}, ""}, {some, []string{""}, ""}, {none, []string{"a"}, ""},
	} {
		got, err := cs.Audience(c.client, c.asked)
		if got != c.want || (err != nil) != (c.want == "") || err != nil && !errors.Is(err, ErrInvalidTarget) {
			t.Errorf("%v asks for %v: %q, %v", c.client.Audiences, c.asked, got, err)
		}
	}
}
