package ldap

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/remotegpu/gatehouse/connectors"
)

func ad(data string) error {
	return goldap.NewError(goldap.LDAPResultInvalidCredentials, fmt.Errorf("80090308: LdapErr: DSID-0C09044E, comment: AcceptSecurityContext error, data %s, v2580", data))
}

func TestADCodes(t *testing.T) {
	for _, c := range []struct {
		err            error
		code, friendly string // the code that is shown, "" is neutral
	}{
		{ad("525"), "", ""},
		{ad("52e"), "", ""},
		{ad("52E"), "", ""},
		{ad("530"), "logon_hours", "logon_hours"},
		{ad("531"), "workstation", "workstation"},
		{ad("532"), "password_expired", "password_expired"},
		{ad("533"), "", "account_disabled"},
		{ad("701"), "", "account_expired"},
		{ad("773"), "must_change_password", "must_change_password"},
		{ad("00000773"), "must_change_password", "must_change_password"},
		{ad("775"), "", ""},
		{ad("0"), "", ""},
		{ad("ffffffffffffffffff"), "", ""},
		{goldap.NewError(goldap.LDAPResultInvalidCredentials, errors.New("")), "", ""},
		{goldap.NewError(goldap.LDAPResultInvalidCredentials, errors.New("metadata 532x")), "", ""},
		// Only result 49 has sub-codes.
		{goldap.NewError(goldap.LDAPResultUnwillingToPerform, errors.New("x, data 532, v1")), "", ""},
	} {
		for friendly, want := range map[bool]string{false: c.code, true: c.friendly} {
			lc := &Connector{cfg: &Config{FriendlyErrors: friendly, ResetURL: "https://reset.example.com/"}}
			_, code := adReason(c.err)
			err := lc.refuse(code, c.err)
			var r *connectors.Refusal
			switch errors.As(err, &r) {
			case true:
				if r.Code != want || !errors.Is(err, connectors.ErrNotAllowed) {
					t.Errorf("%v: refusal %q %v, want %q", c.err, r.Code, err, want)
				}
				if help := want == "password_expired" || want == "must_change_password"; (r.Help != "") != help {
					t.Errorf("%v: help %q", c.err, r.Help)
				}
			case false:
				if want != "" || !errors.Is(err, connectors.ErrBadCredentials) {
					t.Errorf("%v: %v, want %q", c.err, err, want)
				}
			}
			if strings.Contains(err.Error(), "DSID") || strings.Contains(err.Error(), "data ") {
				t.Errorf("the public text has the diagnostic: %v", err)
			}
		}
	}
}

func TestFailure(t *testing.T) {
	cause := goldap.NewError(goldap.LDAPResultNoSuchObject, errors.New("no cn=secret here"))
	err := unavailable("search", cause)
	if !errors.Is(err, connectors.ErrUnavailable) || !errors.Is(err, cause) {
		t.Errorf("%v does not wrap", err)
	}
	if strings.Contains(err.Error(), "cn=secret") {
		t.Errorf("public text: %v", err)
	}
	var f *failure
	if !errors.As(err, &f) || !strings.Contains(f.LogValue().String(), "cn=secret") {
		t.Errorf("the log does not get the cause: %v", err)
	}
	for _, code := range []uint16{goldap.LDAPResultStrongAuthRequired, goldap.LDAPResultConfidentialityRequired} {
		if err := unavailable("bind", goldap.NewError(code, errors.New("x"))); !strings.Contains(err.Error(), "use_ssl: true") {
			t.Errorf("result %d names no cure: %v", code, err)
		}
	}
	if answered(goldap.NewError(goldap.ErrorNetwork, errors.New("x"))) || answered(errors.New("x")) || answered(nil) || !answered(cause) {
		t.Error("answered")
	}
}

func TestSubject(t *testing.T) {
	raw := "\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff"
	key, id, err := subject(goldap.NewEntry("cn=x", map[string][]string{"OBJECTGUID": {raw}}))
	if key != objectGUID || id != "33221100-5544-7766-8899-aabbccddeeff" || err != nil {
		t.Errorf("objectGUID: %q %q %v", key, id, err)
	}
	if f, err := subjectFilter(key, id); err != nil || f != `(objectGUID=\00\11\22\33\44\55\66\77\88\99\aa\bb\cc\dd\ee\ff)` {
		t.Errorf("filter: %q %v", f, err)
	}
	key, id, err = subject(goldap.NewEntry("cn=x", map[string][]string{"entryUUID": {"ABCDEF00-2222-3333-4444-555555555555"}, "objectGUID": {raw}}))
	if key != entryUUID || id != "abcdef00-2222-3333-4444-555555555555" || err != nil {
		t.Errorf("entryUUID: %q %q %v", key, id, err)
	}
	for name, a := range map[string]map[string][]string{
		"none": {}, "two": {"entryUUID": {aliceUUID, aliceUUID}}, "no UUID": {"entryUUID": {"alice"}}, "short": {"objectGUID": {"123"}},
	} {
		if _, id, err := subject(goldap.NewEntry("cn=x", a)); err == nil {
			t.Errorf("%s: %q", name, id)
		}
	}
	for _, c := range [][2]string{{"", aliceUUID}, {"uid", aliceUUID}, {entryUUID, "*"}, {entryUUID, "x)(uid=*"}, {objectGUID, ""}} {
		if f, err := subjectFilter(c[0], c[1]); err == nil {
			t.Errorf("subjectFilter(%q) = %q", c, f)
		}
	}
}

func TestState(t *testing.T) {
	now := time.Date(2026, 1, 26, 12, 0, 0, 0, time.UTC)
	ticks := func(at time.Time) string { return fmt.Sprint((at.Unix() + 11644473600) * 1e7) }
	if !windowsTime((now.Unix() + 11644473600) * 1e7).Equal(now) {
		t.Error("windowsTime")
	}
	for name, c := range map[string]struct {
		attrs map[string][]string
		want  string
	}{
		"nothing":             {nil, ""},
		"normal":              {attrs{"userAccountControl": {"512"}, "accountExpires": {"9223372036854775807"}, "pwdLastSet": {"133000000000000000"}}, ""},
		"never expires":       {attrs{"accountExpires": {"0"}}, ""},
		"disabled":            {attrs{"useraccountcontrol": {"514"}}, codeDisabled},
		"expired":             {attrs{"accountExpires": {ticks(now.Add(-time.Second))}}, codeAccountExpired},
		"expires later":       {attrs{"accountExpires": {ticks(now.Add(time.Second))}}, ""},
		"must change":         {attrs{"userAccountControl": {"512"}, "pwdLastSet": {"0"}}, codeMustChange},
		"password for ever":   {attrs{"userAccountControl": {"66048"}, "pwdLastSet": {"0"}}, ""},
		"locked":              {attrs{"userAccountControl": {"512"}, "msDS-User-Account-Control-Computed": {"16"}}, codeLocked},
		"OpenLDAP for good":   {attrs{"pwdAccountLockedTime": {"000001010000Z"}}, codeDisabled},
		"OpenLDAP for a time": {attrs{"pwdAccountLockedTime": {"20260126115900Z"}}, ""},
		"389 DS":              {attrs{"nsAccountLock": {"TRUE"}}, codeDisabled},
	} {
		e := &entry{raw: goldap.NewEntry("cn=x", c.attrs)}
		if got := e.state(now); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}
