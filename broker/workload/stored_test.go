package workload

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

func jsonTime(t time.Time) json.Number { return json.Number(stamp(t)) }

// stored is a rule that the API makes.
func (r *rig) stored() Rule {
	s := githubRule()
	s.Name, s.Issuer = "stored", r.github.URL
	s.Match = map[string]string{"repository_id": "5", "repository_owner_id": "789", "ref": "refs/heads/main"}
	return s
}

func TestStoredRules(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	other := r.replica()
	other.Use(r.plan.Load())
	job := func(jti string) string {
		return r.token(r.github, githubClaims, "jti", jti, "repository_id", "5", "repository", "acme/other")
	}
	if _, err := other.Exchange(t.Context(), job("a"), wantOf()); !refused(err) {
		t.Fatal(err)
	}
	if err := r.Put(t.Context(), r.stored()); err != nil {
		t.Fatal(err)
	}
	if g, err := other.Exchange(t.Context(), job("b"), wantOf()); err != nil || g.Rule != "stored" {
		t.Fatalf("%+v %v", g, err)
	}
	all, err := other.List(t.Context())
	if err != nil || len(all) != 4 || all[3].Name != "stored" || all[3].Fixed || !all[0].Fixed {
		t.Errorf("%+v %v", all, err)
	}
	// Told: what the other replica remembers is from before.
	changed := r.stored()
	changed.Match["ref"] = "refs/heads/other"
	if err := r.Put(t.Context(), changed); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Exchange(t.Context(), job("c"), wantOf()); !refused(err) {
		t.Errorf("by the rule as it was: %v", err)
	}
	until := time.Now().Add(5 * time.Second)
	for n := 0; ; n++ {
		if _, err := other.Exchange(t.Context(), job(fmt.Sprint("d", n)), wantOf()); refused(err) {
			break
		}
		if time.Now().After(until) {
			t.Fatal("the other replica never hears of the change")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := r.Delete(t.Context(), "stored"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Get(t.Context(), "stored"); !errors.Is(err, ErrNoRule) {
		t.Errorf("after it was deleted: %v", err)
	}
	if err := r.Delete(t.Context(), "stored"); !errors.Is(err, ErrNoRule) {
		t.Errorf("deleted twice: %v", err)
	}
}

func TestStoredRulesAreJudged(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for name, tc := range map[string]struct {
		change func(*Rule)
		want   string
	}{
		"any repository":     {func(s *Rule) { s.Match = map[string]string{"repository": "acme/x"} }, "the ids cannot"},
		"no such account":    {func(s *Rule) { s.ServiceAccount = "nobody" }, `no service account "nobody"`},
		"no such resource":   {func(s *Rule) { s.TokenAudience = "api" }, "neither a resource nor the issuer"},
		"a file of ours":     {func(s *Rule) { s.JWKSFile = "/etc/passwd" }, "jwks_file, ca_file and proxy"},
		"a proxy":            {func(s *Rule) { s.Proxy = "http://127.0.0.1:1" }, "jwks_file, ca_file and proxy"},
		"our own issuer":     {func(s *Rule) { s.Issuer = ours }, "without a rule"},
		"another's provider": {func(s *Rule) { s.Issuer = r.gitlab.URL }, "is gitlab_ci in another rule"},
		"keys elsewhere":     {func(s *Rule) { s.JWKSURI = "https://evil.example/jwks" }, "come from elsewhere"},
	} {
		s := r.stored()
		tc.change(&s)
		err := r.Put(t.Context(), s)
		var bad Invalid
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	s := r.stored()
	s.Name = "github"
	if err := r.Put(t.Context(), s); !errors.Is(err, ErrFixed) {
		t.Errorf("a rule of the file: %v", err)
	}
	if err := r.Delete(t.Context(), "github"); !errors.Is(err, ErrFixed) {
		t.Errorf("deleting a rule of the file: %v", err)
	}
	if all, err := r.List(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%+v %v", all, err)
	}
}

// The same id in file and store is an error at start.
func TestSameNameInTheFile(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Put(t.Context(), r.stored()); err != nil {
		t.Fatal(err)
	}
	mine := r.stored()
	if _, err := r.Prepare(t.Context(), r.setting(append(r.rules(), mine)...)); err == nil || !strings.Contains(err.Error(), "made by the API too") {
		t.Errorf("got %v", err)
	}
	mine = gitlabRule()
	mine.Name, mine.Issuer = "mine", r.github.URL
	if _, err := r.Prepare(t.Context(), r.setting(mine)); err == nil || !strings.Contains(err.Error(), "one provider") {
		t.Errorf("another provider for a stored rule's issuer: %v", err)
	}
}

// What a newer version wrote into a rule survives that another one is changed.
func TestStoredRulesOfANewerVersion(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Put(t.Context(), r.stored()); err != nil {
		t.Fatal(err)
	}
	_, err := r.Service.stored.Update(t.Context(), bookID, func(b *book) error {
		b.Revision++
		b.Rules["stored"] = json.RawMessage(strings.Replace(string(b.Rules["stored"]), "{", `{"newer":1,`, 1))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	second := r.stored()
	second.Name = "second"
	if err := r.Put(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	b, err := r.Service.stored.Get(t.Context(), bookID)
	if err != nil || !strings.Contains(string(b.Rules["stored"]), `"newer":1`) || len(b.Rules) != 2 {
		t.Errorf("%s %v", b.Rules["stored"], err)
	}
}

func TestTooManyStoredRules(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Put(t.Context(), r.stored()); err != nil {
		t.Fatal(err)
	}
	_, err := r.Service.stored.Update(t.Context(), bookID, func(b *book) error {
		b.Revision++
		for i := range maxStored - 1 {
			b.Rules[fmt.Sprint("r", i)] = b.Rules["stored"]
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	second := r.stored()
	second.Name = "second"
	if err := r.Put(t.Context(), second); !errors.Is(err, ErrTooMany) {
		t.Errorf("got %v", err)
	}
	if err := r.Put(t.Context(), r.stored()); err != nil {
		t.Errorf("changing one: %v", err)
	}
}

// A store that does not answer changes nothing.
func TestStoredRulesWithoutAStore(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.store.set(true)
	if err := r.Put(t.Context(), r.stored()); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	r.store.set(false)
	if all, err := r.List(t.Context()); err != nil || len(all) != 3 {
		t.Errorf("%+v %v", all, err)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	raw := r.token(r.github, githubClaims)
	x, err := r.Explain(t.Context(), raw, nil)
	if err != nil || x.Rule != "github" || x.Signature != "valid" || x.Time != "" || x.Used || len(x.Rules) != 3 || x.Rules[0].Rule != "github" || !x.Rules[0].Matches {
		t.Errorf("%+v %v", x, err)
	}
	if _, err := r.Exchange(t.Context(), raw, wantOf()); err != nil {
		t.Errorf("explaining used it up: %v", err)
	}
	if x, err = r.Explain(t.Context(), raw, nil); err != nil || !x.Used {
		t.Errorf("%+v %v", x, err)
	}
	// Claims alone, of yesterday, of another branch.
	x, err = r.Explain(t.Context(), "", claimsOf(t, githubClaims, "iss", r.github.URL, "ref", "refs/heads/x", "exp", json.Number("1")))
	if err != nil || x.Rule != "" || x.Signature != "not checked" || len(x.Rules[0].Differences) != 1 || x.Rules[0].Differences[0].Claim != "ref" || x.Rules[0].Differences[0].Got != "refs/heads/x" {
		t.Errorf("%+v %v", x, err)
	}
	x, err = r.Explain(t.Context(), "", claimsOf(t, githubClaims, "iss", r.github.URL, "aud", []any{ours, "x"}))
	if err != nil || x.Rule != "" || x.Rules[0].Differences[0].Claim != "aud" || x.Rules[0].Differences[0].Why == "" {
		t.Errorf("%+v %v", x, err)
	}
	forged := r.gitlab.Token("JWT", claimsOf(t, githubClaims, "iss", r.github.URL, "exp", json.Number("1")))
	if x, err = r.Explain(t.Context(), forged, nil); err != nil || x.Signature != "not valid" || x.Time != "exp" {
		t.Errorf("%+v %v", x, err)
	}
	if _, err = r.Explain(t.Context(), "word", nil); !errors.Is(err, ErrNoClaims) {
		t.Errorf("a word: %v", err)
	}
}
