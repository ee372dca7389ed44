package archive

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
)

// An object is gzip over lines of JSON: a block, then its records, the next
// block, and so on.
//
//	{"block":{"number":7,…}}
//	{"pos":41,"event":{…}}
//	{"pos":42,"raw":"…"}        base64, of a record that is no JSON
//	{"pos":43,"missing":true}   the log did not have it any more

// maxContent bounds what one object unpacks to, in bytes; its blocks are chosen
// so that it stays far below.
const maxContent = 64 << 20

// line is one line of an object.
type line struct {
	Block   *event.Block    `json:"block,omitempty"`
	Pos     uint64          `json:"pos,omitempty"`
	Event   json.RawMessage `json:"event,omitempty"`
	Raw     []byte          `json:"raw,omitempty"`
	Missing bool            `json:"missing,omitempty"`
}

// Sealed is a block with the records that it vouches for.
type Sealed struct {
	event.Block
	// Entries are the records that there are, byte for byte as in the log.
	Entries []event.Entry
	// Missing are positions whose record the log did not have.
	Missing []uint64
}

// recordLine writes a record so that its bytes come back exactly.
func recordLine(w *bytes.Buffer, e event.Entry) {
	w.WriteString(`{"pos":` + strconv.FormatUint(e.Position, 10))
	if inline(e.Raw) {
		w.WriteString(`,"event":`)
		w.Write(e.Raw)
	} else {
		b, _ := json.Marshal(e.Raw) // bytes cannot fail
		w.WriteString(`,"raw":`)
		w.Write(b)
	}
	w.WriteString("}\n")
}

// inline reports whether a record can stand in a line as it is: one JSON object,
// on one line, with nothing around it that a decoder would drop.
func inline(raw []byte) bool {
	return len(raw) > 1 && raw[0] == '{' && raw[len(raw)-1] == '}' && !bytes.ContainsAny(raw, "\r\n") && json.Valid(raw)
}

// content writes blocks with their records as lines.
func content(blocks []Sealed) ([]byte, error) {
	var w bytes.Buffer
	for _, b := range blocks {
		js, err := json.Marshal(line{Block: &b.Block})
		if err != nil {
			return nil, fmt.Errorf("block %d: %w", b.Number, err)
		}
		w.Write(append(js, '\n'))
		for _, e := range b.Entries {
			recordLine(&w, e)
		}
		for _, pos := range b.Missing {
			fmt.Fprintf(&w, `{"pos":%d,"missing":true}`+"\n", pos)
		}
	}
	return w.Bytes(), nil
}

// pack compresses; without a time, so that the same content gives the same bytes.
func pack(plain []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// unpack is the way back, bounded.
func unpack(body []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxContent+1))
	if err == nil && len(plain) > maxContent {
		err = fmt.Errorf("it unpacks to more than %d bytes", maxContent)
	}
	return plain, err
}

// parse reads what content wrote. What it says is for a verification to judge.
func parse(plain []byte) ([]Sealed, error) {
	var out []Sealed
	in := bufio.NewScanner(bytes.NewReader(plain))
	in.Buffer(nil, maxContent)
	for n := 1; in.Scan(); n++ {
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return out, fmt.Errorf("line %d: %w", n, err)
		}
		if l.Block != nil {
			if l.Block.Number == 0 {
				return out, fmt.Errorf("line %d: a block without a number", n)
			}
			out = append(out, Sealed{Block: *l.Block})
			continue
		}
		if len(out) == 0 || l.Pos == 0 {
			return out, fmt.Errorf("line %d: neither a block nor a record of one", n)
		}
		b := &out[len(out)-1]
		switch {
		case l.Missing:
			b.Missing = append(b.Missing, l.Pos)
			continue
		case l.Event != nil:
			l.Raw = l.Event
		}
		e := event.Entry{Position: l.Pos, Raw: bytes.Clone(l.Raw)}
		if json.Unmarshal(e.Raw, &e.Event) != nil {
			e.Event = event.Event{}
		}
		b.Entries = append(b.Entries, e)
	}
	return out, in.Err()
}

// End names a block at one end of an object.
type End struct {
	Number   uint64     `json:"number"`
	Hash     event.Hash `json:"hash"`
	Previous event.Hash `json:"previous"`
	Time     time.Time  `json:"time"`
}

func end(b event.Block) End {
	return End{Number: b.Number, Hash: b.Hash, Previous: b.Previous, Time: b.Time}
}

// Manifest says what is in an object, under the audit key's signature.
type Manifest struct {
	Version int    `json:"version"`
	Object  string `json:"object"` // its name without the prefix
	Size    int    `json:"size"`
	SHA256  string `json:"sha256"` // of the object's bytes
	// ContentSHA256 is of what it unpacks to, whichever way it was compressed.
	ContentSHA256 string `json:"content_sha256"`
	First         End    `json:"first"`
	Last          End    `json:"last"`
	// Blocks and Records count them; LastRecord is the position of the last
	// record up to there, in this object or an earlier one.
	Blocks     int    `json:"blocks"`
	Records    int    `json:"records"`
	LastRecord uint64 `json:"last_record"`
	// Missing counts records that were gone from the log.
	Missing int `json:"missing,omitempty"`
	// Key is the audit key's id, which begins the SHA-256 of PublicKey. Neither
	// proves anything: who verifies has the key from elsewhere.
	Key       string `json:"key"`
	PublicKey []byte `json:"public_key"`
}

// signedManifest is a manifest as it is stored: the signature is over the bytes
// between.
type signedManifest struct {
	Manifest  json.RawMessage `json:"manifest"`
	Signature []byte          `json:"signature"`
}

const (
	manifestVersion = 1
	// manifestDomain keeps signatures of manifests apart from those of blocks.
	manifestDomain = "archive-manifest-v1"
)

// signManifest returns the manifest's object.
func signManifest(m Manifest, key *event.AuditKey) ([]byte, error) {
	js, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", m.Object, err)
	}
	out, err := json.Marshal(signedManifest{Manifest: js, Signature: key.Sign(manifestDomain, js)})
	if err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", m.Object, err)
	}
	return append(out, '\n'), nil
}

var errManifest = errors.New("the audit key did not sign the manifest")

// parseManifest reads a manifest. With no key its signature is not looked at.
func parseManifest(body []byte, key []byte) (Manifest, error) {
	var s signedManifest
	var m Manifest
	if err := json.Unmarshal(body, &s); err != nil {
		return m, fmt.Errorf("this is no manifest: %w", err)
	}
	if err := json.Unmarshal(s.Manifest, &m); err != nil {
		return m, fmt.Errorf("this is no manifest: %w", err)
	}
	if m.Version != manifestVersion {
		return m, fmt.Errorf("the manifest is of version %d; this Gatehouse reads %d: use a newer one", m.Version, manifestVersion)
	}
	if key != nil && !event.VerifyOther(key, manifestDomain, s.Manifest, s.Signature) {
		return m, errManifest
	}
	return m, nil
}

// Names of objects sort by time and tell nothing about anybody.
const manifestSuffix = ".manifest.json"

var objectName = regexp.MustCompile(`^(\d{4}/\d{2}/\d{2})/blocks-(\d{12,19})-(\d{12,19})\.jsonl\.gz$`)

func nameOf(day string, first, last uint64) string {
	return fmt.Sprintf("%s/blocks-%012d-%012d.jsonl.gz", day, first, last)
}

func manifestOf(object string) string { return object + manifestSuffix }

// parseName reads an object's name without the prefix.
func parseName(name string) (day string, first, last uint64, ok bool) {
	m := objectName.FindStringSubmatch(name)
	if m == nil {
		return "", 0, 0, false
	}
	first, err1 := strconv.ParseUint(m[2], 10, 64)
	last, err2 := strconv.ParseUint(m[3], 10, 64)
	return m[1], first, last, err1 == nil && err2 == nil && first > 0 && last >= first
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
