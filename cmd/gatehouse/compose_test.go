package main

import (
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/rogpeppe/go-internal/testscript"
)

// composed NAME sets the environment of a service of docker-compose.yml, with what
// containers are called put on this machine's ports, and its command as COMMAND in
// a script that a shell runs.
func composed(ts *testscript.TestScript, _ bool, args []string) {
	raw, err := os.ReadFile(ts.Getenv("COMPOSE"))
	ts.Check(err)
	var file struct {
		Services map[string]struct {
			Command     []string          `yaml:"command"`
			Environment map[string]string `yaml:"environment"`
		} `yaml:"services"`
	}
	ts.Check(yaml.Unmarshal(raw, &file))
	s, there := file.Services[args[0]]
	if !there {
		ts.Fatalf("docker-compose.yml has no service %s", args[0])
	}
	here := strings.NewReplacer("0.0.0.0:8080", "0.0.0.0:"+ts.Getenv("PORT"), "127.0.0.1:9091", "127.0.0.1:"+ts.Getenv("APORT"),
		"0.0.0.0:9000", "127.0.0.1:"+ts.Getenv("UPORT"), "demo-upstream:9000", "127.0.0.1:"+ts.Getenv("UPORT"),
		"redis://redis:6379/0", "sqlite:data/gatehouse.db") // make e2e-core has the real one
	for k, v := range s.Environment {
		ts.Setenv(k, here.Replace(v))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]+".sh"), []byte("exec gatehouse "+here.Replace(strings.Join(s.Command, " "))+"\n"), 0o600))
}
