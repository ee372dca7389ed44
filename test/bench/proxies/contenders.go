package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// contender is one way to reach the upstream.
type contender struct {
	name      string
	addr      string
	host      string
	header    string // lines of the request
	processes []*process
}

func (c contender) request(path string) []byte {
	return []byte("GET " + path + " HTTP/1.1\r\nHost: " + c.host + "\r\nAccept: application/json\r\n" + c.header + "\r\n")
}

func (c contender) cpu() (sum time.Duration, err error) {
	for _, p := range c.processes {
		one, err := p.cpu()
		if err != nil {
			return 0, err
		}
		sum += one
	}
	return sum, nil
}

// bareProxy is net/http's reverse proxy as its documentation shows it.
func bareProxy(listen, target string) error {
	u, err := url.Parse(target)
	if err != nil {
		return err
	}
	rp := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	return (&http.Server{Addr: listen, Handler: rp, ReadHeaderTimeout: 5 * time.Second}).ListenAndServe()
}

// stage is everything that runs during the comparison.
type stage struct {
	dir       string
	gatehouse string // program
	oauth2    string // program
	processes []*process
}

func (s *stage) stop() {
	for _, p := range s.processes {
		p.stop()
	}
}

func (s *stage) launch(name, addr string, env []string, program string, args ...string) (*process, error) {
	p, err := launch(s.dir, name, addr, env, program, args...)
	if err == nil {
		s.processes = append(s.processes, p)
	}
	return p, err
}

// nginx starts one nginx with these servers; both cores may be its.
func (s *stage) nginx(name, addr, servers string) (*process, error) {
	home := filepath.Join(s.dir, name)
	if err := os.MkdirAll(home, 0o755); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`daemon off; pid %[1]s/pid; error_log stderr error; worker_processes 2;
events { worker_connections 4096; }
http {
  access_log off; keepalive_requests 100000000;
  client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f; uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
%[2]s
}
`, home, servers)
	path := filepath.Join(home, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	return s.launch(name, addr, nil, "nginx", "-e", "stderr", "-p", home, "-c", path)
}

// contenders starts all of them.
func (s *stage) contenders() ([]contender, error) {
	addrs := make([]string, 8)
	for i := range addrs {
		var err error
		if addrs[i], err = freeAddr(); err != nil {
			return nil, err
		}
	}
	up, plain, bare, o2p, guarded, ours, forward, admin := addrs[0], addrs[1], addrs[2], addrs[3], addrs[4], addrs[5], addrs[6], addrs[7]
	_, oursPort, _ := net.SplitHostPort(ours)

	// What all of them lead to: 200 bytes, and a file of 1 MiB.
	web := filepath.Join(s.dir, "www")
	if err := os.MkdirAll(web, 0o755); err != nil {
		return nil, err
	}
	for name, size := range map[string]int{"small": 200, "large": 1 << 20} {
		if err := os.WriteFile(filepath.Join(web, name), []byte(strings.Repeat("x", size)), 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(s.dir, 0o755); err != nil { // nginx gives up root
		return nil, err
	}
	if _, err := s.nginx("upstream", up, fmt.Sprintf("  sendfile on; server { listen %s; root %s; default_type application/json; }", up, web)); err != nil {
		return nil, err
	}

	pooled := fmt.Sprintf("  upstream app { server %s; keepalive 64; keepalive_requests 100000000; }\n", up)
	pass := "proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_pass http://app;"
	nginx, err := s.nginx("plain", plain, pooled+fmt.Sprintf("  server { listen %s; location / { %s } }", plain, pass))
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	reverse, err := s.launch("bare", bare, nil, self, "-bare-proxy", bare+"=http://"+up)
	if err != nil {
		return nil, err
	}

	if err := os.MkdirAll(filepath.Join(s.dir, "config"), 0o755); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`
issuer: http://%[1]s
log: {level: warn}
trusted_proxies: [127.0.0.1/32]
clients:
  - {client_id: oauth2-proxy, client_secret: bench-secret, redirect_uris: ["http://127.0.0.1:%[2]s/oauth2/callback"], scope: openid profile email, trusted: true}
  - {client_id: bench, client_secret: bench-secret, redirect_uris: ["http://127.0.0.1:5555/callback"], grant_types: [client_credentials], scope: api, audiences: [demo-api], trusted: true}
routes:
  - {name: api, host: api.localhost, upstream: "http://%[3]s", audience: demo-api}
  - {name: forwarded, host: fwd.localhost, forward_auth: true, audience: demo-api}
`, ours, portOf(o2p), up)
	if err := os.WriteFile(filepath.Join(s.dir, "config", "gatehouse.yml"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	gatehouse, err := s.launch("gatehouse", ours, []string{"GATEHOUSE_LISTEN=" + ours, "GATEHOUSE_ADMIN_LISTEN=" + admin, "GATEHOUSE_DATA=" + filepath.Join(s.dir, "data")},
		s.gatehouse, "serve", "--dev", "--config", filepath.Join(s.dir, "config"))
	if err != nil {
		return nil, err
	}
	// oauth2-proxy with its own defaults (the session in the cookie), its provider is ours.
	proxy, err := s.launch("oauth2-proxy", o2p, nil, s.oauth2, "--http-address="+o2p, "--upstream=http://"+up+"/", "--provider=oidc", "--oidc-issuer-url=http://"+ours,
		"--client-id=oauth2-proxy", "--client-secret=bench-secret", "--redirect-url=http://"+o2p+"/oauth2/callback", "--cookie-secret=0123456789abcdef0123456789abcdef",
		"--cookie-secure=false", "--email-domain=*", "--insecure-oidc-allow-unverified-email=true", "--skip-provider-button=true", "--reverse-proxy=true",
		"--set-xauthrequest=true", "--code-challenge-method=S256", "--request-logging=false", "--auth-logging=false", "--standard-logging=false")
	if err != nil {
		return nil, err
	}
	guard := func(listen, auth, host, headers, set string) string {
		return fmt.Sprintf(`  upstream gate { server %[2]s; keepalive 64; keepalive_requests 100000000; }
  server { listen %[1]s;
    location / { auth_request /_gate; %[6]s %[3]s }
    location = /_gate { internal; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_pass_request_body off; proxy_set_header Content-Length "";
      proxy_set_header Host %[4]s; %[5]s }
  }`, listen, auth, pass, host, headers, set)
	}
	byOauth2, err := s.nginx("guarded", guarded, pooled+guard(guarded, o2p, "$http_host", "proxy_set_header X-Auth-Request-Redirect $request_uri; proxy_pass http://gate/oauth2/auth;",
		"auth_request_set $user $upstream_http_x_auth_request_user; proxy_set_header X-User $user;"))
	if err != nil {
		return nil, err
	}
	byUs, err := s.nginx("forward", forward, pooled+guard(forward, ours, ours,
		"proxy_set_header X-Original-Method $request_method; proxy_set_header X-Original-URL http://fwd.localhost:"+oursPort+"$request_uri; proxy_pass http://gate/gateway/auth?headers=original;",
		"auth_request_set $user $upstream_http_x_gatehouse_user; auth_request_set $jwt $upstream_http_authorization; proxy_set_header X-Gatehouse-User $user; proxy_set_header Authorization $jwt;"))
	if err != nil {
		return nil, err
	}

	them, err := newPerson()
	if err != nil {
		return nil, err
	}
	theirCookie, err := them.open("http://" + o2p + "/small")
	if err != nil {
		return nil, fmt.Errorf("signing in through oauth2-proxy: %w", err)
	}
	us, err := newPerson()
	if err != nil {
		return nil, err
	}
	apiHost, fwdHost := "api.localhost:"+oursPort, "fwd.localhost:"+oursPort
	ourCookie, err := us.open("http://" + apiHost + "/small")
	if err != nil {
		return nil, fmt.Errorf("signing in through Gatehouse: %w", err)
	}
	bearer, err := clientCredentials("http://" + ours)
	if err != nil {
		return nil, err
	}
	return []contender{
		{"nginx", plain, plain, "", []*process{nginx}},
		{"bare httputil.ReverseProxy", bare, bare, "", []*process{reverse}},
		{"oauth2-proxy", o2p, o2p, "Cookie: " + theirCookie + "\r\n", []*process{proxy}},
		{"nginx + auth_request to oauth2-proxy", guarded, o2p, "Cookie: " + theirCookie + "\r\n", []*process{byOauth2, proxy}},
		{"Gatehouse, cached session", ours, apiHost, "Cookie: " + ourCookie + "\r\n", []*process{gatehouse}},
		{"Gatehouse, JWT seen before", ours, apiHost, "Authorization: Bearer " + bearer + "\r\n", []*process{gatehouse}},
		{"nginx + auth_request to Gatehouse", forward, fwdHost, "Authorization: Bearer " + bearer + "\r\n", []*process{byUs, gatehouse}},
	}, nil
}

func portOf(addr string) string {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		log.Fatal(err)
	}
	return port
}

func clientCredentials(base string) (string, error) {
	req, err := http.NewRequest(http.MethodPost, base+"/oauth2/token", strings.NewReader("grant_type=client_credentials&scope=api"))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth("bench", "bench-secret")
	resp, err := (&http.Client{Timeout: 30 * time.Second}).Do(req)
	if err != nil {
		return "", err
	}
	defer drain(resp.Body)
	var t struct {
		Access string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&t); err != nil {
		return "", err
	}
	if t.Access == "" {
		return "", errors.New("no access token: " + resp.Status)
	}
	return t.Access, nil
}
