package objectstore

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/web"
)

const (
	awsRole   = "arn:aws:iam::123456789012:role/users"
	minioRole = "arn:minio:iam:::role/nOybJqMNzNmroqEKq5D0EUsRZw0"
	ossRole   = "acs:ram::1234567890123456:role/users"
	ossIDP    = "acs:ram::1234567890123456:oidc-provider/gatehouse"
	cosRole   = "qcs::cam::uin/100000000001:roleName/users-{user.id}"
)

// What an offer may say, and what is an error when the server starts.
func TestCredentialsProblems(t *testing.T) {
	for name, c := range map[string]struct {
		c    Credentials
		rule string // of the one complaint; "" for none
	}{
		"amazon":            {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole}, ""},
		"amazon in China":   {Credentials{Name: "a", Provider: "s3", RoleARN: "arn:aws-cn:iam::123456789012:role/path/users"}, ""},
		"ceph":              {Credentials{Name: "a", Provider: "s3", RoleARN: "arn:aws:iam:::role/users"}, ""},
		"a role per person": {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole + "-{user.id}"}, ""},
		"minio":             {Credentials{Name: "a", Provider: "minio", RoleARN: minioRole, TTL: 15 * time.Minute, Access: []Access{Read, Delete}, Direct: true}, ""},
		"alibaba":           {Credentials{Name: "a", Provider: "oss", RoleARN: ossRole, OIDCProvider: ossIDP, Prefix: "a/{user.id}/b/"}, ""},
		"tencent":           {Credentials{Name: "a", Provider: "cos", RoleARN: cosRole, OIDCProvider: "gatehouse"}, ""},
		"tencent, shared":   {Credentials{Name: "a", Provider: "cos", RoleARN: "qcs::cam::uin/1:roleName/all", OIDCProvider: "gatehouse", Prefix: "public/"}, ""},
		"a private service": {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, STSEndpoint: "http://10.0.0.1:9000/sts"}, ""},
		"in clear":          {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, STSEndpoint: "http://sts.example.com"}, "clear"},

		"no name":              {Credentials{Provider: "s3", RoleARN: awsRole}, "name"},
		"odd name":             {Credentials{Name: "a b", Provider: "s3", RoleARN: awsRole}, "name"},
		"no provider":          {Credentials{Name: "a"}, "provider"},
		"no role":              {Credentials{Name: "a", Provider: "s3"}, "role"},
		"a user's arn":         {Credentials{Name: "a", Provider: "s3", RoleARN: "arn:aws:iam::123456789012:user/users"}, "role"},
		"another's role":       {Credentials{Name: "a", Provider: "oss", RoleARN: awsRole, OIDCProvider: ossIDP}, "role"},
		"two lines of a role":  {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole + "\nx"}, "role"},
		"one role on tencent":  {Credentials{Name: "a", Provider: "cos", RoleARN: "qcs::cam::uin/1:roleName/all", OIDCProvider: "gatehouse"}, "role"},
		"access on tencent":    {Credentials{Name: "a", Provider: "cos", RoleARN: cosRole, OIDCProvider: "gatehouse", Access: []Access{Read}}, "access"},
		"no provider at oss":   {Credentials{Name: "a", Provider: "oss", RoleARN: ossRole}, "oidc_provider"},
		"no provider at cos":   {Credentials{Name: "a", Provider: "cos", RoleARN: cosRole}, "oidc_provider"},
		"a provider at amazon": {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, OIDCProvider: "x"}, "oidc_provider"},
		"no slash":             {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users/{user.id}"}, "prefix"},
		"up":                   {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users/../{user.id}/"}, "prefix"},
		"a dot":                {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "./{user.id}/"}, "prefix"},
		"two slashes":          {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users//{user.id}/"}, "prefix"},
		"a slash before":       {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "/{user.id}/"}, "prefix"},
		"the whole bucket":     {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "/"}, "prefix"},
		"a wildcard":           {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users/*/"}, "prefix"},
		"a policy's variable":  {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users/${aws:userid}/"}, "prefix"},
		"another placeholder":  {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users/{user.email}/"}, "prefix"},
		"an encoded slash":     {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: "users%2f{user.id}/"}, "prefix"},
		"a long prefix":        {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Prefix: strings.Repeat("a/", 200)}, "prefix"},
		"odd access":           {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Access: []Access{"all"}}, "access"},
		"two hours":            {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, TTL: 2 * time.Hour}, "ttl"},
		"a minute":             {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, TTL: time.Minute}, "ttl"},
		"before it begins":     {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, TTL: -time.Hour}, "ttl"},
		"two audiences":        {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, Audience: "a b"}, "audience"},
		"no URL":               {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, STSEndpoint: "sts.example.com"}, "sts_endpoint"},
		"a query":              {Credentials{Name: "a", Provider: "s3", RoleARN: awsRole, STSEndpoint: "https://sts.example.com/?Action=x"}, "sts_endpoint"},
	} {
		var rules []string
		for _, p := range c.c.Problems() {
			rules = append(rules, strings.TrimPrefix(p.Rule, "storage_credentials."))
		}
		if got := strings.Join(slices.Compact(rules), " "); got != c.rule {
			t.Errorf("%s: %q, want %q", name, got, c.rule)
		}
	}
}

var noon = time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)

func lender(t *testing.T, c Credentials, b BucketConfig, timeout time.Duration) *Lender {
	t.Helper()
	l, err := OpenLender(c, b, LenderEnv{
		Env: Env{Now: func() time.Time { return noon }, HTTP: func(_, _ string, trusted ...string) (*http.Client, error) {
			return web.NewClient(web.FetchConfig{AllowHosts: trusted, Timeout: timeout})
		}},
		Sign: func(_ context.Context, audience, subject string, life time.Duration) (string, error) {
			return strings.Join([]string{audience, subject, life.String()}, "|"), nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Whom the vendors' documents say to ask, and the partition of a role.
func TestTokenServices(t *testing.T) {
	for _, c := range []struct {
		c                 Credentials
		b                 BucketConfig
		at, service, list string
	}{
		{Credentials{Provider: "s3", RoleARN: awsRole}, BucketConfig{Endpoint: "s3.amazonaws.com", Region: "eu-west-1", Bucket: "b"}, "https://sts.eu-west-1.amazonaws.com/", "s3", `"arn:aws:s3:::b"`},
		{Credentials{Provider: "s3", RoleARN: "arn:aws-cn:iam::1:role/a"}, BucketConfig{Endpoint: "s3.cn-north-1.amazonaws.com.cn", Bucket: "b"}, "https://sts.cn-north-1.amazonaws.com.cn/", "s3", `"arn:aws-cn:s3:::b"`},
		{Credentials{Provider: "s3", RoleARN: "arn:aws:iam:::role/a"}, BucketConfig{Endpoint: "https://ceph.example.com", Bucket: "b"}, "https://ceph.example.com/", "https://ceph.example.com", `"arn:aws:s3:::b"`},
		{Credentials{Provider: "minio", RoleARN: minioRole}, BucketConfig{Endpoint: "http://127.0.0.1:9000", Bucket: "b"}, "http://127.0.0.1:9000/", "http://127.0.0.1:9000", `"arn:aws:s3:::b"`},
		{Credentials{Provider: "oss", RoleARN: ossRole, OIDCProvider: ossIDP}, BucketConfig{Endpoint: "oss-cn-beijing.aliyuncs.com", Bucket: "b"}, "https://sts.aliyuncs.com/", "oss", `"acs:oss:*:*:b"`},
		{Credentials{Provider: "oss", RoleARN: ossRole, OIDCProvider: ossIDP, STSEndpoint: "https://sts-vpc.cn-beijing.aliyuncs.com"}, BucketConfig{Endpoint: "oss-cn-beijing.aliyuncs.com", Bucket: "b"}, "https://sts-vpc.cn-beijing.aliyuncs.com/", "oss", `"acs:oss:*:*:b"`},
		{Credentials{Provider: "cos", RoleARN: cosRole, OIDCProvider: "g"}, BucketConfig{Endpoint: "cos.ap-beijing.myqcloud.com", Bucket: "b-1250000000"}, "https://sts.tencentcloudapi.com/", "cos", ""},
	} {
		c.c.Name = "a"
		l := lender(t, c.c, c.b, time.Second)
		if got := l.endpoint.String(); got != c.at || c.c.Service(c.b) != c.service {
			t.Errorf("%s is lent by %s, known as %s", c.b.Endpoint, got, c.c.Service(c.b))
		}
		if p, err := l.sessionPolicy("users/x/"); err != nil || !strings.Contains(p, c.list) || (p == "") != (c.list == "") {
			t.Errorf("%s: policy %s %v", c.b.Endpoint, p, err)
		}
	}
}

// What is lent is what access says, under the prefix alone; the longest fits.
func TestSessionPolicy(t *testing.T) {
	long := strings.Repeat("a", 117) + "/{user.id}/" + strings.Repeat("b", 120) + "/"
	for _, kind := range []Credentials{{Provider: "s3", RoleARN: awsRole}, {Provider: "oss", RoleARN: ossRole, OIDCProvider: ossIDP}} {
		kind.Name = "a"
		endpoint := map[string]string{"s3": "s3.eu-west-1.amazonaws.com", "oss": "oss-cn-beijing.aliyuncs.com"}[kind.Provider]
		for _, c := range []struct {
			access []Access
			has    []string
			hasNot []string
		}{
			{[]Access{Read, Write}, []string{":GetObject", ":PutObject", ":List", "AbortMultipartUpload"}, []string{"Delete"}},
			{[]Access{Read}, []string{":GetObject", ":List"}, []string{"Put", "Delete", "Multipart"}},
			{[]Access{Write}, []string{":PutObject"}, []string{"GetObject", "ListBucket\"", "ListObjects", "Delete"}},
			{[]Access{Read, Write, Delete}, []string{":GetObject", ":PutObject", ":DeleteObject", ":List"}, nil},
		} {
			kind.Access, kind.Prefix = c.access, long
			l := lender(t, kind, BucketConfig{Endpoint: endpoint, Bucket: strings.Repeat("b", 63)}, time.Second)
			p, err := l.sessionPolicy(l.For(l.Prefix, strings.Repeat("i", 128)))
			if err != nil || len(p) > 2048 {
				t.Fatalf("%d characters, %v", len(p), err)
			}
			if under := `refix":["` + l.For(l.Prefix, strings.Repeat("i", 128)) + `*"]}}`; strings.Contains(p, ":List") && c.access[0] == Read && !strings.Contains(p, under) {
				t.Errorf("lists more than the prefix: %s", p)
			}
			for _, s := range c.has {
				if !strings.Contains(p, s) {
					t.Errorf("%v lacks %s: %s", c.access, s, p)
				}
			}
			for _, s := range append(c.hasNot, "Acl", "ListMultipartUploads", "Bucket*", `:*"`) {
				if strings.Contains(p, s) {
					t.Errorf("%v has %s: %s", c.access, s, p)
				}
			}
		}
	}
}

// Nobody's id is more than one step of the prefix.
func TestLendAccounts(t *testing.T) {
	l := lender(t, Credentials{Name: "a", Provider: "minio", RoleARN: minioRole, STSEndpoint: "http://127.0.0.1:1"}, BucketConfig{Endpoint: "minio.example.com", Bucket: "b"}, time.Second)
	for _, id := range []string{"", ".", "..", "../x", "a/b", "a%2fb", "a*", "a?", "a b", "${aws:userid}", "{user.id}", "a\n", "ä", "-a", strings.Repeat("a", 129)} {
		if _, err := l.Lend(t.Context(), id); !errors.Is(err, ErrAccount) {
			t.Errorf("%q: %v", id, err)
		}
		if _, _, err := l.Token(t.Context(), id); !errors.Is(err, ErrAccount) {
			t.Errorf("a token for %q: %v", id, err)
		}
	}
	var e *LendError
	if _, err := l.Lend(t.Context(), "acme-deployer"); !errors.As(err, &e) || !e.Unavailable {
		t.Errorf("%v", err)
	}
	if tok, until, err := l.Token(t.Context(), "acme-deployer"); tok != "minio|acme-deployer|10m0s" || !until.Equal(noon.Add(TokenLife)) || err != nil {
		t.Errorf("%s %s %v", tok, until, err)
	}
}

// A service that never answers is given up; who asked and went away does not keep
// the others from an answer.
func TestLendSlowly(t *testing.T) {
	hold := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-hold:
		case <-r.Context().Done():
		}
	}))
	defer slow.Close()
	defer close(hold)
	l := lender(t, Credentials{Name: "a", Provider: "minio", RoleARN: minioRole}, BucketConfig{Endpoint: slow.URL, Bucket: "b"}, 200*time.Millisecond)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Lend(gone, "x"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	var e *LendError
	if _, err := l.Lend(t.Context(), "x"); !errors.As(err, &e) || !e.Unavailable || strings.Contains(err.Error(), "Action") {
		t.Errorf("%v", err)
	}
}

// Check tells a token service from what is none, and one that lends to anybody.
func TestLenderCheck(t *testing.T) {
	amazon := func(status int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.FormValue("WebIdentityToken") != "e30.e30.e30" {
				t.Errorf("asked with %q", r.FormValue("WebIdentityToken"))
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
	}
	refusal := func(code, message string) string {
		return `<ErrorResponse><Error><Code>` + code + `</Code><Message>` + message + `</Message></Error></ErrorResponse>`
	}
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want string // in the error; "" is fine
	}{
		"fine":             {amazon(400, refusal("InvalidParameterValue", "Invalid kid value")), ""},
		"no such role":     {amazon(400, refusal("InvalidParameterValue", "Error processing RoleArn parameter: not found")), "correct role_arn"},
		"starting":         {amazon(503, refusal("STSNotInitialized", "")), "is starting"},
		"a store alone":    {amazon(405, `<Error><Code>MethodNotAllowed</Code></Error>`), "without a token service"},
		"something else":   {amazon(404, "not found"), "none of a token service"},
		"lends to anybody": {amazon(200, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>a</AccessKeyId><Expiration>2026-11-26T13:00:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`), "whoever can reach it has the bucket"},
	} {
		srv := httptest.NewServer(c.h)
		l := lender(t, Credentials{Name: "a", Provider: "minio", RoleARN: minioRole}, BucketConfig{Endpoint: srv.URL, Bucket: "b"}, 5*time.Second)
		said, err := l.Check(t.Context())
		if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q %v", name, said, err)
		}
		srv.Close()
	}
}

// FuzzTokenServices: whatever a service says, what is lent is sound or nothing is,
// and its words move no cursor in a log.
func FuzzTokenServices(f *testing.F) {
	f.Add(200, []byte(`<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>a</AccessKeyId><SecretAccessKey>b</SecretAccessKey><SessionToken>c</SessionToken><Expiration>2026-11-26T12:30:00Z</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`))
	f.Add(403, []byte("<ErrorResponse><Error><Code>Access\x1bDenied</Code><Message>no</Message></Error></ErrorResponse>"))
	f.Add(200, []byte(`{"Credentials":{"AccessKeyId":"a","AccessKeySecret":"b","SecurityToken":"c","Expiration":"2026-11-26T12:30:00Z"}}`))
	f.Add(200, []byte(`{"Response":{"Credentials":{"TmpSecretId":"a","TmpSecretKey":"b","Token":"c"},"ExpiredTime":1795696200}}`))
	f.Add(200, []byte(`{"Response":{"Error":{"Code":"x","Message":"y"}}}`))
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		l := &Lender{Credentials: Credentials{Name: "a", TTL: time.Hour}, env: LenderEnv{Env: Env{Now: func() time.Time { return noon }}}}
		for _, read := range []func(int, []byte) (Lent, said, error){readAmazon, readAliyun, readTencent} {
			lent, no, err := read(status, body)
			if text := clip(no.Code + no.Message); strings.ContainsFunc(text, func(c rune) bool { return c < ' ' || c == 0x7f }) {
				t.Errorf("%q", text)
			}
			if err != nil || no.Code != "" || l.sound(lent) != nil {
				continue
			}
			all := lent.AccessKeyID + lent.SecretAccessKey.Reveal() + lent.SessionToken.Reveal()
			if strings.ContainsFunc(all, func(c rune) bool { return c <= ' ' || c > '~' }) || !lent.Expires.After(noon) || lent.Expires.After(noon.Add(2*time.Hour)) {
				t.Errorf("%q until %s", all, lent.Expires)
			}
		}
	})
}
