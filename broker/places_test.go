package broker_test

import (
	"bytes"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/remotegpu/gatehouse/broker/event"
)

// placesFile makes a geoip_file that knows one network.
func placesFile(t *testing.T, network string) string {
	t.Helper()
	w, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-City", RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	_, n, err := net.ParseCIDR(network)
	if err != nil {
		t.Fatal(err)
	}
	named := func(en, zh string) mmdbtype.Map {
		return mmdbtype.Map{"names": mmdbtype.Map{"en": mmdbtype.String(en), "zh-CN": mmdbtype.String(zh)}}
	}
	country := named("China", "中国")
	country["iso_code"] = mmdbtype.String("CN")
	if err := w.Insert(n, mmdbtype.Map{"country": country, "city": named("Hangzhou", "杭州")}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "places.mmdb")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Where a sign-in came from stands in its event, in the API and on the page in
// the reader's language: by the file, and before it by a trusted proxy's word
// about its own client. Nobody else's word counts.
func TestPlaces(t *testing.T) {
	w := &watchedStore{}
	base := "geoip_file: " + placesFile(t, "203.0.113.0/24") + "\n"
	proxy := base + "trusted_proxies: [127.0.0.1/32]\ngeoip_headers: {country: CF-IPCountry, city: CF-IPCity}\n"
	h := startWith(t, &harness{yaml: proxy, wrap: w.watch})
	last := func() event.Event {
		t.Helper()
		all := w.named(event.SigninSucceeded)
		return all[len(all)-1]
	}
	enter := func(headers ...string) *browser {
		t.Helper()
		b := h.browser()
		for i := 0; i+1 < len(headers); i += 2 {
			b.Header.Add(headers[i], headers[i+1])
		}
		b.enter("demo", "demo")
		return b
	}
	for _, c := range []struct {
		name           string
		headers        []string
		country, place string
	}{
		{"the file", []string{"X-Forwarded-For", "203.0.113.9"}, "CN", "Hangzhou, China"},
		{"the proxy says more", []string{"X-Forwarded-For", "203.0.113.9", "Cf-Ipcountry", "CN", "Cf-Ipcity", "Xiaoshan"}, "CN", "Xiaoshan, China"},
		{"the proxy says otherwise", []string{"X-Forwarded-For", "203.0.113.9", "Cf-Ipcountry", "DE", "Cf-Ipcity", "Berlin"}, "DE", "Berlin, DE"},
		{"the proxy does not know", []string{"X-Forwarded-For", "203.0.113.9", "Cf-Ipcountry", "XX"}, "CN", "Hangzhou, China"},
		{"twice", []string{"X-Forwarded-For", "203.0.113.9", "Cf-Ipcountry", "DE", "Cf-Ipcountry", "FR"}, "CN", "Hangzhou, China"},
		{"hostile", []string{"X-Forwarded-For", "203.0.113.9", "Cf-Ipcountry", "<b", "Cf-Ipcity", "a\u202eb" + strings.Repeat("x", 200)}, "CN", "Hangzhou, China"},
		{"nobody knows", []string{"X-Forwarded-For", "192.0.2.9"}, "", ""},
	} {
		enter(c.headers...)
		if e := last(); e.Details["country"] != c.country || e.Details["place"] != c.place {
			t.Errorf("%s: %v", c.name, e.Details)
		}
	}
	b := enter("X-Forwarded-For", "203.0.113.9")
	if page := b.get("/account/sessions"); !strings.Contains(page.Body, "203.0.113.9 · Hangzhou, China") || !strings.Contains(page.Body, "Berlin, DE") && !strings.Contains(page.Body, "Hangzhou, China") {
		t.Errorf("%s", page.Body)
	}
	if page := b.get("/account/sessions", "Accept-Language", "zh-CN"); !strings.Contains(page.Body, "203.0.113.9 · 中国 杭州") {
		t.Errorf("%s", page.Body)
	}
	items, _ := b.get("/api/v1/me/sessions", "Sec-Fetch-Site", "same-origin", "Accept", "application/json").json(t)["items"].([]any)
	found := false
	for _, it := range items {
		m := it.(map[string]any)
		found = found || m["country"] == "CN" && m["place"] == "Hangzhou, China" && m["current"] == true
	}
	if !found {
		t.Errorf("%v", items)
	}
	// Without that proxy the same headers are a stranger's.
	h.reloads(base, "trusted_proxies geoip_headers", "")
	enter("X-Forwarded-For", "203.0.113.9", "Cf-Ipcountry", "DE", "Cf-Ipcity", "Berlin")
	if e := last(); e.Details["country"] != "" || e.Details["place"] != "" || e.IP != "127.0.0.1" {
		t.Errorf("a stranger's word: %+v", e)
	}
}

// A file that is none is said at the start, and refused by a reload.
func TestPlacesFileThatIsNone(t *testing.T) {
	h := start(t, "")
	a := h.reload("geoip_file: " + filepath.Join(h.dir, "none.mmdb") + "\n")
	if a.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(a.Body, "geoip_file") {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	if page := h.browser().get("/signin?x=" + url.QueryEscape("y")); page.StatusCode != http.StatusOK {
		t.Errorf("%d", page.StatusCode)
	}
}
