package wecom

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/appapi"
)

// maxCode is the longest code by the documentation.
const maxCode = 512

// Codes of the API, which answers with HTTP 200 whatever it says.
const (
	outOfRange   = 60011 // the application's 可见范围
	badAddress   = 60020 // 企业可信IP
	noSuchMember = 60111
	noAPI        = 48002
)

// States of a member.
const (
	disabled = 2
	left     = 5
)

// errForbidden: the application may not ask this at all.
var errForbidden = errors.New("the application may not call this")

// stale: the application's token is wrong, missing or over.
func stale(code int) bool { return slices.Contains([]int{40014, 41001, 42001}, code) }

// busy: too many calls, or trouble of WeCom's own.
func busy(code int) bool { return slices.Contains([]int{-1, 45009, 45011, 45033}, code) }

// failed names an errcode. The message beside it is left out: it quotes what
// was sent, and our address.
func failed(path string, code int) error {
	switch {
	case busy(code), stale(code):
		return fmt.Errorf("wecom: %s: errcode %d: %w", path, code, connectors.ErrUnavailable)
	case code == badAddress:
		return fmt.Errorf("wecom: %s: errcode %d: our address is not among the application's trusted IPs (企业可信IP)", path, code)
	case code == noAPI:
		return fmt.Errorf("wecom: %s: errcode %d: %w", path, code, errForbidden)
	}
	return fmt.Errorf("wecom: %s: errcode %d", path, code)
}

func parseErrcode(ans appapi.Answer) (int, error) {
	if ans.Status != http.StatusOK {
		return 0, fmt.Errorf("unexpected status %d", ans.Status)
	}
	var a struct {
		Code *int `json:"errcode"`
	}
	if json.Unmarshal(ans.Body, &a) != nil || a.Code == nil {
		return 0, appapi.ErrShape
	}
	return *a.Code, nil
}

func parseToken(body []byte) (string, time.Duration, error) {
	var a struct {
		Token string `json:"access_token"`
		Life  int64  `json:"expires_in"`
	}
	if json.Unmarshal(body, &a) != nil || !appapi.Opaque(a.Token) || a.Life <= 0 || a.Life > 1<<31 {
		return "", 0, fmt.Errorf("wecom: /cgi-bin/gettoken: %w", appapi.ErrShape)
	}
	return a.Token, time.Duration(a.Life) * time.Second, nil
}

// visitor is who brought a code: a member, or somebody else (docs/security.md UP-4).
type visitor struct{ UserID, Ticket string }

// parseVisitor takes both spellings: the older address of the call answers
// with capitals, and Go's decoder does not tell them apart.
func parseVisitor(body []byte) (visitor, error) {
	var a struct {
		UserID   string `json:"userid"`
		OpenID   string `json:"openid"`
		External string `json:"external_userid"`
		Ticket   string `json:"user_ticket"`
	}
	switch {
	case json.Unmarshal(body, &a) != nil:
	case a.OpenID != "" || a.External != "":
		// Whatever else is said: somebody whom WeCom knows as no member is none.
		return visitor{}, nil
	case appapi.ID(a.UserID) && (a.Ticket == "" || appapi.Opaque(a.Ticket)):
		return visitor{a.UserID, a.Ticket}, nil
	}
	return visitor{}, fmt.Errorf("wecom: /cgi-bin/auth/getuserinfo: %w", appapi.ErrShape)
}

// member is an entry of the address book.
type member struct {
	user
	Status      int     `json:"status"` // 1 active, 2 disabled, 4 not yet active, 5 has left
	Departments []int64 `json:"department"`
}

func (m member) groups() []string {
	var l []string
	for _, d := range m.Departments {
		if d > 0 {
			l = append(l, strconv.FormatInt(d, 10))
		}
	}
	slices.Sort(l)
	return slices.Compact(l)
}

func parseMember(body []byte) (member, error) {
	var m member
	if json.Unmarshal(body, &m) != nil || !appapi.ID(m.UserID) {
		return member{}, fmt.Errorf("wecom: /cgi-bin/user/get: %w", appapi.ErrShape)
	}
	m.raw = body
	return m, nil
}

// detail is what a member agreed to show.
type detail struct{ user }

func parseDetail(body []byte) (detail, error) {
	var d detail
	if json.Unmarshal(body, &d) != nil || !appapi.ID(d.UserID) {
		return detail{}, fmt.Errorf("wecom: /cgi-bin/auth/getuserdetail: %w", appapi.ErrShape)
	}
	d.raw = body
	return d, nil
}
