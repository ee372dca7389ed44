package web

import (
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// maxFields bounds the fields of a form (docs/security.md G9).
const maxFields = 100

// Form reads an application/x-www-form-urlencoded body of at most max bytes.
// The query is not looked at. A parameter that is there twice is refused
// (RFC 6749 section 3.1).
func Form(w http.ResponseWriter, r *http.Request, max int64) (url.Values, error) {
	return FormRepeating(w, r, max)
}

// FormRepeating is Form with parameters that may be there more than once.
func FormRepeating(w http.ResponseWriter, r *http.Request, max int64, repeating ...string) (url.Values, error) {
	raw, err := FormBody(w, r, max)
	if err != nil {
		return nil, err
	}
	return ParseValues(raw, repeating...)
}

// FormBody reads an application/x-www-form-urlencoded body of at most max bytes
// as it stands.
func FormBody(w http.ResponseWriter, r *http.Request, max int64) (string, error) {
	ct, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || ct != "application/x-www-form-urlencoded" {
		return "", Fail(http.StatusBadRequest, "invalid_request", "error.form_type", fmt.Errorf("content type %q", r.Header.Get("Content-Type")))
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, max))
	if err != nil {
		return "", Fail(http.StatusBadRequest, "invalid_request", "error.bad_request", err)
	}
	return string(raw), nil
}

// ParseValues parses a query or form body strictly: no duplicates, no bad
// escapes, not too many.
func ParseValues(raw string, repeating ...string) (url.Values, error) {
	if strings.Count(raw, "&") >= maxFields {
		return nil, Fail(http.StatusBadRequest, "invalid_request", "error.bad_request", fmt.Errorf("more than %d parameters", maxFields))
	}
	v, err := url.ParseQuery(raw)
	if err != nil {
		return nil, Fail(http.StatusBadRequest, "invalid_request", "error.bad_request", err)
	}
	for k, vs := range v {
		if len(vs) > 1 && !slices.Contains(repeating, k) {
			return nil, Fail(http.StatusBadRequest, "invalid_request", "error.duplicate_parameter", fmt.Errorf("parameter %q is there %d times", cutText(k, 64), len(vs)))
		}
	}
	return v, nil
}

// FormToken returns the CSRF token of a form: a MAC over what it is bound to (a
// session or an attempt) and what it is for.
func (e *Edge) FormToken(bound, purpose string) string {
	return base64.RawURLEncoding.EncodeToString(e.cfg.Sealer.MAC("form/"+purpose, []byte(bound)))
}

// CheckFormToken reports whether the token is FormToken's of the same.
func (e *Edge) CheckFormToken(bound, purpose, token string) bool {
	mac, err := base64.RawURLEncoding.DecodeString(token)
	return err == nil && e.cfg.Sealer.CheckMAC("form/"+purpose, []byte(bound), mac)
}
