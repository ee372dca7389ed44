package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/remotegpu/gatehouse/broker"
)

type initCmd struct {
	Issuer string `help:"Public URL of the broker; asked for on a terminal." placeholder:"URL"`
	Admin  string `help:"Name of a local admin to make; the password is asked for." placeholder:"NAME"`
	Data   string `help:"Folder of the secret key, the operator's token and the embedded store." default:"data" env:"GATEHOUSE_DATA"`
}

// Run writes what is missing, and never over what is there.
func (c initCmd) Run(e env, _ *kong.Kong) error {
	path := e.config
	if ext := filepath.Ext(path); ext != ".yml" && ext != ".yaml" {
		path = filepath.Join(path, "gatehouse.yml")
	}
	if _, err := os.Stat(path); err == nil {
		return fmt.Errorf("%s is there already; edit it, or remove it first", path)
	}
	in := bufio.NewReader(e.stdin)
	interactive := isTerminal(e)
	if c.Issuer == "" {
		if !interactive {
			return errors.New("say the public URL: gatehouse init --issuer https://id.example.com")
		}
		fmt.Fprint(e.stderr, "Public URL of the broker (https://id.example.com): ")
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		c.Issuer = strings.TrimSpace(line)
	}
	c.Issuer = strings.TrimRight(c.Issuer, "/")
	local, roles := "", "roles: {admin: []}"
	if c.Admin != "" {
		password, err := readPassword(e, in, interactive)
		if err != nil {
			return err
		}
		if err := broker.CheckNewPassword(c.Admin, password); err != nil {
			return err
		}
		hash, err := broker.HashPassword(password)
		if err != nil {
			return err
		}
		local = fmt.Sprintf("local:\n  users:\n    - username: %q\n      password_hash: %s\n", c.Admin, hash)
		roles = fmt.Sprintf("roles: {admin: [%q]}", "local:"+c.Admin)
	} else {
		local = "# Nobody can sign in yet: add a connector, such as local:, ldap: or github: (docs/connectors).\n# local:\n#   users:\n#     - {username: admin, password_hash: …}   # from: gatehouse hash-password\n"
	}
	text := fmt.Sprintf("# Gatehouse, see docs/configuration.md. Check it with: gatehouse check\nissuer: %s\nlisten: 127.0.0.1:8080\nadmin_listen: 127.0.0.1:9091\n# The TLS terminator in front, which says who the client is; or set tls: {cert_file, key_file}.\ntrusted_proxies: [127.0.0.1/32]\nstore: sqlite:%s\nsecret_key_file: %s\n%s\n\n%s",
		c.Issuer, filepath.Join(c.Data, "gatehouse.db"), filepath.Join(c.Data, "secret.key"), roles, local)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	fmt.Fprintln(e.stdout, "wrote", path)
	key, err := broker.NewSecretKey()
	if err != nil {
		return err
	}
	for _, f := range []struct{ name, text string }{{"secret.key", key}, {"admin.token", broker.NewAdminToken()}} {
		name := filepath.Join(c.Data, f.name)
		err := broker.WriteSecret(name, f.text)
		switch {
		case errors.Is(err, os.ErrExist):
			fmt.Fprintln(e.stdout, "kept", name)
		case err != nil:
			return err
		default:
			fmt.Fprintln(e.stdout, "wrote", name)
		}
	}
	if c.Admin == "" {
		fmt.Fprintln(e.stdout, "Nobody is an admin yet: only data/admin.token, on admin_listen. Add a connector, then say who under roles.")
	} else {
		fmt.Fprintf(e.stdout, "Admin is the local user %s, and whoever holds %s (on admin_listen).\n", c.Admin, filepath.Join(c.Data, "admin.token"))
	}
	fmt.Fprintln(e.stdout, "Next: gatehouse check, then gatehouse serve")
	return nil
}

func isTerminal(e env) bool {
	f, ok := e.stdin.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// readPassword reads from the terminal without echo, twice, or one line of
// stdin.
func readPassword(e env, in *bufio.Reader, interactive bool) (string, error) {
	if !interactive {
		line, err := in.ReadString('\n')
		if err != nil && line == "" {
			return "", fmt.Errorf("read the password from stdin: %w", err)
		}
		return strings.TrimRight(line, "\r\n"), nil
	}
	fd := int(e.stdin.(*os.File).Fd())
	read := func(prompt string) (string, error) {
		fmt.Fprint(e.stderr, prompt)
		b, err := term.ReadPassword(fd)
		fmt.Fprintln(e.stderr)
		return string(b), err
	}
	first, err := read("Password: ")
	if err != nil {
		return "", err
	}
	second, err := read("Again: ")
	if err != nil {
		return "", err
	}
	if first != second {
		return "", errors.New("the two are not the same")
	}
	return first, nil
}

type hashPasswordCmd struct{}

// Run prints the argon2id hash of a password.
func (hashPasswordCmd) Run(e env, _ *kong.Kong) error {
	password, err := readPassword(e, bufio.NewReader(e.stdin), isTerminal(e))
	if err != nil {
		return err
	}
	hash, err := broker.HashPassword(password)
	if err != nil {
		return err
	}
	if err := broker.CheckNewPassword("", password); err != nil {
		fmt.Fprintf(e.stderr, "gatehouse: %v; the hash works, but do not use it outside a demo\n", err)
	}
	_, err = fmt.Fprintln(e.stdout, hash)
	return err
}
