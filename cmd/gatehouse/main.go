// Command gatehouse is the identity broker and SSO gateway, and its command
// line. Commands parse flags and call the broker or its HTTP API; there is no
// logic here and no access to a store behind a running server's back.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

// version is set by the build.
var version = "dev"

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

// cli is the command line.
type cli struct {
	Config string `help:"Configuration: a YAML file, or a folder whose *.yml are merged." env:"GATEHOUSE_CONFIG" default:"./config" placeholder:"PATH"`

	Init         initCmd         `cmd:"" help:"Write a minimal configuration, the secret key and the operator's token."`
	Serve        serveCmd        `cmd:"" help:"Run broker and gateway."`
	Check        checkCmd        `cmd:"" help:"Validate the configuration and probe every system that it names."`
	Reload       reloadCmd       `cmd:"" help:"Have the running server read its configuration again."`
	Login        loginCmd        `cmd:"" help:"Sign in: by the browser of this machine, or by a code on one without."`
	Logout       logoutCmd       `cmd:"" help:"Sign out: at the server and here."`
	Token        tokenCmd        `cmd:"" help:"Print a fresh access token, or keep a file with one."`
	Whoami       whoamiCmd       `cmd:"" help:"Say who is signed in, where, and until when."`
	Storage      storageCmd      `cmd:"" name:"storage-credentials" help:"Print short-lived bucket credentials, for AWS credential_process."`
	Keys         keysCmd         `cmd:"" help:"Signing keys: list, rotate, revoke."`
	User         userCmd         `cmd:"" help:"Users: list, show, suspend, resume."`
	Session      sessionCmd      `cmd:"" help:"Sessions: list, revoke."`
	Client       clientCmd       `cmd:"" help:"OIDC clients: list."`
	Console      consoleCmd      `cmd:"" help:"Console leases: put, list, rm."`
	APIKey       apikeyCmd       `cmd:"" name:"apikey" help:"API keys of service accounts: create, list, revoke."`
	Trust        trustCmd        `cmd:"" help:"Rules by which CI jobs exchange their tokens: list, show, explain."`
	Audit        auditCmd        `cmd:"" help:"The audit log: search, export, verify, key."`
	HashPassword hashPasswordCmd `cmd:"" help:"Read a password and print its hash for local users."`
	Healthcheck  healthcheckCmd  `cmd:"" help:"Exit 0 when /readyz of the running server is 200."`
	DemoUpstream demoUpstreamCmd `cmd:"" hidden:"" help:"Serve the demo API and console alone."`
	Version      versionCmd      `cmd:"" help:"Print the version."`
	Completion   completionCmd   `cmd:"" help:"Print a completion script for bash, zsh or fish."`
}

// env is what commands get.
type env struct {
	ctx    context.Context
	config string
	stdin  io.Reader
	stdout io.Writer
	stderr io.Writer
}

// printJSON writes a value for programs and people.
func (e env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// load reads the configuration; complaints go to stderr.
func (e env) load(dev bool) (*config.Config, error) {
	c, findings, err := config.Load(e.config, config.LoadOptions{Types: broker.Types(), Dev: dev})
	for _, f := range findings {
		if f.Severity == config.SeverityWarning {
			fmt.Fprintln(e.stderr, f)
		}
	}
	return c, err
}

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	var c cli
	code := -1
	parser, err := kong.New(&c, kong.Name("gatehouse"), kong.Description("Identity broker and SSO gateway."), kong.UsageOnError(),
		kong.Writers(stdout, stderr), kong.Exit(func(n int) { code = n }))
	if err != nil {
		fmt.Fprintln(stderr, "gatehouse:", err)
		return exitFailed
	}
	k, err := parser.Parse(args)
	if code >= 0 { // --help
		return code
	}
	if err != nil {
		fmt.Fprintln(stderr, "gatehouse:", err)
		fmt.Fprintln(stderr, "Run gatehouse --help for the commands.")
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := k.Run(env{ctx: ctx, config: c.Config, stdin: stdin, stdout: stdout, stderr: stderr}, parser); err != nil {
		if !errors.Is(err, errReported) {
			fmt.Fprintln(stderr, "gatehouse:", err)
		}
		return exitFailed
	}
	return 0
}

// errReported means that the command has said what went wrong.
var errReported = errors.New("reported")

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(e env, _ *kong.Kong) error {
	goVersion := ""
	if bi, ok := debug.ReadBuildInfo(); ok {
		goVersion = " " + bi.GoVersion
	}
	_, err := fmt.Fprintf(e.stdout, "gatehouse %s%s\n", version, goVersion)
	return err
}
