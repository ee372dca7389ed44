package feishu

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// Codes of the API. Success is code 0, whatever the status.
const (
	notOpen    = 20010 // the application is not available to this person
	noSuchUser = 41012
	outOfSight = 41050 // outside the part of the company that the application may see
)

var (
	// errForbidden: the application may not ask this at all, or not about this
	// person (errOutOfSight).
	errForbidden  = errors.New("the application may not read it")
	errOutOfSight = fmt.Errorf("out of sight: %w", errForbidden)
)

// stale: the application's token is wrong, missing or over.
func stale(code int) bool {
	return slices.Contains([]int{99991661, 99991663, 99991664, 99991671}, code)
}

// busy: too many calls, or trouble of Feishu's own.
func busy(code int) bool {
	return slices.Contains([]int{99991400, 20050}, code)
}

// gone: the person has left, is frozen, or never came.
func gone(code int) bool { return slices.Contains([]int{20008, 20021, 20022, 20023}, code) }

// failed names a code. The message beside it is left out: it quotes what was
// sent.
func failed(what string, code int) error {
	switch {
	case busy(code), stale(code):
		return fmt.Errorf("feishu: %s: code %d: %w", what, code, connectors.ErrUnavailable)
	case code == 99991672, code == 99991679:
		return fmt.Errorf("feishu: %s: code %d: a permission is missing: %w", what, code, errForbidden)
	case code == outOfSight:
		return fmt.Errorf("feishu: %s: code %d: %w", what, code, errOutOfSight)
	}
	return fmt.Errorf("feishu: %s: code %d", what, code)
}

// user is what user_info and the address book say of somebody.
type user struct {
	UnionID         string `json:"union_id"`
	UserID          string `json:"user_id"`
	TenantKey       string `json:"tenant_key"`
	Name            string `json:"name"`
	Email           string `json:"email"`
	EnterpriseEmail string `json:"enterprise_email"`
	AvatarURL       string `json:"avatar_url"`
	Avatar          struct {
		URL string `json:"avatar_240"`
	} `json:"avatar"`
	Departments []string `json:"department_ids"`
	Status      struct {
		Frozen   bool `json:"is_frozen"`
		Resigned bool `json:"is_resigned"`
		Exited   bool `json:"is_exited"`
	} `json:"status"`
	raw json.RawMessage
}

func (u user) groups() []string {
	var l []string
	for _, d := range u.Departments {
		if appapi.ID(d) {
			l = append(l, d)
		}
	}
	slices.Sort(l)
	return slices.Compact(l)
}

// parseEnvelope reads {code, msg, data}. A refusal may come with any status;
// success comes with 200.
func parseEnvelope(ans appapi.Answer) (int, json.RawMessage, error) {
	var a struct {
		Code *int            `json:"code"`
		Data json.RawMessage `json:"data"`
	}
	if json.Unmarshal(ans.Body, &a) != nil || a.Code == nil {
		if ans.Status != http.StatusOK {
			return 0, nil, fmt.Errorf("unexpected status %d", ans.Status)
		}
		return 0, nil, appapi.ErrShape
	}
	if *a.Code == 0 && ans.Status != http.StatusOK {
		return 0, nil, fmt.Errorf("unexpected status %d", ans.Status)
	}
	return *a.Code, a.Data, nil
}

func parseAppToken(ans appapi.Answer) (string, time.Duration, error) {
	const what = "tenant_access_token"
	code, _, err := parseEnvelope(ans)
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("feishu: %s: %w", what, err)
	case code != 0:
		return "", 0, failed(what, code)
	}
	var a struct {
		Token string `json:"tenant_access_token"`
		Life  int64  `json:"expire"`
	}
	if json.Unmarshal(ans.Body, &a) != nil || !appapi.Opaque(a.Token) || a.Life <= 0 || a.Life > 1<<31 {
		return "", 0, fmt.Errorf("feishu: %s: %w", what, appapi.ErrShape)
	}
	return a.Token, time.Duration(a.Life) * time.Second, nil
}

// parseToken reads the answer to a code, in which token and code stand side by
// side. refused is the code of a refusal.
func parseToken(ans appapi.Answer) (token string, refused int, err error) {
	const what = "code exchange"
	var a struct {
		Code  int    `json:"code"`
		Error string `json:"error"`
		Token string `json:"access_token"`
	}
	readable := json.Unmarshal(ans.Body, &a) == nil
	switch {
	case !readable && ans.Status == http.StatusOK:
		return "", 0, fmt.Errorf("feishu: %s: %w", what, appapi.ErrShape)
	case !readable:
		return "", 0, fmt.Errorf("feishu: %s: unexpected status %d", what, ans.Status)
	case a.Code != 0:
		return "", a.Code, failed(what, a.Code)
	case a.Error != "":
		return "", 0, fmt.Errorf("feishu: %s: refused with %s", what, appapi.Word(a.Error))
	case ans.Status != http.StatusOK:
		return "", 0, fmt.Errorf("feishu: %s: unexpected status %d", what, ans.Status)
	case !appapi.Opaque(a.Token):
		return "", 0, fmt.Errorf("feishu: %s: %w", what, appapi.ErrShape)
	}
	return a.Token, 0, nil
}

func parseUser(data json.RawMessage) (user, error) {
	var u user
	if json.Unmarshal(data, &u) != nil || !appapi.ID(u.UnionID) || !appapi.ID(u.TenantKey) {
		return user{}, fmt.Errorf("feishu: authen/v1/user_info: %w", appapi.ErrShape)
	}
	u.raw = data
	return u, nil
}

func parseEntry(data json.RawMessage) (user, error) {
	var a struct {
		User json.RawMessage `json:"user"`
	}
	var u user
	if json.Unmarshal(data, &a) != nil || json.Unmarshal(a.User, &u) != nil || !appapi.ID(u.UnionID) {
		return user{}, fmt.Errorf("feishu: contact/v3/users: %w", appapi.ErrShape)
	}
	u.raw = a.User
	return u, nil
}
