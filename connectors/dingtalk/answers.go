package dingtalk

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// Codes of the older half of the API, which answers with HTTP 200 whatever it
// says.
const (
	noSuchUser = 60121
	wrapped    = 88 // the reason is in sub_code
)

// stale: the application's token is wrong, missing or over.
func stale(code int) bool { return slices.Contains([]int{40001, 40014, 41001, 42001}, code) }

// busy: too many calls, or trouble of DingTalk's own.
func busy(code int) bool { return slices.Contains([]int{-1, 90002, 90018}, code) }

// grant is the answer to a code.
type grant struct {
	AccessToken string `json:"accessToken"`
	CorpID      string `json:"corpId"`
}

// me is what DingTalk says of whoever signed in.
type me struct {
	Nick      string `json:"nick"`
	UnionID   string `json:"unionId"`
	Email     string `json:"email"`
	AvatarURL string `json:"avatarUrl"`
	raw       json.RawMessage
}

// person is an entry of the company's address book.
type person struct {
	UserID      string  `json:"userid"`
	UnionID     string  `json:"unionid"`
	Name        string  `json:"name"`
	Avatar      string  `json:"avatar"`
	Email       string  `json:"email"`
	OrgEmail    string  `json:"org_email"`
	Departments []int64 `json:"dept_id_list"`
	raw         json.RawMessage
}

func (p person) groups() []string {
	var l []string
	for _, d := range p.Departments {
		if d > 0 {
			l = append(l, strconv.FormatInt(d, 10))
		}
	}
	slices.Sort(l)
	return slices.Compact(l)
}

// refused reads an error of the newer half of the API: a code in words, and
// usually a status in the 400s.
func refused(what string, ans appapi.Answer) error {
	var e struct {
		Code json.RawMessage `json:"code"`
	}
	if json.Unmarshal(ans.Body, &e) != nil {
		e.Code = nil
	}
	code := strings.Trim(string(e.Code), `"`)
	switch {
	case code == "" || code == "null" || code == "0":
		if ans.Status == http.StatusOK {
			return nil
		}
		return fmt.Errorf("dingtalk: %s: unexpected status %d", what, ans.Status)
	case strings.Contains(code, "Throttling"), strings.Contains(code, "QpsLimit"), code == "ServiceUnavailable", code == "InternalError", code == "SystemError":
		return fmt.Errorf("dingtalk: %s: %s: %w", what, appapi.Word(code), connectors.ErrUnavailable)
	}
	return fmt.Errorf("dingtalk: %s: refused with %s", what, appapi.Word(code))
}

func parseAppToken(ans appapi.Answer) (string, time.Duration, error) {
	const what = "the application's token"
	if err := refused(what, ans); err != nil {
		return "", 0, err
	}
	var a struct {
		Token string `json:"accessToken"`
		Life  int64  `json:"expireIn"` // without an s
	}
	if json.Unmarshal(ans.Body, &a) != nil || !appapi.Opaque(a.Token) || a.Life <= 0 || a.Life > 1<<31 {
		return "", 0, fmt.Errorf("dingtalk: %s: %w", what, appapi.ErrShape)
	}
	return a.Token, time.Duration(a.Life) * time.Second, nil
}

func parseGrant(ans appapi.Answer) (grant, error) {
	const what = "code exchange"
	if err := refused(what, ans); err != nil {
		return grant{}, err
	}
	var g grant
	if json.Unmarshal(ans.Body, &g) != nil || !appapi.Opaque(g.AccessToken) {
		return grant{}, fmt.Errorf("dingtalk: %s: %w", what, appapi.ErrShape)
	}
	return g, nil
}

func parseMe(ans appapi.Answer) (me, error) {
	const what = "/contact/users/me"
	if err := refused(what, ans); err != nil {
		return me{}, err
	}
	var m me
	if json.Unmarshal(ans.Body, &m) != nil || !appapi.ID(m.UnionID) {
		return me{}, fmt.Errorf("dingtalk: %s: %w", what, appapi.ErrShape)
	}
	m.raw = ans.Body
	return m, nil
}

// parseErrcode reads the code of an answer of the older half; 0 is success.
func parseErrcode(body []byte) (int, error) {
	var a struct {
		Code *int            `json:"errcode"`
		Sub  json.RawMessage `json:"sub_code"`
	}
	if json.Unmarshal(body, &a) != nil || a.Code == nil {
		return 0, fmt.Errorf("dingtalk: %w", appapi.ErrShape)
	}
	if *a.Code == wrapped {
		if sub, err := strconv.Atoi(strings.Trim(string(a.Sub), `"`)); err == nil && sub != 0 {
			return sub, nil
		}
	}
	return *a.Code, nil
}

func parseUserID(body []byte) (string, error) {
	var a struct {
		Result struct {
			UserID string `json:"userid"`
		} `json:"result"`
	}
	if json.Unmarshal(body, &a) != nil || !appapi.ID(a.Result.UserID) {
		return "", fmt.Errorf("dingtalk: /topapi/user/getbyunionid: %w", appapi.ErrShape)
	}
	return a.Result.UserID, nil
}

func parsePerson(body []byte) (person, error) {
	var a struct {
		Result json.RawMessage `json:"result"`
	}
	var p person
	if json.Unmarshal(body, &a) != nil || json.Unmarshal(a.Result, &p) != nil || !appapi.ID(p.UserID) || !appapi.ID(p.UnionID) {
		return person{}, fmt.Errorf("dingtalk: /topapi/v2/user/get: %w", appapi.ErrShape)
	}
	p.raw = a.Result
	return p, nil
}
