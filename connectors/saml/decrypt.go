package saml

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	_ "crypto/sha1" // RSA-OAEP's usual digest, where it is no weakness
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/base64"
	"strings"

	"github.com/beevik/etree"
)

// errDecrypt is every failure after base64: which one it was would help whoever
// tries ciphertexts (docs/security.md SP-4).
var errDecrypt = refuse("decrypt", "the assertion could not be decrypted with a key of ours; give the identity provider our metadata again")

// content encryption by the algorithm's name: the key's length, and whether the
// text is authenticated.
var ciphers = map[string]struct {
	key int
	gcm bool
}{
	nsEncrypt11 + "aes128-gcm": {16, true}, nsEncrypt11 + "aes192-gcm": {24, true}, nsEncrypt11 + "aes256-gcm": {32, true},
	nsEncrypt + "aes128-cbc": {16, false}, nsEncrypt + "aes192-cbc": {24, false}, nsEncrypt + "aes256-cbc": {32, false},
}

var oaepDigests = map[string]crypto.Hash{
	"": crypto.SHA1, nsSignature + "sha1": crypto.SHA1, nsEncrypt + "sha256": crypto.SHA256, nsEncrypt + "sha512": crypto.SHA512,
	"http://www.w3.org/2001/04/xmldsig-more#sha384": crypto.SHA384,
}

var oaepMasks = map[string]crypto.Hash{
	"": crypto.SHA1, nsEncrypt11 + "mgf1sha1": crypto.SHA1, nsEncrypt11 + "mgf1sha256": crypto.SHA256, nsEncrypt11 + "mgf1sha384": crypto.SHA384, nsEncrypt11 + "mgf1sha512": crypto.SHA512,
}

// decrypt returns the plaintext of an EncryptedAssertion. The library's own
// decryption knows only one AES-GCM, and panics on short texts; what is left is
// less than what would have to be checked before it.
func decrypt(enc *etree.Element, keys []*rsa.PrivateKey, allowCBC bool) (plain []byte, err error) {
	defer recovered(&err)
	data := childOf(enc, nsEncrypt, "EncryptedData")
	if data == nil || len(enc.FindElements(".//CipherReference")) > 0 {
		return nil, refuse("encrypted_shape", "the EncryptedAssertion has no EncryptedData of its own")
	}
	method := algorithm(childOf(data, nsEncrypt, "EncryptionMethod"))
	c, known := ciphers[method]
	switch {
	case !known:
		return nil, refuse("cipher", "the assertion is encrypted with %q; set the identity provider to AES-GCM", method)
	case !c.gcm && !allowCBC:
		return nil, refuse("cipher", "the assertion is encrypted with AES-CBC, which does not notice changes; set the identity provider to AES-GCM, or allow_aes_cbc here")
	}
	wrapped := encryptedKeys(enc, data)
	if len(wrapped) == 0 || len(wrapped) > 8 {
		return nil, refuse("encrypted_shape", "the EncryptedAssertion has %d EncryptedKeys", len(wrapped))
	}
	// What can be refused without a key is refused before any is used.
	for _, w := range wrapped {
		if m := algorithm(childOf(w, nsEncrypt, "EncryptionMethod")); m != nsEncrypt+"rsa-oaep-mgf1p" && m != nsEncrypt11+"rsa-oaep" {
			return nil, refuse("key_transport", "the key is encrypted with %q; set the identity provider to RSA-OAEP", m)
		}
	}
	text, err := cipherValue(data)
	if err != nil {
		return nil, err
	}
	for _, w := range wrapped {
		ct, err := cipherValue(w)
		if err != nil {
			return nil, err
		}
		opts, err := oaep(childOf(w, nsEncrypt, "EncryptionMethod"))
		if err != nil {
			return nil, err
		}
		for _, k := range keys {
			content, err := k.Decrypt(nil, ct, opts)
			if err != nil || len(content) != c.key {
				continue
			}
			if plain, ok := openText(content, text, c.gcm); ok {
				return plain, nil
			}
		}
	}
	return nil, errDecrypt
}

// encryptedKeys are those inside EncryptedData's KeyInfo and those beside it.
func encryptedKeys(enc, data *etree.Element) []*etree.Element {
	var out []*etree.Element
	add := func(in *etree.Element) {
		if in == nil {
			return
		}
		for _, c := range in.ChildElements() {
			if c.Tag == "EncryptedKey" && c.NamespaceURI() == nsEncrypt {
				out = append(out, c)
			}
		}
	}
	add(childOf(data, nsSignature, "KeyInfo"))
	add(enc)
	return out
}

func algorithm(method *etree.Element) string {
	if method == nil {
		return ""
	}
	return method.SelectAttrValue("Algorithm", "")
}

func oaep(method *etree.Element) (*rsa.OAEPOptions, error) {
	if p := childOf(method, nsEncrypt, "OAEPparams"); p != nil && strings.TrimSpace(p.Text()) != "" {
		return nil, refuse("key_transport", "OAEP parameters are not read")
	}
	digest, ok := oaepDigests[algorithm(childOf(method, nsSignature, "DigestMethod"))]
	mask, ok2 := oaepMasks[algorithm(childOf(method, nsEncrypt11, "MGF"))]
	if !ok || !ok2 {
		return nil, refuse("key_transport", "RSA-OAEP uses a digest that is not read")
	}
	return &rsa.OAEPOptions{Hash: digest, MGFHash: mask}, nil
}

func cipherValue(el *etree.Element) ([]byte, error) {
	data := childOf(el, nsEncrypt, "CipherData")
	if data == nil {
		return nil, refuse("encrypted_shape", "there is no CipherData")
	}
	value := childOf(data, nsEncrypt, "CipherValue")
	if value == nil {
		return nil, refuse("encrypted_shape", "there is no CipherValue")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(value.Text()), ""))
	if err != nil {
		return nil, refuse("encrypted_shape", "a CipherValue is not base64")
	}
	return raw, nil
}

// openText opens the second layer, the text under the content key.
func openText(key, text []byte, gcm bool) ([]byte, bool) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, false
	}
	if gcm {
		aead, err := cipher.NewGCM(block)
		if err != nil || len(text) < aead.NonceSize() {
			return nil, false
		}
		plain, err := aead.Open(nil, text[:aead.NonceSize()], text[aead.NonceSize():], nil)
		return plain, err == nil
	}
	if len(text) < 2*aes.BlockSize || len(text)%aes.BlockSize != 0 {
		return nil, false
	}
	plain := bytes.Clone(text[aes.BlockSize:])
	cipher.NewCBCDecrypter(block, text[:aes.BlockSize]).CryptBlocks(plain, plain)
	pad := int(plain[len(plain)-1]) // XML Encryption 1.1 section 5.2: only the last byte counts
	if pad < 1 || pad > aes.BlockSize || pad > len(plain) {
		return nil, false
	}
	return plain[:len(plain)-pad], true
}
