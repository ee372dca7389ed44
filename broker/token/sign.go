package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
)

// Sign makes a compact JWS (RFC 7515 section 3.1) of the claims with the current
// key of alg. iss is set to the issuer; the caller sets everything else, exp
// included.
func (k *Keyring) Sign(_ context.Context, alg Alg, typ Type, c Claims) (string, error) {
	r := k.ring.Load()
	kk := r.current[alg]
	if kk == nil || kk.private == nil {
		return "", fmt.Errorf("sign: there is no %s key", alg)
	}
	header := kk.header[typ]
	if header == "" {
		return "", fmt.Errorf("sign: %q is no type of token", typ)
	}
	if !c.Has("exp") {
		return "", errors.New("sign: a token needs exp")
	}
	c["iss"] = k.cfg.Issuer
	payload, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	b64 := base64.RawURLEncoding
	out := make([]byte, 0, len(header)+1+b64.EncodedLen(len(payload))+1+b64.EncodedLen(256))
	out = append(out, header...)
	out = append(out, '.')
	out = b64.AppendEncode(out, payload)
	sig, err := signature(kk, out)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	out = append(out, '.')
	return string(b64.AppendEncode(out, sig)), nil
}

// signature signs with the algorithm of our key record (RFC 7518 sections 3.3
// and 3.4).
func signature(kk *key, input []byte) ([]byte, error) {
	sum := sha256.Sum256(input)
	switch priv := kk.private.(type) {
	case *rsa.PrivateKey:
		return rsa.SignPKCS1v15(rand.Reader, priv, crypto.SHA256, sum[:])
	case *ecdsa.PrivateKey:
		r, s, err := ecdsa.Sign(rand.Reader, priv, sum[:])
		if err != nil {
			return nil, err
		}
		sig := make([]byte, 64) // R || S, 32 bytes each
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		return sig, nil
	}
	return nil, fmt.Errorf("a key of type %T cannot sign", kk.private)
}
