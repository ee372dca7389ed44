package config

import (
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// variable is ${NAME} or ${NAME:-default}; what else begins with ${ is a mistake.
var variable = regexp.MustCompile(`\$\{([A-Za-z_][A-Za-z0-9_]*)(:-([^}]*))?\}|\$\{`)

// text returns a scalar's text with ${VARIABLES} filled in.
func (d *decoder) text(n ast.Node, p place) (string, bool) {
	var s string
	switch x := n.(type) {
	case *ast.StringNode:
		s = x.Value
	case *ast.LiteralNode:
		s = x.Value.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.InfinityNode, *ast.NanNode:
		s = n.GetToken().Value
	default:
		d.find(p, "yaml.kind", "Here a single value is needed, not a list or a mapping.", "")
		return "", false
	}
	ok := true
	s = variable.ReplaceAllStringFunc(s, func(m string) string {
		g := variable.FindStringSubmatch(m)
		if g[1] == "" {
			d.find(p, "env.form", "Here ${ begins no variable.", "${NAME} or ${NAME:-default}; a text that holds ${ itself comes from a variable or a file")
			ok = false
			return m
		}
		// As in a shell, :- stands in for an empty variable too.
		if v, set := d.env(g[1]); set && (v != "" || g[2] == "") {
			return v
		}
		if g[2] == "" {
			d.find(p, "env.unset", fmt.Sprintf("The environment variable %s is not set.", g[1]), fmt.Sprintf("set it, or give a default: ${%s:-…}", g[1]))
			ok = false
		}
		return g[3]
	})
	return s, ok
}

func (d *decoder) twice(p place, key string) {
	d.find(p, "secret.twice", fmt.Sprintf("%s stands beside the key itself.", key), "keep one of them")
}

// secretFile reads x from the file that x_file names.
func (d *decoder) secretFile(kv *ast.MappingValueNode, v reflect.Value, path string, p place) {
	n, ok := d.plain(kv.Value, p)
	if !ok {
		return
	}
	at := place{p.file, n.GetToken()}
	name, ok := d.text(n, at)
	if !ok {
		return
	}
	d.at[path] = at
	raw, err := d.readFile(name)
	if err != nil {
		d.find(at, "secret.file", "The secret cannot be read: "+err.Error()+".", "")
		return
	}
	secret := strings.TrimRight(string(raw), "\r\n")
	if secret == "" {
		d.find(at, "secret.empty", "The file of this secret is empty.", "write the secret into it")
	}
	v.SetString(secret)
}

// maxSecret bounds the file of one secret, in bytes.
const maxSecret = 64 << 10

func readSecret(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	if err == nil && len(raw) > maxSecret {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxSecret)
	}
	return raw, err
}
