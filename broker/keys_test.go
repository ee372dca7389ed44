package broker_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/config"
)

// A secret key that does not open the stored keys is a start-up error that says
// so; with the right one everything goes on as before.
func TestWrongSecretKeyIsAStartUpError(t *testing.T) {
	t.Parallel()
	h := start(t, "")
	tok := h.tokens()
	h.stop()
	file := filepath.Join(h.dir, "data", "secret.key")
	right, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const other = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n" // base64 of 32 bytes
	write(other)
	env := map[string]string{"GATEHOUSE_LISTEN": h.host, "GATEHOUSE_DATA": filepath.Join(h.dir, "data")}
	cfg, findings, err := config.Parse([]config.Document{{Name: "test.yml", YAML: []byte("")}}, config.LoadOptions{Types: broker.Types(), Dev: true,
		Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	if err != nil {
		t.Fatalf("%v %v", err, findings)
	}
	b, err := broker.New(context.Background(), cfg, broker.Options{Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now})
	if err == nil {
		b.Close()
	}
	if !errors.Is(err, token.ErrWrongSecretKey) || !strings.Contains(err.Error(), "secret_key_file") {
		t.Fatalf("a start with another secret key: %v", err)
	}
	// A new first line encrypts, the old one still opens (ST-1).
	write(other + string(right))
	h.run()
	if u := h.bearer("/oauth2/userinfo", tok["access_token"]); u.StatusCode != 200 {
		t.Errorf("a token from before: %d %s", u.StatusCode, u.Body)
	}
	if a := h.refresh(tok["refresh_token"]); a.StatusCode != 200 {
		t.Errorf("a refresh token from before: %d %s", a.StatusCode, a.Body)
	}
}
