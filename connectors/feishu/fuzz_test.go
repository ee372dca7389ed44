package feishu

import (
	"strings"
	"testing"
	"unicode"

	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// FuzzAnswers feeds every parser of what Feishu, or whoever stands between,
// could answer.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"code":0,"access_token":"a","token_type":"Bearer","expires_in":7200}`, `{"code":20003,"error":"invalid_grant","error_description":"x"}`,
		`{"error":"invalid_client"}`, `{"code":0,"msg":"success","data":{"union_id":"u","tenant_key":"t"}}`, `{"code":0,"tenant_access_token":"t","expire":7200}`,
		`{"code":0,"data":{"user":{"union_id":"u","department_ids":["a",""],"status":{"is_frozen":true}}}}`, `{"code":99991663}`, `null`, `[]`, ``,
	} {
		f.Add(200, s)
		f.Add(400, s)
	}
	f.Fuzz(func(t *testing.T, status int, s string) {
		ans := appapi.Answer{Status: status, Body: []byte(s)}
		check := func(err error) {
			if err != nil && (len(err.Error()) > 300 || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
				t.Errorf("error %q", err)
			}
		}
		token, refused, err := parseToken(ans)
		if check(err); err == nil && (!appapi.Opaque(token) || refused != 0 || status != 200) {
			t.Errorf("token %q %d %d", token, refused, status)
		}
		token, life, err := parseAppToken(ans)
		if check(err); err == nil && (!appapi.Opaque(token) || life <= 0) {
			t.Errorf("token %q for %s", token, life)
		}
		code, data, err := parseEnvelope(ans)
		if check(err); err == nil && code == 0 && status != 200 {
			t.Errorf("success with status %d", status)
		}
		for _, d := range [][]byte{data, ans.Body} {
			u, err := parseUser(d)
			if check(err); err == nil && (!appapi.ID(u.UnionID) || !appapi.ID(u.TenantKey)) {
				t.Errorf("user %+v", u)
			}
			u, err = parseEntry(d)
			if check(err); err == nil && (!appapi.ID(u.UnionID) || len(u.groups()) > len(u.Departments)) {
				t.Errorf("entry %+v", u)
			}
		}
	})
}
