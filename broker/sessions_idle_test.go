package broker_test

import (
	"encoding/json"
	"net/http"
	"testing"
	"time"
)

// The list of sessions says when each ends if nobody uses it, and its last day:
// those of the command line live by the limits of refresh tokens.
func TestSessionsIdleUntil(t *testing.T) {
	t.Parallel()
	h := start(t, staff()+"sessions: {idle_ttl: 2h}\ntokens: {refresh_idle_ttl: 48h, refresh_max_ttl: 100h}\n")
	tok := h.in("demo").cli("openid gatehouse:account")
	var list struct {
		Items []struct {
			Kind      string    `json:"kind"`
			Current   bool      `json:"current"`
			Seen      time.Time `json:"last_seen"`
			IdleUntil time.Time `json:"idle_until"`
			Expires   time.Time `json:"expires"`
			Created   time.Time `json:"created"`
		} `json:"items"`
	}
	a := h.as(tok, http.MethodGet, "/api/v1/me/sessions", "")
	if err := json.Unmarshal([]byte(a.Body), &list); err != nil || len(list.Items) != 2 {
		t.Fatalf("%v %s", err, a.Body)
	}
	for _, s := range list.Items {
		idle := 2 * time.Hour
		if s.Kind == "offline" {
			idle = 48 * time.Hour
			if last := s.Expires.Sub(s.Created); last != 100*time.Hour {
				t.Errorf("it ends after %s at most", last)
			}
		}
		if got := s.IdleUntil.Sub(s.Seen); got != idle || s.Current != (s.Kind == "offline") {
			t.Errorf("%s: unused it ends after %s, current %v", s.Kind, got, s.Current)
		}
	}
	h.wait(60 * time.Hour)
	if a := h.as(tok, http.MethodGet, "/api/v1/me/sessions", ""); a.StatusCode != http.StatusUnauthorized {
		t.Errorf("unused for longer than it may be: %d", a.StatusCode)
	}
}
