package issuer

import (
	"encoding/json"
	"net/http"
	"slices"

	"github.com/remotegpu/gatehouse/broker/grant"
)

// metadata is what discovery says (OpenID Connect Discovery section 3, RFC 8414
// section 2), built from what is served, never from the Host header.
func (is *Issuer) metadata() ([]byte, error) {
	iss := is.cfg.Issuer
	grants := make([]string, 0, len(is.grants))
	for _, g := range is.grants {
		grants = append(grants, g.name)
	}
	scopes := []string{"openid", "profile", "email", "groups", "offline_access"}
	for _, c := range is.cfg.Clients.All() {
		for _, s := range c.Scopes() {
			if !slices.Contains(scopes, s) {
				scopes = append(scopes, s)
			}
		}
	}
	return json.Marshal(map[string]any{
		"issuer":                                                   iss,
		"authorization_endpoint":                                   iss + "/oauth2/authorize",
		"token_endpoint":                                           iss + "/oauth2/token",
		"userinfo_endpoint":                                        iss + "/oauth2/userinfo",
		"jwks_uri":                                                 iss + "/oauth2/jwks",
		"device_authorization_endpoint":                            iss + "/oauth2/device_authorization",
		"revocation_endpoint":                                      iss + "/oauth2/revoke",
		"introspection_endpoint":                                   iss + "/oauth2/introspect",
		"scopes_supported":                                         scopes,
		"response_types_supported":                                 []string{"code"},
		"response_modes_supported":                                 []string{"query"},
		"grant_types_supported":                                    grants,
		"subject_types_supported":                                  []string{"public"},
		"id_token_signing_alg_values_supported":                    []string{"RS256", "ES256"},
		"token_endpoint_auth_methods_supported":                    []string{grant.AuthBasic, grant.AuthPost, grant.AuthPrivateKeyJWT, grant.AuthNone},
		"revocation_endpoint_auth_methods_supported":               []string{grant.AuthBasic, grant.AuthPost, grant.AuthPrivateKeyJWT, grant.AuthNone},
		"introspection_endpoint_auth_methods_supported":            []string{grant.AuthBasic, grant.AuthPost, grant.AuthPrivateKeyJWT},
		"token_endpoint_auth_signing_alg_values_supported":         grant.AssertionAlgs(),
		"revocation_endpoint_auth_signing_alg_values_supported":    grant.AssertionAlgs(),
		"introspection_endpoint_auth_signing_alg_values_supported": grant.AssertionAlgs(),
		"code_challenge_methods_supported":                         []string{"S256"},
		"prompt_values_supported":                                  prompts(),
		"authorization_response_iss_parameter_supported":           true,
		"claims_parameter_supported":                               false,
		"request_parameter_supported":                              false,
		"request_uri_parameter_supported":                          false,
		"ui_locales_supported":                                     is.cfg.Edge.Locales(),
		"claims_supported": []string{"iss", "sub", "aud", "exp", "iat", "jti", "auth_time", "acr", "amr", "azp", "sid", "nonce", "at_hash", "email", "email_verified", "name",
			"preferred_username", "picture", "locale", "updated_at", "groups", "act", "gatehouse:connector", "gatehouse:org", "gatehouse:kind", workloadClaim},
	})
}

// Discovery is GET /.well-known/openid-configuration and
// /.well-known/oauth-authorization-server.
func (is *Issuer) Discovery(w http.ResponseWriter, r *http.Request) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "public, max-age=300")
	h.Set("Access-Control-Allow-Origin", "*")
	_, _ = w.Write(is.discovery)
	return nil
}

// JWKS is GET /oauth2/jwks: a static answer from memory.
func (is *Issuer) JWKS(w http.ResponseWriter, r *http.Request) error {
	body, etag, maxAge, err := is.cfg.Keys.JWKS(r.Context())
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", "*")
	h.Set("Cache-Control", cacheControl(maxAge))
	h.Set("ETag", etag)
	if r.Header.Get("If-None-Match") == etag {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	h.Set("Content-Type", "application/jwk-set+json")
	_, _ = w.Write(body)
	return nil
}

// cors answers a browser of a registered public client's origin (docs/security.md
// ISS-17). It reports whether the request was a preflight, which is then done.
func (is *Issuer) cors(w http.ResponseWriter, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin != "" {
		w.Header().Add("Vary", "Origin")
	}
	if is.origins[origin] {
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", origin)
		if r.Method == http.MethodOptions {
			h.Set("Access-Control-Allow-Methods", "GET, POST")
			h.Set("Access-Control-Allow-Headers", "Authorization, Content-Type")
			h.Set("Access-Control-Max-Age", "600")
		}
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusNoContent)
		return true
	}
	return false
}
