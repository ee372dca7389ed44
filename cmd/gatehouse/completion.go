package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Run prints a script that completes commands and flags, made of the command
// line itself.
func (c completionCmd) Run(e env, k *kong.Kong) error {
	var lines []string
	var walk func(n *kong.Node, path []string)
	walk = func(n *kong.Node, path []string) {
		var words []string
		for _, child := range n.Children {
			if !child.Hidden && child.Type == kong.CommandNode {
				words = append(words, child.Name)
				walk(child, append(path[:len(path):len(path)], child.Name))
			}
		}
		for _, f := range n.Flags {
			if !f.Hidden {
				words = append(words, "--"+f.Name)
			}
		}
		lines = append(lines, fmt.Sprintf("    %q) words=%q ;;", strings.Join(path, " "), strings.Join(words, " ")))
	}
	walk(k.Model.Node, nil)
	body := strings.Join(lines, "\n")
	var err error
	switch c.Shell {
	case "bash", "zsh":
		if c.Shell == "zsh" {
			fmt.Fprintln(e.stdout, "autoload -U +X bashcompinit && bashcompinit")
		}
		_, err = fmt.Fprintf(e.stdout, `_gatehouse() {
  local path="" w words=""
  for w in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$w" in -*) ;; *) path="${path:+$path }$w" ;; esac
  done
  case "$path" in
%s
  esac
  COMPREPLY=($(compgen -W "$words" -- "${COMP_WORDS[COMP_CWORD]}"))
}
complete -F _gatehouse gatehouse
`, body)
	case "fish":
		for _, child := range k.Model.Children {
			if child.Hidden || child.Type != kong.CommandNode {
				continue
			}
			fmt.Fprintf(e.stdout, "complete -c gatehouse -n __fish_use_subcommand -f -a %s -d %q\n", child.Name, child.Help)
			for _, sub := range child.Children {
				if sub.Type == kong.CommandNode && !sub.Hidden {
					fmt.Fprintf(e.stdout, "complete -c gatehouse -n '__fish_seen_subcommand_from %s' -f -a %s -d %q\n", child.Name, sub.Name, sub.Help)
				}
			}
		}
	}
	return err
}
