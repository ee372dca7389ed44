package redis

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/store"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct {
		url  string
		want target
	}{
		{"redis://localhost", target{mode: modeSingle, hosts: []string{"localhost:6379"}}},
		{"redis://127.0.0.1:7000/3", target{mode: modeSingle, hosts: []string{"127.0.0.1:7000"}, db: 3}},
		{"redis://h/?db=4", target{mode: modeSingle, hosts: []string{"h:6379"}, db: 4}},
		{"redis://:p%40ss%2Fw@h/0", target{mode: modeSingle, hosts: []string{"h:6379"}, password: "p@ss/w"}},
		{"rediss://u:p:q+r@[::1]:6380", target{mode: modeSingle, hosts: []string{"[::1]:6380"}, user: "u", password: "p:q+r", secure: true}},
		{"redis://[fd00::1]/0", target{mode: modeSingle, hosts: []string{"[fd00::1]:6379"}}},
		{"redis+sentinel://h1,h2:1/main?db=2", target{mode: modeSentinel, hosts: []string{"h1:26379", "h2:1"}, master: "main", db: 2}},
		{"rediss+sentinel://u:p@h1/main?sentinel_username=su&sentinel_password=s%40p",
			target{mode: modeSentinel, hosts: []string{"h1:26379"}, master: "main", user: "u", password: "p", sentinelUser: "su", sentinelPassword: "s@p", secure: true}},
		{"redis+cluster://h1,h2:7", target{mode: modeCluster, hosts: []string{"h1:6379", "h2:7"}}},
		{"rediss+cluster://:p@h1/", target{mode: modeCluster, hosts: []string{"h1:6379"}, password: "p", secure: true}},
	} {
		got, err := parseURL(c.url)
		if err != nil || fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", c.want) {
			t.Errorf("parseURL(%s) = %+v, %v; want %+v", c.url, got, err, c.want)
		}
	}
}

const secret = "hunter2Secret"

// ST-3: a URL that is refused says why without repeating what may be a password.
func TestParseURLRefuses(t *testing.T) {
	for url, want := range map[string]string{
		"":                                               "begin with",
		"http://:hunter2Secret@h":                        "begin with",
		"hunter2Secret":                                  "begin with",
		"redis://":                                       "host",
		"redis://:hunter2Secret@":                        "host",
		"redis://:hunter2Secret@h:port":                  "host",
		"redis://:hunter2Secret@h:70000":                 "host",
		"redis://:hunter2Secret@h:1:2":                   "host",
		"redis://:hunter2Secret@h h":                     "host",
		"redis://:hunter2Secret@h1,h2":                   "several hosts",
		"redis://h1,,h2":                                 "host",
		"redis://:hunter2Secret@h/zero":                  "number",
		"redis://:hunter2Secret@h/-1":                    "number",
		"redis://:hunter2Secret%zz@h":                    "%25",
		"redis://hunter2Secret@h":                        "password",
		"redis://:a/hunter2Secret@h":                     "%2F",
		"redis://:a?hunter2Secret=b@h":                   "%3F",
		"redis://:a#hunter2Secret/b@h":                   "%23",
		"rediss://:hunter2Secret@h?skip_verify=true":     "skip_verify is refused",
		"rediss://:hunter2Secret@h?skip_verify=false":    "skip_verify is refused",
		"redis://h?hunter2Secret=1":                      "unknown",
		"redis://h/1?db=2":                               "unknown",
		"redis://h?db=1&db=2":                            "twice",
		"redis://h?read_only=true":                       "unknown",
		"redis+sentinel://:hunter2Secret@h1,h2":          "master's name",
		"redis+sentinel://h/main?sentinel_password=a;b=": "name=value",
		"redis+cluster://:hunter2Secret@h1/0":            "no database",
		"redis+cluster://h1?db=1":                        "unknown",
		"redis://h?ca_file=/hunter2Secret":               "rediss",
	} {
		_, err := parseURL(url)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parseURL(%s): %v; want an error with %q", url, err, want)
		}
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("parseURL(%s) repeats the password: %v", url, err)
		}
	}
}

func FuzzParseURL(f *testing.F) {
	f.Add("redis://u:p@h:1/0?db=1")
	f.Add("rediss+sentinel://u:p@h1,h2/m?db=1&sentinel_password=x")
	f.Fuzz(func(t *testing.T, url string) {
		got, err := parseURL(url)
		if err == nil && (len(got.hosts) == 0 || slices.ContainsFunc(got.hosts, func(h string) bool {
			host, port, err := net.SplitHostPort(h)
			return err != nil || host == "" || port == ""
		})) {
			t.Errorf("parseURL(%q) = %+v", url, got)
		}
	})
}

func TestExposed(t *testing.T) {
	for url, want := range map[string]bool{
		"redis://127.0.0.1": false, "redis://localhost": false, "redis://[::1]": false, "redis://127.9.9.9": false,
		"redis://10.0.0.1": true, "redis://redis": true, "rediss://redis": false,
		"redis+cluster://127.0.0.1,10.0.0.1": true, "rediss+sentinel://a,b/m": false,
	} {
		got, err := parseURL(url)
		if err != nil || got.exposed() != want {
			t.Errorf("%s exposed = %v, %v", url, got.exposed(), err)
		}
	}
}

func TestTLSIsVerified(t *testing.T) {
	got, err := parseURL("rediss://h")
	if err != nil {
		t.Fatal(err)
	}
	if err := got.useTLS(""); err != nil || got.tls == nil || got.tls.InsecureSkipVerify {
		t.Errorf("tls = %+v, %v", got.tls, err)
	}
	if err := got.useTLS("url.go"); err == nil {
		t.Error("a file without certificates is taken as ca_file")
	}
	plain, err := parseURL("redis://h")
	if err != nil {
		t.Fatal(err)
	}
	if err := plain.useTLS("ca.pem"); err == nil {
		t.Error("ca_file is silently ignored with redis://")
	}
}

// ST-3: credentials are in no error and no log, whatever the server answers. This
// one echoes what it is told, as old servers do with unknown commands.
func TestCredentialsNeverShow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 4096)
				for {
					n, err := c.Read(buf)
					if err != nil {
						return
					}
					echo := strings.NewReplacer("\r\n", " ").Replace(string(buf[:n]))
					fmt.Fprintf(c, "-ERR unknown command with args beginning with: %s\r\n", echo)
				}
			}()
		}
	}()
	var log bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	cfg := Config{URL: redact.String("redis://user:" + secret + "@" + l.Addr().String() + "/0"), Now: time.Now, Log: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	_, err = Open(ctx, cfg)
	if !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Open: %v; want ErrUnavailable", err)
	}
	for _, out := range []string{fmt.Sprint(err), fmt.Sprintf("%+v %#v", err, err), fmt.Sprintf("%+v", cfg), log.String()} {
		if strings.Contains(out, secret) {
			t.Errorf("the password is in %q", out)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	for _, url := range []string{"redis://" + addr, "redis+cluster://" + addr, "redis+sentinel://" + addr + "/main"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := Open(ctx, Config{URL: redact.String(url), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
		cancel()
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("Open(%s) with nobody there: %v; want ErrUnavailable", url, err)
		}
	}
}

// G4: no two names give the same key.
func TestKeysAreDistinct(t *testing.T) {
	s := &Store{prefix: "p:"}
	seen := map[string]string{}
	add := func(key, what string) {
		if other, there := seen[key]; there {
			t.Errorf("%s and %s have the same key %q", what, other, key)
		}
		seen[key] = what
	}
	for _, k := range []store.Key{{Kind: "a", ID: "b:c"}, {Kind: "a:b", ID: "c"}, {Kind: "a%3Ab", ID: "c"}, {Kind: "ix", ID: "a::"}, {Kind: "%ix", ID: "a::"}, {Kind: "log", ID: "t"}, {Kind: "meta", ID: "schema"}, {Kind: "lease", ID: "l"}} {
		add(s.itemKey(k), fmt.Sprintf("item %q", k))
	}
	add(s.indexKey("a", "", ""), "kind a")
	add(s.indexKey("a", "x:y", "z"), "x:y=z")
	add(s.indexKey("a", "x", "y:z"), "x=y:z")
	add(s.indexKey("a:x", "y", "z"), "a:x y=z")
	add(s.logKey("t"), "log t")
	add("p:meta:schema", "schema")
	add("p:lease:l", "lease")
}

func TestReadNode(t *testing.T) {
	n := readNode("# Server\r\nredis_version:7.0.15\r\n# Replication\r\nconnected_slaves:2\r\nslave0:ip=1,port=2,state=online,offset=1,lag=0\r\nslave1:ip=1,port=3,state=wait_bgsave,offset=0,lag=0\r\nslave_repl_offset:5\r\naof_enabled:1\r\nmaxmemory_policy:allkeys-lru\r\n")
	if n.version != "7.0.15" || n.major != 7 || n.minor != 0 || !n.appendOnly || n.replicas != 1 || n.policy != "allkeys-lru" || n.waitsForDisk() {
		t.Errorf("readNode = %+v", n)
	}
	for v, want := range map[string]bool{"6.2.1": false, "7.0.15": false, "7.2.0": true, "7.4.1": true, "8.0.0": true} {
		if got := readNode("redis_version:" + v).waitsForDisk(); got != want {
			t.Errorf("Redis %s waits for the disk: %v", v, got)
		}
	}
}

func TestWarnings(t *testing.T) {
	for _, c := range []struct {
		n     node
		fsync string
		want  []string
	}{
		{node{version: "7.4.0", major: 7, minor: 4, appendOnly: true, policy: "noeviction"}, "", nil},
		{node{version: "7.4.0", major: 7, minor: 4, policy: "noeviction"}, "", []string{"appendonly yes"}},
		{node{version: "7.0.15", major: 7, appendOnly: true, policy: "noeviction"}, "always", nil},
		{node{version: "7.0.15", major: 7, appendOnly: true, policy: "noeviction"}, "everysec", []string{"appendfsync is everysec"}},
		{node{version: "7.0.15", major: 7, appendOnly: true, policy: "volatile-lru"}, "", []string{"volatile-lru", "cannot be read"}},
	} {
		got := c.n.warnings(c.fsync)
		if len(got) != len(c.want) {
			t.Errorf("%+v: %q", c.n, got)
			continue
		}
		for i := range got {
			if !strings.Contains(got[i], c.want[i]) {
				t.Errorf("%+v: %q, want %q in it", c.n, got[i], c.want[i])
			}
		}
	}
}

// ST-2: whoever prints a Store, or what it was opened with, prints no password.
func TestStorePrintsNoPassword(t *testing.T) {
	const url = "redis+sentinel://u:hunter2-data@h1/main?sentinel_username=su&sentinel_password=hunter2-sentinel"
	to, err := parseURL(url)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{URL: url}
	s := &Store{cfg: &cfg, target: &to}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		for _, v := range []any{s, cfg, &cfg, to, &to} {
			if out := fmt.Sprintf(verb, v); strings.Contains(out, "hunter2") {
				t.Errorf("%s of %T shows %s", verb, v, out)
			}
		}
	}
}
