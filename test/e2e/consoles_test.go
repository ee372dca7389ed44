//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// serveTLS starts the program as in production: https by its own certificate,
// and consoles on hosts of their own below gpu.localhost.
func serveTLS(t *testing.T, yaml string) *gatehouse {
	t.Helper()
	return serveTLSWith(t, "raw_path: true", yaml)
}

// serveTLSWith is serveTLS with another key of the console's route. ISSUER in
// yaml is the issuer.
func serveTLSWith(t *testing.T, key, yaml string) *gatehouse {
	t.Helper()
	dir := t.TempDir()
	if out, err := script(t, time.Minute, nil, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
		"-subj", "/CN=sso.localhost", "-addext", "subjectAltName=DNS:sso.localhost,DNS:*.gpu.localhost",
		"-keyout", filepath.Join(dir, "tls.key"), "-out", filepath.Join(dir, "tls.pem")); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	port := freePort(t)
	write(t, dir, map[string]string{"data/admin.token": strings.Repeat("operator", 6), "config/gatehouse.yml": fmt.Sprintf(`
issuer: https://sso.localhost:%d
tls: {cert_file: %[2]s/tls.pem, key_file: %[2]s/tls.key}
local: {users: [{username: demo, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$mrRp2ryD1oG1tkOpAvBCcw$SZDW+Y2c1en3d0yfC2GKx8l70aDkabRHTSUlBCfJrHQ", groups: [gpu-users]}]}
routes: [{name: console, host: "{node}.gpu.localhost", lease: true, %[4]s}]
consoles: {networks: [127.0.0.0/8]}
%[3]s`, port, dir, strings.ReplaceAll(yaml, "ISSUER", fmt.Sprintf("https://sso.localhost:%d", port)), key)})
	g := &gatehouse{t: t, dir: dir, port: port, aport: freePort(t), env: []string{"GATEHOUSE_SECRET_KEY=" + testSecretKey}}
	g.URL, g.Admin = fmt.Sprintf("https://sso.localhost:%d", g.port), fmt.Sprintf("http://127.0.0.1:%d", g.aport)
	g.start()
	t.Cleanup(func() { g.stop(15) })
	return g
}

// A web terminal, JupyterLab with its terminal and kernel, and a desktop over
// noVNC, in Chromium: keys reach the shell, and the end of the lease cuts them.
func TestRealConsoles(t *testing.T) {
	wetty := startPeer(t, "consoles/wetty", freePort(t))
	jupyter := startPeer(t, "consoles/jupyter", freePort(t), "ALLOW_REMOTE=1")
	novnc := startPeer(t, "consoles/novnc", freePorts(t, 2))
	g := serveTLS(t, "")
	origin := func(u string) string { return strings.Join(strings.SplitN(u, "/", 4)[:3], "/") }
	g.lend("wetty", origin(wetty["WETTY_URL"]), "terminal")
	g.lend("jupyter", origin(jupyter["JUPYTER_URL"]), "jupyter")
	g.lend("novnc", origin(novnc["NOVNC_URL"]), "desktop")
	token, err := os.ReadFile(filepath.Join(g.dir, "data", "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	browser(t, []string{"ADMIN=" + g.Admin, "TOKEN=" + strings.TrimSpace(string(token)), "MARKS=" + t.TempDir()},
		"consoles.mjs", g.URL, fmt.Sprintf("gpu.localhost:%d", g.port), "demo", "demo")
}
