package geo

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/maxmind/mmdbwriter"
	"github.com/maxmind/mmdbwriter/mmdbtype"

	"github.com/remotegpu/gatehouse/broker/store/storetest"
)

// names is a record's table of names.
func names(pairs ...string) mmdbtype.Map {
	m := mmdbtype.Map{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[mmdbtype.String(pairs[i])] = mmdbtype.String(pairs[i+1])
	}
	return mmdbtype.Map{"names": m}
}

// write makes a file with these networks.
func write(t testing.TB, path string, places map[string]mmdbtype.Map) {
	t.Helper()
	w, err := mmdbwriter.New(mmdbwriter.Options{DatabaseType: "Test-City", RecordSize: 24, IncludeReservedNetworks: true})
	if err != nil {
		t.Fatal(err)
	}
	for n, m := range places {
		_, network, err := net.ParseCIDR(n)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Insert(network, m); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	if _, err := w.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func country(iso string, pairs ...string) mmdbtype.Map {
	m := names(pairs...)
	m["iso_code"] = mmdbtype.String(iso)
	return m
}

func TestLookup(t *testing.T) {
	path := filepath.Join(t.TempDir(), "places.mmdb")
	write(t, path, map[string]mmdbtype.Map{
		"203.0.113.0/24":  {"country": country("CN", "en", "China", "zh-CN", "中国"), "city": names("en", "Hangzhou", "zh-CN", "杭州")},
		"198.51.100.0/24": {"country": country("SG", "en", "Singapore"), "city": names("en", "Singapore")},
		"192.0.2.0/24":    {"country": country("xx", "en", "evil\u202e\nname"), "city": names("en", strings.Repeat("x", 1000))},
		"2001:db8::/32":   {"country": country("DE", "en", "Germany")},
	})
	f, err := Open(path, time.Now, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ ip, locale, want, code string }{
		{"203.0.113.9", "en", "Hangzhou, China", "CN"},
		{"203.0.113.9", "zh-CN", "中国 杭州", "CN"},
		{"203.0.113.9", "fr", "Hangzhou, China", "CN"},
		{"::ffff:203.0.113.9", "en", "Hangzhou, China", "CN"},
		{"198.51.100.1", "zh-CN", "Singapore", "SG"},
		{"2001:db8:1::1", "en", "Germany", "DE"},
		{"192.0.2.1", "en", "", ""},
		{"10.0.0.1", "en", "", ""},
		{"2001:db9::1", "en", "", ""},
	} {
		p := f.Lookup(netip.MustParseAddr(c.ip), c.locale)
		if p.String(c.locale) != c.want || p.Country != c.code {
			t.Errorf("%s in %s: %q %q, want %q %q", c.ip, c.locale, p.String(c.locale), p.Country, c.want, c.code)
		}
	}
	if p := (*Finder)(nil).Lookup(netip.MustParseAddr("203.0.113.9"), "en"); p != (Place{}) {
		t.Errorf("%v", p)
	}
	if p := f.Lookup(netip.Addr{}, "en"); p != (Place{}) {
		t.Errorf("%v", p)
	}
	for p, want := range map[Place]string{{Country: "DE"}: "DE", {City: "Berlin"}: "Berlin", {}: ""} {
		if p.String("en") != want {
			t.Errorf("%v: %q", p, p.String("en"))
		}
	}
}

// A file that is replaced is used; one that is broken is not, and said once.
func TestReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "places.mmdb")
	var log bytes.Buffer
	clock := &storetest.Clock{}
	write(t, path, map[string]mmdbtype.Map{"203.0.113.0/24": {"country": country("CN")}})
	f, err := Open(path, clock.Now, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	is := func(want string) {
		t.Helper()
		clock.Wait(lookEvery + time.Second)
		if p := f.Lookup(netip.MustParseAddr("203.0.113.9"), "en"); p.Country != want {
			t.Errorf("%q, want %q", p.Country, want)
		}
	}
	is("CN")
	write(t, path, map[string]mmdbtype.Map{"203.0.113.0/24": {"country": country("DE", "en", "Germany")}})
	is("DE")
	if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		is("DE")
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("said %d times: %s", n, &log)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	is("DE")
	write(t, path, map[string]mmdbtype.Map{"203.0.113.0/24": {"country": country("FR", "en", "France", "x", "y")}})
	is("FR")
}

// What is no such file is an error that names it.
func TestOpenFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.mmdb")
	if _, err := Open(path, time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
	if err := os.WriteFile(path, []byte("not one"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, time.Now, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("%v", err)
	}
}
