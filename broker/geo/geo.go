// Package geo says where an address is, from a file of the operator's (MaxMind DB
// format: GeoLite2, DB-IP, IP2Location and others). Nothing is ever asked outside.
package geo

import (
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/oschwald/maxminddb-golang/v2"
)

// Place is where an address is, as far as the file knows. Its zero value is "not
// known".
type Place struct {
	// Country is the code of ISO 3166-1, two capital letters.
	Country string
	// Name and City are for people, in the language that was asked for.
	Name, City string
}

// String is the place in one line for a language: the smaller part first, or in
// Chinese the larger.
func (p Place) String(locale string) string {
	name := p.Name
	if name == "" {
		name = p.Country
	}
	switch {
	case p.City == "" || p.City == name: // Singapore
		return name
	case name == "":
		return p.City
	case strings.HasPrefix(locale, "zh"):
		return name + " " + p.City
	}
	return p.City + ", " + name
}

// Finder looks addresses up in a file, which is read again when it is another. A
// nil Finder knows nothing. It is safe for concurrent use.
type Finder struct {
	path string
	now  func() time.Time
	log  *slog.Logger

	mu     sync.RWMutex
	db     *maxminddb.Reader
	file   stamp
	failed stamp // of the last file that could not be used, said once
	looked time.Time
}

// stamp tells that a file is another.
type stamp struct {
	modified time.Time
	size     int64
}

const (
	// lookEvery is how often the file is looked at, when somebody asks.
	lookEvery = 10 * time.Second
	// maxFile bounds the file, which is held in memory: a copy that is replaced in
	// place cannot change under a reader.
	maxFile = 1 << 30
	// maxName bounds a name, in bytes.
	maxName = 100
)

// Open reads the file.
func Open(path string, now func() time.Time, log *slog.Logger) (*Finder, error) {
	f := &Finder{path: path, now: now, log: log, looked: now()}
	f.file = f.stamp()
	var err error
	if f.db, err = read(path); err != nil {
		return nil, err
	}
	return f, nil
}

func read(path string) (*maxminddb.Reader, error) {
	in, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	raw, err := io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	}
	db, err := maxminddb.OpenBytes(raw)
	if err != nil {
		return nil, fmt.Errorf("%s is no MaxMind DB file: %w", path, err)
	}
	return db, nil
}

func (f *Finder) stamp() stamp {
	fi, err := os.Stat(f.path)
	if err != nil {
		return stamp{}
	}
	return stamp{fi.ModTime(), fi.Size()}
}

// reader is the file as it is now. One that is broken or half written is said and
// not used: the one before goes on.
func (f *Finder) reader() *maxminddb.Reader {
	now := f.now()
	f.mu.RLock()
	db, fresh := f.db, now.Sub(f.looked) < lookEvery
	f.mu.RUnlock()
	if fresh {
		return db
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if now.Sub(f.looked) < lookEvery {
		return f.db
	}
	f.looked = now
	s := f.stamp()
	if s == f.file || s == f.failed {
		return f.db
	}
	db, err := read(f.path)
	if err != nil {
		f.failed = s
		f.log.Warn("the changed geoip_file cannot be used; the one before goes on", "file", f.path, "err", err)
		return f.db
	}
	f.db, f.file = db, s
	f.log.Info("the geoip_file was read again", "file", f.path, "built", db.Metadata.BuildTime().UTC().Format(time.DateOnly))
	return f.db
}

// record is what is read of an entry: the layout that vendors share.
type record struct {
	Country struct {
		ISO   string            `maxminddb:"iso_code"`
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"country"`
	City struct {
		Names map[string]string `maxminddb:"names"`
	} `maxminddb:"city"`
}

// Lookup says where an address is, with names in a language or else in English.
// What is not in the file, or not readable, is not known.
func (f *Finder) Lookup(ip netip.Addr, locale string) Place {
	if f == nil || !ip.IsValid() {
		return Place{}
	}
	var r record
	if err := f.reader().Lookup(ip.Unmap().WithZone("")).Decode(&r); err != nil {
		return Place{}
	}
	name := func(names map[string]string) string {
		if n := names[locale]; n != "" {
			return Clean(n)
		}
		return Clean(names["en"])
	}
	return Place{Country: Code(r.Country.ISO), Name: name(r.Country.Names), City: name(r.City.Names)}
}

// Code returns s if it is a country's code; XX and T1 (unknown, Tor), which some
// networks send, are none.
func Code(s string) string {
	if len(s) != 2 || s[0] < 'A' || s[0] > 'Z' || s[1] < 'A' || s[1] > 'Z' || s == "XX" {
		return ""
	}
	return s
}

// Clean returns a name that can be shown: one line, bounded, and without what
// turns the reading direction. Anything else is no name.
func Clean(s string) string {
	if len(s) > maxName || !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return !unicode.IsGraphic(c) || c == '\u2028' || c == '\u2029' }) {
		return ""
	}
	return strings.TrimSpace(s)
}
