package repo

import (
	"net"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

type service struct {
	Build       string            `yaml:"build"`
	Image       string            `yaml:"image"`
	Command     []string          `yaml:"command"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	DependsOn   map[string]any    `yaml:"depends_on"`
	ReadOnly    bool              `yaml:"read_only"`
	CapDrop     []string          `yaml:"cap_drop"`
	SecurityOpt []string          `yaml:"security_opt"`
	Healthcheck map[string]any    `yaml:"healthcheck"`
}

type composeFile struct {
	Services map[string]service `yaml:"services"`
	Volumes  map[string]any     `yaml:"volumes"`
}

func compose(t *testing.T) composeFile {
	t.Helper()
	var c composeFile
	if err := yaml.UnmarshalWithOptions([]byte(read(t, "docker-compose.yml")), &c, yaml.Strict()); err != nil {
		t.Fatal(err)
	}
	return c
}

// docker-compose.yml: three services that know one another, nothing published
// beyond loopback, a Redis that keeps what it is told. cmd/gatehouse and make
// e2e-core start the same commands.
func TestCompose(t *testing.T) {
	c := compose(t)
	if len(c.Services) != 3 {
		t.Fatalf("%d services", len(c.Services))
	}
	g, redis, demo := c.Services["gatehouse"], c.Services["redis"], c.Services["demo-upstream"]
	for name, s := range c.Services {
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s publishes %s beyond loopback", name, p)
			}
		}
		for _, v := range s.Volumes {
			volume, _, _ := strings.Cut(v, ":")
			if _, there := c.Volumes[volume]; !there {
				t.Errorf("%s uses the volume %s, which is not declared", name, volume)
			}
		}
		for on := range s.DependsOn {
			if _, there := c.Services[on]; !there {
				t.Errorf("%s waits for %s, which is no service", name, on)
			}
		}
		if s.Build != "" && (!s.ReadOnly || !slices.Equal(s.CapDrop, []string{"ALL"}) || !slices.Contains(s.SecurityOpt, "no-new-privileges:true")) {
			t.Errorf("%s has more rights than it needs", name)
		}
	}
	if !slices.Equal(g.Command, []string{"serve", "--dev"}) || g.Environment["GATEHOUSE_DEV_CONTAINER"] != "1" {
		t.Errorf("gatehouse: %+v", g)
	}
	_, port, err := net.SplitHostPort(g.Environment["GATEHOUSE_LISTEN"])
	if err != nil || !slices.Equal(g.Ports, []string{"127.0.0.1:" + port + ":" + port}) {
		t.Errorf("listens on %q, publishes %q", g.Environment["GATEHOUSE_LISTEN"], g.Ports)
	}
	if store := g.Environment["GATEHOUSE_STORE"]; !strings.HasPrefix(store, "redis://redis:6379") || redis.Image == "" {
		t.Errorf("store %q", store)
	}
	if args := strings.Join(redis.Command, " "); !strings.Contains(args, "--appendonly yes") || !strings.Contains(args, "--maxmemory-policy noeviction") || redis.Healthcheck["test"] == nil || len(redis.Ports) != 0 {
		t.Errorf("redis: %+v", redis)
	}
	if len(demo.Command) != 3 || demo.Command[0] != "demo-upstream" || demo.Command[1] != "--listen" || "http://demo-upstream:"+strings.TrimPrefix(demo.Command[2], "0.0.0.0:") != g.Environment["GATEHOUSE_DEMO_UPSTREAM"] || len(demo.Ports) != 0 {
		t.Errorf("demo-upstream: %+v, asked for at %s", demo, g.Environment["GATEHOUSE_DEMO_UPSTREAM"])
	}
	// --dev beyond loopback is for this file alone (SC-6).
	for _, ending := range []string{"Makefile", ".sh", "Dockerfile", ".yml", ".yaml"} {
		walk(t, ending, func(path, text string) {
			if path != "docker-compose.yml" && strings.Contains(text, "GATEHOUSE_DEV_CONTAINER") {
				t.Errorf("%s sets GATEHOUSE_DEV_CONTAINER", path)
			}
		})
	}
}

// The image is the Makefile's binary, alone, as nobody, with a health check.
func TestDockerfile(t *testing.T) {
	docker, makefile := read(t, "Dockerfile"), read(t, "Makefile")
	build := regexp.MustCompile(`CGO_ENABLED=0 \$?\(?(?:GO\)|go) build (-trimpath) -ldflags ['"](.*)['"] -o (\S+) (\S+)`)
	a, b := build.FindStringSubmatch(docker), build.FindStringSubmatch(strings.ReplaceAll(makefile, "$(LDFLAGS)", regexp.MustCompile(`(?m)^LDFLAGS = (.*)$`).FindStringSubmatch(makefile)[1]))
	if a == nil || b == nil {
		t.Fatalf("no build command: %q, %q", a, b)
	}
	if strings.ReplaceAll(a[2], "${VERSION}", "$(VERSION)") != b[2] || a[4] != b[4] {
		t.Errorf("the image is built with %q, make build with %q", a[1:], b[1:])
	}
	stages := strings.Split(docker, "\nFROM ")
	last := stages[len(stages)-1]
	for _, want := range []string{`(?m)^USER [1-9][0-9]*:[1-9][0-9]*$`, `(?m)^HEALTHCHECK .*CMD \["/gatehouse", "healthcheck"\]$`, `(?m)^ENTRYPOINT \["/gatehouse"\]$`, `(?m)^CMD \["serve"\]$`, `ca-certificates\.crt`, `zoneinfo`, `GATEHOUSE_DATA=/data`, `GATEHOUSE_CONFIG=/config`} {
		if !regexp.MustCompile(want).MatchString(last) {
			t.Errorf("the image has nothing like %s", want)
		}
	}
	if !strings.HasPrefix(last, "scratch\n") || strings.Contains(last, "\nRUN ") {
		t.Error("the last stage is not an empty image")
	}
	goVersion := regexp.MustCompile(`(?m)^go ([0-9]+\.[0-9]+)`).FindStringSubmatch(read(t, "go.mod"))[1]
	if !strings.Contains(docker, "golang:"+goVersion+"-") {
		t.Errorf("the image is not built with Go %s", goVersion)
	}
}

// SC-1, SC-2: the toolchain has no known holes, nothing is replaced, and every
// library that is named has a reason in docs/adr.
func TestModule(t *testing.T) {
	mod := read(t, "go.mod")
	if !regexp.MustCompile(`(?m)^toolchain go1\.(26\.([8-9]|[1-9][0-9])|(2[7-9]|[3-9][0-9])\.)`).MatchString(mod) {
		t.Error("no toolchain line of Go 1.26.8 or newer")
	}
	if regexp.MustCompile(`(?m)^(replace|exclude)\b`).MatchString(mod) {
		t.Error("something is replaced or excluded")
	}
	var adr strings.Builder
	walk(t, ".md", func(path, text string) {
		if strings.HasPrefix(path, "docs/adr/") {
			adr.WriteString(text)
		}
	})
	direct := strings.SplitN(mod, "require (", 3)[1]
	for _, m := range regexp.MustCompile(`(?m)^\t(\S+) v\S+$`).FindAllStringSubmatch(direct, -1) {
		path := regexp.MustCompile(`/v[0-9]+$`).ReplaceAllString(m[1], "")
		parts := strings.Split(path, "/")
		name := parts[len(parts)-1]
		if path == "golang.org/x/crypto" || strings.HasPrefix(path, "golang.org/x/") {
			name = "x/" + name
		}
		if !strings.Contains(adr.String(), name) {
			t.Errorf("no page of docs/adr names %s", m[1])
		}
	}
}

// The commands that the README and CI use are there.
func TestMakeTargets(t *testing.T) {
	makefile := read(t, "Makefile")
	for _, target := range []string{"run", "test", "e2e-core", "e2e-full", "e2e", "lint", "bench", "build", "fuzz"} {
		if !regexp.MustCompile(`(?m)^` + target + `:`).MatchString(makefile) {
			t.Errorf("make %s is missing", target)
		}
	}
	ci := read(t, ".ci/run")
	for _, step := range []string{"step make test", "step make lint", "step make e2e-core"} {
		if !strings.Contains(ci, step) {
			t.Errorf(".ci/run does not do: %s", step)
		}
	}
}
