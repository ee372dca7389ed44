package objectstore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// All three are asked without a signature: the token is the proof.

func (l *Lender) seconds() string { return strconv.Itoa(int(l.TTL / time.Second)) }

func (l *Lender) form(ctx context.Context, at string, v url.Values) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(v.Encode()))
	if err == nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	return r, err
}

// askAmazon is AssumeRoleWithWebIdentity of Amazon's STS (API version
// 2011-06-15), which MinIO serves at the root of the store.
func askAmazon(ctx context.Context, l *Lender, q question) (*http.Request, error) {
	r, err := l.form(ctx, l.endpoint.String(), url.Values{
		"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {q.role}, "RoleSessionName": {q.session},
		"WebIdentityToken": {q.token}, "DurationSeconds": {l.seconds()}, "Policy": {q.policy},
	})
	if err == nil {
		r.Header.Set("Accept", "application/xml")
	}
	return r, err
}

func readAmazon(_ int, body []byte) (Lent, said, error) {
	// Both documents by their members: whichever it is, the other's are empty.
	// Entities that a document declares are an error of encoding/xml.
	var a struct {
		XMLName xml.Name
		Result  struct {
			Credentials struct{ AccessKeyId, SecretAccessKey, SessionToken, Expiration string }
		} `xml:"AssumeRoleWithWebIdentityResult"`
		Error   said
		Code    string
		Message string
	}
	if err := xml.Unmarshal(body, &a); err != nil {
		return Lent{}, said{}, fmt.Errorf("no XML: %w", err)
	}
	switch a.XMLName.Local {
	case "ErrorResponse":
		return Lent{}, said{a.Error.Code, a.Error.Message}, nil
	case "Error": // of the store itself: S3's own form
		return Lent{}, said{a.Code, a.Message}, nil
	case "AssumeRoleWithWebIdentityResponse":
	default:
		return Lent{}, said{}, fmt.Errorf("an element %q", clip(a.XMLName.Local))
	}
	c := a.Result.Credentials
	return lentUntil(c.AccessKeyId, c.SecretAccessKey, c.SessionToken, c.Expiration)
}

// lentUntil makes credentials of an answer whose time is of RFC 3339.
func lentUntil(id, secret, token, until string) (Lent, said, error) {
	at, err := time.Parse(time.RFC3339, until)
	if err != nil {
		return Lent{}, said{}, errors.New("the time in Expiration is none")
	}
	return Lent{AccessKeyID: id, SecretAccessKey: redact.String(secret), SessionToken: redact.String(token), Expires: at.UTC()}, said{}, nil
}

// askAliyun is AssumeRoleWithOIDC of Alibaba Cloud's STS (API version 2015-04-01).
func askAliyun(ctx context.Context, l *Lender, q question) (*http.Request, error) {
	u := *l.endpoint
	u.RawQuery = url.Values{
		"Action": {"AssumeRoleWithOIDC"}, "Version": {"2015-04-01"}, "Format": {"JSON"},
		"Timestamp": {l.env.Now().UTC().Format("2006-01-02T15:04:05Z")}, "SignatureNonce": {rand.Text()},
	}.Encode()
	r, err := l.form(ctx, u.String(), url.Values{
		"RoleArn": {q.role}, "OIDCProviderArn": {l.OIDCProvider}, "OIDCToken": {q.token}, "RoleSessionName": {q.session},
		"DurationSeconds": {l.seconds()}, "Policy": {q.policy},
	})
	if err == nil {
		r.Header.Set("Accept", "application/json")
	}
	return r, err
}

func readAliyun(_ int, body []byte) (Lent, said, error) {
	var a struct {
		Code, Message string
		Credentials   struct{ AccessKeyId, AccessKeySecret, SecurityToken, Expiration string }
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return Lent{}, said{}, fmt.Errorf("no JSON: %w", err)
	}
	if a.Code != "" {
		return Lent{}, said{a.Code, a.Message}, nil
	}
	c := a.Credentials
	return lentUntil(c.AccessKeyId, c.AccessKeySecret, c.SecurityToken, c.Expiration)
}

// askTencent is AssumeRoleWithWebIdentity of Tencent Cloud's STS (API version
// 2018-08-13), which takes no policy.
func askTencent(ctx context.Context, l *Lender, q question) (*http.Request, error) {
	body, err := json.Marshal(struct {
		ProviderId       string
		WebIdentityToken string
		RoleArn          string
		RoleSessionName  string
		DurationSeconds  int
	}{l.OIDCProvider, q.token, q.role, q.session, int(l.TTL / time.Second)})
	if err != nil {
		return nil, err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.endpoint.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	for k, v := range map[string]string{
		"Content-Type": "application/json", "Authorization": "SKIP", "X-TC-Action": "AssumeRoleWithWebIdentity", "X-TC-Version": "2018-08-13",
		"X-TC-Region": l.Where.Region, "X-TC-Timestamp": strconv.FormatInt(l.env.Now().Unix(), 10),
	} {
		r.Header.Set(k, v)
	}
	return r, nil
}

// readTencent knows that errors come with 200, too.
func readTencent(_ int, body []byte) (Lent, said, error) {
	var a struct {
		Response *struct {
			Error       *said
			Credentials struct{ TmpSecretId, TmpSecretKey, Token string }
			ExpiredTime int64
		}
	}
	if err := json.Unmarshal(body, &a); err != nil {
		return Lent{}, said{}, fmt.Errorf("no JSON: %w", err)
	}
	switch {
	case a.Response == nil:
		return Lent{}, said{}, errors.New("no member Response")
	case a.Response.Error != nil && a.Response.Error.Code != "":
		return Lent{}, said{a.Response.Error.Code, a.Response.Error.Message}, nil
	case a.Response.Error != nil:
		return Lent{}, said{}, errors.New("an Error without a Code")
	}
	c := a.Response.Credentials
	return Lent{AccessKeyID: c.TmpSecretId, SecretAccessKey: redact.String(c.TmpSecretKey), SessionToken: redact.String(c.Token), Expires: time.Unix(a.Response.ExpiredTime, 0).UTC()}, said{}, nil
}
