package ldap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	goldap "github.com/go-ldap/ldap/v3"
)

// Attributes that never change while an entry exists, wherever it is moved and
// however it is renamed.
const (
	entryUUID  = "entryUUID"  // RFC 4530
	objectGUID = "objectGUID" // Active Directory
)

// stateAttributes say whether an account is in use. What a directory does not
// have it does not return.
var stateAttributes = []string{
	"userAccountControl", "msDS-User-Account-Control-Computed", "accountExpires", "pwdLastSet", // Active Directory
	"pwdAccountLockedTime", // password policy of OpenLDAP
	"nsAccountLock",        // 389 Directory Server, FreeIPA
}

// entry is a person's entry as far as it is used.
type entry struct {
	dn, subject, key      string // key is the attribute that subject is of
	username, email, name string
	memberOf              []string
	raw                   *goldap.Entry
	// fault is why the entry is of no use. It is told only to somebody who has
	// the password, as everything about an entry.
	fault error
}

// attributes is the fixed list that is asked for: never "*", which would also
// fetch password hashes that are kept under other names.
func (c *Connector) attributes() []string {
	out := []string{entryUUID, objectGUID, "memberOf"}
	out = append(out, stateAttributes...)
	if c.cfg.isAD() {
		out = append(out, primaryGroupID, objectSID, passwordEnds)
	}
	for _, a := range []string{c.cfg.Attributes.Username, c.cfg.Attributes.Email, c.cfg.Attributes.DisplayName} {
		if !slices.ContainsFunc(out, func(b string) bool { return strings.EqualFold(a, b) }) {
			out = append(out, a)
		}
	}
	return out
}

// entry takes what is used from the directory's answer. Values are the
// directory's word and, often, the person's own: they are bounded and cleaned.
func (c *Connector) entry(raw *goldap.Entry) *entry {
	e := &entry{
		dn: raw.DN, raw: raw,
		username: text(raw, c.cfg.Attributes.Username, maxName),
		email:    text(raw, c.cfg.Attributes.Email, 320),
		name:     text(raw, c.cfg.Attributes.DisplayName, maxName),
		memberOf: raw.GetEqualFoldAttributeValues("memberOf"),
	}
	e.key, e.subject, e.fault = subject(raw)
	if e.username == "" {
		e.fault = fmt.Errorf("ldap: the entry has no usable %s, which attributes.username wants", c.cfg.Attributes.Username)
	}
	return e
}

// bindable reports whether a bind as the name says anything: as the empty name
// it would be anonymous, and succeed with any password.
func bindable(dn string) bool {
	_, err := dnKey(dn)
	return err == nil
}

// text returns the first value that can be shown, without spaces around it, or "".
func text(e *goldap.Entry, attribute string, limit int) string {
	for _, v := range e.GetEqualFoldAttributeValues(attribute) {
		if v = strings.TrimSpace(v); v != "" && len(v) <= limit && printable(v) {
			return v
		}
	}
	return ""
}

var uuidText = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// subject returns the unchanging id and the attribute that it is of. There is
// no other: names can be given to somebody else, and the account with them.
func subject(e *goldap.Entry) (key, id string, err error) {
	if vs := e.GetEqualFoldRawAttributeValues(entryUUID); len(vs) == 1 {
		if id = strings.ToLower(string(vs[0])); uuidText.MatchString(id) {
			return entryUUID, id, nil
		}
	}
	if vs := e.GetEqualFoldRawAttributeValues(objectGUID); len(vs) == 1 && len(vs[0]) == 16 {
		return objectGUID, formatGUID([16]byte(vs[0])), nil
	}
	return "", "", errors.New("ldap: the entry has neither entryUUID nor objectGUID that bind_dn may read")
}

// swapGUID turns the order of a GUID's bytes into that of its text, and back:
// the first three fields are little-endian in the directory.
func swapGUID(b [16]byte) [16]byte {
	return [16]byte{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6], b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]}
}

func formatGUID(raw [16]byte) string {
	b := swapGUID(raw)
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// subjectFilter returns the filter that finds an entry by its unchanging id.
func subjectFilter(key, id string) (string, error) {
	if !uuidText.MatchString(id) {
		return "", errors.New("the subject is not one of this connector's")
	}
	switch key {
	case entryUUID:
		return "(" + entryUUID + "=" + id + ")", nil
	case objectGUID:
		b, err := hex.DecodeString(strings.ReplaceAll(id, "-", ""))
		if err != nil {
			return "", err
		}
		raw := swapGUID([16]byte(b))
		var f strings.Builder
		for _, x := range raw {
			fmt.Fprintf(&f, `\%02x`, x)
		}
		return "(" + objectGUID + "=" + f.String() + ")", nil
	}
	return "", errors.New("the renewal is not one of this connector's")
}

// Bits of userAccountControl.
const (
	uacDisabled    = 0x2
	uacLocked      = 0x10
	uacNeverExpire = 0x10000
)

// state returns why the account may not be used, or "". Directories refuse the
// bind of such accounts themselves, mostly; between two sign-ins nobody binds,
// and Renew has only this.
func (e *entry) state(now time.Time) string {
	number := func(attribute string) (int64, bool) {
		n, err := strconv.ParseInt(e.raw.GetEqualFoldAttributeValue(attribute), 10, 64)
		return n, err == nil
	}
	uac, _ := number("userAccountControl")
	computed, _ := number("msDS-User-Account-Control-Computed")
	switch {
	case uac&uacDisabled != 0,
		strings.EqualFold(e.raw.GetEqualFoldAttributeValue("nsAccountLock"), "true"),
		// This time means "until somebody unlocks it".
		e.raw.GetEqualFoldAttributeValue("pwdAccountLockedTime") == "000001010000Z":
		return codeDisabled
	}
	if ticks, ok := number("accountExpires"); ok && ticks > 0 && ticks < 1<<62 && !now.Before(windowsTime(ticks)) {
		return codeAccountExpired
	}
	if set, ok := number("pwdLastSet"); ok && set == 0 && uac&uacNeverExpire == 0 {
		return codeMustChange
	}
	if (uac|computed)&uacLocked != 0 {
		return codeLocked
	}
	return ""
}

// windowsTime turns ticks of 100 ns since 1601 into a time.
func windowsTime(ticks int64) time.Time {
	const toUnix = 11644473600 // seconds from 1601 to 1970
	return time.Unix(ticks/1e7-toUnix, ticks%1e7*100)
}
