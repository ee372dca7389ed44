package broker

import (
	"context"
	"fmt"
	"reflect"

	"github.com/remotegpu/gatehouse/connectors"
)

// clientKeys verify what OAuth clients sign, by client.
type clientKeys map[string]connectors.TokenConnector

// VerifyAssertion returns the claims of a JWT that the client signed.
func (k clientKeys) VerifyAssertion(ctx context.Context, clientID, raw string) (map[string]any, error) {
	c, ok := k[clientID]
	if !ok {
		return nil, fmt.Errorf("client %q has no keys", clientID)
	}
	return c.VerifyToken(ctx, raw)
}

// openClientKeys makes them for the clients that have keys. Nobody is asked yet;
// what was read from an address that is still the client's need not be read again.
func (b *serving) openClientKeys(before *serving) (clientKeys, error) {
	out := clientKeys{}
	for _, c := range b.clients.All() {
		if !c.Keyed() {
			continue
		}
		if before != nil && c.JWKSURI != "" && reflect.DeepEqual(before.cfg.Outgoing, b.cfg.Outgoing) {
			if old, ok := before.clients.Get(c.ClientID); ok && old.JWKSURI == c.JWKSURI {
				out[c.ClientID] = before.clientKeys[c.ClientID]
				continue
			}
		}
		set, err := c.JWKS.JSON()
		if err != nil {
			return nil, err
		}
		if out[c.ClientID], err = newClientKeys(b.env("clients"), c.ClientID, c.JWKSURI, set); err != nil {
			return nil, fmt.Errorf("client %s: jwks: %w", c.ClientID, err)
		}
	}
	return out, nil
}

// clientKeyProbes reads the keys of each client that has some.
func (b *serving) clientKeyProbes() []workloadProbe {
	var out []workloadProbe
	for _, c := range b.cfg.Clients {
		if !c.Keyed() {
			continue
		}
		out = append(out, workloadProbe{"keys of client " + c.ClientID, func(ctx context.Context) (string, error) {
			set, err := c.JWKS.JSON()
			if err != nil {
				return "", err
			}
			keys, err := newClientKeys(b.env("clients"), c.ClientID, c.JWKSURI, set)
			if err != nil {
				return "", err
			}
			return keys.Inspect(ctx)
		}})
	}
	return out
}
