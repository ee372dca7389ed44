package issuer

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/broker/workload"
)

// workloads decides about the tokens of CI jobs. It records what it decides, and
// the cause of a refusal.
type workloads interface {
	// Knows reports whether a trust rule names the issuer.
	Knows(issuer string) bool
	// Exchange uses a token up and says what it is good for; else one of
	// workload's errors.
	Exchange(ctx context.Context, raw string, want workload.Want) (workload.Grant, error)
}

type accounts interface {
	Get(ctx context.Context, name string) (user.ServiceAccount, error)
}

type apiKeys interface {
	Alive(ctx context.Context, id string) error
}

const (
	// workloadClaim is the provenance in a token that a job has exchanged its own
	// for. No other token has it.
	workloadClaim = "gatehouse:workload"
	// maxForeign bounds a token of another issuer, in bytes (docs/security.md G9).
	maxForeign = 16 << 10
	// assertionOfJWT is RFC 7523 section 2.2.
	assertionOfJWT = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
)

// foreign finds the token of another issuer by which a job asks: subject_token
// of a token exchange (RFC 8693), assertion of the JWT bearer grant, or the
// assertion of client_credentials (RFC 7523). A job has no client; who brings
// nothing but such a token is a job, whoever issued it.
func (is *Issuer) foreign(r *http.Request, form url.Values) (raw string, ok bool) {
	if is.cfg.Workloads == nil {
		return "", false
	}
	alone := !authenticates(r, form)
	switch form.Get("grant_type") {
	case grant.TokenExchange:
		raw = form.Get("subject_token")
	case grant.JWTBearer:
		raw = form.Get("assertion")
	case grant.ClientCredentials:
		raw, alone = form.Get("client_assertion"), false
	}
	iss := issuerIn(raw)
	if iss == "" || iss == is.cfg.Issuer {
		return "", false
	}
	return raw, alone || is.cfg.Workloads.Knows(iss)
}

// authenticates reports whether a request says which client it is of.
func authenticates(r *http.Request, form url.Values) bool {
	return len(r.Header.Values("Authorization")) > 0 || form.Has("client_id") || form.Has("client_secret") || form.Has("client_assertion") || form.Has("client_assertion_type")
}

// issuerIn reads whose a JWT claims to be, to choose who judges it. Nothing of it
// is believed.
func issuerIn(raw string) string {
	if len(raw) > maxForeign || strings.Count(raw, ".") != 2 {
		return ""
	}
	js, err := base64.RawURLEncoding.Strict().DecodeString(strings.Split(raw, ".")[1])
	if err != nil {
		return ""
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if json.Unmarshal(js, &c) != nil {
		return ""
	}
	return c.Issuer
}

// workload gives a job the short access token of a service account, without a
// refresh token (docs/security.md CI-6). What is wrong with its own token is for
// the log; the caller hears one sentence (CI-9).
func (is *Issuer) workload(r *http.Request, form url.Values, raw string) (tokenResponse, error) {
	ctx := r.Context()
	t := tokenRequest{form: form, r: r}
	gt := form.Get("grant_type")
	clientID, err := is.jobsClient(t, gt)
	if err != nil {
		return tokenResponse{}, err
	}
	issued := ""
	if gt == grant.TokenExchange {
		if typ := form.Get("subject_token_type"); typ != typeOfIDToken && typ != typeOfJWT {
			return tokenResponse{}, oauth(errInvalidRequest, "subject_token_type must be id_token or jwt for the token of a job.", nil)
		}
		if form.Has("actor_token") || form.Has("actor_token_type") {
			return tokenResponse{}, oauth(errInvalidRequest, "Nobody acts for a job: leave actor_token out.", nil)
		}
		if issued, err = issuedType(t); err != nil {
			return tokenResponse{}, err
		}
	}
	targets := is.targets(t)
	if len(targets) > 1 {
		return tokenResponse{}, grant.ErrInvalidTarget
	}
	if err := is.cfg.Reachable(ctx); err != nil {
		return tokenResponse{}, err
	}
	q := web.RequestOf(r)
	want := workload.Want{Scopes: scopesOf(form.Get("scope")), Audience: strings.Join(targets, ""), Client: clientID, IP: q.IP.String(), Agent: q.Agent, RequestID: q.ID}
	g, err := is.cfg.Workloads.Exchange(ctx, raw, want)
	if err != nil {
		return tokenResponse{}, refusedWorkload(gt, err)
	}
	account, err := is.cfg.Accounts.Get(ctx, g.ServiceAccount)
	if errors.Is(err, user.ErrNotFound) {
		is.cfg.Log.WarnContext(ctx, "the service account of a trust rule is not there", "rule", g.Rule, "service_account", g.ServiceAccount)
		return tokenResponse{}, refusedWorkload(gt, workload.ErrRefused)
	}
	if err != nil {
		return tokenResponse{}, err
	}
	if id := form.Get("client_id"); gt == grant.ClientCredentials && id != "" && id != account.Name {
		return tokenResponse{}, oauth(errInvalidClient, "Client authentication failed.", errors.New("client_id is not the service account of the rule"))
	}
	now, life := is.cfg.Now(), min(g.TTL, workload.MaxTTL)
	if life < time.Second {
		return tokenResponse{}, refusedWorkload(gt, workload.ErrRefused)
	}
	c := token.Claims{
		"sub": account.Name, "aud": is.cfg.Clients.Canonical(g.Audience), "iat": now.Unix(), "exp": now.Add(life).Unix(), "jti": rand.Text(),
		"client_id": account.Name, "gatehouse:kind": "service", "groups": append([]string{}, account.Groups...), workloadClaim: provenance(g),
	}
	if g.Audience == "" {
		c["aud"] = is.cfg.Issuer
	}
	if clientID != "" {
		c["client_id"] = clientID
	}
	if len(g.Scopes) > 0 {
		c["scope"] = strings.Join(g.Scopes, " ")
	}
	access, err := is.cfg.Keys.Sign(ctx, token.ES256, token.TypeAccess, c)
	if err != nil {
		return tokenResponse{}, err
	}
	return tokenResponse{AccessToken: access, TokenType: "Bearer", ExpiresIn: seconds(life), Scope: strings.Join(g.Scopes, " "), IssuedTokenType: issued}, nil
}

// jobsClient is the client beside a job's token, if the request names one: it
// must authenticate and hold the grant. With client_credentials the job's token
// is itself the authentication, and there is no other.
func (is *Issuer) jobsClient(t tokenRequest, gt string) (string, error) {
	if gt == grant.ClientCredentials {
		if len(t.r.Header.Values("Authorization")) > 0 || t.form.Has("client_secret") {
			return "", oauth(errInvalidRequest, "More than one client authentication.", nil)
		}
		if t.form.Get("client_assertion_type") != assertionOfJWT {
			return "", oauth(errInvalidClient, "client_assertion_type must be "+assertionOfJWT+".", nil)
		}
		return "", nil
	}
	if !authenticates(t.r, t.form) {
		return "", nil
	}
	c, err := is.authenticate(t.r, t.form)
	if err != nil {
		return "", err
	}
	if !c.HasGrant(gt) {
		return "", oauth(errUnauthorizedClient, "This client may not use this grant type.", nil)
	}
	return c.ClientID, nil
}

// refusedWorkload is what a job is told.
func refusedWorkload(grantType string, err error) error {
	switch {
	case errors.Is(err, workload.ErrAudience):
		return oauth(errInvalidTarget, "The trust rule gives no token for this audience.", err)
	case errors.Is(err, workload.ErrScope):
		return oauth(errInvalidScope, "The trust rule does not give one of these scopes.", err)
	case !errors.Is(err, workload.ErrRefused):
		return err
	case grantType == grant.ClientCredentials: // RFC 7523 section 3.2
		return oauth(errInvalidClient, "The assertion is not accepted; the log of the server says why.", err)
	}
	return oauth(errInvalidGrant, "The token of the job is not accepted; the log of the server says why.", err)
}

func provenance(g workload.Grant) map[string]string {
	out := map[string]string{"rule": g.Rule}
	for k, v := range g.Provenance {
		out[k] = v
	}
	return out
}

// assertion is the JWT bearer grant of whoever is no job: nobody else's
// assertions are taken (RFC 7523 section 3.1).
func (is *Issuer) assertion(t tokenRequest) (tokenResponse, error) {
	if t.form.Get("assertion") == "" {
		return tokenResponse{}, oauth(errInvalidRequest, "assertion is missing.", nil)
	}
	return tokenResponse{}, refusedWorkload(grant.JWTBearer, workload.ErrRefused)
}
