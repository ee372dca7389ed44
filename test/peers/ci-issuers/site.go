package ciissuers

import (
	"crypto/subtle"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// RunnerPath is where a runner asks for its job's ID token. The address that jobs
// get has a query already, so that they append "&audience=".
const RunnerPath = "/runner/idtoken?api-version=2.0"

// Site has the three issuers under one address: GitHub's as on GitHub Enterprise
// Server, GitLab's at the root, that of Jenkins as its plug-in has it; beside them
// the endpoint of GitHub's runners, and one of ours that controls them.
type Site struct {
	URL                     string
	GitHub, GitLab, Jenkins *Issuer
	// CAFile is the certificate of a site that Start started, as PEM.
	CAFile string

	mu          sync.Mutex
	runnerToken string
	runnerJob   []any // changes of Issuer.Job
	runnerFails int
	mux         *http.ServeMux
}

// NewSite makes a site that will be served at u, without a slash at its end.
func NewSite(u string) (*Site, error) {
	s := &Site{URL: u, runnerToken: "runner-" + uuid(), mux: http.NewServeMux()}
	var err error
	if s.GitHub, err = New(GitHub, u+"/_services/token"); err != nil {
		return nil, err
	}
	if s.GitLab, err = New(GitLab, u); err != nil {
		return nil, err
	}
	if s.Jenkins, err = New(Jenkins, u+"/jenkins/oidc"); err != nil {
		return nil, err
	}
	s.mux.Handle("/_services/token/", s.GitHub)
	s.mux.Handle("/jenkins/oidc/", s.Jenkins)
	s.mux.HandleFunc("GET /runner/idtoken", s.runner)
	s.mux.HandleFunc("POST /control/{issuer}/{what}", s.control)
	s.mux.Handle("/", s.GitLab)
	return s, nil
}

// ServeHTTP serves the site.
func (s *Site) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Start serves a site over TLS until the test ends.
func Start(t testing.TB) *Site {
	t.Helper()
	var s *Site
	_, ca := serveTLS(t, func(u string) (h http.Handler, err error) {
		s, err = NewSite(u)
		return s, err
	})
	s.CAFile = ca
	return s
}

// StartIssuer serves one issuer, at the root, over TLS until the test ends.
func StartIssuer(t testing.TB, kind string) (i *Issuer, caFile string) {
	t.Helper()
	_, caFile = serveTLS(t, func(u string) (h http.Handler, err error) {
		i, err = New(kind, u)
		return i, err
	})
	return i, caFile
}

func serveTLS(t testing.TB, at func(u string) (http.Handler, error)) (u, caFile string) {
	t.Helper()
	srv := httptest.NewUnstartedServer(nil)
	u = "https://" + srv.Listener.Addr().String()
	h, err := at(u)
	if err != nil {
		t.Fatal(err)
	}
	srv.Config.Handler = h
	srv.StartTLS()
	t.Cleanup(srv.Close)
	caFile = filepath.Join(t.TempDir(), "issuers.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return u, caFile
}

// Runner gives what a step of a GitHub job that may ask for ID tokens has in its
// environment. The job's claims are those of Issuer.Job with these changes.
func (s *Site) Runner(changes ...any) (url, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runnerJob = changes
	return s.URL + RunnerPath, s.runnerToken
}

// RunnerFails makes the next requests of runners fail: 502, as in an outage.
func (s *Site) RunnerFails(times int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.runnerFails = times
}

// runner is the endpoint behind ACTIONS_ID_TOKEN_REQUEST_URL.
func (s *Site) runner(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	token, changes, fails := s.runnerToken, s.runnerJob, s.runnerFails > 0
	s.runnerFails -= min(1, s.runnerFails)
	s.mu.Unlock()
	switch q := r.URL.Query(); {
	case fails:
		http.Error(w, "<html>502 Bad Gateway</html>", http.StatusBadGateway)
	case subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), []byte("bearer "+token)) == 0:
		http.Error(w, `{"message":"unauthorized"}`, http.StatusUnauthorized)
	case q.Get("api-version") != "2.0":
		http.Error(w, `{"message":"no api-version"}`, http.StatusBadRequest)
	default:
		c := s.GitHub.Job(changes...)
		if q.Get("audience") != "" {
			c["aud"] = q.Get("audience")
		}
		raw, err := s.GitHub.Sign(c, RS256)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		js, _ := json.Marshal(map[string]any{"count": len(raw), "value": raw}) // a number and a string
		answer(w, js)
	}
}

// control is POST /control/{github_actions|gitlab_ci|jenkins}/{what}, where what
// is mint (a body of changes to the job's claims: {"token": …}), sign (a body of
// all claims), rotate, or a way to misbehave; "well" ends that.
func (s *Site) control(w http.ResponseWriter, r *http.Request) {
	var i *Issuer
	for _, one := range []*Issuer{s.GitHub, s.GitLab, s.Jenkins} {
		if one.Kind == r.PathValue("issuer") {
			i = one
		}
	}
	if i == nil {
		http.NotFound(w, r)
		return
	}
	out, err := i.controlled(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	js, _ := json.Marshal(out) // strings
	answer(w, js)
}

func (i *Issuer) controlled(r *http.Request) (map[string]string, error) {
	switch what := r.PathValue("what"); what {
	case "mint", "sign":
		d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, 1<<20))
		d.UseNumber()
		var c Claims
		if err := d.Decode(&c); err != nil {
			return nil, fmt.Errorf("claims: %w", err)
		}
		if what == "mint" {
			var changes []any
			for name, value := range c {
				changes = append(changes, name, value)
			}
			c = i.Job(changes...)
		}
		raw, err := i.Sign(c, r.URL.Query().Get("how"))
		return map[string]string{"token": raw}, err
	case "rotate":
		return map[string]string{"rotated": i.Kind}, i.Rotate()
	case "well":
		return map[string]string{"mode": ""}, i.Misbehave("")
	default:
		return map[string]string{"mode": what}, i.Misbehave(what)
	}
}
