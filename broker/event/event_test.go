package event

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// memory is a log of one topic that can be full.
type memory struct {
	entries [][]byte
	full    error
}

func (m *memory) Append(_ context.Context, _ string, entry []byte) (uint64, error) {
	if m.full != nil {
		return 0, m.full
	}
	m.entries = append(m.entries, entry)
	return uint64(len(m.entries)), nil
}

func (m *memory) Read(_ context.Context, _ string, after uint64, limit int) (iter.Seq2[uint64, []byte], error) {
	return func(yield func(uint64, []byte) bool) {
		for i := after; i < uint64(min(len(m.entries), int(after)+limit)); i++ {
			if !yield(i+1, m.entries[i]) {
				return
			}
		}
	}, nil
}

func (m *memory) Trim(context.Context, string, uint64) error { return nil }

func recorder(t *testing.T, m *memory, out *bytes.Buffer, seen *[]Name) *Recorder {
	t.Helper()
	r, err := New(Config{Log: m, Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.FixedZone("x", 3600)) },
		Logger: slog.New(slog.NewTextHandler(out, nil)), Observe: func(e Event) { *seen = append(*seen, e.Name) }})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRecordAndRead(t *testing.T) {
	m, out, seen := &memory{}, &bytes.Buffer{}, []Name{}
	r := recorder(t, m, out, &seen)
	for _, n := range []Name{UserCreated, SigninSucceeded, Signout} {
		if err := r.Record(t.Context(), Event{Name: n, Actor: "u1", Target: "u1"}); err != nil {
			t.Fatal(err)
		}
	}
	first, pos, err := Read(t.Context(), m, 0, 2)
	if err != nil || len(first) != 2 || first[0].Name != UserCreated || first[0].ID == "" || first[0].ID == first[1].ID || first[0].Time.Location() != time.UTC {
		t.Fatalf("%+v %v", first, err)
	}
	rest, _, err := Read(t.Context(), m, pos, 10)
	if err != nil || len(rest) != 1 || rest[0].Name != Signout || len(seen) != 3 {
		t.Errorf("%+v %v, counted %v", rest, err, seen)
	}
}

// What is not written is neither counted nor logged as having happened.
func TestRecordFails(t *testing.T) {
	full := errors.New("full")
	m, out, seen := &memory{full: full}, &bytes.Buffer{}, []Name{}
	if err := recorder(t, m, out, &seen).Record(t.Context(), Event{Name: UserSuspended}); !errors.Is(err, full) || len(seen) != 0 || out.Len() != 0 {
		t.Errorf("%v, counted %v, logged %s", err, seen, out)
	}
}

// G8: what a stranger wrote is short, on one line, and reads the way it stands.
func TestRecordCleans(t *testing.T) {
	m, out, seen := &memory{}, &bytes.Buffer{}, []Name{}
	details := map[string]string{"long": strings.Repeat("é", 1000), "plain": "a b", "odd": "a\r\nlevel=ERROR\x00\u202Egnp\u2028\xff\u200b"}
	e := Event{Name: SigninFailed, Agent: "x\nforged", Target: "t\u2066", Details: details}
	if err := recorder(t, m, out, &seen).Record(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	got, _, err := Read(t.Context(), m, 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	d := got[0].Details
	if len(d["long"]) > maxText || !utf8.ValidString(d["long"]) || d["plain"] != "a b" || details["plain"] != "a b" || len(details["long"]) != 2000 {
		t.Errorf("details %q", d)
	}
	for _, s := range []string{d["odd"], got[0].Agent, got[0].Target, out.String()[:out.Len()-1]} {
		if strings.ContainsAny(s, "\r\n\x00\u202E\u2066\u2028\u200b") {
			t.Errorf("%q", s)
		}
	}
}
