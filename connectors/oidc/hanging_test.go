package oidc

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

// Keys and discovery that are old, at a provider that hangs: one asks, everybody
// else goes on with what there is; and when the question came to nothing, it is
// not asked again for a minute.
func TestOldKnowledgeWhileTheProviderHangs(t *testing.T) {
	for path, ask := range map[string]func(ctx context.Context, c *Connector) error{
		"/jwks": func(ctx context.Context, c *Connector) error {
			_, err := c.keys.Get(ctx, c.cfg.Issuer+"/jwks")
			return err
		},
		"/.well-known/openid-configuration": func(ctx context.Context, c *Connector) error { _, err := c.lazy.get(ctx, c); return err },
	} {
		t.Run(path, func(t *testing.T) {
			op, now := connectortest.NewOP(t), &clock{}
			op.Now = now.now
			c := open(t, op, now, nil)
			id, err := signIn(t, c, op, connectortest.Person("p1"))
			must(t, id, err)
			asked := make(chan struct{}, 8)
			op.Set(func() {
				op.Override[path] = func(w http.ResponseWriter, r *http.Request) bool { asked <- struct{}{}; return slow(w, r) }
			})
			now.move(metadataFresh)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			first := make(chan error, 1)
			go func() { first <- ask(ctx, c) }()
			<-asked
			for range 20 { // none of them can have an answer of the provider's
				if err := ask(t.Context(), c); err != nil {
					t.Fatalf("beside it: %v", err)
				}
			}
			if err := <-first; err != nil {
				t.Errorf("who asked: %v", err)
			}
			if err := ask(t.Context(), c); err != nil || len(asked) != 0 {
				t.Errorf("asked again at once: %v", err)
			}
		})
	}
}
