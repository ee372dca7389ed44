package dingtalk

import (
	"strings"
	"testing"
	"unicode"

	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// FuzzAnswers feeds every parser of what DingTalk, or whoever stands between,
// could answer.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		`{"accessToken":"a","refreshToken":"b","expireIn":7200,"corpId":"ding1"}`, `{"code":"x","message":"y"}`, `{"code":null}`, `{"code":{}}`,
		`{"nick":"n","unionId":"u","openId":"o"}`, `{"errcode":0,"result":{"userid":"u"}}`, `{"errcode":88,"sub_code":"90018"}`,
		`{"errcode":0,"result":{"userid":"u","unionid":"x","dept_id_list":[1,-1,9223372036854775807]}}`, `null`, `[]`, ``,
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
		g, err := parseGrant(ans)
		if check(err); err == nil && (!appapi.Opaque(g.AccessToken) || status != 200) {
			t.Errorf("token %q", g.AccessToken)
		}
		m, err := parseMe(ans)
		if check(err); err == nil && !appapi.ID(m.UnionID) {
			t.Errorf("union %q", m.UnionID)
		}
		token, life, err := parseAppToken(ans)
		if check(err); err == nil && (!appapi.Opaque(token) || life <= 0) {
			t.Errorf("token %q for %s", token, life)
		}
		_, err = parseErrcode(ans.Body)
		check(err)
		id, err := parseUserID(ans.Body)
		if check(err); err == nil && !appapi.ID(id) {
			t.Errorf("id %q", id)
		}
		p, err := parsePerson(ans.Body)
		if check(err); err == nil && (!appapi.ID(p.UnionID) || len(p.groups()) > len(p.Departments)) {
			t.Errorf("person %+v", p)
		}
		for _, v := range appapi.Claims(ans.Body) {
			_ = v
		}
	})
}
