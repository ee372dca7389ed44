//go:build e2e

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shipped reads a file of config/ with its placeholders replaced.
func shipped(t *testing.T, path string, replace ...string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(root(t), "config", path))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(string(raw), replace[i]) {
			t.Fatalf("config/%s holds no %q", path, replace[i])
		}
	}
	return strings.NewReplacer(replace...).Replace(string(raw))
}

// startProxy runs a proxy in the foreground until the test ends.
func startProxy(t *testing.T, port int, dir, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Fatalf("%v: install it with: test/e2e/install.sh core", err)
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	for range 500 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	said, _ := os.ReadFile(log.Name())
	t.Fatalf("%s does not listen:\n%s", name, said)
}

// proxies start with the very files that are shipped, over http and on other
// ports.
var proxies = map[string]func(t *testing.T, dir string, port int, issuer, gatehouse, app string){
	"nginx": func(t *testing.T, dir string, port int, issuer, gatehouse, app string) {
		site := shipped(t, "nginx/gatehouse.conf", "listen 443 ssl;", fmt.Sprintf("listen 127.0.0.1:%d;", port), "app.example.com;", "app.localhost;", "https://sso.example.com", issuer,
			"127.0.0.1:8080", gatehouse, "127.0.0.1:9000", app, "  ssl_certificate     /etc/ssl/app.pem;\n", "", "  ssl_certificate_key /etc/ssl/app.key;\n", "")
		write(t, dir, map[string]string{"site.conf": site, "nginx.conf": fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log stderr warn; worker_processes 1;
events { worker_connections 256; }
http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s; include %[1]s/site.conf; }
`, dir)})
		if err := os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin"); err != nil {
			t.Fatal(err)
		}
		startProxy(t, port, dir, "nginx", "-e", "stderr", "-p", dir, "-c", filepath.Join(dir, "nginx.conf"))
	},
	"caddy": func(t *testing.T, dir string, port int, _, gatehouse, app string) {
		site := shipped(t, "caddy/Caddyfile", "app.example.com {", fmt.Sprintf("http://app.localhost:%d {\n\tbind 127.0.0.1", port), "127.0.0.1:8080", gatehouse, "127.0.0.1:9000", app)
		write(t, dir, map[string]string{"Caddyfile": "{\n\tadmin off\n\tauto_https off\n}\n" + site})
		startProxy(t, port, dir, "caddy", "run", "--config", "Caddyfile", "--adapter", "caddyfile")
	},
	"haproxy": func(t *testing.T, dir string, port int, _, gatehouse, app string) {
		conf := shipped(t, "haproxy/haproxy.cfg", "bind :443 ssl crt /etc/ssl/app.pem", fmt.Sprintf("bind 127.0.0.1:%d", port), "127.0.0.1:8080", gatehouse, "127.0.0.1:9000", app)
		write(t, dir, map[string]string{"haproxy.cfg": conf, "gatehouse.lua": shipped(t, "haproxy/gatehouse.lua")})
		startProxy(t, port, dir, "haproxy", "-db", "-f", "haproxy.cfg")
	},
}

// Each proxy with the file that we ship: who gets in, what a client may forge,
// what the app is told, and that nothing passes when we are gone.
func TestForwardAuthProxies(t *testing.T) {
	for name, begin := range proxies {
		t.Run(name, func(t *testing.T) {
			app := startRecorder(t, "the app")
			dir, port := t.TempDir(), freePort(t)
			if err := os.Chmod(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			conf := t.TempDir()
			write(t, conf, map[string]string{"config/gatehouse.yml": `
trusted_proxies: [127.0.0.1/32]
routes:
  - {name: app, host: app.localhost, forward_auth: true, audience: demo-api, allow: '!request.path.startsWith("/secret")'}
  - {name: other, host: other.localhost, forward_auth: true}
`})
			g := serve(t, conf, []string{"--dev"})
			begin(t, dir, port, g.URL, g.listening(), strings.TrimPrefix(app.URL, "http://"))
			base := fmt.Sprintf("http://app.localhost:%d", port)

			p := newPerson(t, g)
			p.roams = true
			deep := base + "/deep/path?a=1&b=2"
			page := p.signIn(p.follow(p.send(http.MethodGet, deep, nil)), "local", "demo", "demo")
			if page.StatusCode != http.StatusOK || page.Request.URL.String() != deep || page.Body != "the app" {
				t.Fatalf("after the sign-in: %d at %s: %s", page.StatusCode, page.Request.URL, page.Body)
			}
			seen := app.last(t)
			user := seen.Header.Get("X-Gatehouse-User")
			if user == "" || seen.URL.String() != "/deep/path?a=1&b=2" || !strings.HasPrefix(seen.Header.Get("Authorization"), "Bearer ey") || seen.Header.Get("X-Gatehouse-Email") != "demo@example.com" {
				t.Errorf("the app is told %v", seen.Header)
			}
			if strings.Contains(seen.Header.Get("Cookie"), "gatehouse") {
				t.Errorf("the app gets our cookies: %q", seen.Header.Get("Cookie"))
			}
			script := []string{"Accept", "application/json", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Site", "same-origin"}
			forged := []string{"X-Gatehouse-User", "root", "X_Gatehouse_User", "root", "X.Gatehouse.User", "root", "X-Gatehouse-Groups", "platform-admins", "X-Gatehouse-Request-Id", "root",
				"Authorization", "Basic cm9vdDpyb290", "Remote-User", "root", "X-Remote-User", "root", "Cookie", "mine=1"}
			around := []string{"X-Forwarded-Uri", "/open", "X-Forwarded-Method", "GET", "X-Forwarded-Host", fmt.Sprintf("other.localhost:%d", port), "X-Original-URL", base + "/open", "X-Original-Method", "GET"}
			stranger := newPerson(t, g)
			stranger.roams = true
			n := app.count()
			for what, c := range map[string]struct {
				who    *person
				method string
				path   string
				header []string
				want   int
			}{
				"nobody, a script":              {stranger, "GET", "/x", script, 401},
				"nobody, with forged identity":  {stranger, "GET", "/x", append(script, forged[:10]...), 401},
				"nobody, with forged addresses": {stranger, "GET", "/secret", append(script, around...), 401},
				"a word as a cookie":            {stranger, "GET", "/x", append(script, "Cookie", "gatehouse-console=word"), 401},
				"what the rule keeps in":        {p, "GET", "/secret", script, 403},
				"the same, called otherwise":    {p, "GET", "/secret", append(script, around...), 403},
				"another site's POST":           {p, "POST", "/x", []string{"Accept", "text/html", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}, 403},
			} {
				if r := c.who.send(c.method, base+c.path, nil, c.header...); r.StatusCode != c.want {
					t.Errorf("%s: %d, want %d: %s", what, r.StatusCode, c.want, r.Body)
				}
			}
			if got := app.count(); got != n {
				t.Errorf("the app was asked %d times by who may not", got-n)
			}
			// Somebody with a right who forges: the app hears our word alone.
			if r := p.send(http.MethodGet, base+"/x", nil, append(script, forged[:16]...)...); r.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", r.StatusCode, r.Body)
			}
			for k, vs := range app.last(t).Header {
				for _, v := range vs {
					if strings.Contains(v, "root") || strings.Contains(v, "cm9vd") || strings.Contains(v, "platform-admins") {
						t.Errorf("the app is told %s: %s", k, v)
					}
				}
			}
			if r := p.send(http.MethodPost, base+"/x", url.Values{"a": {"b"}}, script...); r.StatusCode != http.StatusOK || app.last(t).Method != http.MethodPost {
				t.Errorf("a POST: %d", r.StatusCode)
			}
			// Our address for proxies is not the world's.
			if r := stranger.send(http.MethodGet, base+"/.gatehouse/auth", nil, script...); r.StatusCode == http.StatusOK {
				t.Errorf("/.gatehouse/auth from outside: %d", r.StatusCode)
			}
			if r := p.send(http.MethodPost, "/signout", p.signOutForm()); r.StatusCode != http.StatusSeeOther {
				t.Fatalf("sign-out: %d", r.StatusCode)
			}
			n = app.count()
			if r := p.send(http.MethodGet, base+"/x", nil, script...); r.StatusCode != 401 {
				t.Errorf("signed out: %d", r.StatusCode)
			}
			g.stop(syscall.SIGKILL)
			if r := p.send(http.MethodGet, base+"/x", nil, script...); r.StatusCode < 500 {
				t.Errorf("with Gatehouse gone: %d", r.StatusCode)
			}
			if app.count() != n {
				t.Error("the app was asked after sign-out, or without us")
			}
		})
	}
}
