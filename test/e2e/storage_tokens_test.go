//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/signer"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// assume asks MinIO's token service; with credentials, signed by them.
func assume(t *testing.T, s *objectStore, v url.Values, by lent) error {
	t.Helper()
	v.Set("Version", "2011-06-15")
	v.Set("DurationSeconds", "900")
	body := v.Encode()
	req, err := http.NewRequest(http.MethodPost, "http://"+s.vars["S3_ENDPOINT"]+"/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if by.Key != "" {
		sum := sha256.Sum256([]byte(body))
		req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		req.Header.Set("X-Amz-Security-Token", by.Token)
		req = signer.SignV4STS(*req, by.Key, by.Secret, "us-east-1")
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%d %s", resp.StatusCode, text)
	}
	return nil
}

// The token itself: of an offer that gives it away, for its own role alone, which
// keeps people apart; tokens of sign-ins are no good there; keys that change and
// a store that is away.
func TestStorageMinIOTokens(t *testing.T) {
	g, s := lendingMinIO(t)
	demo, me := signedIn(t, g, "demo")
	_, other := signedIn(t, g, "admin")
	var tok struct {
		Token, Audience string
		Expiration      time.Time
		Code            string
	}
	if status := demo.call(http.MethodPost, "/storage/token", `{"name":"people"}`, "", &tok); status != http.StatusForbidden || tok.Token != "" {
		t.Errorf("a token that is kept: %d", status)
	}
	if status := demo.call(http.MethodPost, "/storage/token", `{"name":"own"}`, "", &tok); status != http.StatusOK || tok.Audience != "minio-own" {
		t.Fatalf("%d %+v", status, tok)
	}
	sts, err := credentials.NewSTSWebIdentity("http://"+s.vars["S3_ENDPOINT"], func() (*credentials.WebIdentityToken, error) {
		return &credentials.WebIdentityToken{Token: tok.Token, Expiry: 900}, nil
	}, func(i *credentials.STSWebIdentity) { i.RoleARN = minioRole("minio-own") })
	if err != nil {
		t.Fatal(err)
	}
	c, err := minio.New(s.vars["S3_ENDPOINT"], &minio.Options{Creds: sts, Region: "us-east-1", BucketLookup: minio.BucketLookupPath, MaxRetries: 1})
	if err != nil {
		t.Fatal(err)
	}
	if err := put(c, "data", "own/"+me+"/x", "mine"); err != nil {
		t.Error(err)
	}
	if err := put(c, "data", "own/"+other+"/x", "theirs"); err == nil {
		t.Error("the role let demo write to admin's prefix")
	}
	web := func(token, role string) url.Values {
		return url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "WebIdentityToken": {token}, "RoleArn": {role}}
	}
	if err := assume(t, s, web(tok.Token, minioRole("minio-own")), lent{}); err != nil {
		t.Error(err)
	}
	if err := assume(t, s, web(tok.Token, minioRole("minio-people")), lent{}); err == nil {
		t.Error("a token for one role took the other")
	}
	_, resp := demo.redeem(demo.code("openid email"))
	for _, k := range []string{"access_token", "id_token"} {
		for _, role := range []string{"minio-own", "minio-people"} {
			if err := assume(t, s, web(fmt.Sprint(resp[k]), minioRole(role)), lent{}); err == nil || resp[k] == nil {
				t.Errorf("%s took the role %s: %v", k, role, err)
			}
		}
	}
	forged := strings.Split(tok.Token, ".")
	forged[1] = base64.RawURLEncoding.EncodeToString(bytes.Replace(must(base64.RawURLEncoding.DecodeString(forged[1])), []byte(me), []byte(other), 1))
	if err := assume(t, s, web(strings.Join(forged, "."), minioRole("minio-own")), lent{}); err == nil {
		t.Error("a forged sub was taken")
	}
	if out := g.run("check", "--dev"); strings.Count(out, "answers, and refused what is no token") != 3 {
		t.Error(out)
	}
	// MinIO fetches our keys anew when it does not know one.
	if out := g.run("keys", "rotate", "RS256"); !strings.Contains(out, "RS256") {
		t.Error(out)
	}
	demo.borrow("people")
	// A store that is away: said plainly.
	if out, err := script(t, time.Minute, nil, filepath.Join(root(t), "test/peers/minio/stop.sh"), s.vars["DIR"]); err != nil {
		t.Fatal(out, err)
	}
	admin, _ := signedIn(t, g, "admin")
	var l lent
	if status := admin.call(http.MethodPost, "/storage/credentials", `{"name":"people"}`, "", &l); status != http.StatusServiceUnavailable || l.Code != "storage.unavailable" || !strings.Contains(l.Message, "No long-lived key stands in for it") {
		t.Errorf("%d %+v", status, l)
	}
	g.stop(syscall.SIGTERM)
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// A token that is too old or of the future is refused by MinIO, and we say so.
func TestStorageMinIOClock(t *testing.T) {
	dir := t.TempDir()
	ports := freePorts(t, 3) // in a row
	env := map[string]string{"GATEHOUSE_LISTEN": fmt.Sprintf("127.0.0.1:%d", ports), "GATEHOUSE_ADMIN_LISTEN": fmt.Sprintf("127.0.0.1:%d", ports+1), "GATEHOUSE_DATA": filepath.Join(dir, "data")}
	cfg, findings, err := config.Parse([]config.Document{{Name: "test.yml", YAML: []byte(fmt.Sprintf(
		"minio: {endpoint: \"http://127.0.0.1:%d\", bucket: data}\nservice_accounts: [{name: robot}]\nstorage_credentials: [{name: people, provider: minio, role_arn: %q, audience: minio-people}]\n", ports+2, minioRole("minio-people")))}},
		config.LoadOptions{Types: broker.Types(), Dev: true, Env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }})
	if err != nil {
		t.Fatalf("%v\n%v", err, findings)
	}
	var shift atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	b, err := broker.New(ctx, cfg, broker.Options{Version: "test", Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return time.Now().Add(time.Duration(shift.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := b.Listen()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, l) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.Close()
	}()
	objectStoreAt(t, "minio", ports+2, minioTrusts(cfg.Issuer)...)
	raw, err := os.ReadFile(filepath.Join(dir, "data", "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	operator := &person{t: t, client: http.DefaultClient, issuer: "http://" + env["GATEHOUSE_ADMIN_LISTEN"]}
	var made struct{ Key string }
	if status := operator.call(http.MethodPost, "/service-accounts/robot/api-keys", `{"name":"x","scopes":["gatehouse:storage"]}`, strings.TrimSpace(string(raw)), &made); status != http.StatusOK {
		t.Fatal(status)
	}
	p := &person{t: t, client: http.DefaultClient, issuer: cfg.Issuer}
	// MinIO says that it is ready before it has read its policies.
	eventually(t, 30*time.Second, "a first loan", func() bool {
		var l lent
		return p.call(http.MethodPost, "/storage/credentials", `{}`, made.Key, &l) == http.StatusOK
	})
	for _, c := range []struct {
		shift  time.Duration
		status int
		code   string
	}{{-20 * time.Minute, 502, "storage.refused"}, {20 * time.Minute, 502, "storage.refused"}, {2 * time.Minute, 502, "storage.refused"}, {20 * time.Second, 200, ""}} {
		shift.Store(int64(c.shift))
		var l lent
		if status := p.call(http.MethodPost, "/storage/credentials", `{}`, made.Key, &l); status != c.status || l.Code != c.code {
			t.Errorf("%s: %d %+v", c.shift, status, l)
		}
	}
}
