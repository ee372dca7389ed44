package signin

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/connectors"
)

// maxLogoutForm is room for a logout token and nothing more.
const maxLogoutForm = 32 << 10

// BackchannelLogout is POST /auth/{connector}/backchannel-logout: an upstream
// says past the browser that somebody signed out there (OpenID Connect
// Back-Channel Logout 1.0). The token alone counts; nothing is written before
// its signature was verified. Browser sessions end, and with them their online
// grants; offline and device sessions go on, as section 2.7 says, until their
// connector refuses to vouch again.
func (d *Door) BackchannelLogout(w http.ResponseWriter, r *http.Request) error {
	m := d.methods[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/auth/"), "/backchannel-logout")]
	if m == nil || !m.opens() { // docs/security.md UP-8
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	receiver, ok := m.Connector.(connectors.LogoutReceiver)
	if !ok {
		return web.Fail(http.StatusNotFound, "not_found", "error.not_found", nil)
	}
	w.Header().Set("Cache-Control", "no-store") // section 2.8
	form, err := web.Form(w, r, maxLogoutForm)
	if err != nil {
		return refusedLogout(http.StatusBadRequest, err)
	}
	n, err := receiver.VerifyLogout(r.Context(), form.Get("logout_token"))
	switch {
	case errors.Is(err, connectors.ErrUnavailable): // its keys: the upstream may come again
		return refusedLogout(http.StatusServiceUnavailable, err)
	case err != nil:
		return refusedLogout(http.StatusBadRequest, err)
	case n.ID == "" || n.Session == "" && n.Subject == "":
		return refusedLogout(http.StatusBadRequest, errors.New("the notice names nobody"))
	}
	// What it does can be done twice, so that the tombstone comes after it: an
	// upstream whose notice failed here may send it again (docs/security.md G3).
	seen := store.Key{Kind: "tombstone", ID: store.HashID("logout\x00" + m.ID + "\x00" + n.ID)}
	replayed := refusedLogout(http.StatusBadRequest, errors.New("the logout token came before"))
	if _, err := d.cfg.KV.Get(r.Context(), seen); err == nil {
		return replayed
	} else if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if err := d.endNoticed(r, m, n); err != nil {
		return err
	}
	_, err = d.cfg.KV.Put(r.Context(), store.Item{Key: seen, Value: []byte("logout"), Expires: n.Expires})
	if errors.Is(err, store.ErrConflict) {
		return replayed
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// refusedLogout is the answer of section 2.8.
func refusedLogout(status int, err error) *web.Error {
	e := web.Fail(status, "invalid_request", "error.bad_request", err)
	e.JSON = map[string]string{"error": "invalid_request"}
	return e
}

// endNoticed ends the browser sessions that a notice is about: the one with that
// upstream session, or all of that subject.
func (d *Door) endNoticed(r *http.Request, m *Method, n connectors.LogoutNotice) error {
	all, err := d.noticed(r.Context(), m, n)
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.Kind != session.Browser || s.Connector != m.ID || n.Subject != "" && s.Subject != n.Subject || n.Session != "" && s.Upstream != n.Session {
			continue
		}
		if err := d.cfg.Sessions.Revoke(r.Context(), s.ID, "signed out upstream"); err != nil {
			return err
		}
		d.note(r, event.Event{Name: event.Signout, Actor: s.UserID, Target: s.ID, Connector: m.ID, Details: map[string]string{"by": "upstream"}})
	}
	return nil
}

func (d *Door) noticed(ctx context.Context, m *Method, n connectors.LogoutNotice) ([]session.Session, error) {
	if n.Session != "" {
		return d.cfg.Sessions.ByUpstream(ctx, m.ID, n.Session)
	}
	id, err := d.cfg.Users.ByIdentity(ctx, m.ID, n.Subject)
	if errors.Is(err, user.ErrNotFound) {
		return nil, nil // nobody of ours: that is no error of the upstream's
	}
	if err != nil {
		return nil, err
	}
	all, err := d.cfg.Sessions.ByUser(ctx, id)
	if errors.Is(err, user.ErrSuspended) || errors.Is(err, user.ErrNotFound) {
		return nil, nil // then all of their sessions are over
	}
	return all, err
}
