// Package apikey keeps the API keys of users and service accounts: long-lived
// secrets for programs that cannot sign in.
package apikey

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
)

// Prefix begins every key, so that people and secret scanners know one.
const Prefix = "rgpu_"

const (
	idLen, secretLen, sumLen = 12, 43, 6 // characters of base62; 43 are 256 bits
	keyLen                   = len(Prefix) + idLen + 1 + secretLen + sumLen
	base62                   = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
)

// ErrMalformed means that a text is no key of ours: a typing error, or cut off.
var ErrMalformed = errors.New("this is no API key: it begins with rgpu_ and has 67 characters of which the last six are a checksum")

// Looks reports whether a text means to be an API key.
func Looks(s string) bool { return strings.HasPrefix(s, Prefix) }

// parse splits a key and checks its checksum, so that what cannot be one costs
// no look into the store.
func parse(s string) (id, secret string, err error) {
	if len(s) != keyLen || !Looks(s) || s[len(Prefix)+idLen] != '_' {
		return "", "", ErrMalformed
	}
	body := s[:keyLen-sumLen]
	for i := len(Prefix); i < keyLen; i++ {
		c := s[i]
		if i != len(Prefix)+idLen && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return "", "", ErrMalformed
		}
	}
	if checksum(body) != [sumLen]byte([]byte(s[keyLen-sumLen:])) {
		return "", "", ErrMalformed
	}
	return s[len(Prefix) : len(Prefix)+idLen], s[len(Prefix)+idLen+1 : keyLen-sumLen], nil
}

// checksum is the CRC-32 (IEEE) of what stands before it, in base62, the highest
// digit first.
func checksum(body string) (out [sumLen]byte) {
	n := crc32.ChecksumIEEE([]byte(body))
	for i := sumLen - 1; i >= 0; i-- {
		out[i] = base62[n%62]
		n /= 62
	}
	return out
}

// generate makes a key of random characters.
func generate(random io.Reader) (key, id, secret string, err error) {
	if random == nil {
		random = rand.Reader
	}
	text, err := characters(random, idLen+secretLen)
	if err != nil {
		return "", "", "", fmt.Errorf("api key: %w", err)
	}
	id, secret = text[:idLen], text[idLen:]
	body := Prefix + id + "_" + secret
	sum := checksum(body)
	return body + string(sum[:]), id, secret, nil
}

// characters returns n characters of base62, each as likely as any other.
func characters(random io.Reader, n int) (string, error) {
	out := make([]byte, 0, n)
	buf := make([]byte, 2*n)
	for len(out) < n {
		if _, err := io.ReadFull(random, buf); err != nil {
			return "", err
		}
		for _, b := range buf {
			if b < 248 && len(out) < n { // 4 times 62: what is above would favour the first ones
				out = append(out, base62[b%62])
			}
		}
	}
	return string(out), nil
}
