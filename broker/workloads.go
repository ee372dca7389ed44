package broker

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/workload"
	"github.com/remotegpu/gatehouse/config"
	"github.com/remotegpu/gatehouse/connectors"
)

// account returns the groups of a service account, and whether there is one.
func (b *Broker) account(ctx context.Context, name string) ([]string, bool, error) {
	a, err := b.accounts.Get(ctx, name)
	if errors.Is(err, user.ErrNotFound) {
		return nil, false, nil
	}
	return a.Groups, err == nil, err
}

// trustPatience bounds reading the stored rules while a configuration is built.
const trustPatience = 10 * time.Second

// trustPlan is what the configuration's rules for workloads make.
func (b *serving) trustPlan(before *serving) (*workload.Plan, error) {
	ctx, cancel := context.WithTimeout(context.Background(), trustPatience)
	defer cancel()
	return b.workloads.Prepare(ctx, workload.Setting{
		Rules: b.cfg.Trust, Issuer: b.cfg.Issuer, Open: b.openWorkload,
		Resource: func(nameOrURI string) (string, bool) {
			r, ok := b.clients.Resource(nameOrURI)
			return r.Name, ok
		},
		Keep: before != nil && reflect.DeepEqual(before.cfg.Outgoing, b.cfg.Outgoing),
	})
}

// openWorkload makes what verifies the tokens of an issuer.
func (b *serving) openWorkload(src workload.Source) (connectors.TokenConnector, error) {
	return newWorkload(b.env("trust"), src)
}

// workloadProbe asks one issuer.
type workloadProbe struct {
	name string
	ask  func(context.Context) (detail string, err error)
}

// workloadProbes asks each issuer of the rules for its keys.
func (b *serving) workloadProbes() []workloadProbe {
	var out []workloadProbe
	for _, src := range workload.Sources(b.cfg.Trust) {
		out = append(out, workloadProbe{"trust " + src.Issuer, func(ctx context.Context) (string, error) {
			c, err := newWorkload(b.env("trust"), src)
			if err != nil {
				return "", err
			}
			keys, err := c.Inspect(ctx)
			return keys + "; " + trusted(b.cfg, src.Issuer), err
		}})
	}
	return out
}

// trusted says which rules name an issuer, and who its workloads become.
func trusted(cfg *config.Config, issuer string) string {
	var rules []string
	for _, r := range cfg.Trust {
		if r.WithDefaults(cfg.Issuer).Issuer == issuer {
			rules = append(rules, r.Name+" as "+r.ServiceAccount)
		}
	}
	return strings.Join(rules, ", ")
}
