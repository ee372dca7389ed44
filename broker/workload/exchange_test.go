package workload

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestExchange(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	g, err := r.Exchange(t.Context(), r.token(r.github, githubClaims), wantOf())
	if err != nil {
		t.Fatal(err)
	}
	if g.Rule != "github" || g.ServiceAccount != "acme-deployer" || !slices.Equal(g.Groups, []string{"deployers"}) || g.Audience != "platform-api" ||
		!slices.Equal(g.Scopes, []string{"deployments:read", "deployments:write"}) || g.TTL <= 4*time.Minute || g.TTL > 5*time.Minute {
		t.Errorf("granted %+v", g)
	}
	want := map[string]string{"provider": "github_actions", "issuer": r.github.URL, "subject": "repo:acme/train:environment:production", "repository": "acme/train", "repository_id": "123456",
		"repository_owner_id": "789", "ref": "refs/heads/main", "environment": "production", "event_name": "push", "job_workflow_ref": "acme/ci/.github/workflows/deploy.yml@refs/heads/main", "sha": "abc", "run_id": "9001", "run_attempt": "1"}
	if !maps.Equal(g.Provenance, want) {
		t.Errorf("provenance %v", g.Provenance)
	}
	es := r.events(event.WorkloadExchanged)
	if len(es) != 1 || es[0].Target != "acme-deployer" || es[0].Client != "ci" || es[0].IP != "192.0.2.7" || es[0].RequestID != "GH-1" || es[0].Details["rule"] != "github" || es[0].Details["run_id"] != "9001" {
		t.Errorf("recorded %+v", es)
	}
	if len(r.events(event.WorkloadDenied)) != 0 {
		t.Error("something was denied")
	}
	g, err = r.Exchange(t.Context(), r.token(r.gitlab, gitlabClaims), wantOf())
	if err != nil || g.Rule != "gitlab" || g.Audience != ours || len(g.Scopes) != 0 || g.Provenance["pipeline_id"] != "574" || g.Provenance["user_email"] != "" {
		t.Errorf("gitlab: %+v %v", g, err)
	}
	g, err = r.Exchange(t.Context(), r.token(r.jenkins, jenkinsClaims, "nbf", nil), wantOf())
	if err != nil || g.Rule != "jenkins" || g.Provenance["build_number"] != "17" {
		t.Errorf("jenkins: %+v %v", g, err)
	}
}

// TTL ≤ min(rule, an hour, the rest of the job's token): docs/security.md CI-6.
func TestTTL(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := func(d time.Duration) any { return jsonTime(r.clock.Now().Add(d)) }
	for name, tc := range map[string]struct {
		ttl  time.Duration
		exp  time.Duration
		most time.Duration
	}{
		"the default": {0, 4 * time.Hour, 15 * time.Minute}, "the rule's": {time.Hour, 4 * time.Hour, time.Hour}, "the token's": {time.Hour, 90 * time.Second, 90 * time.Second},
	} {
		rules := r.rules()
		rules[1].TTL = tc.ttl
		r.use(rules...)
		g, err := r.Exchange(t.Context(), r.token(r.gitlab, gitlabClaims, "jti", name, "exp", in(tc.exp)), wantOf())
		if err != nil || g.TTL > tc.most || g.TTL < tc.most-5*time.Second {
			t.Errorf("%s: %s %v", name, g.TTL, err)
		}
	}
}

// A rule that nobody judged (of a newer version, say) lends for no longer either.
func TestBoundsOfARule(t *testing.T) {
	t.Parallel()
	if r := (Rule{TTL: 5 * time.Hour, MaxAge: 1000 * time.Hour}); r.ttl() != MaxTTL || r.maxAge() != maxAge {
		t.Errorf("%s %s", r.ttl(), r.maxAge())
	}
}

// Each refusal says nothing to the caller and all to the log, in the order of
// docs/security.md CI-1.
func TestDenials(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	elsewhere := connectortest.NewOP(t)
	in := func(d time.Duration) any { return jsonTime(r.clock.Now().Add(d)) }
	n := 0
	github := func(change ...any) string { // each with its own jti
		n++
		return r.token(r.github, githubClaims, append(change, "jti", fmt.Sprint("j", n))...)
	}
	for _, tc := range []struct {
		name, raw, reason, claim, received string
	}{
		{"no token", "word", "issuer", "iss", ""},
		{"another issuer", r.token(elsewhere, githubClaims), "issuer", "iss", elsewhere.URL},
		{"the issuer with a slash", github("iss", r.github.URL+"/"), "issuer", "iss", r.github.URL + "/"},
		{"another issuer's key", elsewhere.Token("JWT", claimsOf(t, githubClaims, "iss", r.github.URL)), "signature", "signature", ""},
		{"GitLab's key", r.gitlab.Token("JWT", claimsOf(t, githubClaims, "iss", r.github.URL)), "signature", "signature", ""},
		{"GitHub's audience", github("aud", "https://github.com/acme"), "audience", "aud", "https://github.com/acme"},
		{"two audiences", github("aud", []string{ours, "sts.amazonaws.com"}), "audience", "aud", `["` + ours + `","sts.amazonaws.com"]`},
		{"a slash more", github("aud", ours+"/"), "audience", "aud", ours + "/"},
		{"no audience", github("aud", nil), "audience", "aud", "nothing"},
		{"audience before time", github("aud", "x", "exp", in(-time.Hour)), "audience", "aud", "x"},
		{"expired", github("exp", in(-30*time.Second)), "expired", "exp", "*"},
		{"no exp", github("exp", nil), "without exp", "exp", "nothing"},
		{"exp as text", github("exp", "9999999999"), "expired", "exp", "9999999999"},
		{"of the future", github("iat", in(2*time.Minute), "exp", in(time.Hour)), "issued in the future", "iat", "*"},
		{"no iat", github("iat", nil), "without iat", "iat", "nothing"},
		{"not yet", github("nbf", in(2*time.Minute)), "not valid yet", "nbf", "*"},
		{"two hours old", github("iat", in(-2*time.Hour), "nbf", nil), "too old", "iat", "*"},
		{"time before claims", github("iat", in(-2*time.Hour), "nbf", nil, "ref", "x"), "too old", "iat", "*"},
		{"another branch", github("ref", "refs/heads/evil\nlevel=info"), "claim ref", "ref", "refs/heads/evil\uFFFDlevel=info"},
		{"no branch", github("ref", nil), "claim ref", "ref", "nothing"},
		{"a fork", github("repository_id", "5", "event_name", "pull_request"), "claim repository_id", "repository_id", "5"},
	} {
		g, err := r.Exchange(t.Context(), tc.raw, wantOf())
		if !refused(err) || err.Error() != ErrRefused.Error() || g.ServiceAccount != "" {
			t.Errorf("%s: %+v %v", tc.name, g, err)
			continue
		}
		e := r.denied()
		if e.Details["reason"] != tc.reason || e.Details["claim"] != tc.claim || tc.received != "*" && e.Details["received"] != tc.received || e.IP != "192.0.2.7" || e.RequestID != "GH-1" {
			t.Errorf("%s: recorded %v", tc.name, e.Details)
		}
		if known := tc.claim != "iss" && tc.claim != "signature"; known != (e.Details["rule"] == "github" && e.Target == "acme-deployer") {
			t.Errorf("%s: rule %q, target %q", tc.name, e.Details["rule"], e.Target)
		}
	}
	if n := len(r.events(event.WorkloadExchanged)); n != 0 {
		t.Errorf("%d exchanges", n)
	}
}

// A minute of skew is allowed for a clock that is ahead of ours.
func TestSkew(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := func(d time.Duration) any { return jsonTime(r.clock.Now().Add(d)) }
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "iat", in(50*time.Second), "nbf", in(50*time.Second)), wantOf()); err != nil {
		t.Error(err)
	}
}

// A token is good once: on this replica and on another, whatever became of it,
// until it is over (docs/security.md G3).
func TestOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.replica()
	other.Use(r.plan.Load())
	raw := r.token(r.github, githubClaims)
	if _, err := r.Exchange(t.Context(), raw, wantOf()); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*Service{r.Service, other} {
		if _, err := s.Exchange(t.Context(), raw, wantOf()); !refused(err) {
			t.Errorf("again: %v", err)
		}
		if e := r.denied(); e.Details["reason"] != "used already" || e.Details["claim"] != "jti" {
			t.Errorf("recorded %v", e.Details)
		}
	}
	// Another token with the same jti is the same, of another issuer it is not.
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "run_id", "9002"), wantOf()); !refused(err) {
		t.Errorf("the same jti: %v", err)
	}
	if _, err := r.Exchange(t.Context(), r.token(r.gitlab, gitlabClaims, "jti", "j-1"), wantOf()); err != nil {
		t.Errorf("the same jti of another issuer: %v", err)
	}
	// What matched no rule is spent too.
	lost := r.token(r.github, githubClaims, "jti", "lost", "ref", "x")
	if _, err := r.Exchange(t.Context(), lost, wantOf()); !refused(err) {
		t.Fatal(err)
	}
	if _, err := r.Exchange(t.Context(), lost, wantOf()); !refused(err) || r.denied().Details["reason"] != "used already" {
		t.Errorf("%v, recorded %v", err, r.denied().Details)
	}
}

// Without a jti it is what was signed that counts, not how it was written: the
// last character of each part of a token has bits that nobody reads.
func TestOnceWithoutID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	raw := r.token(r.jenkins, jenkinsClaims)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	written := []string{raw}
	parts := strings.Split(raw, ".")
	for i, p := range parts {
		want, err := base64.RawURLEncoding.DecodeString(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range alphabet {
			q := p[:len(p)-1] + string(c)
			if got, err := base64.RawURLEncoding.DecodeString(q); err == nil && string(got) == string(want) && q != p {
				next := slices.Clone(parts)
				next[i] = q
				written = append(written, strings.Join(next, "."))
			}
		}
	}
	if len(written) < 4 {
		t.Fatalf("only %d ways to write it", len(written))
	}
	took := 0
	for _, w := range append(written, raw+"\n", " "+raw) {
		if _, err := r.Exchange(t.Context(), w, wantOf()); err == nil {
			took++
		}
	}
	if took != 1 {
		t.Errorf("one token was good %d times", took)
	}
	if _, err := r.Exchange(t.Context(), r.token(r.jenkins, jenkinsClaims, "build_number", 18), wantOf()); err != nil {
		t.Errorf("the next build: %v", err)
	}
}

// 64 at once make one success.
func TestOnceInParallel(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.replica()
	other.Use(r.plan.Load())
	for _, raw := range []string{r.token(r.github, githubClaims), r.token(r.jenkins, jenkinsClaims)} {
		var good atomic.Int32
		var wg sync.WaitGroup
		for i := range 64 {
			wg.Go(func() {
				s := r.Service
				if i%2 == 1 {
					s = other
				}
				if _, err := s.Exchange(t.Context(), raw, wantOf()); err == nil {
					good.Add(1)
				} else if !refused(err) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if good.Load() != 1 {
			t.Errorf("%d successes", good.Load())
		}
	}
}

// What is asked for narrows, and never widens.
func TestNarrowing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, tc := range map[string]struct {
		want   Want
		err    error
		scopes string
	}{
		"all":              {Want{}, nil, "deployments:read deployments:write"},
		"one":              {Want{Scopes: []string{"deployments:read"}}, nil, "deployments:read"},
		"in another order": {Want{Scopes: []string{"deployments:write", "deployments:read"}}, nil, "deployments:read deployments:write"},
		"one more":         {Want{Scopes: []string{"deployments:read", "gatehouse:admin"}}, ErrScope, ""},
		"by name":          {Want{Audience: "platform-api"}, nil, "deployments:read deployments:write"},
		"by address":       {Want{Audience: "https://api.example.com"}, nil, "deployments:read deployments:write"},
		"another audience": {Want{Audience: ours}, ErrAudience, ""},
		"an unknown one":   {Want{Audience: "api"}, ErrAudience, ""},
	} {
		g, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "jti", name), tc.want)
		if !errors.Is(err, tc.err) || strings.Join(g.Scopes, " ") != tc.scopes {
			t.Errorf("%s: %+v %v", name, g, err)
		}
	}
}

// The first rule that matches counts, and the nearest is named when none does.
func TestOrder(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	first, second, near := r.rules()[0], r.rules()[0], r.rules()[0]
	first.Name, second.Name, near.Name = "first", "second", "near"
	second.Match = map[string]string{"repository_id": "123456", "repository_owner_id": "789", "ref": "refs/heads/main", "environment": "production"}
	near.Match = map[string]string{"repository_id": "123456", "repository_owner_id": "789", "ref": "refs/tags/v1"}
	second.MaxAge = 10 * time.Minute
	r.use(first, second, near)
	g, err := r.Exchange(t.Context(), r.token(r.github, githubClaims), wantOf())
	if err != nil || g.Rule != "first" {
		t.Errorf("%+v %v", g, err)
	}
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "jti", "b", "ref", "refs/tags/v2", "environment", "staging"), wantOf()); !refused(err) || r.denied().Details["rule"] != "first" {
		t.Errorf("%v %v", err, r.denied().Details)
	}
	r.use(second, near)
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "jti", "c", "ref", "refs/tags/v2", "environment", "staging"), wantOf()); !refused(err) || r.denied().Details["rule"] != "near" {
		t.Errorf("%v %v", err, r.denied().Details)
	}
	// max_age is a rule's own.
	old := jsonTime(r.clock.Now().Add(-30 * time.Minute))
	if g, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "jti", "d", "iat", old, "nbf", nil, "ref", "refs/tags/v1"), wantOf()); err != nil || g.Rule != "near" {
		t.Errorf("%+v %v", g, err)
	}
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "jti", "e", "iat", old, "nbf", nil), wantOf()); !refused(err) || r.denied().Details["rule"] != "near" {
		t.Errorf("an older token of the younger rule: %v %v", err, r.denied().Details)
	}
}

// With the account the way in is gone.
func TestAccountGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.mu.Lock()
	delete(r.accounts, "acme-deployer")
	r.mu.Unlock()
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims), wantOf()); !refused(err) || r.denied().Details["reason"] != "service account" {
		t.Errorf("%v %v", err, r.denied().Details)
	}
}

// An issuer or a store that is away refuses nobody for ever: it is no refusal, and
// the token is not used up by the issuer's absence.
func TestFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	raw := r.token(r.github, githubClaims)
	down := func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	r.github.Set(func() { r.github.Override["/jwks"] = down })
	if _, err := r.Exchange(t.Context(), raw, wantOf()); refused(err) || !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("issuer away: %v", err)
	}
	r.github.Behave()
	r.clock.Wait(10 * time.Second)
	r.store.set(true)
	if _, err := r.Exchange(t.Context(), raw, wantOf()); refused(err) || !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("store away: %v", err)
	}
	if !r.Knows(r.github.URL) || r.Knows("https://other.example") {
		t.Error("the file's rules are not known while the store is away")
	}
	r.store.set(false)
	if _, err := r.Exchange(t.Context(), raw, wantOf()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	if n := len(r.events(event.WorkloadDenied)); n != 0 {
		t.Errorf("%d denials for our own trouble", n)
	}
}

// What nobody signed fills no log: the events of one address are bounded.
func TestNoise(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for range 200 {
		if _, err := r.Exchange(t.Context(), "word", wantOf()); !refused(err) {
			t.Fatal(err)
		}
	}
	if n := len(r.events(event.WorkloadDenied)); n != 60 {
		t.Errorf("%d events of 200 tries within a minute", n)
	}
	if _, err := r.Exchange(t.Context(), r.token(r.github, githubClaims, "ref", "x"), wantOf()); !refused(err) || r.denied().Details["claim"] != "ref" {
		t.Errorf("a signed token's denial is not recorded: %v", err)
	}
}

func TestPersonalClaimsAreNotRecorded(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	rules := r.rules()
	rules[1].Match["user_email"] = "bob@example.com"
	r.use(rules...)
	if _, err := r.Exchange(t.Context(), r.token(r.gitlab, gitlabClaims), wantOf()); !refused(err) {
		t.Fatal(err)
	}
	for k, v := range r.denied().Details {
		if strings.Contains(v, "alice") || strings.Contains(v, "bob") {
			t.Errorf("%s is %q", k, v)
		}
	}
}

func FuzzToken(f *testing.F) {
	f.Add("a.b.c")
	f.Add("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2dpdGxhYi5jb20ifQ.")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		iss := IssuerOf(raw)
		claims := peek(raw)
		if iss != "" && claims["iss"] != iss {
			t.Errorf("iss %q of %v", iss, claims)
		}
		if claims == nil {
			return
		}
		audience(claims)
		if _, wrong := timely(claims, time.Unix(1_800_000_000, 0)); wrong == "" && claims["exp"] == nil {
			t.Error("a token without exp is timely")
		}
		if len(onceID(iss, raw, claims)) != 43 {
			t.Error("no id")
		}
	})
}
