package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unicode"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/config"
)

type serveCmd struct {
	Dev bool `help:"Demo users, demo upstream, http on loopback; for your own machine alone."`
}

// Run serves until SIGINT or SIGTERM.
func (c serveCmd) Run(e env, _ *kong.Kong) error {
	cfg, err := e.load(c.Dev)
	if err != nil {
		return err
	}
	log, level, flush := broker.NewServerLogger(e.stderr, cfg.Log)
	defer flush()
	b, err := broker.New(e.ctx, cfg, broker.Options{Version: version, Log: log, Level: level, SecretKeys: redact.String(os.Getenv("GATEHOUSE_SECRET_KEY")),
		Load: func() (*config.Config, config.Findings, error) {
			return config.Load(e.config, config.LoadOptions{Types: broker.Types(), Dev: c.Dev})
		}})
	if err != nil {
		return err
	}
	defer b.Close()
	l, err := b.Listen()
	if err != nil {
		return err
	}
	if !cfg.Dev { // the demo ends with its terminal; it reloads by the API
		defer reloadOnHangup(e.ctx, b)()
	}
	welcome(e.stdout, cfg, b.Notes)
	floor := newHeapFloor()
	defer runtime.KeepAlive(floor)
	return b.Serve(e.ctx, l)
}

// reloadOnHangup has every SIGHUP read the configuration again, until ctx ends or
// the function that it returns is called, which waits for one under way. What
// came of it is in the log.
func reloadOnHangup(ctx context.Context, b *broker.Broker) (stop func()) {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-hangup:
				_, _ = b.Reload(ctx, "SIGHUP")
			}
		}
	}()
	return func() {
		signal.Stop(hangup)
		cancel()
		<-done
	}
}

// welcome says where everything is and, in the demo, what to try.
func welcome(w io.Writer, cfg *config.Config, notes []string) {
	mode := ""
	if cfg.Dev {
		mode = " --dev  (demo users, demo upstream; loopback only, do not expose)"
	}
	store, _, _ := strings.Cut(cfg.Store.Reveal(), "?")
	if !strings.HasPrefix(store, "sqlite:") {
		store, _, _ = strings.Cut(store, ":") // an address may hold a password
	}
	fmt.Fprintf(w, "gatehouse %s  serve%s\n", version, mode)
	fmt.Fprintf(w, "  config     %d connectors, %d clients, %d routes\n", len(cfg.Connectors), len(cfg.Clients)+1, len(cfg.Routes))
	fmt.Fprintf(w, "  store      %s\n", store)
	fmt.Fprintf(w, "  keys       ES256, RS256, wrapped by %s\n", cfg.SecretKeyFile)
	for _, n := range notes {
		fmt.Fprintf(w, "             %s\n", n)
	}
	fmt.Fprintf(w, "  listening  %s  admin %s\n\n", cfg.Listen, cfg.AdminListen)
	for _, k := range cfg.Connectors {
		if !k.Served {
			fmt.Fprintf(w, "  ! %s: accepted, not served by this version\n", k.ID)
		}
	}
	if !cfg.Dev {
		fmt.Fprintf(w, "  Sign in    %s/\n  Discovery  %s/.well-known/openid-configuration\n", cfg.Issuer, cfg.Issuer)
		return
	}
	port := cfg.IssuerURL().Port()
	api := "http://api.localhost:" + port
	operator := fmt.Sprintf(`curl -s -H "Authorization: Bearer $(cat %s)" http://%s/api/v1/users`, pasted(filepath.Join(cfg.DataDir, "admin.token")), cfg.AdminListen)
	if os.Getenv("GATEHOUSE_DEV_CONTAINER") == "1" { // the listener and the token are inside
		operator = "docker compose exec gatehouse /gatehouse user list"
	}
	fmt.Fprintf(w, `  Sign in        %[1]s/            demo / demo, or admin / admin
  Demo API       %[2]s/echo
  Demo console   http://demo.console.localhost:%[3]s/
  Discovery      %[1]s/.well-known/openid-configuration

  Three things to try in another terminal:

  1. A token for a program (client credentials):
     curl -s -u demo-app:demo-secret -d grant_type=client_credentials -d scope=deployments:write %[1]s/oauth2/token

  2. The demo API through the gateway, with such a token:
     TOKEN=$(curl -s -u demo-app:demo-secret -d grant_type=client_credentials -d scope=deployments:write %[1]s/oauth2/token | sed 's/.*"access_token":"\([^"]*\)".*/\1/')
     curl -s -X POST %[2]s/deployments --resolve api.localhost:%[3]s:127.0.0.1 -H "Authorization: Bearer $TOKEN" -d '{"image": "myapp:latest"}'

  3. The operator's API, on the private listener:
     %[4]s

Press Ctrl-C to stop.
`, cfg.Issuer, api, port, operator)
}

// pasted writes a path so that it works in a shell of any folder.
func pasted(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if strings.ContainsFunc(path, func(r rune) bool {
		return !strings.ContainsRune("/._-+@", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}

type demoUpstreamCmd struct {
	Listen string `help:"Address to listen on." default:"127.0.0.1:9000"`
}

// Run serves the demo upstream of docker-compose.yml.
func (c demoUpstreamCmd) Run(e env, _ *kong.Kong) error {
	l, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	s := &http.Server{Handler: broker.DemoHandler(), ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-e.ctx.Done()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
	}()
	fmt.Fprintln(e.stdout, "demo upstream on", l.Addr())
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
