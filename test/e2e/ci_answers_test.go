//go:build e2e

package e2e

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
)

// What the helper makes of answers, right ones and such as a proxy, a captive
// portal or somebody on the way gives: it prints a token or fails, follows
// nobody, retries what passes, and hands the job's log no line of its own making.
func TestCIAnswersOfTheTokenEndpoint(t *testing.T) {
	var strangers atomic.Int32
	stranger := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { strangers.Add(1) }))
	t.Cleanup(stranger.Close)
	answer := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		}
	}
	var busy atomic.Int32
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		token  string
		says   string
	}{
		"plain":                  {answer(200, `{"access_token":"eyJa.b.c","token_type":"Bearer"}`), "eyJa.b.c", ""},
		"over several lines":     {answer(200, "{\n  \"token_type\": \"Bearer\",\n  \"access_token\": \"eyJa.b.c\"\n}\n"), "eyJa.b.c", ""},
		"a text that quotes one": {answer(200, `{"access_token":"eyJa.b.c","note":"\"access_token\":\"stolen\""}`), "eyJa.b.c", ""},
		"a text before it":       {answer(200, `{"note":"\"access_token\":\"stolen\"","access_token":"eyJa.b.c"}`), "eyJa.b.c", ""},
		"busy, then fine": {func(w http.ResponseWriter, r *http.Request) {
			if busy.Add(1) == 1 {
				answer(503, "busy")(w, r)
				return
			}
			answer(200, `{"access_token":"eyJa.b.c"}`)(w, r)
		}, "eyJa.b.c", ""},
		"refused":            {answer(400, `{"error":"invalid_grant","error_description":"No.","ref":"GH-AAAA-BBBB"}`), "", "answered 400 invalid_grant: No. Reference GH-AAAA-BBBB."},
		"refused, no JSON":   {answer(403, "<html>Forbidden</html>"), "", "answered 403"},
		"a page":             {answer(200, "<html>Sign in to the hotel's network</html>"), "", "holds no access token"},
		"a token with a gap": {answer(200, `{"access_token":"a b\nREMOTE=1"}`), "", "holds no access token"},
		"an empty token":     {answer(200, `{"access_token":""}`), "", "holds no access token"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, stranger.URL, http.StatusTemporaryRedirect)
		}, "", "answered 307"},
		"commands in a text": {answer(400, "{\"error\":\"x\",\"error_description\":\"y\n::add-path::/tmp\r\n::set-env name=A::B\"}"), "", "answered 400 x: y::add-path"},
	} {
		t.Run(name, func(t *testing.T) {
			srv := httptest.NewServer(c.answer)
			defer srv.Close()
			for _, shell := range []string{"dash", "bash"} {
				cmd := exec.Command(shell, filepath.Join(root(t), "config/ci/gatehouse-token.sh"))
				cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "GATEHOUSE_ISSUER=" + srv.URL, "GATEHOUSE_ID_TOKEN=eyJid.x.y"}
				var out, said strings.Builder
				cmd.Stdout, cmd.Stderr = &out, &said
				err := cmd.Run()
				if (err == nil) != (c.token != "") || strings.TrimSpace(out.String()) != c.token || !strings.Contains(said.String(), c.says) {
					t.Errorf("%s: %v, printed %q, said %q", shell, err, out.String(), said.String())
				}
				if regexp.MustCompile(`(?m)^::|eyJ`).MatchString(said.String()) {
					t.Errorf("%s said %q", shell, said.String())
				}
			}
		})
	}
	if strangers.Load() != 0 {
		t.Error("a redirect was followed, with the job's token")
	}
}

// Neither the runner's token, nor the job's, nor the exchanged one is in an
// argument of a process, where everybody on the machine reads it.
func TestCIArguments(t *testing.T) {
	p := startPipelines(t, "", "")
	real, err := exec.LookPath("curl")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	seen := filepath.Join(dir, "seen")
	if err := os.WriteFile(filepath.Join(dir, "curl"), []byte("#!/bin/sh\nprintf '%s\\n' \"$@\" >>"+seen+"\nexec "+real+" \"$@\"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	u, token := p.site.Runner()
	log, _, outputs, err := p.githubStep(githubShells[0], map[string]string{"issuer": ciIssuer}, map[string]string{"ACTIONS_ID_TOKEN_REQUEST_URL": u, "ACTIONS_ID_TOKEN_REQUEST_TOKEN": token})
	if err != nil {
		t.Fatalf("%v\n%s", err, log)
	}
	raw, err := os.ReadFile(seen)
	if err != nil {
		t.Fatal(err)
	}
	args := string(raw)
	if strings.Count(args, "audience=") != 1 || strings.Count(args, "subject_token@-") != 1 {
		t.Fatalf("curl was called with\n%s", args)
	}
	if strings.Contains(args, token) || strings.Contains(args, outputs["token"]) || secretText.MatchString(args) {
		t.Errorf("a token is in the arguments:\n%s", args)
	}
}
