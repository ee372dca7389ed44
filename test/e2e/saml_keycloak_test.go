//go:build e2e && full

package e2e

import (
	"strings"
	"testing"
)

// Keycloak on another site: both signatures, AES-256-GCM, sign-in and single
// logout from both sides.
func TestSAMLByKeycloak(t *testing.T) {
	idp := startPeer(t, "keycloak", freePort(t), "HOST=localhost")
	g := samlBroker(t, "keycloak", idp, "    metadata_url: "+idp["SAML_IDP_METADATA_URL"]+"\n    allow_idp_initiated: true\n", "ENCRYPT=1", "REQUIRE_SIGNED=1", "NAMEID=persistent")
	realm := strings.TrimSuffix(idp["SAML_IDP_METADATA_URL"], "/protocol/saml/descriptor")
	browser(t, nil, "saml.mjs", g.URL, "alice", "alice-pw", realm+"/protocol/saml/clients/sp", realm+"/protocol/openid-connect/logout")
}
