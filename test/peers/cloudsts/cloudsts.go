// Package cloudsts stands in for the token services of Amazon, Alibaba Cloud and
// Tencent Cloud, which tests cannot reach. It lends as their documents say:
// against a token of an issuer that it trusts, whose signature it checks by the
// issuer's JWKS, for a role whose trust policy names aud. It was never compared
// with the vendors' own services.
package cloudsts

import (
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Service is one vendor's token service with one role.
type Service struct {
	// Vendor is aws, aliyun or tencent.
	Vendor string
	// Issuer is trusted for Audience; its keys are fetched each time.
	Issuer, Audience string
	// Provider is what the vendor calls the issuer; of aliyun and tencent.
	Provider string
	// Role begins the roles that there are.
	Role string
	Now  func() time.Time
	// Instead, if set, answers in place of the service.
	Instead http.Handler

	mu   sync.Mutex
	seen []Request
}

// Request is what was asked, and for whom the token was.
type Request struct {
	Params  url.Values // of query, form or JSON
	Header  http.Header
	Subject string
	Claims  map[string]any
}

// Requests are those that came so far.
func (s *Service) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.seen...)
}

// Set changes who answers.
func (s *Service) Set(h http.Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Instead = h
}

type refusal struct{ code, message string }

func (r refusal) Error() string { return r.code + ": " + r.message }

// ServeHTTP lends, or says why not.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	q := Request{Header: r.Header, Params: r.URL.Query()}
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err == nil {
		err = q.read(r, body)
	}
	var until time.Time
	if err == nil {
		until, err = s.judge(r, &q)
	}
	s.mu.Lock()
	s.seen = append(s.seen, q)
	instead, n := s.Instead, len(s.seen)
	s.mu.Unlock()
	if instead != nil {
		instead.ServeHTTP(w, r)
		return
	}
	s.answer(w, err, until, n)
}

// read takes the parameters of query, form or JSON.
func (q *Request) read(r *http.Request, body []byte) error {
	switch r.Header.Get("Content-Type") {
	case "application/x-www-form-urlencoded":
		v, err := url.ParseQuery(string(body))
		for k, vs := range v {
			q.Params[k] = append(q.Params[k], vs...)
		}
		return err
	case "application/json":
		var m map[string]any
		d := json.NewDecoder(strings.NewReader(string(body)))
		d.UseNumber()
		if err := d.Decode(&m); err != nil {
			return err
		}
		for k, v := range m {
			q.Params.Add(k, fmt.Sprint(v))
		}
		return nil
	}
	return refusal{"InvalidParameter", "no such content type"}
}

// judge checks the request as the vendor's documents describe it.
func (s *Service) judge(r *http.Request, q *Request) (until time.Time, err error) {
	want := map[string][2]string{ // action and version
		"aws": {"AssumeRoleWithWebIdentity", "2011-06-15"}, "aliyun": {"AssumeRoleWithOIDC", "2015-04-01"}, "tencent": {"AssumeRoleWithWebIdentity", "2018-08-13"},
	}[s.Vendor]
	action, version, field := q.Params.Get("Action"), q.Params.Get("Version"), "WebIdentityToken"
	switch s.Vendor {
	case "aliyun":
		field = "OIDCToken"
		at, err := time.Parse("2006-01-02T15:04:05Z", q.Params.Get("Timestamp"))
		if err != nil || q.Params.Get("Format") != "JSON" || q.Params.Get("SignatureNonce") == "" || s.Now().Sub(at).Abs() > 15*time.Minute {
			return until, refusal{"InvalidTimeStamp.Format", "Timestamp, Format or SignatureNonce"}
		}
		if q.Params.Get("OIDCProviderArn") != s.Provider {
			return until, refusal{"EntityNotExist.OIDCProvider", "The OIDC provider does not exist."}
		}
	case "tencent":
		action, version = r.Header.Get("X-Tc-Action"), r.Header.Get("X-Tc-Version")
		at, err := strconv.ParseInt(r.Header.Get("X-Tc-Timestamp"), 10, 64)
		if err != nil || r.Header.Get("Authorization") != "SKIP" || r.Header.Get("X-Tc-Region") == "" || s.Now().Sub(time.Unix(at, 0)).Abs() > 5*time.Minute {
			return until, refusal{"AuthFailure.SignatureExpire", "X-TC-Timestamp, X-TC-Region or Authorization"}
		}
		if q.Params.Get("ProviderId") != s.Provider {
			return until, refusal{"InvalidParameter.IdpNotExist", "no such provider"}
		}
		if q.Params.Has("Policy") {
			return until, refusal{"UnknownParameter", "The parameter `Policy` is not recognized."}
		}
	}
	if r.Method != http.MethodPost || action != want[0] || version != want[1] {
		return until, refusal{"InvalidAction", action + " " + version}
	}
	if policy := q.Params.Get("Policy"); s.Vendor != "tencent" && (len(policy) > 2048 || !json.Valid([]byte(policy))) {
		return until, refusal{"MalformedPolicyDocument", "Policy"}
	}
	if name := q.Params.Get("RoleSessionName"); len(name) < 2 || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+=,.@-") != "" {
		return until, refusal{"ValidationError", "RoleSessionName"}
	}
	if !strings.HasPrefix(q.Params.Get("RoleArn"), s.Role) {
		return until, refusal{"EntityNotExist.Role", "The specified role does not exist."}
	}
	secs, err := strconv.Atoi(q.Params.Get("DurationSeconds"))
	if err != nil || secs < 900 || secs > 3600 {
		return until, refusal{"ValidationError", "DurationSeconds"}
	}
	if q.Claims, err = s.verify(r, q.Params.Get(field)); err != nil {
		return until, refusal{"InvalidIdentityToken", err.Error()}
	}
	q.Subject, _ = q.Claims["sub"].(string)
	return s.Now().Add(time.Duration(secs) * time.Second), nil
}

// verify checks a token as the vendors do, and besides what they leave to us: one
// string as aud, RS256, a short life.
func (s *Service) verify(r *http.Request, raw string) (map[string]any, error) {
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return nil, errors.New("no JWT")
	}
	var head struct{ Alg, Kid, Typ string }
	var claims map[string]any
	for i, into := range []any{&head, &claims} {
		js, err := base64.RawURLEncoding.DecodeString(parts[i])
		if err != nil {
			return nil, err
		}
		if err := json.Unmarshal(js, into); err != nil {
			return nil, err
		}
	}
	key, err := s.key(r, head.Kid)
	if err != nil {
		return nil, err
	}
	sig, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	if err := rsa.VerifyPKCS1v15(key, crypto.SHA256, sum[:], sig); err != nil || head.Alg != "RS256" {
		return nil, fmt.Errorf("signature: %w", err)
	}
	iat, _ := claims["iat"].(float64)
	exp, _ := claims["exp"].(float64)
	now := float64(s.Now().Unix())
	switch {
	case claims["iss"] != s.Issuer:
		return nil, fmt.Errorf("iss %v", claims["iss"])
	case claims["aud"] != s.Audience: // as a list it is none, too
		return nil, fmt.Errorf("aud %v", claims["aud"])
	case exp <= now || iat > now+5 || exp-iat < 300 || exp-iat > 900:
		return nil, fmt.Errorf("iat %v, exp %v", iat, exp)
	case head.Typ == "JWT" || head.Typ == "at+jwt" || head.Typ == "":
		return nil, fmt.Errorf("typ %q could be taken for another token", head.Typ)
	}
	return claims, nil
}

// key finds a key of the issuer by discovery.
func (s *Service) key(r *http.Request, kid string) (*rsa.PublicKey, error) {
	var meta struct {
		Issuer string
		JWKS   string `json:"jwks_uri"`
	}
	if err := fetch(r, s.Issuer+"/.well-known/openid-configuration", &meta); err != nil {
		return nil, err
	}
	var set struct {
		Keys []struct{ Kty, Kid, N, E string }
	}
	if err := fetch(r, meta.JWKS, &set); err != nil {
		return nil, err
	}
	for _, k := range set.Keys {
		if k.Kid != kid || kid == "" || k.Kty != "RSA" || meta.Issuer != s.Issuer {
			continue
		}
		n, err := base64.RawURLEncoding.DecodeString(k.N)
		if err != nil {
			return nil, err
		}
		e, err := base64.RawURLEncoding.DecodeString(k.E)
		if err != nil {
			return nil, err
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(new(big.Int).SetBytes(e).Int64())}, nil
	}
	return nil, fmt.Errorf("no RSA key %q", kid)
}

func fetch(r *http.Request, at string, into any) error {
	q, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(q)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(into)
}

// answer writes what the vendor would: credentials that name how many were lent.
func (s *Service) answer(w http.ResponseWriter, err error, until time.Time, n int) {
	no := refusal{"InvalidParameter", fmt.Sprint(err)}
	errors.As(err, &no)
	id, secret, tok := fmt.Sprintf("ID%08d", n), fmt.Sprintf("secret/%d+==", n), fmt.Sprintf("session/token+%d==", n)
	js := func(status int, v any) {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(v)
	}
	type m = map[string]any
	stamp := until.UTC().Format(time.RFC3339)
	switch {
	case s.Vendor == "aliyun" && err != nil:
		js(http.StatusBadRequest, m{"RequestId": "1", "HostId": "sts.aliyuncs.com", "Code": no.code, "Message": no.message})
	case s.Vendor == "aliyun":
		js(http.StatusOK, m{"RequestId": "1", "OIDCTokenInfo": m{"Issuer": s.Issuer}, "AssumedRoleUser": m{"Arn": "a", "AssumedRoleId": "1:x"},
			"Credentials": m{"AccessKeyId": "STS." + id, "AccessKeySecret": secret, "SecurityToken": tok, "Expiration": stamp}})
	case s.Vendor == "tencent" && err != nil:
		js(http.StatusOK, m{"Response": m{"RequestId": "1", "Error": m{"Code": no.code, "Message": no.message}}})
	case s.Vendor == "tencent":
		js(http.StatusOK, m{"Response": m{"RequestId": "1", "ExpiredTime": until.Unix(), "Expiration": stamp, "Credentials": m{"TmpSecretId": "AKID" + id, "TmpSecretKey": secret, "Token": tok}}})
	case err != nil:
		w.Header().Set("Content-Type", "text/xml")
		w.WriteHeader(http.StatusBadRequest)
		var text strings.Builder
		_ = xml.EscapeText(&text, []byte(no.message))
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, no.code, text.String())
	default:
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>`+
			`<SubjectFromWebIdentityToken>x</SubjectFromWebIdentityToken><AssumedRoleUser><Arn>a</Arn><AssumedRoleId>b</AssumedRoleId></AssumedRoleUser>`+
			`<Credentials><SessionToken>%s</SessionToken><SecretAccessKey>%s</SecretAccessKey><Expiration>%s</Expiration><AccessKeyId>ASIA%s</AccessKeyId></Credentials>`+
			`<Provider>p</Provider><Audience>%s</Audience></AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>`, tok, secret, stamp, id, s.Audience)
	}
}
