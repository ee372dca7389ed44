package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/lestrrat-go/jwx/v2/jwa"
	"github.com/lestrrat-go/jwx/v2/jwk"
)

// record is a key as it is stored: sealed, under its kid.
type record struct {
	KID     string    `json:"kid"`
	Alg     Alg       `json:"alg"` // "HMAC" for the refresh tokens' key
	Key     []byte    `json:"key"` // PKCS #8, or the HMAC key itself
	Created time.Time `json:"created"`
	From    time.Time `json:"from"`
	Retired time.Time `json:"retired,omitzero"` // when it was replaced
	Until   time.Time `json:"until,omitzero"`   // when it may be forgotten
	Revoked bool      `json:"revoked,omitempty"`
}

const algHMAC Alg = "HMAC"

// key is a usable key in memory.
type key struct {
	record
	private crypto.Signer
	mac     []byte
	public  jwk.Key
	header  map[Type]string // prebuilt base64url of the JOSE header
}

// generate makes a key that is current from a time on.
func generate(alg Alg, now, from time.Time) (record, error) {
	rec := record{Alg: alg, Created: now, From: from}
	switch alg {
	case RS256:
		priv, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return rec, fmt.Errorf("make RS256 key: %w", err)
		}
		if rec.Key, err = x509.MarshalPKCS8PrivateKey(priv); err != nil {
			return rec, err
		}
	case ES256:
		priv, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return rec, fmt.Errorf("make ES256 key: %w", err)
		}
		if rec.Key, err = x509.MarshalPKCS8PrivateKey(priv); err != nil {
			return rec, err
		}
	case algHMAC:
		rec.Key = make([]byte, 32)
		rand.Read(rec.Key)
	default:
		return rec, fmt.Errorf("no keys are made for %q", alg)
	}
	var id [9]byte
	rand.Read(id[:])
	rec.KID = base64.RawURLEncoding.EncodeToString(id[:])
	return rec, nil
}

// open makes a stored key usable.
func open(rec record) (*key, error) {
	kk := &key{record: rec}
	if rec.Alg == algHMAC {
		kk.mac = rec.Key
		return kk, nil
	}
	priv, err := x509.ParsePKCS8PrivateKey(rec.Key)
	if err != nil {
		return nil, err
	}
	signer, ok := priv.(crypto.Signer)
	if !ok {
		return nil, errors.New("not a signing key")
	}
	kk.private = signer
	if kk.public, err = jwk.FromRaw(signer.Public()); err != nil {
		return nil, err
	}
	for name, v := range map[string]any{jwk.KeyIDKey: rec.KID, jwk.AlgorithmKey: jwa.SignatureAlgorithm(rec.Alg), jwk.KeyUsageKey: jwk.ForSignature} {
		if err := kk.public.Set(name, v); err != nil {
			return nil, err
		}
	}
	kk.header = map[Type]string{}
	for _, typ := range []Type{TypeID, TypeAccess, TypeGateway, TypeLogout, TypeStorage} {
		h, err := json.Marshal(struct {
			Alg Alg    `json:"alg"`
			KID string `json:"kid"`
			Typ Type   `json:"typ"`
		}{rec.Alg, rec.KID, typ})
		if err != nil {
			return nil, err
		}
		kk.header[typ] = base64.RawURLEncoding.EncodeToString(h)
	}
	return kk, nil
}
