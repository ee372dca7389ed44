package geo

import (
	"bytes"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/maxmind/mmdbwriter/mmdbtype"
	"github.com/oschwald/maxminddb-golang/v2"
)

// small is a file with something of everything.
func small(t testing.TB) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "places.mmdb")
	write(t, path, map[string]mmdbtype.Map{
		"203.0.113.0/24":  {"country": country("CN", "en", "China", "zh-CN", "中国"), "city": names("en", "Hangzhou", "zh-CN", "杭州")},
		"198.51.100.0/24": {"country": country("SG", "en", "Singapore"), "city": names("en", "Singapore"), "location": mmdbtype.Map{"latitude": mmdbtype.Float64(1.3)}},
		"2001:db8::/32":   {"country": country("DE", "en", "Germany"), "subdivisions": mmdbtype.Slice{names("en", "Berlin")}},
	})
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

var asked = []netip.Addr{netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("::"), netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("::ffff:203.0.113.9")}

// ask looks addresses up in a file's bytes: it ends, does not panic, and what it
// says can be shown.
func ask(t testing.TB, raw []byte) {
	t.Helper()
	db, err := maxminddb.OpenBytes(raw)
	if err != nil {
		return
	}
	f := &Finder{now: time.Now, log: slog.New(slog.DiscardHandler), db: db, looked: time.Now()}
	for _, ip := range asked {
		for _, locale := range []string{"en", "zh-CN"} {
			p := f.Lookup(ip, locale)
			for _, s := range []string{p.Name, p.City} {
				if len(s) > maxName || !utf8.ValidString(s) || Clean(s) != s {
					t.Errorf("%s in %s: %q", ip, locale, s)
				}
			}
			if Code(p.Country) != p.Country {
				t.Errorf("%s: country %q", ip, p.Country)
			}
		}
	}
}

// A file that lies about its sizes, its pointers, its depth or its tree costs
// neither a panic nor memory. The file is the operator's, but is fetched from
// elsewhere, and may be half of one.
func TestLyingFile(t *testing.T) {
	raw := small(t)
	ask(t, raw)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	tries := 0
	try := func(b []byte) { tries++; ask(t, b) }
	for i := range raw { // each byte: all bits set, none, another kind of field, a pointer, a huge size
		for _, v := range []byte{0xff, 0x00, raw[i] ^ 0xe0, 0x38, 0x5f, 0xfe} {
			b := bytes.Clone(raw)
			b[i] = v
			try(b)
		}
	}
	for i := 0; i < len(raw); i += 7 { // cut off, or a part of it twice
		try(raw[:i])
		try(append(bytes.Clone(raw[:i]), raw[i/2:]...))
	}
	// A map within a map within a map, each by a pointer to the one before.
	marker := bytes.LastIndex(raw, []byte("\xab\xcd\xefMaxMind.com"))
	deep := bytes.Clone(raw[:marker])
	deep = append(deep, bytes.Repeat([]byte{0xe1, 0x41, 'a'}, 5000)...)
	try(append(deep, raw[marker:]...))
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // spoils a file, the same every time
	for range 2000 {
		b := bytes.Clone(raw)
		for range 1 + random.IntN(8) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		try(b)
	}
	runtime.ReadMemStats(&after)
	if per := (after.TotalAlloc - before.TotalAlloc) / uint64(tries); per > 4<<20 {
		t.Errorf("a file of %d bytes took %d bytes", len(raw), per)
	}
}

// FuzzFile: the same for whatever a machine thinks of.
func FuzzFile(f *testing.F) {
	f.Add(small(f))
	f.Add([]byte("\xab\xcd\xefMaxMind.com\xe0"))
	f.Fuzz(func(t *testing.T, raw []byte) { ask(t, raw) })
}

// A file that was replaced by a lie while we run is not used.
func TestReplacedByALie(t *testing.T) {
	path := filepath.Join(t.TempDir(), "places.mmdb")
	raw := small(t)
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	f, err := Open(path, func() time.Time { return now }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, lie := range [][]byte{nil, raw[:len(raw)/2], bytes.Repeat([]byte{0xff}, 1<<20), raw[len(raw)/2:][:10]} {
		if err := os.WriteFile(path, lie, 0o600); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Minute)
		if p := f.Lookup(asked[0], "en"); p.Country != "CN" || p.City != "Hangzhou" {
			t.Errorf("after %d bytes of something else: %+v", len(lie), p)
		}
	}
}
