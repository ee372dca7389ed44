package wecom

import (
	"strings"
	"testing"
	"unicode"

	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// FuzzAnswers feeds every parser of what WeCom, or whoever stands between,
// could answer.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"errcode":0,"errmsg":"ok","access_token":"a","expires_in":7200}`, `{"errcode":40029,"errmsg":"x"}`, `{"errcode":0,"UserId":"a","OpenId":""}`,
		`{"errcode":0,"userid":"a","user_ticket":"t"}`, `{"errcode":0,"userid":"a","userid":"b"}`, `{"errcode":0,"openid":"o"}`,
		`{"errcode":0,"userid":"a","name":"n","department":[1,2],"status":1}`, `{"errcode":1e3}`, `null`, `[]`, ``,
	} {
		f.Add(200, s)
	}
	f.Fuzz(func(t *testing.T, status int, s string) {
		body := []byte(s)
		check := func(err error) {
			if err != nil && (len(err.Error()) > 300 || strings.ContainsFunc(err.Error(), unicode.IsControl)) {
				t.Errorf("error %q", err)
			}
		}
		code, err := parseErrcode(appapi.Answer{Status: status, Body: body})
		if check(err); err == nil && status != 200 {
			t.Errorf("code %d with status %d", code, status)
		}
		check(failed("/x", code))
		token, life, err := parseToken(body)
		if check(err); err == nil && (!appapi.Opaque(token) || life <= 0) {
			t.Errorf("token %q for %s", token, life)
		}
		v, err := parseVisitor(body)
		if check(err); err == nil && v.UserID != "" && !appapi.ID(v.UserID) {
			t.Errorf("visitor %+v", v)
		}
		m, err := parseMember(body)
		if check(err); err == nil && (!appapi.ID(m.UserID) || len(m.groups()) > len(m.Departments)) {
			t.Errorf("member %+v", m)
		}
		_, err = parseDetail(body)
		check(err)
	})
}
