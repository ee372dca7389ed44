package main

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode"
)

// `audit verify` asks a server that it has no reason to believe: one that lies
// about how much it has, never stops, stops too soon or says nothing gets an error
// or a fault, and never "the log is as it was sealed".
func TestVerifyLyingServer(t *testing.T) {
	silence = 200 * time.Millisecond // the one test of this package that waits for it
	t.Cleanup(func() { silence = 2 * time.Minute })
	const key = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n-----END PUBLIC KEY-----\n" // RFC 8032, 7.1, test 1
	head := `{"head":{"key":"` + strings.ReplaceAll(key, "\n", `\n`) + `"}}` + "\n"
	record := func(pos int, size int) string {
		return fmt.Sprintf(`{"record":{"pos":%d,"raw":"%s"}}`+"\n", pos, base64.StdEncoding.EncodeToString(make([]byte, size)))
	}
	file := filepath.Join(t.TempDir(), "audit.pub")
	if err := os.WriteFile(file, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GATEHOUSE_TOKEN", "token-0123456789")
	say := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, text) }
	}
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  string
	}{
		"nothing":                    {say(""), "cut off"},
		"no bundle":                  {say("<html>\x1b[2J"), "no audit bundle"},
		"no head":                    {say(record(1, 10)), "no audit bundle"},
		"no end":                     {say(head + record(1, 10)), "cut off"},
		"fewer lines than it says":   {say(head + record(1, 10) + `{"end":{"lines":9}}` + "\n"), "some were left out"},
		"more lines than it says":    {say(head + record(1, 10) + record(2, 10) + `{"end":{"lines":1}}` + "\n"), "some were left out"},
		"a line of neither":          {say(head + "{}\n"), "no audit bundle"},
		"a line too long":            {say(head + record(1, 5<<20)), "token too long"},
		"a number of no size":        {say(head + `{"record":{"pos":99999999999999999999999,"raw":""}}` + "\n"), "no audit bundle"},
		"lists within lists":         {say(strings.Repeat(`{"head":[`, 200_000)), "no audit bundle"},
		"blocks that are none":       {say(head + `{"block":{"pos":1,"raw":"e30="}}` + "\n" + `{"end":{"lines":2}}` + "\n"), "block.unreadable"},
		"a newest that is not there": {say(`{"head":{"newest":{"number":18446744073709551615,"hash":"` + strings.Repeat("A", 43) + `"}}}` + "\n" + `{"end":{"lines":1}}` + "\n"), "truncated.end"},
		"an anchor by nobody":        {say(`{"head":{"anchor":{"number":5,"last":50}}}` + "\n" + `{"end":{"lines":1}}` + "\n"), "anchor.forged"},
		"that it lives, and nothing": {say(`{"head":{"live":true}}` + "\n" + `{"end":{"lines":1}}` + "\n"), "old_copy"},
		"longer than it is": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100000")
			_, _ = io.WriteString(w, head+`{"end":{"lines":1}}`+"\n"+record(1, 10))
		}, ""}, // what is behind the end is not read
		"shorter than it is": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(head)+10))
			_, _ = io.WriteString(w, head+record(1, 10))
		}, "unexpected EOF"},
		"silence before anything": {func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, "fell silent"},
		"silence in the middle": {func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, head)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		}, "fell silent"},
		"a hundred thousand records, and no end": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, head)
			for i := range 100_000 {
				if _, err := io.WriteString(w, record(i+1, 1000)); err != nil {
					return
				}
			}
		}, "cut off"},
		"a refusal with a terminal's commands": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, `{"message":"\u001b]0;owned\u0007\u202e`+strings.Repeat("x", 1<<20)+`","code":"\u001b[2J","ref":"GH"}`)
		}, "owned"},
		"a refusal without an end": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			for piece := bytes.Repeat([]byte("x"), 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}, "500"},
		"a way that leads nowhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
		}, "redirects"},
	} {
		s := httptest.NewServer(c.serve)
		var stdout, stderr bytes.Buffer
		code := run([]string{"audit", "verify", "--admin-url", s.URL, "--key", file}, strings.NewReader(""), &stdout, &stderr)
		s.Close()
		said := stdout.String() + stderr.String()
		if c.want != "" && (code != exitFailed || !strings.Contains(said, c.want) || strings.Contains(said, "as it was sealed\n")) {
			t.Errorf("%s: exit code %d, %.600s", name, code, said)
		}
		if len(said) > 8<<10 || strings.ContainsFunc(said, func(c rune) bool { return unicode.IsControl(c) && c != '\n' || unicode.Is(unicode.Bidi_Control, c) }) {
			t.Errorf("%s: %d bytes are printed: %.600q", name, len(said), said)
		}
	}
}
