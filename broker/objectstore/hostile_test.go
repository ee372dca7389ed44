package objectstore_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/web"
)

// hostile is a bucket of a store that answers what a test wants.
func hostile(t *testing.T, answer http.HandlerFunc) *objectstore.Bucket {
	t.Helper()
	s := httptest.NewServer(answer)
	t.Cleanup(s.Close)
	plain := false
	b, err := objectstore.Open(objectstore.MinIO, objectstore.BucketConfig{Endpoint: strings.TrimPrefix(s.URL, "http://"), UseSSL: &plain, Bucket: "audit", AccessKey: "key", SecretKey: "secret-0123456789"},
		objectstore.Env{Now: time.Now, HTTP: func(_, _ string, trusted ...string) (*http.Client, error) {
			return web.NewClient(web.FetchConfig{AllowHosts: trusted, MaxBody: objectstore.MaxObject + 1, Timeout: 20 * time.Second})
		}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const xmlHead = `<?xml version="1.0" encoding="UTF-8"?>`

// Whatever a store answers instead of an object, a list or an error: it is an
// error that is short and can be shown, and costs little.
func TestHostileAnswers(t *testing.T) {
	bomb := xmlHead + `<!DOCTYPE lolz [<!ENTITY lol "lol">`
	for i := 1; i < 10; i++ {
		before := "lol"
		if i > 1 {
			before = fmt.Sprint("lol", i-1)
		}
		bomb += fmt.Sprintf(`<!ENTITY lol%d "%s">`, i, strings.Repeat("&"+before+";", 10))
	}
	bomb += `]><Error><Code>&lol9;</Code><Message>&lol9;</Message></Error>`
	for name, c := range map[string]struct {
		code int
		body string
		loop bool // the body is said again and again
	}{
		"entities within entities":  {403, bomb, false},
		"an entity of a file":       {500, xmlHead + `<!DOCTYPE x [<!ENTITY f SYSTEM "file:///etc/passwd">]><Error><Code>&f;</Code></Error>`, false},
		"elements within elements":  {500, xmlHead + "<Error>" + strings.Repeat("<a>", 200_000), false},
		"an endless error":          {500, xmlHead + "<Error><Code>Slow</Code><Message>" + strings.Repeat("x", 1<<20), true},
		"an endless document":       {500, strings.Repeat("<", 1<<20), true},
		"a long code":               {400, xmlHead + "<Error><Code>" + strings.Repeat("Bad ", 20_000) + "</Code><Message>" + strings.Repeat("bad ", 20_000) + "</Message></Error>", false},
		"a terminal's commands":     {400, xmlHead + "<Error><Code>Bad\u202e\u2028</Code><Message>\u202e\ufeff\u0085\u009b2J</Message></Error>", false},
		"no XML":                    {500, "\x1b[2J\x00\xff\xfe" + strings.Repeat("not XML\n", 1000), false},
		"nothing":                   {500, "", false},
		"a redirect":                {307, "", false},
		"a status that there isn't": {999, "<Error/>", false},
		"another namespace":         {404, xmlHead + `<e:Error xmlns:e="urn:x"><e:Code>NoSuchKey</e:Code></e:Error>`, false},
	} {
		t.Run(name, func(t *testing.T) {
			said := 0
			b := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Location", "http://127.0.0.1:1/elsewhere")
				w.WriteHeader(c.code)
				for {
					n, err := io.WriteString(w, c.body)
					if said += n; err != nil || !c.loop || said > 512<<20 {
						return
					}
				}
			})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, getErr := b.Get(t.Context(), "audit/x.json")
			putErr := b.Put(t.Context(), "audit/x.json", []byte("{}"), time.Time{})
			var listErr error
			for _, err := range b.List(t.Context(), "audit/", "") {
				listErr = err
			}
			deleteErr := b.Delete(t.Context(), "audit/x.json")
			runtime.ReadMemStats(&after)
			if c.code == 404 { // that there is nothing is no error of a deletion
				deleteErr = getErr
			}
			for op, err := range map[string]error{"get": getErr, "put": putErr, "list": listErr, "delete": deleteErr} {
				if err == nil {
					t.Errorf("%s: no error", op)
					continue
				}
				if text := err.Error(); len(text) > 1500 || strings.ContainsFunc(text, func(c rune) bool { return !unicode.IsGraphic(c) }) || strings.Contains(text, "secret-0123456789") || strings.Contains(text, "root:") {
					t.Errorf("%s is shown as %d bytes: %.400q", op, len(text), text)
				}
			}
			if errors.Is(putErr, fs.ErrExist) || errors.Is(getErr, fs.ErrExist) {
				t.Errorf("taken for an object that is there: %v, %v", putErr, getErr)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 512<<20 {
				t.Errorf("%d bytes were taken", used)
			}
		})
	}
}

// An object that never ends, is longer than it says or shorter is an error.
func TestHostileObjects(t *testing.T) {
	for name, serve := range map[string]http.HandlerFunc{
		"without an end": func(w http.ResponseWriter, _ *http.Request) {
			for piece := make([]byte, 1<<20); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		},
		"shorter than it says": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000000")
			_, _ = io.WriteString(w, "short")
		},
		"larger than any": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "9000000000000000000")
			_, _ = io.WriteString(w, "x")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := hostile(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Last-Modified", "Thu, 26 Nov 2026 08:00:00 GMT")
				w.Header().Set("ETag", `"0123456789abcdef0123456789abcdef"`)
				serve(w, r)
			})
			if body, err := b.Get(t.Context(), "audit/x.json"); err == nil {
				t.Errorf("%d bytes and no error", len(body))
			}
		})
	}
}

// A list that says there is more and gives nothing new ends with the time that a
// question has; one that never ends ends when its reader has enough.
func TestHostileLists(t *testing.T) {
	page := func(w http.ResponseWriter, from, n int) {
		fmt.Fprint(w, xmlHead+`<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>audit</Name><IsTruncated>true</IsTruncated><NextContinuationToken>again</NextContinuationToken>`)
		for i := range n {
			fmt.Fprintf(w, "<Contents><Key>audit/%012d</Key><Size>1</Size></Contents>", from+i)
		}
		fmt.Fprint(w, "</ListBucketResult>")
	}
	still := hostile(t, func(w http.ResponseWriter, _ *http.Request) { page(w, 7, 1) })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	names, failed := 0, error(nil)
	for _, err := range still.List(ctx, "audit/", "") {
		if err != nil {
			failed = err
		} else {
			names++
		}
	}
	if names > 1 || failed == nil {
		t.Errorf("%d names, %v", names, failed)
	}
	asked := 0
	endless := hostile(t, func(w http.ResponseWriter, _ *http.Request) {
		page(w, asked*1000, 1000)
		asked++
	})
	names = 0
	for _, err := range endless.List(t.Context(), "audit/", "") {
		if err != nil {
			t.Fatal(err)
		}
		if names++; names == 5000 {
			break
		}
	}
	if asked > 7 {
		t.Errorf("asked %d times for 5 pages", asked)
	}
}
