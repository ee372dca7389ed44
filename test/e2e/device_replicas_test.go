//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// deviceCall is what a device asks of the server that p is pointed at.
func (p *person) deviceCall(path string, form url.Values) (int, map[string]any) {
	p.t.Helper()
	a := p.send(http.MethodPost, path, form)
	out := map[string]any{}
	if err := json.Unmarshal([]byte(a.Body), &out); err != nil {
		p.t.Fatalf("%s: %d %s", path, a.StatusCode, a.Body)
	}
	return a.StatusCode, out
}

func (p *person) asksForCodes() map[string]any {
	p.t.Helper()
	s, r := p.deviceCall("/oauth2/device_authorization", url.Values{"client_id": {"gatehouse-cli"}, "scope": {"openid offline_access"}, "device_name": {"gpu-a100-07"}})
	if s != http.StatusOK {
		p.t.Fatalf("device authorization: %d %v", s, r)
	}
	return r
}

func (p *person) pollsFor(r map[string]any) (int, map[string]any) {
	p.t.Helper()
	return p.deviceCall("/oauth2/token", url.Values{"client_id": {"gatehouse-cli"}, "grant_type": {deviceGrant}, "device_code": {fmt.Sprint(r["device_code"])}})
}

// types enters a code on the page.
func (p *person) types(code string) page {
	p.t.Helper()
	m := formToken.FindStringSubmatch(p.send(http.MethodGet, "/device", nil).Body)
	if m == nil {
		p.t.Fatal("no page for codes")
	}
	return p.follow(p.send(http.MethodPost, "/device", url.Values{"token": {m[1]}, "user_code": {code}}))
}

var deviceRequest = regexp.MustCompile(`name="request" value="([^"]+)"`)

// The device flow through two replicas of one Redis: each step is taken at the
// other one, a code is redeemed once on both at once, and wrong codes at one count
// at the other.
func TestDeviceFlowOnReplicas(t *testing.T) {
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", "")
	device, p := newPerson(t, a), newPerson(t, a)
	if r := p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); r.StatusCode != http.StatusOK {
		t.Fatalf("sign-in: %d", r.StatusCode)
	}
	r := device.asksForCodes()
	device.at(b)
	if s, said := device.pollsFor(r); s != http.StatusBadRequest || said["error"] != "authorization_pending" {
		t.Fatalf("at the other replica: %d %v", s, said)
	}
	p.at(b)
	question := p.types(strings.ToLower(fmt.Sprint(r["user_code"])))
	token, request := formToken.FindStringSubmatch(question.Body), deviceRequest.FindStringSubmatch(question.Body)
	if token == nil || request == nil || !strings.Contains(question.Body, "gpu-a100-07") {
		t.Fatalf("no question: %d\n%s", question.StatusCode, question.Body)
	}
	p.at(a)
	if done := p.follow(p.send(http.MethodPost, "/device", url.Values{"token": {token[1]}, "request": {request[1]}, "answer": {"allow"}})); done.StatusCode != http.StatusOK {
		t.Fatalf("the answer: %d\n%s", done.StatusCode, done.Body)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	good := 0
	for i := range 32 {
		d := newPerson(t, a)
		d.at([]*gatehouse{a, b}[i%2])
		wg.Go(func() {
			s, _ := d.pollsFor(r)
			mu.Lock()
			defer mu.Unlock()
			if s == http.StatusOK {
				good++
			}
		})
	}
	wg.Wait()
	if good > 1 {
		t.Errorf("%d of 32 redeemed the code", good)
	}
	// Five wrong codes at one replica.
	for i := range 5 {
		if w := p.types("BBBB-BBB" + string("BCDFG"[i])); w.StatusCode != http.StatusUnprocessableEntity {
			t.Fatalf("wrong code %d: %d", i, w.StatusCode)
		}
	}
	p.at(b)
	right := fmt.Sprint(device.asksForCodes()["user_code"])
	eventually(t, time.Second, "the other replica has counted them", func() bool { return p.types(right).StatusCode == http.StatusTooManyRequests })
}
