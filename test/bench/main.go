// Command bench measures what the built program costs: the server's own CPU per
// operation (user + system, of its process alone), best of five, with the driver
// in a process apart. It prints a table in Markdown.
//
//	go run ./test/bench [-bin bin/gatehouse] [-runs 5] [-only REGEXP] [-long]
//	go run ./test/bench [-bin bin/gatehouse] [-runs 5] -hanging [-for 20s]
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	log.SetFlags(0)
	bin := flag.String("bin", "bin/gatehouse", "the program")
	runs := flag.Int("runs", 5, "runs of each operation; the best counts")
	long := flag.Bool("long", false, "100,000 sign-ins, for memory")
	only := flag.String("only", "", "measure the operations alone whose names this matches")
	hang := flag.Bool("hanging", false, "measure sign-ins while all that is told of them hangs, and nothing else")
	took := flag.Duration("for", 20*time.Second, "how long each run of -hanging takes")
	bare := flag.String("bare-proxy", "", "serve a bare httputil.ReverseProxy to this URL (used by bench itself)")
	flag.Parse()
	if *bare != "" {
		bareProxy(*bare)
		return
	}
	if *hang {
		if err := hanging(*bin, *runs, *took); err != nil {
			log.Fatal("bench: ", err)
		}
		return
	}
	wanted, err := regexp.Compile(*only)
	if err != nil {
		log.Fatal("bench: -only: ", err)
	}
	if err := bench(*bin, *runs, wanted, *long); err != nil {
		log.Fatal("bench: ", err)
	}
}

// bareProxy is what the gateway is compared with.
func bareProxy(target string) {
	u, err := url.Parse(target)
	if err != nil {
		log.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(l.Addr())
	rp := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(u) }, Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	log.Fatal((&http.Server{Handler: rp, ReadHeaderTimeout: 5 * time.Second}).Serve(l))
}

// process is a server under measurement.
type process struct {
	cmd   *exec.Cmd
	addr  string
	admin string // the private listener
}

// cpu is the process's user and system time so far.
func (p *process) cpu() time.Duration {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		log.Fatal(err)
	}
	f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+2:]))
	u, _ := strconv.ParseInt(f[11], 10, 64)
	s, _ := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(u+s) * (time.Second / 100) // USER_HZ is 100 on Linux
}

// rss is the resident memory in MB.
func (p *process) rss() float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		log.Fatal(err)
	}
	for line := range strings.SplitSeq(string(raw), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	_ = p.cmd.Wait()
}

func freeAddr() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// server starts the program in dir and returns how long its first discovery
// answer took.
func server(bin, dir, conf, addr string) (*process, time.Duration) {
	if err := os.MkdirAll(filepath.Join(dir, "config"), 0o755); err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config", "gatehouse.yml"), []byte(conf), 0o600); err != nil {
		log.Fatal(err)
	}
	cmd := exec.Command(bin, "serve", "--dev", "--config", filepath.Join(dir, "config"))
	cmd.Dir = dir
	admin := freeAddr()
	cmd.Env = append(os.Environ(), "GATEHOUSE_LISTEN="+addr, "GATEHOUSE_ADMIN_LISTEN="+admin, "GATEHOUSE_DATA="+filepath.Join(dir, "data"))
	out, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		log.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	start := time.Now()
	if err := cmd.Start(); err != nil {
		log.Fatal(err)
	}
	for time.Since(start) < 20*time.Second {
		resp, err := http.Get("http://" + addr + "/.well-known/openid-configuration")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return &process{cmd, addr, admin}, time.Since(start)
			}
		}
		time.Sleep(time.Millisecond)
	}
	raw, _ := os.ReadFile(out.Name())
	log.Fatalf("the server does not answer:\n%s", raw)
	return nil, 0
}

// result is a row of the table.
type result struct {
	name   string
	cpu    time.Duration // of the server, per operation
	perSec float64
}

const workers = 16

// measure runs op n times by some workers, several times over.
func measure(p *process, runs, n int, name string, op func(worker, i int) error) result {
	best := result{name: name, cpu: time.Hour}
	for range runs {
		var next atomic.Int64
		var failed atomic.Pointer[error]
		var wg sync.WaitGroup
		before, start := p.cpu(), time.Now()
		for w := range workers {
			wg.Go(func() {
				for failed.Load() == nil {
					i := int(next.Add(1))
					if i > n {
						return
					}
					if err := op(w, i); err != nil {
						failed.Store(&err)
						return
					}
				}
			})
		}
		wg.Wait()
		if err := failed.Load(); err != nil {
			log.Fatalf("%s: %v", name, *err)
		}
		took, cpu := time.Since(start), p.cpu()-before
		if per := cpu / time.Duration(n); per < best.cpu {
			best.cpu = per
		}
		if r := float64(n) / took.Seconds(); r > best.perSec {
			best.perSec = r
		}
	}
	log.Printf("%-48s %8.3f ms  %8.0f/s", best.name, float64(best.cpu.Microseconds())/1000, best.perSec)
	return best
}

var client = &http.Client{
	Transport:     &http.Transport{MaxIdleConnsPerHost: 64},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	Timeout:       30 * time.Second,
}

func do(req *http.Request, want int) (*http.Response, []byte, error) {
	resp, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, nil, err
	}
	if resp.StatusCode != want {
		return nil, nil, fmt.Errorf("%s %s: %s: %s", req.Method, req.URL, resp.Status, body)
	}
	return resp, body, nil
}

func get(u string, want int, header ...string) (*http.Response, []byte, error) {
	req, err := http.NewRequest(http.MethodGet, u, nil)
	if err != nil {
		return nil, nil, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	return do(req, want)
}

type tokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token"`
	ID      string `json:"id_token"`
}

func token(base, id, secret string, form url.Values) (tokens, error) {
	var t tokens
	req, err := http.NewRequest(http.MethodPost, base+"/oauth2/token", strings.NewReader(form.Encode()))
	if err != nil {
		return t, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(id, secret)
	_, body, err := do(req, http.StatusOK)
	if err != nil {
		return t, err
	}
	return t, json.Unmarshal(body, &t)
}

const (
	verifier  = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
	challenge = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"
)

// signIn is a whole sign-in through the redirect connector: authorize, departure,
// callback, authorize again, token.
func signIn(base, clientID string, user int, scope string) (tokens, error) {
	cookies := map[string]string{}
	step := func(u string) (*url.URL, error) {
		var line []string
		for k, v := range cookies {
			line = append(line, k+"="+v)
		}
		resp, _, err := get(u, http.StatusSeeOther, "Cookie", strings.Join(line, "; "), "Accept", "text/html")
		if err != nil {
			return nil, err
		}
		for _, c := range resp.Cookies() {
			if c.MaxAge < 0 {
				delete(cookies, c.Name)
			} else {
				cookies[c.Name] = c.Value
			}
		}
		return resp.Location()
	}
	q := url.Values{"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {"http://127.0.0.1:5555/callback"}, "scope": {scope}, "state": {"s"}, "nonce": {"n"},
		"code_challenge": {challenge}, "code_challenge_method": {"S256"}, "connector_id": {"github"}}
	at, err := step(base + "/oauth2/authorize?" + q.Encode())
	if err != nil {
		return tokens{}, err
	}
	if strings.HasPrefix(at.String(), base) { // the departure, unless it was made at once
		if at, err = step(at.String()); err != nil {
			return tokens{}, err
		}
	}
	back := base + "/auth/github/callback?" + url.Values{"code": {"u" + strconv.Itoa(user)}, "state": {at.Query().Get("state")}}.Encode()
	if at, err = step(back); err != nil {
		return tokens{}, err
	}
	if at, err = step(at.String()); err != nil { // authorize again: the client's callback
		return tokens{}, err
	}
	code := at.Query().Get("code")
	if code == "" {
		return tokens{}, fmt.Errorf("no code: %s", at)
	}
	return token(base, clientID, "bench-secret", url.Values{"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {"http://127.0.0.1:5555/callback"}, "code_verifier": {verifier}})
}

// upstreams are a fake GitHub and an API behind the gateway, in this process.
func upstreams() string {
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, v any) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-OAuth-Scopes", "read:user, user:email")
		_ = json.NewEncoder(w).Encode(v)
	}
	mux.HandleFunc("POST /login/oauth/access_token", func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		answer(w, map[string]any{"access_token": "t-" + r.Form.Get("code"), "token_type": "bearer", "scope": "read:user,user:email"})
	})
	who := func(r *http.Request) int {
		auth := r.Header.Get("Authorization")
		n, _ := strconv.Atoi(auth[strings.LastIndexByte(auth, 'u')+1:])
		return n
	}
	mux.HandleFunc("GET /api/v3/user", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{"id": 1000 + who(r), "login": fmt.Sprint("user", who(r)), "name": fmt.Sprint("User ", who(r))})
	})
	mux.HandleFunc("GET /api/v3/user/emails", func(w http.ResponseWriter, r *http.Request) {
		answer(w, []map[string]any{{"email": fmt.Sprintf("user%d@example.com", who(r)), "primary": true, "verified": true}})
	})
	mux.HandleFunc("DELETE /api/v3/applications/", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) })
	mux.HandleFunc("GET /api/v3/", func(w http.ResponseWriter, _ *http.Request) { answer(w, map[string]any{}) })
	mux.HandleFunc("GET /small", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"ok":true,"items":[1,2,3,4,5,6,7,8,9,10]}`)
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Fatal((&http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}).Serve(l)) }()
	return l.Addr().String()
}

// conf is the configuration of the server: the demo's, with a GitHub and an API
// that upstreams are.
func conf(up string) string {
	return fmt.Sprintf(`
log: {level: warn}
github: {client_id: id, client_secret: secret, base_url: "http://%s"}
clients:
  - {client_id: es, client_secret: bench-secret, redirect_uris: ["http://127.0.0.1:5555/callback"], grant_types: [authorization_code, refresh_token, client_credentials], scope: openid profile email groups offline_access api, id_token_signed_response_alg: ES256, audiences: [demo-api], trusted: true}
  - {client_id: rs, client_secret: bench-secret, redirect_uris: ["http://127.0.0.1:5555/callback"], scope: openid profile email groups offline_access, audiences: [demo-api], trusted: true}
routes:
  - {name: api, host: api.localhost, upstream: "http://%s", audience: demo-api}
`, up, up)
}

// lend puts leases of consoles, a thousand at a time.
func lend(p *process, dir, upstream string, n int) error {
	token, err := os.ReadFile(filepath.Join(dir, "data", "admin.token"))
	if err != nil {
		return err
	}
	type lease struct {
		ID       string   `json:"id"`
		Groups   []string `json:"groups"`
		Kind     string   `json:"kind"`
		Upstream string   `json:"upstream"`
		TTL      string   `json:"ttl"`
	}
	for i := 0; i < n; i += 1000 {
		var q struct {
			Items []lease `json:"items"`
		}
		for j := range 1000 {
			q.Items = append(q.Items, lease{fmt.Sprintf("gpu-%06d", i+j), []string{fmt.Sprintf("team-%d", (i+j)%5000)}, "jupyter", "http://" + upstream, "1h"})
		}
		js, err := json.Marshal(q)
		if err != nil {
			return err
		}
		req, err := http.NewRequest(http.MethodPost, "http://"+p.admin+"/api/v1/consoles", bytes.NewReader(js))
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		req.Header.Set("Content-Type", "application/json")
		_, body, err := do(req, http.StatusOK)
		if err != nil {
			return err
		}
		var said struct {
			Failed int `json:"failed"`
		}
		if err := json.Unmarshal(body, &said); err != nil || said.Failed > 0 {
			return fmt.Errorf("%d leases were refused: %w: %.300s", said.Failed, err, body)
		}
	}
	return nil
}

func bench(bin string, runs int, only *regexp.Regexp, long bool) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "gatehouse-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	up := upstreams()
	addr := freeAddr()
	base := "http://" + addr
	p, first := server(bin, dir, conf(up), addr)
	p.stop()
	var warm time.Duration = time.Hour
	for range runs {
		var took time.Duration
		p, took = server(bin, dir, conf(up), addr)
		warm = min(warm, took)
		p.stop()
	}
	p, _ = server(bin, dir, conf(up), addr)
	defer p.stop()
	time.Sleep(2 * time.Second)
	idle := p.rss()
	log.Printf("first start %v, warm start %v, idle %.0f MB", first.Round(time.Millisecond), warm.Round(time.Millisecond), idle)

	var rows []result
	measure := func(p *process, runs, n int, name string, op func(worker, i int) error) result {
		if !only.MatchString(name) {
			return result{name: name}
		}
		return measure(p, runs, n, name, op)
	}
	rows = append(rows, measure(p, runs, 20000, "discovery", func(int, int) error {
		_, _, err := get(base+"/.well-known/openid-configuration", http.StatusOK)
		return err
	}))
	rows = append(rows, measure(p, runs, 20000, "JWKS", func(int, int) error { _, _, err := get(base+"/oauth2/jwks", http.StatusOK); return err }))
	rows = append(rows, measure(p, runs, 10000, "client credentials (ES256)", func(int, int) error {
		_, err := token(base, "es", "bench-secret", url.Values{"grant_type": {"client_credentials"}, "scope": {"api"}})
		return err
	}))
	for _, alg := range []string{"es", "rs"} {
		rows = append(rows, measure(p, runs, 2000, "sign-in through a redirect connector ("+strings.ToUpper(alg)+"256 ID token)", func(w, i int) error {
			_, err := signIn(base, alg, i%500, "openid profile email groups")
			return err
		}))
	}
	for _, r := range []struct{ client, scope, name string }{{"es", "profile email groups", "refresh without an ID token"}, {"rs", "", "refresh with an RS256 ID token"}} {
		held := make([]string, workers)
		for w := range held {
			t, err := signIn(base, r.client, w, "openid profile email groups offline_access")
			if err != nil {
				return err
			}
			held[w] = t.Refresh
		}
		rows = append(rows, measure(p, runs, 8000, r.name, func(w, _ int) error {
			form := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {held[w]}}
			if r.scope != "" {
				form.Set("scope", r.scope)
			}
			t, err := token(base, r.client, "bench-secret", form)
			held[w] = t.Refresh
			return err
		}))
	}
	t, err := signIn(base, "es", 1, "openid profile email groups offline_access")
	if err != nil {
		return err
	}
	rows = append(rows, measure(p, runs, 20000, "userinfo", func(int, int) error {
		_, _, err := get(base+"/oauth2/userinfo", http.StatusOK, "Authorization", "Bearer "+t.Access)
		return err
	}))
	// The gateway and a bare proxy, in the same run, turn by turn.
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bare := &process{cmd: exec.Command(self, "-bare-proxy", "http://"+up)}
	pipe, err := bare.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := bare.cmd.Start(); err != nil {
		return err
	}
	defer bare.stop()
	buf := make([]byte, 64)
	n, err := pipe.Read(buf)
	if err != nil {
		return err
	}
	bare.addr = strings.TrimSpace(string(buf[:n]))
	_, port, _ := net.SplitHostPort(addr)
	gw := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}}, Timeout: 30 * time.Second}
	through := func(int, int) error {
		req, err := http.NewRequest(http.MethodGet, "http://api.localhost:"+port+"/small", nil)
		if err != nil {
			return err
		}
		req.Header.Set("Authorization", "Bearer "+t.Access)
		resp, err := gw.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("gateway: %s", resp.Status)
		}
		return err
	}
	gateway := result{name: "gateway, cached session", cpu: time.Hour}
	direct := result{name: "bare httputil.ReverseProxy", cpu: time.Hour}
	for range runs {
		a := measure(p, 1, 20000, "gateway", through)
		b := measure(bare, 1, 20000, "bare", func(int, int) error { _, _, err := get("http://"+bare.addr+"/small", http.StatusOK); return err })
		if a.perSec == 0 || b.perSec == 0 {
			continue
		}
		gateway.cpu, gateway.perSec = min(gateway.cpu, a.cpu), max(gateway.perSec, a.perSec)
		direct.cpu, direct.perSec = min(direct.cpu, b.cpu), max(direct.perSec, b.perSec)
	}
	rows = append(rows, gateway, direct)
	fmt.Printf("\n%d cores, %s. First start %d ms, warm start %d ms to the first discovery answer, idle %.0f MB.\n\n", runtime.NumCPU(), runtime.Version(), first.Milliseconds(), warm.Milliseconds(), idle)
	fmt.Println("| operation | server CPU | per second |\n|---|---|---|")
	for _, r := range rows {
		if r.perSec == 0 {
			continue
		}
		fmt.Printf("| %s | %.3f ms | %.0f |\n", r.name, float64(r.cpu.Microseconds())/1000, r.perSec)
	}
	if gateway.perSec > 0 && direct.perSec > 0 {
		fmt.Printf("\nThe gateway makes %.0f %% of the bare proxy's requests per second, at %.2f times its CPU.\n", 100*gateway.perSec/direct.perSec, float64(gateway.cpu)/float64(direct.cpu))
	}
	if long {
		fmt.Printf("\nMemory over 100,000 sign-ins: %.0f MB", p.rss())
		for block := range 10 {
			measure(p, 1, 10000, fmt.Sprint("block ", block), func(_, i int) error { _, err := signIn(base, "es", i%5000, "openid"); return err })
			fmt.Printf(" → %.0f MB", p.rss())
		}
		fmt.Println()
		before := measure(p, runs, 20000, "gateway", through)
		if err := lend(p, dir, up, 100_000); err != nil {
			return err
		}
		after := measure(p, runs, 20000, "gateway", through)
		fmt.Printf("\nWith 100,000 sessions and 100,000 leases: %.0f MB; the gateway takes %.3f ms of CPU for a request, %.3f ms without the leases.\n", p.rss(), float64(after.cpu.Microseconds())/1000, float64(before.cpu.Microseconds())/1000)
	}
	return nil
}
