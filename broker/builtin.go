package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/store/redis"
	"github.com/remotegpu/gatehouse/broker/store/sqlite"
	trust "github.com/remotegpu/gatehouse/broker/workload"
	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/dingtalk"
	"github.com/remotegpu/gatehouse/connectors/feishu"
	"github.com/remotegpu/gatehouse/connectors/github"
	"github.com/remotegpu/gatehouse/connectors/gitlab"
	"github.com/remotegpu/gatehouse/connectors/google"
	"github.com/remotegpu/gatehouse/connectors/ldap"
	"github.com/remotegpu/gatehouse/connectors/local"
	"github.com/remotegpu/gatehouse/connectors/oidc"
	"github.com/remotegpu/gatehouse/connectors/saml"
	"github.com/remotegpu/gatehouse/connectors/wecom"
	"github.com/remotegpu/gatehouse/connectors/workload"
)

// Types are the connector types, in the order of the sign-in page. Reserved
// ones are decoded and validated, and served by a later version.
func Types() []connectors.Type {
	return []connectors.Type{
		connectors.Define("github", github.Open),
		connectors.Define("google", google.Open),
		connectors.Define("gitlab", gitlab.Open),
		connectors.Define("oidc", oidc.Open),
		connectors.Define("saml", saml.Open),
		connectors.Define("dingtalk", dingtalk.Open),
		connectors.Define("wecom", wecom.Open),
		connectors.Define("feishu", feishu.Open),
		connectors.Define("ldap", ldap.Open),
		connectors.Define("local", local.Open),
	}
}

// newWorkload makes what verifies the tokens of an issuer of workloads.
func newWorkload(env connectors.Env, src trust.Source) (*workload.Connector, error) {
	return workload.Open(env, workload.Config(src))
}

// newClientKeys makes what verifies the assertions of an OAuth client: a JWT that
// it issues about itself, by the keys that it registered.
func newClientKeys(env connectors.Env, clientID, uri string, set []byte) (*workload.Connector, error) {
	cfg := workload.Config{Provider: "oidc", Issuer: clientID, JWKSURI: uri, Listed: true}
	if uri == "" {
		return workload.OpenWith(cfg, set)
	}
	return workload.Open(env, cfg)
}

// openStore opens the driver that the `store` key names.
func openStore(ctx context.Context, address string, now func() time.Time, log *slog.Logger) (store.Store, error) {
	driver, rest, _ := strings.Cut(address, ":")
	switch driver {
	case "sqlite":
		path, query, _ := strings.Cut(rest, "?")
		s, err := sqlite.Open(ctx, sqlite.Config{Path: path, Durability: strings.TrimPrefix(query, "durability="), Now: now, Log: log})
		if err != nil {
			return nil, err // and not a Store that holds a nil driver
		}
		return s, nil
	case "redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster":
		s, err := redis.Open(ctx, redis.Config{URL: redact.String(address), Now: now, Log: log})
		if err != nil {
			return nil, err
		}
		return s, nil
	}
	return nil, fmt.Errorf("store: there is no driver %q", driver)
}

// storeInUse reports whether an embedded store is held by a running server.
func storeInUse(err error) bool { return errors.Is(err, sqlite.ErrInUse) }

// HashPassword returns the hash of a local user's password.
func HashPassword(password string) (string, error) { return local.HashPassword(password) }

// CheckNewPassword says what is wrong with a password that somebody chooses.
func CheckNewPassword(username, password string) error {
	return local.CheckNewPassword(username, password)
}
