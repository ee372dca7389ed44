package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/remotegpu/gatehouse/cmd/gatehouse/internal/userclient"
)

type storageCmd struct {
	account
	Name   string `arg:"" optional:"" help:"Which offer (storage_credentials of the server); may be left out where there is one."`
	Format string `help:"process: JSON for credential_process; env: lines for a shell's eval; json: all that the server says." enum:"process,env,json" default:"process"`
}

// Run prints short-lived credentials of a bucket.
func (c storageCmd) Run(e env, _ *kong.Kong) error {
	w := speak()
	client, bearer, s, err := c.bearer()
	if err != nil {
		return e.fail(w, false, err)
	}
	var got userclient.Credentials
	if s != nil {
		got, err = s.Credentials(e.ctx, c.Name)
	} else {
		t, terr := bearer(e.ctx)
		if terr != nil {
			return terr
		}
		got, err = client.Credentials(e.ctx, t.Value, c.Name)
	}
	if err != nil {
		return e.fail(w, false, err)
	}
	switch c.Format {
	case "json":
		return e.printJSON(got)
	case "env":
		_, err = fmt.Fprint(e.stdout, exports(got))
		return err
	}
	v := map[string]any{"Version": 1, "AccessKeyId": got.KeyID, "SecretAccessKey": got.Key, "Expiration": got.Expires.UTC().Format(time.RFC3339)}
	if got.Session != "" {
		v["SessionToken"] = got.Session
	}
	return e.printJSON(v)
}

// exports writes credentials as a shell sets variables. Those of AWS's are what
// every S3 client reads; ours say where the data is.
func exports(c userclient.Credentials) string {
	var b strings.Builder
	for _, v := range [][2]string{{"AWS_ACCESS_KEY_ID", c.KeyID}, {"AWS_SECRET_ACCESS_KEY", c.Key}, {"AWS_SESSION_TOKEN", c.Session}, {"AWS_REGION", c.Region},
		{"AWS_ENDPOINT_URL_S3", c.Endpoint}, {"GATEHOUSE_STORAGE_BUCKET", c.Bucket}, {"GATEHOUSE_STORAGE_PREFIX", c.Prefix}} {
		if v[1] != "" {
			fmt.Fprintf(&b, "export %s='%s'\n", v[0], strings.ReplaceAll(v[1], "'", `'\''`))
		}
	}
	return b.String()
}
