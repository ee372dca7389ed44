package redact

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// Secrets never reach a log, an error or an encoder by accident (surface 4, ST-2).
func TestNeverPrinted(t *testing.T) {
	const secret = "hunter2-very-secret"
	s := String(secret)
	type holder struct{ S String }
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "secret", s, "holder", holder{s})
	js, err := json.Marshal(holder{s})
	if err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{
		fmt.Sprint(s), fmt.Sprintf("%s %q %v %+v %#v", s, s, holder{s}, holder{s}, holder{s}),
		fmt.Errorf("wrap: %v", s).Error(), log.String(), string(js),
	} {
		if strings.Contains(out, secret) {
			t.Errorf("the secret is in %q", out)
		}
		if !strings.Contains(out, mask) {
			t.Errorf("no mask in %q", out)
		}
	}
	type inner struct{ text string }
	type runs struct {
		text  Box[string]
		bytes Box[[]byte]
		of    Box[inner]
		none  Box[string]
	}
	r := runs{text: Hide(secret), bytes: Hide([]byte(secret)), of: Hide(inner{secret})}
	log.Reset()
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "box", r.text, "holder", r, "pointer", &r)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		for _, v := range []any{r, &r, r.text, r.bytes, r.of, []runs{r}, map[string]runs{"a": r}} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, secret) || strings.Contains(out, fmt.Sprintf("%x", secret)) || strings.Contains(out, strings.Trim(fmt.Sprint([]byte(secret)), "[]")) {
				t.Errorf("%s of %T shows %q", verb, v, out)
			}
		}
	}
	if strings.Contains(log.String(), secret) {
		t.Errorf("logged: %s", &log)
	}
	if r.text.Reveal() != secret || string(r.bytes.Reveal()) != secret || r.of.Reveal().text != secret || r.none.Reveal() != "" {
		t.Error("Reveal does not give what is in a Box")
	}
	if s.Reveal() != secret {
		t.Error("Reveal does not give the secret")
	}
}
