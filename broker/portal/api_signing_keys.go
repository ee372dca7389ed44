package portal

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/token"
)

type keyView struct {
	KID     string    `json:"kid"`
	Alg     token.Alg `json:"alg"`
	State   string    `json:"state"`
	Created time.Time `json:"created"`
	From    time.Time `json:"from"`
	Until   time.Time `json:"until,omitzero"`
}

func (p *Portal) apiSigningKeys(ctx context.Context, _ *caller, _ *http.Request) (any, error) {
	ks, err := p.keys.Keys(ctx)
	if err != nil {
		return nil, err
	}
	out := page[keyView]{Items: make([]keyView, 0, len(ks))}
	for _, k := range ks {
		out.Items = append(out.Items, keyView{KID: k.KID, Alg: k.Alg, State: string(k.State), Created: k.Created.UTC(), From: k.From.UTC(), Until: k.Until})
	}
	return out, nil
}

// rotateRequest is the body of POST /keys/rotate.
type rotateRequest struct {
	Alg token.Alg `json:"alg"`
}

func (p *Portal) apiRotateKey(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var in rotateRequest
	if err := decode(r, &in); err != nil {
		return nil, err
	}
	if in.Alg != token.RS256 && in.Alg != token.ES256 {
		return nil, badRequest(`alg must be "RS256" or "ES256"`)
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: "keys", Details: map[string]string{"action": "rotate", "alg": string(in.Alg)}}); err != nil {
		return nil, err
	}
	if err := p.keys.Rotate(ctx, in.Alg); err != nil {
		return nil, err
	}
	return p.apiSigningKeys(ctx, c, r)
}

func (p *Portal) apiRevokeKey(ctx context.Context, c *caller, r *http.Request) (any, error) {
	kid := chi.URLParam(r, "kid")
	ks, err := p.keys.Keys(ctx)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(ks, func(k token.KeyInfo) bool { return k.KID == kid }) {
		return nil, fmt.Errorf("revoke: %w", token.ErrUnknownKey)
	}
	if err := p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: "keys", Details: map[string]string{"action": "revoke", "kid": kid}}); err != nil {
		return nil, err
	}
	if err := p.keys.Revoke(ctx, kid); err != nil {
		return nil, err
	}
	return p.apiSigningKeys(ctx, c, r)
}
