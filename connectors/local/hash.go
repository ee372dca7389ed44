package local

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
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

// Bounds of what a hash in the configuration may ask of this machine, and what
// it must: the cheapest of OWASP's equivalents for argon2id (docs/security.md
// SE-7).
const (
	maxMemoryKiB = 256 * 1024
	maxPasses    = 16
	maxLanes     = 16
	minMemoryKiB = 7 * 1024
	minWork      = 5 * minMemoryKiB // memory times passes
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
		return h, fmt.Errorf("a hash that asks for m=%d,t=%d,p=%d, which is beyond what is computed here", m, t, p)
	}
	if m < minMemoryKiB || m*t < minWork {
		return h, fmt.Errorf("too weak: m=%d,t=%d,p=%d is guessed too fast; make a new one with: gatehouse hash-password", m, t, p)
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

// minLength is what a person's own password has at least where there is no
// second factor (NIST SP 800-63B-4 section 3.1.1).
const minLength = 12

// CheckNewPassword says what is wrong with a password that somebody chooses now:
// it is short, much used, or made of the user's own name.
func CheckNewPassword(username, password string) error {
	if !validPassword(password) {
		return ErrPassword
	}
	if utf8.RuneCountInString(password) < minLength {
		return fmt.Errorf("a password has %d characters at least", minLength)
	}
	// What is left when digits and signs at both ends and repetitions are taken
	// away is what a guesser tries first.
	bare := strings.TrimFunc(strings.ToLower(password), func(r rune) bool { return !unicode.IsLetter(r) })
	core := shrink(bare)
	if name := strings.ToLower(username); name != "" && core == shrink(name) {
		return errors.New("the password is the user name with something around it")
	}
	if core == "" && shrink(password) == "" || slices.Contains(blocklist(), core) || slices.Contains(blocklist(), shrink(strings.ToLower(password))) {
		return errors.New("the password is one of those that are tried first")
	}
	return nil
}

// shrink returns the shortest text of which s is a repetition; "" for one letter
// or a run of neighbours, such as 123456789012.
func shrink(s string) string {
	for n := 1; n <= len(s)/2; n++ {
		if len(s)%n == 0 && strings.Repeat(s[:n], len(s)/n) == s {
			s = s[:n]
			break
		}
	}
	run := true
	for i := 1; i < len(s); i++ {
		step := int(s[i]) - int(s[i-1])
		run = run && (step == 1 || step == -1 || s[i-1] == '9' && s[i] == '0' || s[i-1] == '0' && s[i] == '9')
	}
	if run {
		return ""
	}
	return s
}

// blocklist is what the lists of leaked passwords hold most, without the digits
// and signs around it.
func blocklist() []string {
	return []string{
		"password", "passwort", "passw0rd", "p@ssword", "p@ssw0rd", "secret", "letmein", "welcome", "iloveyou", "qwerty", "qwertyuiop", "qwertzuiop", "asdfghjkl",
		"qazwsx", "qazwsxedc", "1qaz2wsx", "1qaz2wsx3edc", "q1w2e3r4t5y6", "administrator", "admin", "adminadmin", "superman", "princess", "football", "baseball",
		"sunshine", "dragon", "monkey", "master", "shadow", "trustno1", "changeme", "changemenow", "correcthorsebatterystaple", "woaini", "woaini1314", "gatehouse",
		"remotegpu", "default", "password1", "mypassword", "mysecretpassword", "letmeinnow", "iloveyouforever", "qwerty123456", "qwertyqwerty", "test", "testtest",
	}
}
