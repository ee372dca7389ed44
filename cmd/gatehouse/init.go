package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/config"
)

type initCmd struct {
	Issuer string `help:"Public URL of the broker; asked for on a terminal." placeholder:"URL"`
	Admin  string `help:"Name of a local admin to make; asked for on a terminal. The password is read from the terminal or stdin." placeholder:"NAME"`
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
	text, err := c.compose(e)
	if err != nil {
		return err
	}
	// What init writes, serve takes.
	if _, _, err := config.Parse([]config.Document{{Name: path, YAML: []byte(text)}}, config.LoadOptions{Types: broker.Types()}); err != nil {
		return err
	}
	key, err := broker.NewSecretKey()
	if err != nil {
		return err
	}
	token := filepath.Join(c.Data, "admin.token")
	for _, f := range []struct{ name, text string }{{filepath.Join(c.Data, "secret.key"), key}, {token, broker.NewAdminToken()}, {path, text}} {
		err := broker.WriteSecret(f.name, f.text)
		switch {
		case errors.Is(err, os.ErrExist) && f.name != path:
			fmt.Fprintln(e.stdout, "kept", f.name)
		case err != nil:
			return err
		default:
			fmt.Fprintln(e.stdout, "wrote", f.name)
		}
	}
	if c.Admin == "" {
		fmt.Fprintf(e.stdout, "Nobody is an admin yet, only who holds %s (on admin_listen). Add a connector, then say who under roles.\n", token)
	} else {
		fmt.Fprintf(e.stdout, "Admin is the local user %s, and whoever holds %s (on admin_listen).\n", c.Admin, token)
	}
	fmt.Fprintln(e.stdout, "Next: gatehouse check, then gatehouse serve")
	return nil
}

// compose asks for what no flag says and returns the file's text.
func (c *initCmd) compose(e env) (string, error) {
	in := bufio.NewReader(e.stdin)
	interactive := isTerminal(e)
	ask := func(question string) (string, error) {
		fmt.Fprint(e.stderr, question)
		line, err := in.ReadString('\n')
		if err != nil && line == "" {
			return "", fmt.Errorf("no answer: %w", err)
		}
		return strings.TrimSpace(line), nil
	}
	var err error
	if c.Issuer == "" {
		if !interactive {
			return "", errors.New("say the public URL: gatehouse init --issuer https://id.example.com")
		}
		if c.Issuer, err = ask("Public URL of the broker (https://id.example.com): "); err != nil {
			return "", err
		}
		if c.Admin == "" {
			if c.Admin, err = ask("Name of a local admin, such as alice (empty: none): "); err != nil {
				return "", err
			}
		}
	}
	roles, local := "roles: {admin: []}", `# Nobody can sign in yet: add a connector, such as local:, ldap: or github: (docs/connectors).
# local:
#   users:
#     - {username: admin, password_hash: …}   # from: gatehouse hash-password
`
	if c.Admin != "" {
		password, err := readPassword(e, in, interactive)
		if err != nil {
			return "", err
		}
		if err := broker.CheckNewPassword(c.Admin, password); err != nil {
			return "", err
		}
		hash, err := broker.HashPassword(password)
		if err != nil {
			return "", err
		}
		local = fmt.Sprintf("local:\n  users:\n    - username: %s\n      password_hash: %s\n", quoted(c.Admin), hash)
		roles = fmt.Sprintf("roles: {admin: [%s]}", quoted("local:"+c.Admin))
	}
	return fmt.Sprintf(`# Gatehouse, see docs/configuration.md. Check it with: gatehouse check
issuer: %s
listen: 127.0.0.1:8080
admin_listen: 127.0.0.1:9091
# The TLS terminator in front, which says who the client is; or set tls: {cert_file, key_file}.
trusted_proxies: [127.0.0.1/32]
# Holds the embedded store, the secret key and the operator's token.
data_dir: %s
%s

%s`, quoted(strings.TrimRight(c.Issuer, "/")), quoted(c.Data), roles, local), nil
}

// plainText needs no quotes in YAML, wherever it stands.
var plainText = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9/._:-]*[A-Za-z0-9]$`)

// quoted writes a string as YAML.
func quoted(s string) string {
	if plainText.MatchString(s) && !strings.EqualFold(s, "null") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", "''") + "'"
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
