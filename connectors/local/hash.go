package local

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
)

// The cost of a new hash: OWASP's first choice for argon2id.
const (
	memoryKiB = 19 * 1024
	passes    = 2
	lanes     = 1
	saltLen   = 16
	keyLen    = 32
)

// Bounds of what a hash in the configuration may ask of this machine.
const (
	maxMemoryKiB = 256 * 1024
	maxPasses    = 16
	maxLanes     = 16
)

// maxPassword bounds a password, in bytes.
const maxPassword = 1024

// ErrPassword means that a password cannot be one.
var ErrPassword = errors.New("a password has 1 to 1024 bytes of UTF-8 and no NUL")

func validPassword(p string) bool {
	return p != "" && len(p) <= maxPassword && utf8.ValidString(p) && !strings.ContainsRune(p, 0)
}

// HashPassword returns the argon2id hash of a password in PHC string format.
func HashPassword(password string) (string, error) {
	if !validPassword(password) {
		return "", ErrPassword
	}
	salt := make([]byte, saltLen)
	rand.Read(salt)
	key := argon2.IDKey([]byte(password), salt, passes, memoryKiB, lanes, keyLen)
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, memoryKiB, passes, lanes, b64.EncodeToString(salt), b64.EncodeToString(key)), nil
}

// hash is a parsed PHC string.
type hash struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

func parseHash(s string) (hash, error) {
	var h hash
	bad := errors.New("not an argon2id hash; make one with: gatehouse hash-password")
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != "v=19" {
		return h, bad
	}
	var m, t, p uint32
	if n, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &m, &t, &p); err != nil || n != 3 || fmt.Sprintf("m=%d,t=%d,p=%d", m, t, p) != parts[3] {
		return h, bad
	}
	if t < 1 || t > maxPasses || p < 1 || p > maxLanes || m < 8*p || m > maxMemoryKiB {
		return h, fmt.Errorf("the hash asks for m=%d,t=%d,p=%d, which is beyond what is computed here", m, t, p)
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	if err != nil || len(salt) < 8 || len(salt) > 64 {
		return h, bad
	}
	key, err := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err != nil || len(key) < 16 || len(key) > 64 {
		return h, bad
	}
	return hash{memory: m, time: t, lanes: uint8(p), salt: salt, key: key}, nil
}

func (h hash) matches(password string) bool {
	got := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, uint32(len(h.key)))
	return subtle.ConstantTimeCompare(got, h.key) == 1
}
