package issuer

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/workload"
	"github.com/remotegpu/gatehouse/connectors"
)

const ciIssuer = "https://ci.example"

// signs returns the claims as they are, for a look at them.
type signs struct{ keys }

func (signs) Sign(_ context.Context, alg token.Alg, typ token.Type, c token.Claims) (string, error) {
	js, err := json.Marshal(map[string]any{"alg": alg, "typ": typ, "claims": c})
	return string(js), err
}

// judge gives what a test tells it to, and remembers what it was asked.
type judge struct {
	gives workload.Grant
	err   error
	asked []workload.Want
}

func (*judge) Knows(iss string) bool { return iss == ciIssuer }

func (j *judge) Exchange(_ context.Context, _ string, want workload.Want) (workload.Grant, error) {
	j.asked = append(j.asked, want)
	return j.gives, j.err
}

type fixedAccounts map[string][]string

func (a fixedAccounts) Get(_ context.Context, name string) (user.ServiceAccount, error) {
	groups, ok := a[name]
	if !ok {
		return user.ServiceAccount{}, user.ErrNotFound
	}
	return user.ServiceAccount{Name: name, Groups: groups}, nil
}

// jwtOf looks like a JWT with these claims.
func jwtOf(claims string) string {
	b := base64.RawURLEncoding
	return b.EncodeToString([]byte(`{"alg":"RS256"}`)) + "." + b.EncodeToString([]byte(claims)) + "." + b.EncodeToString([]byte("signature"))
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

// jobs is an Issuer that serves the workload grants, with j to decide.
func jobs(t testing.TB, j *judge) *Issuer {
	t.Helper()
	is := parser(t)
	clients, err := grant.NewClients([]grant.Client{
		{ClientID: "deployer", ClientSecret: "a-good-secret", GrantTypes: []string{grant.TokenExchange, grant.JWTBearer}},
		{ClientID: "lacks", ClientSecret: "a-good-secret", GrantTypes: []string{grant.ClientCredentials}},
	}, []grant.Resource{{Name: "api", URI: "https://api.example"}, {Name: "other"}}, testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	is.cfg.Clients, is.cfg.Keys, is.cfg.Workloads = clients, signs{}, j
	is.cfg.Accounts = fixedAccounts{"acme-deployer": {"deployers"}}
	is.cfg.Reachable = func(context.Context) error { return nil }
	is.cfg.Now = func() time.Time { return noon }
	is.grants = []grantHandler{{grant.ClientCredentials, is.clientCredentials}, {grant.TokenExchange, is.exchange}, {grant.JWTBearer, is.assertion}}
	return is
}

// ask calls the token endpoint; with a client, as that one.
func (is *Issuer) ask(form url.Values, client string) (*httptest.ResponseRecorder, map[string]any) {
	r := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if client != "" {
		r.SetBasicAuth(client, "a-good-secret")
	}
	w := httptest.NewRecorder()
	is.cfg.Edge.Middleware(is.cfg.Edge.Handle("token", is.Token)).ServeHTTP(w, r)
	m := map[string]any{}
	_ = json.Unmarshal(w.Body.Bytes(), &m)
	return w, m
}

func exchangeOf(raw string) url.Values {
	return url.Values{"grant_type": {grant.TokenExchange}, "subject_token": {raw}, "subject_token_type": {typeOfIDToken}}
}

func deployed() workload.Grant {
	return workload.Grant{Rule: "deploy", ServiceAccount: "acme-deployer", Scopes: []string{"deployments:write"}, Audience: "https://api.example", TTL: 15 * time.Minute,
		Provenance: map[string]string{"provider": "github_actions", "repository_id": "123456"}}
}

// The three ways in which a job asks, and what it gets (CI-6).
func TestWorkloadGrants(t *testing.T) {
	t.Parallel()
	job := jwtOf(`{"iss":"` + ciIssuer + `"}`)
	for name, c := range map[string]struct {
		form   url.Values
		client string
		want   workload.Want
		issued any
	}{
		"exchange":                 {exchangeOf(job), "", workload.Want{}, typeOfAccessToken},
		"exchange, as a JWT":       {with(exchangeOf(job), "subject_token_type", typeOfJWT, "requested_token_type", typeOfJWT), "", workload.Want{}, typeOfJWT},
		"exchange, narrowed":       {with(exchangeOf(job), "scope", "a b a", "audience", "https://api.example"), "", workload.Want{Scopes: []string{"a", "b"}, Audience: "api"}, typeOfAccessToken},
		"exchange, by resource":    {with(exchangeOf(job), "resource", "https://api.example"), "", workload.Want{Audience: "api"}, typeOfAccessToken},
		"exchange, with a client":  {exchangeOf(job), "deployer", workload.Want{Client: "deployer"}, typeOfAccessToken},
		"a stranger's, but alone":  {exchangeOf(jwtOf(`{"iss":"https://stranger.example"}`)), "", workload.Want{}, typeOfAccessToken}, // judge records the refusal
		"JWT bearer":               {url.Values{"grant_type": {grant.JWTBearer}, "assertion": {job}}, "", workload.Want{}, nil},
		"JWT bearer with a client": {url.Values{"grant_type": {grant.JWTBearer}, "assertion": {job}, "scope": {"a"}}, "deployer", workload.Want{Client: "deployer", Scopes: []string{"a"}}, nil},
		"client_assertion":         {url.Values{"grant_type": {grant.ClientCredentials}, "client_assertion": {job}, "client_assertion_type": {assertionOfJWT}}, "", workload.Want{}, nil},
		"client_assertion, named":  {url.Values{"grant_type": {grant.ClientCredentials}, "client_assertion": {job}, "client_assertion_type": {assertionOfJWT}, "client_id": {"acme-deployer"}}, "", workload.Want{}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := &judge{gives: deployed()}
			w, m := jobs(t, j).ask(c.form, c.client)
			if w.Code != http.StatusOK || w.Header().Get("Cache-Control") != "no-store" {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			if len(j.asked) != 1 {
				t.Fatalf("asked %d times", len(j.asked))
			}
			got := j.asked[0]
			got.IP, got.Agent, got.RequestID = "", "", ""
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("asked for %+v, want %+v", got, c.want)
			}
			if m["token_type"] != "Bearer" || m["expires_in"] != 900.0 || m["refresh_token"] != nil || m["id_token"] != nil || m["scope"] != "deployments:write" || m["issued_token_type"] != c.issued {
				t.Errorf("answer: %v", m)
			}
			var made struct {
				Alg, Typ string
				Claims   map[string]any
			}
			if err := json.Unmarshal([]byte(m["access_token"].(string)), &made); err != nil {
				t.Fatal(err)
			}
			client := "acme-deployer"
			if c.client != "" {
				client = c.client
			}
			jti, _ := made.Claims["jti"].(string)
			want := map[string]any{"sub": "acme-deployer", "aud": "api", "iat": float64(noon.Unix()), "exp": float64(noon.Add(15 * time.Minute).Unix()), "jti": jti, "client_id": client,
				"scope": "deployments:write", "gatehouse:kind": "service", "groups": []any{"deployers"},
				"gatehouse:workload": map[string]any{"rule": "deploy", "provider": "github_actions", "repository_id": "123456"}}
			if made.Alg != "ES256" || made.Typ != "at+jwt" || jti == "" || grant.OfToken(jti) != "" || !reflect.DeepEqual(made.Claims, want) {
				t.Errorf("%+v,\nwant %v", made, want)
			}
		})
	}
}

func with(f url.Values, kv ...string) url.Values {
	for i := 0; i+1 < len(kv); i += 2 {
		f.Set(kv[i], kv[i+1])
	}
	return f
}

// What a rule gives is bounded here as well.
func TestWorkloadGrantIsBounded(t *testing.T) {
	t.Parallel()
	g := deployed()
	g.TTL, g.Audience, g.Scopes = 9*time.Hour, "", nil
	w, m := jobs(t, &judge{gives: g}).ask(exchangeOf(jwtOf(`{"iss":"`+ciIssuer+`"}`)), "")
	if w.Code != http.StatusOK || m["expires_in"] != 3600.0 || m["scope"] != nil || !strings.Contains(fmt.Sprint(m["access_token"]), `"aud":"`+testIssuer+`"`) || strings.Contains(fmt.Sprint(m["access_token"]), `"scope"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Errors by their RFCs, one text for whatever is wrong with the job's token (CI-9).
func TestWorkloadRefusals(t *testing.T) {
	t.Parallel()
	job := jwtOf(`{"iss":"` + ciIssuer + `"}`)
	bearer := url.Values{"grant_type": {grant.JWTBearer}, "assertion": {job}}
	credentials := url.Values{"grant_type": {grant.ClientCredentials}, "client_assertion": {job}, "client_assertion_type": {assertionOfJWT}}
	because := func(err error) *judge { return &judge{err: fmt.Errorf("claim repository_id is 666: %w", err)} }
	gone, instant := deployed(), deployed()
	gone.ServiceAccount, instant.TTL = "nobody", 0
	copyOf := func(f url.Values) url.Values { return with(url.Values{}, flat(f)...) }
	for name, c := range map[string]struct {
		judge  *judge
		form   url.Values
		client string
		status int
		code   string
		asks   int // how often the judge is asked
	}{
		"refused, exchange":            {because(workload.ErrRefused), exchangeOf(job), "", 400, errInvalidGrant, 1},
		"refused, bearer":              {because(workload.ErrRefused), copyOf(bearer), "", 400, errInvalidGrant, 1},
		"refused, assertion":           {because(workload.ErrRefused), copyOf(credentials), "", 401, errInvalidClient, 1},
		"audience":                     {because(workload.ErrAudience), exchangeOf(job), "", 400, errInvalidTarget, 1},
		"scope":                        {because(workload.ErrScope), exchangeOf(job), "", 400, errInvalidScope, 1},
		"the store is away":            {because(store.ErrUnavailable), exchangeOf(job), "", 503, errTemporarilyUnavailable, 1},
		"the CI system is away":        {because(connectors.ErrUnavailable), exchangeOf(job), "", 503, errTemporarilyUnavailable, 1},
		"another failure":              {because(errors.New("x")), exchangeOf(job), "", 500, errServerError, 1},
		"the account is gone":          {&judge{gives: gone}, exchangeOf(job), "", 400, errInvalidGrant, 1},
		"no life left":                 {&judge{gives: instant}, exchangeOf(job), "", 400, errInvalidGrant, 1},
		"another account's name":       {&judge{gives: deployed()}, with(copyOf(credentials), "client_id", "somebody"), "", 401, errInvalidClient, 1},
		"as an access token":           {&judge{}, with(exchangeOf(job), "subject_token_type", typeOfAccessToken), "", 400, errInvalidRequest, 0},
		"without its type":             {&judge{}, with(exchangeOf(job), "subject_token_type", ""), "", 400, errInvalidRequest, 0},
		"an actor":                     {&judge{}, with(exchangeOf(job), "actor_token", job), "", 400, errInvalidRequest, 0},
		"a refresh token wanted":       {&judge{}, with(exchangeOf(job), "requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token"), "", 400, errInvalidRequest, 0},
		"two targets":                  {&judge{}, with(exchangeOf(job), "resource", "other", "audience", "api"), "", 400, errInvalidTarget, 0},
		"a client without the grant":   {&judge{}, exchangeOf(job), "lacks", 400, errUnauthorizedClient, 0},
		"a client that is none":        {&judge{}, exchangeOf(job), "nobody", 401, errInvalidClient, 0},
		"assertion and secret":         {&judge{}, with(copyOf(credentials), "client_secret", "x", "client_id", "deployer"), "", 400, errInvalidRequest, 0},
		"assertion and header":         {&judge{}, copyOf(credentials), "deployer", 400, errInvalidRequest, 0},
		"assertion of another type":    {&judge{}, with(copyOf(credentials), "client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"), "", 401, errInvalidClient, 0},
		"a stranger's, with a client":  {&judge{}, exchangeOf(jwtOf(`{"iss":"https://stranger.example"}`)), "deployer", 400, errInvalidRequest, 0},
		"a stranger's bearer, client":  {&judge{}, with(copyOf(bearer), "assertion", jwtOf(`{"iss":"https://stranger.example"}`)), "deployer", 400, errInvalidGrant, 0},
		"a stranger's assertion":       {&judge{}, with(copyOf(credentials), "client_assertion", jwtOf(`{"iss":"https://stranger.example"}`)), "", 401, errInvalidClient, 0},
		"our own token":                {&judge{}, exchangeOf(jwtOf(`{"iss":"` + testIssuer + `"}`)), "", 401, errInvalidClient, 0},
		"our own token, by a client":   {&judge{}, exchangeOf(jwtOf(`{"iss":"` + testIssuer + `"}`)), "deployer", 400, errInvalidRequest, 0},
		"our own assertion, by client": {&judge{}, with(copyOf(bearer), "assertion", jwtOf(`{"iss":"`+testIssuer+`"}`)), "deployer", 400, errInvalidGrant, 0},
		"no issuer":                    {&judge{}, exchangeOf(jwtOf(`{}`)), "", 401, errInvalidClient, 0},
		"no JWT":                       {&judge{}, exchangeOf("x"), "", 401, errInvalidClient, 0},
		"too long":                     {&judge{}, exchangeOf(job + strings.Repeat("A", maxForeign)), "", 401, errInvalidClient, 0},
		"no assertion":                 {&judge{}, url.Values{"grant_type": {grant.JWTBearer}}, "deployer", 400, errInvalidRequest, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w, m := jobs(t, c.judge).ask(c.form, c.client)
			if w.Code != c.status || m["error"] != c.code {
				t.Errorf("%d %s, want %d %s", w.Code, w.Body, c.status, c.code)
			}
			if strings.Contains(w.Body.String(), "666") || strings.Contains(w.Body.String(), "repository_id") {
				t.Errorf("the caller learns why: %s", w.Body)
			}
			if m["ref"] == nil || m["ref"] == "" {
				t.Errorf("nothing to find it by: %s", w.Body)
			}
			if len(c.judge.asked) != c.asks {
				t.Errorf("asked %d times, want %d", len(c.judge.asked), c.asks)
			}
		})
	}
}

func flat(f url.Values) []string {
	var out []string
	for k, vs := range f {
		out = append(out, k, vs[0])
	}
	return out
}

// Without trust rules nothing of it is served.
func TestNoWorkloads(t *testing.T) {
	t.Parallel()
	is := jobs(t, nil)
	is.cfg.Workloads = nil
	if w, m := is.ask(exchangeOf(jwtOf(`{"iss":"`+ciIssuer+`"}`)), ""); w.Code != http.StatusUnauthorized || m["error"] != errInvalidClient {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// Whatever comes, reading whose a token claims to be neither fails nor believes
// what is no compact JWT.
func FuzzIssuerIn(f *testing.F) {
	for _, s := range []string{"", "..", "a.b.c", jwtOf(`{"iss":"x"}`), jwtOf(`{"iss":1}`), jwtOf(`[]`), jwtOf(`{"iss":"x"}`) + ".", strings.Repeat(".", 9)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if iss := issuerIn(raw); iss != "" && (strings.Count(raw, ".") != 2 || len(raw) > maxForeign) {
			t.Errorf("%q is of %q", raw, iss)
		}
	})
}
