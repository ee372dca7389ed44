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
	if s.Reveal() != secret {
		t.Error("Reveal does not give the secret")
	}
}
