package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/alecthomas/kong"
)

type auditRestoreCmd struct {
	admin
	Archive string `required:"" help:"The bucket, as audit.archive calls it." placeholder:"NAME"`
	After   string `help:"Not before this time or day (UTC)." placeholder:"TIME"`
	Before  string `help:"Before this time or day." placeholder:"TIME"`
}

// Run has the running server take events of an archive into its index.
func (c auditRestoreCmd) Run(e env, _ *kong.Kong) error {
	body, err := json.Marshal(map[string]string{"archive": c.Archive, "after": c.After, "before": c.Before})
	if err != nil {
		return err
	}
	in, err := c.send(e.ctx, e, http.MethodPost, "/audit/restore", bytes.NewReader(body)) // minutes, where there is much
	if answer := (*answerError)(nil); errors.As(err, &answer) && answer.status == http.StatusBadGateway {
		return fmt.Errorf("%w; the server's log says which object or what of the bucket", err)
	}
	if err != nil {
		return err
	}
	defer in.Close()
	var out struct {
		Events int `json:"events"`
	}
	if err := json.NewDecoder(in).Decode(&out); err != nil {
		return fmt.Errorf("the server's answer: %w", err)
	}
	if c.JSON {
		return e.printJSON(out)
	}
	_, err = fmt.Fprintf(e.stdout, "%d events can be found again, for 30 days at least\n", out.Events)
	return err
}
