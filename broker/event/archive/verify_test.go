package archive

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// filled is an archive of five objects.
func filled(t *testing.T) *rig {
	t.Helper()
	r := newRig(t)
	for range 5 {
		r.happen(3)
		r.clock.Wait(6 * time.Minute)
		r.archive()
	}
	r.whole()
	return r
}

// remake unpacks an object, has it changed, and packs it again. With a key the
// manifest is made to fit, as somebody would who has stolen it.
func (r *rig) remake(name string, key *event.AuditKey, change func([]Sealed) []Sealed) {
	r.t.Helper()
	plain, err := unpack(r.bucket.objects[name])
	if err != nil {
		r.t.Fatal(err)
	}
	blocks, err := parse(plain)
	if err != nil {
		r.t.Fatal(err)
	}
	blocks = change(blocks)
	if plain, err = content(blocks); err != nil {
		r.t.Fatal(err)
	}
	if r.bucket.objects[name], err = pack(plain); err != nil {
		r.t.Fatal(err)
	}
	if key == nil {
		return
	}
	m, err := parseManifest(r.bucket.objects[manifestOf(name)], nil)
	if err != nil {
		r.t.Fatal(err)
	}
	m.Size, m.SHA256, m.ContentSHA256 = len(r.bucket.objects[name]), sum(r.bucket.objects[name]), sum(plain)
	m.First, m.Last, m.Blocks = end(blocks[0].Block), end(blocks[len(blocks)-1].Block), len(blocks)
	if r.bucket.objects[manifestOf(name)], err = signManifest(m, key); err != nil {
		r.t.Fatal(err)
	}
}

// Each kind of tampering is found, and has its name, whoever did it.
func TestTampering(t *testing.T) {
	stranger := newRig(t).key
	for name, c := range map[string]struct {
		do   func(*rig, []string)
		want string // kinds, in order
	}{
		"a record altered": {func(r *rig, n []string) {
			r.remake(n[2], nil, func(b []Sealed) []Sealed {
				b[0].Entries[1].Raw = bytes.Replace(b[0].Entries[1].Raw, []byte("u1"), []byte("u7"), 1)
				return b
			})
		}, "object.altered record.altered"},
		"a record altered, the manifest signed by the stolen key": {func(r *rig, n []string) {
			r.remake(n[2], r.key, func(b []Sealed) []Sealed {
				b[0].Entries[1].Raw = bytes.Replace(b[0].Entries[1].Raw, []byte("u1"), []byte("u7"), 1)
				return b
			})
		}, "record.altered"},
		"a record removed": {func(r *rig, n []string) {
			r.remake(n[2], r.key, func(b []Sealed) []Sealed { b[0].Entries = b[0].Entries[:2]; return b })
		}, "record.removed"},
		"a record added": {func(r *rig, n []string) {
			r.remake(n[2], r.key, func(b []Sealed) []Sealed {
				b[0].Entries = append(b[0].Entries, event.Entry{Position: 999, Raw: []byte(`{"name":"signout"}`)})
				return b
			})
		}, "record.added"},
		"a record removed from the block too": {func(r *rig, n []string) {
			r.remake(n[2], r.key, func(b []Sealed) []Sealed {
				b[0].Entries, b[0].Records = b[0].Entries[:2], b[0].Records[:2]
				return b
			})
		}, "block.altered"},
		"a manifest by another key": {func(r *rig, n []string) {
			r.remake(n[2], stranger, func(b []Sealed) []Sealed { return b })
		}, "manifest.unsigned"},
		"a manifest removed": {func(r *rig, n []string) { delete(r.bucket.objects, manifestOf(n[2])) }, "manifest.removed"},
		"an object removed":  {func(r *rig, n []string) { delete(r.bucket.objects, n[2]) }, "block.missing object.removed"},
		"both removed": {func(r *rig, n []string) {
			delete(r.bucket.objects, n[2])
			delete(r.bucket.objects, manifestOf(n[2]))
		}, "block.missing"},
		"the beginning removed": {func(r *rig, n []string) {
			delete(r.bucket.objects, n[0])
			delete(r.bucket.objects, manifestOf(n[0]))
		}, "truncated.start"},
		"the beginning removed under a forged anchor": {func(r *rig, n []string) {
			delete(r.bucket.objects, n[0])
			delete(r.bucket.objects, manifestOf(n[0]))
			a := event.Anchor{Number: 1}
			stranger.SignAnchor(&a)
			r.bucket.objects["audit/"+anchorName(1)], _ = encode(a)
		}, "anchor.forged truncated.start"},
		"an object twice, under another name": {func(r *rig, n []string) {
			again := strings.Replace(n[1], "000000000002-000000000002", "000000000002-000000000003", 1)
			r.bucket.objects[again] = r.bucket.objects[n[1]]
		}, "block.repeated manifest.removed object.altered"},
		"an object swapped for another": {func(r *rig, n []string) { r.bucket.objects[n[1]] = r.bucket.objects[n[2]] }, "block.missing block.repeated object.altered"},
		"an object that is none":        {func(r *rig, n []string) { r.bucket.objects[n[1]] = []byte("rubbish") }, "block.missing object.altered"},
		"an object cut off": {func(r *rig, n []string) {
			r.bucket.objects[n[4]] = r.bucket.objects[n[4]][:100]
		}, "object.altered"},
		"everything by another server": {func(r *rig, _ []string) {
			r.bucket.objects = filled(r.t).bucket.objects
		}, "block.key_unknown manifest.unsigned"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := filled(t)
			c.do(r, r.bucket.data())
			rep, got := r.verify()
			if got != c.want {
				t.Errorf("%q, not %q: %+v", got, c.want, rep.Faults)
			}
		})
	}
}

// What only a checkpoint or a key shows.
func TestEndCutOff(t *testing.T) {
	r := filled(t)
	whole, _ := r.verify()
	c, err := event.ParseCheckpoint(whole.Checkpoint)
	if err != nil || c.Number != 5 {
		t.Fatal(whole.Checkpoint, err)
	}
	want := event.Verification{Key: r.key.Public, Checkpoint: c}
	verify := func(v event.Verification, src Source) []Fault {
		rep, err := NewReader(src, "audit/").Verify(t.Context(), v)
		if err != nil {
			t.Fatal(err)
		}
		return rep.Faults
	}
	if f := verify(want, r.bucket); len(f) != 0 {
		t.Errorf("%+v", f)
	}
	other := filled(t)
	if f := verify(event.Verification{}, other.bucket); len(f) != 0 { // without a key everybody's is as good
		t.Errorf("%+v", f)
	}
	want.Key = nil
	if f := verify(want, other.bucket); len(f) != 1 || f[0].Name != "checkpoint.broken" {
		t.Errorf("%+v", f)
	}
	names := r.bucket.data()
	delete(r.bucket.objects, names[4])
	delete(r.bucket.objects, manifestOf(names[4]))
	if f := verify(event.Verification{Key: r.key.Public}, r.bucket); len(f) != 0 {
		t.Errorf("%+v", f)
	}
	if f := verify(want, r.bucket); len(f) != 1 || f[0].Name != "checkpoint.gone" {
		t.Errorf("%+v", f)
	}
	if _, err := NewReader(r.bucket, "elsewhere/").Verify(t.Context(), want); err == nil || !strings.Contains(err.Error(), "no archive here") {
		t.Error(err)
	}
}

// What is too old goes, and an anchor says so; a bucket that keeps what it has
// gets the anchor, and its own rules may do the rest.
func TestRetention(t *testing.T) {
	for _, keeps := range []bool{false, true} {
		r := filled(t)
		r.bucket.keeps = keeps
		r.clock.Wait(180*24*time.Hour - 20*time.Minute)
		r.happen(1)
		r.clock.Wait(6 * time.Minute)
		r.archive()
		rep, faults := r.verify()
		names := r.bucket.data()
		if faults != "" || rep.Last != 6 || !slices.ContainsFunc(r.bucket.names(), func(n string) bool { return strings.HasPrefix(n, "audit/anchors/") }) {
			t.Fatalf("%q %+v of %q", faults, rep, r.bucket.names())
		}
		if gone := rep.First > 1; gone == keeps {
			t.Errorf("keeps %v: begins with block %d", keeps, rep.First)
		}
		if keeps { // the bucket's own rule
			for _, n := range names[:2] {
				delete(r.bucket.objects, n)
				delete(r.bucket.objects, manifestOf(n))
			}
			if rep, faults := r.verify(); faults != "" || rep.First != 3 {
				t.Errorf("%q %+v", faults, rep)
			}
			delete(r.bucket.objects, names[2]) // half of a pair
			if rep, faults := r.verify(); faults != "" || rep.First != 4 {
				t.Errorf("%q %+v", faults, rep)
			}
		}
		r.clock.Wait(60 * 24 * time.Hour)
		r.happen(1)
		r.clock.Wait(6 * time.Minute)
		r.archive()
		if _, faults := r.verify(); faults != "" {
			t.Error(faults)
		}
	}
}

// A log whose beginning was removed before there was an archive.
func TestLateBeginning(t *testing.T) {
	r := newRig(t)
	for range 3 {
		r.happen(2)
	}
	r.clock.Wait(6 * time.Minute)
	r.archive(func(c *Config) { c.Log = without{r.store, 1} })
	if rep, faults := r.verify(); faults != "" || rep.First != 2 || rep.Last != 3 {
		t.Errorf("%q %+v", faults, rep)
	}
}

// The events of a time are found without reading everything.
func TestEvents(t *testing.T) {
	r := newRig(t)
	for range 4 {
		r.happen(2)
		r.clock.Wait(24 * time.Hour)
		r.archive()
	}
	now := r.clock.Now()
	n, before := 0, r.bucket.calls
	for e, err := range NewReader(r.bucket, "audit/").Events(t.Context(), now.Add(-50*time.Hour), now.Add(-30*time.Hour)) {
		if err != nil || e.Event.Name != event.SigninSucceeded {
			t.Fatal(e, err)
		}
		n++
	}
	if calls := r.bucket.calls - before; n != 2 || calls > 7 {
		t.Errorf("%d events in %d calls", n, calls)
	}
}

// What the key did not sign is not believed where that is asked for.
func TestEventsSigned(t *testing.T) {
	count := func(r *rig) (n int, err error) {
		for _, err := range NewReader(r.bucket, "audit/").SignedBy(r.key.Public).Events(t.Context(), time.Time{}, time.Time{}) {
			if err != nil {
				return n, err
			}
			n++
		}
		return n, nil
	}
	r := filled(t)
	if n, err := count(r); n != 15 || err != nil {
		t.Fatal(n, err)
	}
	last := r.bucket.data()[4]
	signed := r.bucket.objects[manifestOf(last)]
	delete(r.bucket.objects, manifestOf(last))
	if n, err := count(r); n != 12 || err == nil {
		t.Error(n, err)
	}
	r.bucket.objects[manifestOf(last)] = signed
	r.remake(last, newRig(t).key, func(b []Sealed) []Sealed { return b })
	if n, err := count(r); n != 12 || !errors.Is(err, errManifest) {
		t.Error(n, err)
	}
}

// What a record holds comes back byte for byte.
func FuzzRecordLine(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a": "\u2028<b>"}`, "{\n}", "", "\xff\x00", `{"a":1} `, `null`, `{"pos":7}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 {
			return // no record is empty
		}
		plain, err := content([]Sealed{{Block: event.Block{Number: 1}, Entries: []event.Entry{{Position: 7, Raw: raw}}}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := parse(plain)
		if err != nil || len(got) != 1 || len(got[0].Entries) != 1 || got[0].Entries[0].Position != 7 || !bytes.Equal(got[0].Entries[0].Raw, raw) {
			t.Errorf("%q came back as %+v, %v", raw, got, err)
		}
	})
}

// Whatever stands in an object, reading it ends, and gives no block without a
// number.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"block":{"number":1}}` + "\n" + `{"pos":1,"event":{}}` + "\n"))
	f.Add([]byte(`{"pos":1,"missing":true}`))
	f.Fuzz(func(t *testing.T, plain []byte) {
		blocks, err := parse(plain)
		if err != nil {
			return
		}
		for _, b := range blocks {
			if b.Number == 0 {
				t.Errorf("a block without a number: %s", plain)
			}
			if _, err := json.Marshal(b.Block); err != nil {
				t.Error(err)
			}
		}
	})
}
