package event

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// BlockTopic is the blocks' topic in the log of the store. A number may stand
// there twice, with the same hash, where a replica died between writing it and
// noting so; ReadBlocks gives it once.
const BlockTopic = "audit-blocks"

// What is hashed and signed begins with what it is, so that none can be taken
// for another.
const (
	recordDomain     = "gatehouse-audit-record-v1\x00"
	blockDomain      = "gatehouse-audit-block-v1\x00"
	checkpointDomain = "gatehouse-audit-checkpoint-v1\x00"
	anchorDomain     = "gatehouse-audit-anchor-v1\x00"
)

// Hash is a SHA-256 sum; as text it is base64url without padding.
type Hash [sha256.Size]byte

// String returns the hash as it stands in JSON.
func (h Hash) String() string { return base64.RawURLEncoding.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *Hash) UnmarshalText(text []byte) error {
	b, err := base64.RawURLEncoding.Strict().DecodeString(string(text))
	if err != nil || len(b) != len(h) {
		return fmt.Errorf("%q is no hash: 43 characters of base64url are", clean(string(text)))
	}
	copy(h[:], b)
	return nil
}

// Record is one record of the log as a block vouches for it.
type Record struct {
	Position uint64 `json:"pos"`
	Hash     Hash   `json:"hash"`
}

// HashRecord returns what a block keeps of the record that stands at a position.
func HashRecord(position uint64, raw []byte) Hash {
	h := sha256.New()
	h.Write([]byte(recordDomain))
	h.Write(binary.BigEndian.AppendUint64(nil, position))
	h.Write(raw)
	return Hash(h.Sum(nil))
}

// Block vouches for records of the log, and by Previous for all blocks before
// it. Its signature makes each block a checkpoint: who has neither the audit
// key nor an older one in hand may rewrite the whole log and every hash in it,
// and still cannot sign the end.
type Block struct {
	// Number counts from 1, without a gap.
	Number uint64 `json:"number"`
	// Time is when it was sealed.
	Time time.Time `json:"time"`
	// Previous is the hash of the block before; zero in block 1.
	Previous Hash `json:"previous"`
	// Records are those sealed here, by growing position. None is a sign of
	// life: nothing had happened.
	Records []Record `json:"records,omitempty"`
	// Key names the audit key that signed.
	Key  string `json:"key"`
	Hash Hash   `json:"hash"`
	// Signature is Ed25519 (RFC 8032) over number, hash and key.
	Signature []byte `json:"signature"`
}

// Last is the position of the block's last record, or 0.
func (b *Block) Last() uint64 {
	if len(b.Records) == 0 {
		return 0
	}
	return b.Records[len(b.Records)-1].Position
}

func (b *Block) sum() Hash {
	h := sha256.New()
	buf := append(make([]byte, 0, 128), blockDomain...)
	buf = binary.BigEndian.AppendUint64(buf, b.Number)
	buf = binary.BigEndian.AppendUint64(buf, uint64(b.Time.UnixNano())) //nolint:gosec // both ways the same bits
	buf = append(buf, b.Previous[:]...)
	buf = binary.BigEndian.AppendUint32(buf, uint32(len(b.Records))) //nolint:gosec // bounded by maxRecords
	h.Write(buf)
	for _, r := range b.Records {
		h.Write(append(binary.BigEndian.AppendUint64(buf[:0], r.Position), r.Hash[:]...))
	}
	return Hash(h.Sum(nil))
}

func (b *Block) checkpoint() []byte {
	buf := binary.BigEndian.AppendUint64([]byte(checkpointDomain), b.Number)
	return append(append(buf, b.Hash[:]...), b.Key...)
}

// What Check finds wrong, wrapped with the block's number.
var (
	ErrBlockHash      = errors.New("its content is not what its hash says: it was altered")
	ErrBlockSignature = errors.New("the audit key did not sign it: it was made or re-hashed by somebody without that key")
	ErrBlockOrder     = errors.New("it does not follow the block before it: a block was removed, added or moved")
	ErrBlockRecords   = errors.New("the positions of its records do not grow")
)

// Check reports whether b is the block after previous (the zero Block before
// the first) and was signed by key. Who passes no key learns only that the
// hashes agree, which everybody can arrange who can write the log.
func (b *Block) Check(previous Block, key ed25519.PublicKey) error {
	if b.sum() != b.Hash {
		return fmt.Errorf("block %d: %w", b.Number, ErrBlockHash)
	}
	if key != nil && (len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, b.checkpoint(), b.Signature)) {
		return fmt.Errorf("block %d: %w", b.Number, ErrBlockSignature)
	}
	if b.Number != previous.Number+1 || b.Previous != previous.Hash {
		return fmt.Errorf("block %d after block %d: %w", b.Number, previous.Number, ErrBlockOrder)
	}
	for i := 1; i < len(b.Records); i++ {
		if b.Records[i].Position <= b.Records[i-1].Position {
			return fmt.Errorf("block %d: %w", b.Number, ErrBlockRecords)
		}
	}
	return nil
}

// Anchor says under the audit key's signature that the blocks up to Number were
// removed because their time was over: the log then begins after them, and
// Hash is what the first block left must name as its Previous.
type Anchor struct {
	Number    uint64    `json:"number"`
	Hash      Hash      `json:"hash"`
	Last      uint64    `json:"last"` // position of the last record that was removed
	Time      time.Time `json:"time"`
	Key       string    `json:"key"`
	Signature []byte    `json:"signature"`
}

func (a *Anchor) signed() []byte {
	buf := binary.BigEndian.AppendUint64([]byte(anchorDomain), a.Number)
	buf = append(buf, a.Hash[:]...)
	buf = binary.BigEndian.AppendUint64(buf, a.Last)
	buf = binary.BigEndian.AppendUint64(buf, uint64(a.Time.UnixNano())) //nolint:gosec // both ways the same bits
	return append(buf, a.Key...)
}

// Check reports whether key signed the anchor.
func (a *Anchor) Check(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, a.signed(), a.Signature) {
		return fmt.Errorf("anchor of block %d: %w", a.Number, ErrBlockSignature)
	}
	return nil
}

// ReadBlocks returns up to limit blocks that stand after a position of
// BlockTopic, and the position to go on from. A block that stands there twice
// is given twice only across two calls; who reads on skips a number that it has.
func ReadBlocks(ctx context.Context, log store.Log, after uint64, limit int) ([]Block, uint64, error) {
	seq, err := log.Read(ctx, BlockTopic, after, limit)
	if err != nil {
		return nil, after, fmt.Errorf("read audit blocks: %w", err)
	}
	var out []Block
	for pos, raw := range seq {
		after = pos
		b, err := ParseBlock(raw)
		if err != nil {
			return out, after, fmt.Errorf("audit block at position %d: %w", pos, err)
		}
		if n := len(out); n > 0 && out[n-1].Number == b.Number && out[n-1].Hash == b.Hash {
			continue
		}
		out = append(out, b)
	}
	return out, after, nil
}

// maxRecords bounds a block, so that one fits into a message of any store.
const maxRecords = 2000

// ParseBlock reads a block from its JSON; what it says is for Check to judge.
func ParseBlock(raw []byte) (Block, error) {
	var b Block
	if err := json.Unmarshal(raw, &b); err != nil {
		return Block{}, fmt.Errorf("this is no audit block: %w", err)
	}
	if err := b.plausible(); err != nil {
		return Block{}, err
	}
	return b, nil
}

func (b *Block) plausible() error {
	if b.Number == 0 || len(b.Records) > maxRecords {
		return fmt.Errorf("this is no audit block: number %d with %d records", b.Number, len(b.Records))
	}
	return nil
}
