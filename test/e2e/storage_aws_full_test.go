//go:build e2e && full

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The AWS command line with nothing in its configuration but our own program
// (credential_process), or a file that this keeps (web_identity_token_file).
func TestStorageAWSCommandLine(t *testing.T) {
	aws := filepath.Join(root(t), ".peers/aws-cli/venv/bin/aws")
	if _, err := os.Stat(aws); err != nil {
		t.Fatalf("%v; install it with: test/e2e/install.sh full", err)
	}
	g, s := lendingMinIO(t)
	demo, me := signedIn(t, g, "demo")
	_, other := signedIn(t, g, "admin")
	var key struct{ Key string }
	if status := demo.call(http.MethodPost, "/me/api-keys", `{"name":"laptop","scopes":["gatehouse:storage"]}`, "", &key); status != http.StatusOK {
		t.Fatal(status)
	}
	home := t.TempDir()
	bin := filepath.Join(root(t), "bin", "gatehouse")
	write(t, home, map[string]string{
		"aws/config": "[default]\nregion = us-east-1\ncredential_process = " + bin + " storage-credentials people\ns3 =\n    addressing_style = path\n" +
			"[profile own]\nregion = us-east-1\nrole_arn = " + minioRole("minio-own") + "\nweb_identity_token_file = " + filepath.Join(home, "token") + "\ns3 =\n    addressing_style = path\n",
		"a.txt": "hello from the command line",
	})
	at := "http://" + s.vars["S3_ENDPOINT"]
	env := []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "GATEHOUSE_ISSUER=" + g.URL, "GATEHOUSE_TOKEN=" + key.Key}
	run := func(args ...string) (string, error) {
		return script(t, 2*time.Minute, append([]string{"AWS_CONFIG_FILE=" + filepath.Join(home, "aws/config"), "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "AWS_EC2_METADATA_DISABLED=true",
			"AWS_ENDPOINT_URL_S3=" + at, "AWS_ENDPOINT_URL_STS=" + at}, env...), aws, args...)
	}
	ok := func(want string, args ...string) {
		t.Helper()
		if out, err := run(args...); err != nil || !strings.Contains(out, want) {
			t.Errorf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	no := func(args ...string) {
		t.Helper()
		if out, err := run(args...); err == nil || !strings.Contains(out, "AccessDenied") && !strings.Contains(out, "Forbidden") {
			t.Errorf("aws %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	file := filepath.Join(home, "a.txt")
	ok("upload:", "s3", "cp", file, fmt.Sprintf("s3://data/users/%s/a.txt", me))
	ok("a.txt", "s3", "ls", fmt.Sprintf("s3://data/users/%s/", me))
	ok("hello from the command line", "s3", "cp", fmt.Sprintf("s3://data/users/%s/a.txt", me), "-")
	no("s3", "ls", "s3://data/")
	no("s3", "cp", file, fmt.Sprintf("s3://data/users/%s/a.txt", other))
	no("s3", "rm", fmt.Sprintf("s3://data/users/%s/a.txt", me))

	if out, err := script(t, time.Minute, env, bin, "token", "--storage", "own", "--file", filepath.Join(home, "token")); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	ok("upload:", "--profile", "own", "s3", "cp", file, fmt.Sprintf("s3://data/own/%s/a.txt", me))
	no("--profile", "own", "s3", "cp", file, fmt.Sprintf("s3://data/own/%s/a.txt", other))
}
