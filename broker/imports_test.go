package broker

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/remotegpu/gatehouse/"

// rows is the diagram of docs/architecture.md: a package imports only lower
// rows. Ground (-1) may be imported by everybody.
var rows = map[string]int{
	"broker/problem": -1, "broker/redact": -1,
	"broker/store": 0, "connectors": 0, "broker/tracing": 0, "templates": 0, "static": 0,
	"broker/event": 1, "broker/policy": 1, "broker/objectstore": 1, "broker/web": 1, "broker/geo": 1, "broker/demo": 1, "broker/uptimekuma": 1, "broker/sentry": 1, "broker/gateway/upstream": 1, "broker/gateway/relay": 1,
	"broker/session": 2, "broker/user": 2, "broker/grant": 2, "broker/token": 2, "broker/notify": 2, "broker/console": 2, "broker/apikey": 2, "broker/logging": 2, "broker/detect": 2, "broker/workload": 2,
	"broker/event/archive": 2, "broker/event/index": 2,
	"broker/signin": 3, "broker/issuer": 3, "broker/gateway": 3, "broker/portal": 3, "broker/scim": 3,
	"config": 4,
	"broker": 5, "cmd/gatehouse/internal/userclient": 5,
	"cmd/gatehouse": 6,
}

// plugins may see their contract and libraries only; the ground rows apart.
var plugins = map[string][]string{
	"broker/store/sqlite":      {"broker/store"},
	"broker/store/redis":       {"broker/store"},
	"broker/store/storetest":   {"broker/store"},
	"broker/event/audittest":   {"broker/event", "broker/store", "broker/store/storetest"},
	"connectors/connectortest": {"connectors"},
	"connectors/local":         {"connectors"},
	"connectors/ldap":          {"connectors"},
	"connectors/github":        {"connectors"},
	"connectors/google":        {"connectors", "connectors/oidc"},
	"connectors/gitlab":        {"connectors", "connectors/oidc"},
	"connectors/oidc":          {"connectors", "connectors/jwks"},
	"connectors/jwks":          {"connectors"},
	"connectors/saml":          {"connectors"},
	"connectors/appapi":        {"connectors"},
	"connectors/dingtalk":      {"connectors", "connectors/appapi"},
	"connectors/wecom":         {"connectors", "connectors/appapi"},
	"connectors/feishu":        {"connectors", "connectors/appapi"},
	"connectors/workload":      {"connectors", "connectors/jwks", "connectors/oidc"},
}

// The arrows point down, only builtin.go sees plug-ins, and only broker/token
// sees jwx (docs/architecture.md). The files are parsed here: a listing by the
// go command would be served from the test cache.
func TestImports(t *testing.T) {
	root := ".."
	seen := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if path != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "node_modules" || name == "bin" || name == "data") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		pkg := filepath.ToSlash(filepath.Dir(rel))
		if strings.HasPrefix(pkg, "test/") {
			return nil
		}
		seen[pkg] = true
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if complaint := judge(pkg, filepath.Base(path), imported); complaint != "" {
				t.Errorf("%s: %s", rel, complaint)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(seen) < 10 {
		t.Fatalf("only %d packages were found below the module's root", len(seen))
	}
}

func judge(pkg, file, imported string) string {
	if strings.HasPrefix(imported, "github.com/lestrrat-go/jwx") && pkg != "broker/token" {
		return "imports jwx, which broker/token alone may"
	}
	if !strings.HasPrefix(imported, module) {
		return ""
	}
	target := strings.TrimPrefix(imported, module)
	row, drawn := rows[target]
	if drawn && row == -1 {
		return ""
	}
	if allowed, isPlugin := plugins[pkg]; isPlugin {
		if !slices.Contains(allowed, target) {
			return "a plug-in imports " + target + "; it may see " + strings.Join(allowed, ", ")
		}
		return ""
	}
	own, ok := rows[pkg]
	if !ok {
		return "package " + pkg + " is not in the diagram; draw it in rows or plugins"
	}
	if _, isPlugin := plugins[target]; isPlugin {
		if pkg == "broker" && file == "builtin.go" {
			return ""
		}
		if pkg == "config" || pkg == "cmd/gatehouse" {
			return "imports the plug-in " + target + "; only broker/builtin.go may"
		}
		return "imports the plug-in " + target + "; only broker/builtin.go may"
	}
	if !drawn {
		return "imports " + target + ", which is not in the diagram"
	}
	if row >= own {
		return "imports " + target + " of row " + strconv.Itoa(row) + ", its own is " + strconv.Itoa(own)
	}
	return ""
}

// The judge itself: what it has to refuse, it refuses.
func TestImportsJudge(t *testing.T) {
	for _, c := range []struct {
		pkg, file, imported string
		ok                  bool
	}{
		{"broker/issuer", "x.go", module + "broker/session", true},
		{"broker/issuer", "x.go", module + "broker/gateway", false},
		{"broker/session", "x.go", module + "broker/user", false},
		{"broker/web", "x.go", module + "config", false},
		{"broker/issuer", "x.go", "github.com/lestrrat-go/jwx/v2/jwt", false},
		{"broker/token", "x.go", "github.com/lestrrat-go/jwx/v2/jwt", true},
		{"connectors/ldap", "x.go", module + "broker/session", false},
		{"connectors/ldap", "x.go", module + "broker/redact", true},
		{"broker", "builtin.go", module + "connectors/ldap", true},
		{"broker", "broker.go", module + "connectors/ldap", false},
		{"config", "x.go", module + "connectors/ldap", false},
		{"broker/new", "x.go", module + "broker/store", false},
	} {
		if got := judge(c.pkg, c.file, c.imported); (got == "") != c.ok {
			t.Errorf("%s/%s imports %s: %q", c.pkg, c.file, c.imported, got)
		}
	}
}
