package issuer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/static"
	"github.com/remotegpu/gatehouse/templates"
)

const testIssuer = "https://id.example"

// ring takes no token: requests with a hint are refused.
type ring struct{ keys }

func (ring) Verify(context.Context, token.Type, string) (token.Claims, error) {
	return nil, token.ErrInvalid
}

// parser is an Issuer that can read requests and answer errors, and no more.
func parser(t testing.TB) *Issuer {
	t.Helper()
	sealer, err := store.NewSealer([][]byte{[]byte(strings.Repeat("k", 32))})
	if err != nil {
		t.Fatal(err)
	}
	clients, err := grant.NewClients([]grant.Client{
		{ClientID: "app", ClientSecret: "a-good-secret", RedirectURIs: []string{"https://app.example/cb", "https://app.example/cb?x=1"}, Scope: "openid email offline_access", Audiences: []string{"api"}, RequirePKCE: new(false)},
		{ClientID: "spa", RedirectURIs: []string{"http://127.0.0.1/cb"}},
	}, []grant.Resource{{Name: "api", URI: "https://api.example"}}, testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	iss, err := url.Parse(testIssuer)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	edge, err := web.New(web.Config{Issuer: iss, Templates: templates.FS, Static: static.FS, Sealer: sealer, Log: log, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	marks, err := sealer.For("authorize")
	if err != nil {
		t.Fatal(err)
	}
	return &Issuer{cfg: Config{Edge: edge, Issuer: testIssuer, Clients: clients, Keys: ring{}, Now: time.Now, Log: log}, marks: marks}
}

// parse reads a query as the authorization endpoint does.
func (is *Issuer) parse(raw string) (*authRequest, error) {
	req, params, err := is.parseTarget(raw)
	if err != nil {
		return nil, err
	}
	return req, is.parseRest(context.Background(), req, params, raw)
}

// Whatever comes: an error is a page of ours or one of the RFCs' with a target
// that was registered; a request holds nothing that its client may not have; and
// what goes back carries the state as it came.
func FuzzAuthorizationRequest(f *testing.F) {
	is := parser(f)
	codes := []string{errInvalidRequest, errUnauthorizedClient, errUnsupportedResponseType, errInvalidScope, errRequestNotSupported, errRequestURINotSupported, errRegistrationUnsupported, errInvalidTarget}
	for _, s := range []string{
		"", "client_id=app", "client_id=app&redirect_uri=https://app.example/cb&response_type=code&scope=openid&state=%00%ff%26x&nonce=n&prompt=login+consent&max_age=5&resource=api&ui_locales=de",
		"client_id=app&redirect_uri=https%3A%2F%2Fapp.example%2Fcb%3Fx%3D1&response_type=code&scope=openid+x&resume=AAAA&re%73ume=x",
		"client_id=spa&redirect_uri=http://127.0.0.1:1/cb&response_type=code&scope=openid&code_challenge_method=S256&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
		"client_id=app&redirect_uri=https://app.example/cb&id_token_hint=a.b.c&request=x&prompt=none&state=a&state=b", "client_id=app;redirect_uri=x", "%zz=1",
		"client_id=app&redirect_uri=https%3A%2F%2Fapp.example%2Fcb&response_type=code&scope=openid+&re%73ume",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		req, err := is.parse(raw)
		if req == nil {
			var we *web.Error
			if !errors.As(err, &we) || we.Status != http.StatusBadRequest {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		if !req.client.RedirectAllowed(req.redirectURI) {
			t.Fatalf("%q goes to %q", raw, req.redirectURI)
		}
		sent, _ := url.ParseQuery(raw)
		back, perr := url.Parse(is.backURL(req, url.Values{"error": {"x"}}))
		if perr != nil || !strings.HasPrefix(back.String(), strings.SplitN(req.redirectURI, "?", 2)[0]+"?") || back.Query().Get("iss") != testIssuer {
			t.Fatalf("%q goes back to %v: %v", raw, back, perr)
		}
		if req.hasState && (len(sent["state"]) != 1 || back.Query().Get("state") != sent.Get("state") || sent.Get("state") == "") {
			t.Fatalf("%q: state %q came back as %q", raw, sent["state"], back.Query().Get("state"))
		}
		if err != nil {
			var oe *oauthError
			if !errors.As(err, &oe) || !slices.Contains(codes, oe.code) {
				t.Fatalf("%q: %v", raw, err)
			}
			return
		}
		switch {
		case len(req.scopes) == 0 || !subset(req.scopes, req.client.Scopes()):
			t.Fatalf("%q: scopes %v", raw, req.scopes)
		case req.challenge == "" && req.client.PKCERequired(), req.challenge != "" && !grant.ValidChallenge(req.challenge):
			t.Fatalf("%q: challenge %q", raw, req.challenge)
		case req.silent && len(req.prompt) != 1, req.silent != slices.Contains(req.prompt, "none"), !subset(req.prompt, prompts()):
			t.Fatalf("%q: prompt %v", raw, req.prompt)
		case req.audience != "api" && req.client.ClientID == "app", req.audience == req.client.ClientID:
			t.Fatalf("%q: audience %q", raw, req.audience)
		case req.marked:
			t.Fatalf("%q: a marker that we did not make", raw)
		}
		for k, vs := range sent {
			if len(vs) > 1 && k != "resource" {
				t.Fatalf("%q: %s is there %d times", raw, k, len(vs))
			}
		}
		// What comes back from our own pages is the same request.
		again, err := is.parse(req.query + "&" + markParam + "=" + is.sealMark(mark{At: time.Now()}, req.query))
		if err != nil || !again.marked || again.query != req.query || again.redirectURI != req.redirectURI || again.state != req.state || !slices.Equal(again.scopes, req.scopes) {
			t.Fatalf("%q is another request when it comes back: %v", raw, err)
		}
	})
}

// prompt=none never ends on a page of ours (ISS-11); otherwise a person is told
// of our own faults here, where "try again" helps.
func TestFaultsOfOurs(t *testing.T) {
	is := parser(t)
	for _, c := range []struct {
		silent bool
		err    error
		code   string
	}{
		{true, fmt.Errorf("x: %w", store.ErrUnavailable), errTemporarilyUnavailable}, {true, errors.New("x"), errServerError},
		{false, fmt.Errorf("x: %w", store.ErrUnavailable), ""}, {false, errors.New("x"), ""}, {false, oauth(errLoginRequired, "x", nil), errLoginRequired},
	} {
		w := httptest.NewRecorder()
		err := is.redirectError(w, httptest.NewRequest(http.MethodGet, "/oauth2/authorize", nil), &authRequest{client: &grant.Client{ClientID: "app"}, redirectURI: "https://app.example/cb", silent: c.silent, state: "s", hasState: true}, c.err)
		if c.code == "" {
			if err != c.err || w.Header().Get("Location") != "" {
				t.Errorf("%v: %v, %s", c.err, err, w.Header().Get("Location"))
			}
			continue
		}
		u, perr := url.Parse(w.Header().Get("Location"))
		if err != nil || perr != nil || w.Code != http.StatusSeeOther || u.Query().Get("error") != c.code || u.Query().Get("state") != "s" || u.Query().Get("iss") != testIssuer {
			t.Errorf("%v: %v, %d %s", c.err, err, w.Code, u)
		}
	}
}

func TestOriginOf(t *testing.T) {
	for uri, want := range map[string]string{
		"https://app.example/cb": "https://app.example", "https://App.Example:443/cb": "https://app.example", "https://app.example:8443/cb": "https://app.example:8443", "https://app.example:80/": "https://app.example:80",
		"http://127.0.0.1/cb": "http://127.0.0.1", "http://127.0.0.1:80/cb": "http://127.0.0.1", "http://[::1]:5555/cb": "http://[::1]:5555", "com.example.app:/cb": "", "com.example.app://host/cb": "",
	} {
		if got := originOf(uri); got != want {
			t.Errorf("%s: %q, want %q", uri, got, want)
		}
	}
}

// RFC 6749 section 2.3.1: both parts of Basic are form-encoded.
func FuzzBasic(f *testing.F) {
	f.Add("app", "s:p%a c+e")
	f.Add("", "")
	f.Add("ä", "\x00\xff")
	f.Fuzz(func(t *testing.T, id, secret string) {
		r := httptest.NewRequest(http.MethodPost, "/", nil)
		r.SetBasicAuth(url.QueryEscape(id), url.QueryEscape(secret))
		gotID, gotSecret, ok := basic(r.Header.Get("Authorization"))
		if !ok || gotID != id || gotSecret != secret {
			t.Fatalf("%q, %q, %v", gotID, gotSecret, ok)
		}
		basic(id) // no text may end it
		basic("Basic " + secret)
	})
}
