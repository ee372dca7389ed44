package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/config"
)

type reloadCmd struct{ admin }

// Run has the running server read its configuration again, and prints what is
// in use now and what waits for a restart; a refused one as check prints it.
func (c reloadCmd) Run(e env, _ *kong.Kong) error {
	var out struct {
		Changed  []string        `json:"changed"`
		Restart  []string        `json:"restart"`
		Findings config.Findings `json:"findings"`
	}
	err := c.call(e, http.MethodPost, "/reload", nil, &out)
	var refused *answerError
	if errors.As(err, &refused) && refused.status == http.StatusUnprocessableEntity && json.Unmarshal(refused.body, &out) == nil && len(out.Findings) > 0 {
		for _, f := range out.Findings {
			fmt.Fprintln(e.stderr, f)
		}
	}
	if err != nil {
		return err
	}
	if c.JSON {
		return e.printJSON(out)
	}
	for _, f := range out.Findings {
		fmt.Fprintln(e.stderr, f)
	}
	switch {
	case len(out.Changed) > 0:
		fmt.Fprintln(e.stdout, "changed:", strings.Join(out.Changed, ", "))
	default:
		fmt.Fprintln(e.stdout, "nothing has changed")
	}
	if len(out.Restart) > 0 {
		fmt.Fprintln(e.stdout, "as before until a restart:", strings.Join(out.Restart, ", "))
	}
	return nil
}
