package github

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

func TestSuite(t *testing.T) {
	f := newFake(t)
	n := 0
	everywhere := func(name string, unavailable bool, h http.HandlerFunc) connectortest.Trouble {
		return connectortest.Trouble{Name: name, Unavailable: unavailable,
			Begin: func() {
				f.set(func() {
					for _, p := range []string{"/login/oauth/access_token", "/api/v3/user"} {
						f.override[p] = h
					}
				})
			},
			End: func() { f.set(func() { clear(f.override) }) }}
	}
	connectortest.Redirect{
		Connector: f.open(f.config(Organization{Name: "acme"})),
		// GitHub's page: each code is of one departure and good once.
		Upstream: func(d connectors.Departure) connectors.Return {
			u, err := url.Parse(d.URL)
			if err != nil {
				t.Fatal(err)
			}
			n++
			code := fmt.Sprint("code", n)
			f.set(func() {
				f.codes[code] = u.Query().Get("code_challenge")
				f.revoked = nil
			})
			return connectors.Return{Method: http.MethodGet, Params: url.Values{"code": {code}, "state": {u.Query().Get("state")}}}
		},
		Troubles: []connectortest.Trouble{
			everywhere("down", true, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }),
			everywhere("502", true, status(http.StatusBadGateway, "<html>", nil)),
			everywhere("slow", true, func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			}),
			everywhere("huge", false, status(http.StatusOK, `{"access_token":"a","token_type":"bearer","id":1,"login":"`+strings.Repeat("a", maxBody)+`"}`, nil)),
			everywhere("nonsense", false, status(http.StatusOK, "<html>", nil)),
		},
	}.Run(t)
}
