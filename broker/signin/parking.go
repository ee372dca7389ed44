package signin

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// parkedAnswer is an upstream's cross-site POST, kept until the browser asks for
// it again by GET: only then does it send the attempt's Lax cookie, which proves
// that it is the browser that left (docs/security.md SP-8).
type parkedAnswer struct {
	Connector string     `json:"c"`
	Params    url.Values `json:"p"`
	At        time.Time  `json:"t"`
	Used      bool       `json:"u,omitempty"`
}

const (
	parkTTL = 2 * time.Minute
	// maxAnswer bounds the body of such a POST (G9).
	maxAnswer = 512 << 10
)

func (d *Door) newParking() *store.Collection[parkedAnswer] {
	return store.NewCollection(d.cfg.KV, store.CollectionConfig[parkedAnswer]{Kind: "answer", Sealer: d.cfg.Sealer, Now: d.cfg.Now,
		Expires: func(p parkedAnswer) time.Time { return p.At.Add(parkTTL) }})
}

// posted is POST /auth/{connector}/callback. What the upstream did not sign is
// refused before anything of it is kept.
func (d *Door) posted(w http.ResponseWriter, r *http.Request, m *Method, sc connectors.Screener) error {
	form, err := web.Form(w, r, maxAnswer)
	if err != nil {
		return err
	}
	err = sc.Screen(r.Context(), connectors.Return{Method: r.Method, Params: form})
	var unasked *connectors.Unsolicited
	switch {
	case errors.As(err, &unasked):
		d.cfg.Log.InfoContext(r.Context(), "a sign-in that the upstream began: starting one of ours", "connector", m.ID)
		return d.StartWith(w, r, Start{ReturnTo: unasked.Target, Connector: m.ID})
	case err != nil:
		return d.upstreamFailed(w, r, m, attempt{}, err)
	}
	if ok, retry := d.limits.stored.Allow(web.ClientNetwork(web.RequestOf(r).IP)); !ok {
		return tooMany(retry)
	}
	id := rand.Text()
	if err := d.answers.Create(r.Context(), store.HashID(id), parkedAnswer{Connector: m.ID, Params: form, At: d.cfg.Now()}); err != nil {
		return err
	}
	d.cfg.Edge.Redirect(w, r, "/auth/"+m.ID+"/callback?answer="+id)
	return nil
}

// parkedAttempt is the GET that follows: it returns the answer, and the attempt
// that its RelayState names if this browser has that attempt's cookie.
func (d *Door) parkedAttempt(r *http.Request, m *Method, id string) (attempt, url.Values, bool, error) {
	if !attemptID.MatchString(id) {
		return attempt{}, nil, false, nil
	}
	p, err := d.answers.Get(r.Context(), store.HashID(id))
	if errors.Is(err, store.ErrNotFound) {
		return attempt{}, nil, false, nil
	}
	if err != nil {
		return attempt{}, nil, false, err
	}
	if p.Connector != m.ID {
		return attempt{}, nil, false, nil
	}
	a, ok := d.open(r, p.Params.Get("RelayState"))
	return a, p.Params, ok && !p.Used, nil
}

// useAnswer takes a parked answer: true for the first caller alone.
func (d *Door) useAnswer(r *http.Request, id string) (bool, error) {
	_, err := d.answers.Update(r.Context(), store.HashID(id), func(p *parkedAnswer) error {
		if p.Used {
			return errUsed
		}
		p.Used, p.Params = true, nil
		return nil
	})
	if errors.Is(err, errUsed) || errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

var errUsed = errors.New("used already")

// once uses up the ids inside a proof; false when one of them was seen before,
// on any replica (docs/security.md SP-7, G3).
func (d *Door) once(r *http.Request, m *Method, ids []connectors.OneTime) (bool, error) {
	for _, o := range ids {
		_, err := d.cfg.KV.Put(r.Context(), store.Item{Key: proofKey(m, o), Value: []byte(m.ID), Expires: o.Until})
		if errors.Is(err, store.ErrConflict) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	return true, nil
}

// used reports whether one of the ids was used up before. Unlike once it uses
// up none: for what may be tried again until it is done.
func (d *Door) used(r *http.Request, m *Method, ids []connectors.OneTime) (bool, error) {
	for _, o := range ids {
		_, err := d.cfg.KV.Get(r.Context(), proofKey(m, o))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

func proofKey(m *Method, o connectors.OneTime) store.Key {
	return store.Key{Kind: "proof", ID: store.HashID(m.ID + "\x00" + o.ID)}
}

// leave sends the browser to an upstream: by a redirect, or by a page with the
// form that the upstream wants.
func (d *Door) leave(w http.ResponseWriter, r *http.Request, m *Method, dep connectors.Departure) error {
	if dep.Form != nil {
		return d.cfg.Edge.PostTo(w, r, dep.URL, dep.Form, m.Name)
	}
	d.cfg.Edge.Redirect(w, r, dep.URL)
	return nil
}
