package broker_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/test/peers/cloudsts"
)

// clouds are the vendors' token services, and a broker that lends by them.
type clouds struct {
	*harness
	aws, oss, cos *cloudsts.Service
	urls          map[*cloudsts.Service]string
	log           *watchedStore
}

func lending(t *testing.T, more string) *clouds {
	t.Helper()
	c := &clouds{log: &watchedStore{}, urls: map[*cloudsts.Service]string{}}
	now := func() time.Time { return c.now() }
	c.aws = &cloudsts.Service{Vendor: "aws", Audience: "sts.amazonaws.com", Role: "arn:aws:iam::123456789012:role/gatehouse-users", Now: now}
	c.oss = &cloudsts.Service{Vendor: "aliyun", Audience: "sts.aliyuncs.com", Role: "acs:ram::1234567890123456:role/gatehouse-users", Provider: "acs:ram::1234567890123456:oidc-provider/gatehouse", Now: now}
	c.cos = &cloudsts.Service{Vendor: "tencent", Audience: "sts.tencentcloudapi.com", Role: "qcs::cam::uin/100000000001:roleName/gatehouse-", Provider: "gatehouse", Now: now}
	for _, s := range []*cloudsts.Service{c.aws, c.oss, c.cos} {
		srv := httptest.NewServer(s)
		t.Cleanup(srv.Close)
		c.urls[s] = srv.URL
	}
	c.harness = startWith(t, &harness{wrap: c.log.watch, yaml: fmt.Sprintf(`
s3: {endpoint: s3.eu-central-1.amazonaws.com, bucket: acme-data}
oss: {endpoint: oss-cn-hangzhou.aliyuncs.com, bucket: acme-data}
cos: {endpoint: cos.ap-guangzhou.myqcloud.com, bucket: acme-data-1250000000}
service_accounts: [{name: acme-trainer, groups: [trainers]}]
storage_credentials:
  - {name: datasets, provider: s3, role_arn: %q, sts_endpoint: %q, ttl: 30m, direct: true, allow: '"gpu-users" in user.groups || session.kind == "api_key" || "trainers" in user.groups'}
  - {name: hangzhou, provider: oss, role_arn: %q, oidc_provider: %q, sts_endpoint: %q, access: [read], prefix: "home/{user.id}/", allow: 'user.kind == "user" && user.email.endsWith("@example.com") && session.kind != "api_key"'}
  - {name: guangzhou, provider: cos, role_arn: "qcs::cam::uin/100000000001:roleName/gatehouse-{user.id}", oidc_provider: gatehouse, sts_endpoint: %q, allow: 'client.id == "gatehouse-cli"'}
%s`, c.aws.Role, c.urls[c.aws], c.oss.Role, c.oss.Provider, c.urls[c.oss], c.urls[c.cos], more)})
	for s := range c.urls {
		s.Issuer = c.URL
	}
	return c
}

func one(t *testing.T, s *cloudsts.Service, i int) cloudsts.Request {
	t.Helper()
	all := s.Requests()
	if len(all) != i+1 {
		t.Fatalf("%s was asked %d times, not %d", s.Vendor, len(all), i+1)
	}
	return all[i]
}

// What each vendor is asked is in its form, with a policy for the caller's own
// prefix; what it lends comes back in one form, and is recorded.
func TestStorageCredentials(t *testing.T) {
	t.Parallel()
	c := lending(t, "")
	b := c.browser()
	b.enter("demo", "demo")
	me := c.userID("demo")
	tok := b.cli("openid gatehouse:storage")
	for name, w := range map[string]struct {
		s                                    *cloudsts.Service
		id, bucket, region, endpoint, prefix string
		policy, role, secs                   string
	}{
		"datasets": {c.aws, "ASIAID00000001", "acme-data", "eu-central-1", "https://s3.eu-central-1.amazonaws.com", "users/" + me + "/",
			`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject","s3:AbortMultipartUpload","s3:ListMultipartUploadParts"],"Resource":["arn:aws:s3:::acme-data/users/ME/*"]},` +
				`{"Effect":"Allow","Action":["s3:ListBucket"],"Resource":["arn:aws:s3:::acme-data"],"Condition":{"StringLike":{"s3:prefix":["users/ME/*"]}}}]}`, c.aws.Role, "1800"},
		"hangzhou": {c.oss, "STS.ID00000001", "acme-data", "cn-hangzhou", "https://oss-cn-hangzhou.aliyuncs.com", "home/" + me + "/",
			`{"Version":"1","Statement":[{"Effect":"Allow","Action":["oss:GetObject"],"Resource":["acs:oss:*:*:acme-data/home/ME/*"]},` +
				`{"Effect":"Allow","Action":["oss:ListObjects"],"Resource":["acs:oss:*:*:acme-data"],"Condition":{"StringLike":{"oss:Prefix":["home/ME/*"]}}}]}`, c.oss.Role, "3600"},
		"guangzhou": {c.cos, "AKIDID00000001", "acme-data-1250000000", "ap-guangzhou", "https://cos.ap-guangzhou.myqcloud.com", "users/" + me + "/",
			"", c.cos.Role + me, "3600"},
	} {
		a := c.as(tok, "POST", "/api/v1/storage/credentials", `{"name":"`+name+`"}`)
		if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%s: %d %s", name, a.StatusCode, a.Body)
			continue
		}
		v := a.json(t)
		until, err := time.Parse(time.RFC3339, fmt.Sprint(v["expiration"]))
		if left := until.Sub(c.now()); err != nil || left < 29*time.Minute || left > time.Hour {
			t.Errorf("%s: expiration %v %v", name, v["expiration"], err)
		}
		if v["name"] != name || v["access_key_id"] != w.id || v["secret_access_key"] != "secret/1+==" || v["session_token"] != "session/token+1==" ||
			v["bucket"] != w.bucket || v["region"] != w.region || v["endpoint"] != w.endpoint || v["prefix"] != w.prefix {
			t.Errorf("%s: %s", name, a.Body)
		}
		q := one(t, w.s, 0)
		if got, want := q.Params.Get("Policy"), strings.ReplaceAll(w.policy, "ME", me); got != want {
			t.Errorf("%s: policy %s\nwant %s", name, got, want)
		}
		if q.Subject != me || q.Params.Get("RoleArn") != w.role || q.Params.Get("DurationSeconds") != w.secs || q.Params.Get("RoleSessionName") != "gatehouse-"+me {
			t.Errorf("%s: %s for %q", name, q.Params, q.Subject)
		}
		for claim := range q.Claims {
			if !strings.Contains(" iss sub aud iat exp jti ", " "+claim+" ") {
				t.Errorf("%s is told %s", name, claim)
			}
		}
	}
	lent := c.log.named(event.StorageLent)
	if len(lent) != 3 {
		t.Fatalf("%d events", len(lent))
	}
	for _, e := range lent {
		if e.Actor != me || e.Target != me || e.Client != "gatehouse-cli" || e.Details["what"] != "credentials" || e.Details["bucket"] == "" || e.Details["prefix"] == "" || e.Details["key"] == "" {
			t.Errorf("%+v", e)
		}
	}
	if log := c.log.log(); strings.Contains(log, "secret/1") || strings.Contains(log, "session/token") || strings.Contains(log, "eyJ") {
		t.Error("a secret is in the event log")
	}
}

// Whose offers these are is the rule's to say; of the others nothing is told.
func TestStorageOffers(t *testing.T) {
	t.Parallel()
	c := lending(t, "")
	demo, admin := c.browser(), c.browser()
	demo.enter("demo", "demo")
	admin.enter("admin", "admin")
	_, service := c.key("acme-trainer", `{"name":"ci","scopes":["gatehouse:storage"]}`)
	_, blind := c.key("acme-trainer", `{"name":"none","scopes":[]}`)
	key := demo.page("POST", "/api/v1/me/api-keys", `{"name":"mine","scopes":["gatehouse:storage"]}`).json(t)["key"].(string)
	names := func(a answer) string {
		t.Helper()
		var out []string
		items, _ := a.json(t)["items"].([]any)
		for _, i := range items {
			out = append(out, i.(map[string]any)["name"].(string))
		}
		return fmt.Sprint(a.StatusCode, out)
	}
	for who, w := range map[string]struct {
		a    answer
		want string
	}{
		"demo's browser":        {demo.page("GET", "/api/v1/storage/credentials", ""), "200 [datasets hangzhou]"},
		"demo's command line":   {c.as(demo.cli("openid gatehouse:account"), "GET", "/api/v1/storage/credentials", ""), "200 [datasets hangzhou guangzhou]"},
		"demo's API key":        {c.as(key, "GET", "/api/v1/storage/credentials", ""), "200 [datasets]"},
		"admin's browser":       {admin.page("GET", "/api/v1/storage/credentials", ""), "200 [hangzhou]"},
		"a service account":     {c.as(service, "GET", "/api/v1/storage/credentials", ""), "200 [datasets]"},
		"one without the scope": {c.as(blind, "GET", "/api/v1/storage/credentials", ""), "403 []"},
	} {
		if got := names(w.a); got != w.want {
			t.Errorf("%s: %s, want %s", who, got, w.want)
		}
	}
	post := func(a answer) string { return fmt.Sprint(a.StatusCode, " ", a.json(t)["code"]) }
	for what, w := range map[string]struct {
		a    answer
		want string
	}{
		"the only one":          {admin.page("POST", "/api/v1/storage/credentials", `{}`), "200 <nil>"},
		"which of two":          {demo.page("POST", "/api/v1/storage/credentials", `{}`), "422 storage.name"},
		"not for admin":         {admin.page("POST", "/api/v1/storage/credentials", `{"name":"datasets"}`), "422 storage.unknown"},
		"none of that name":     {admin.page("POST", "/api/v1/storage/credentials", `{"name":"nothing"}`), "422 storage.unknown"},
		"a prefix of one's own": {demo.page("POST", "/api/v1/storage/credentials", `{"name":"datasets","prefix":"users/"}`), "400 api.bad_request"},
		"another user":          {demo.page("POST", "/api/v1/storage/credentials", `{"name":"datasets","user":"`+c.userID("admin")+`"}`), "400 api.bad_request"},
		"the operator":          {c.operator("POST", "/api/v1/storage/credentials", `{"name":"datasets"}`), "403 operator"},
		"another site":          {demo.call("POST", "/api/v1/storage/credentials", `{"name":"datasets"}`, "Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"), "403 api.cross_origin"},
		"no JSON":               {demo.call("POST", "/api/v1/storage/credentials", `name=datasets`, "Sec-Fetch-Site", "same-origin", "Content-Type", "application/x-www-form-urlencoded"), "415 api.content_type"},
	} {
		if got := post(w.a); got != w.want {
			t.Errorf("%s: %s, want %s", what, got, w.want)
		}
	}
	// A service account has its own prefix.
	if a := c.as(service, "POST", "/api/v1/storage/credentials", `{}`); a.StatusCode != http.StatusOK || a.json(t)["prefix"] != "users/acme-trainer/" {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	if q := one(t, c.aws, 0); q.Subject != "acme-trainer" || !strings.Contains(q.Params.Get("Policy"), "acme-data/users/acme-trainer/*") {
		t.Errorf("%q %s", q.Subject, q.Params)
	}
	// Who is suspended has none, by whatever they ask.
	if a := c.operator("POST", "/api/v1/users/"+c.userID("demo")+"/suspend", ""); a.StatusCode != http.StatusOK {
		t.Fatal(a.Body)
	}
	for _, a := range []answer{c.as(key, "POST", "/api/v1/storage/credentials", `{}`), demo.page("POST", "/api/v1/storage/credentials", `{"name":"hangzhou"}`)} {
		if a.StatusCode != http.StatusUnauthorized {
			t.Errorf("suspended: %d %s", a.StatusCode, a.Body)
		}
	}
}

// A thousand jobs that start at once are one question to the vendor; nobody gets
// what another was lent.
func TestStorageBursts(t *testing.T) {
	t.Parallel()
	c := lending(t, "")
	b := c.browser()
	b.enter("demo", "demo")
	tok := b.cli("openid gatehouse:storage")
	_, service := c.key("acme-trainer", `{"name":"ci","scopes":["gatehouse:storage"]}`)
	var all sync.WaitGroup
	for range 24 {
		all.Go(func() {
			if a := c.as(tok, "POST", "/api/v1/storage/credentials", `{"name":"datasets"}`); a.StatusCode != http.StatusOK || a.json(t)["access_key_id"] != "ASIAID00000001" {
				t.Errorf("%d %s", a.StatusCode, a.Body)
			}
		})
	}
	all.Wait()
	one(t, c.aws, 0)
	if n := len(c.log.named(event.StorageLent)); n != 24 {
		t.Errorf("%d of 24 recorded", n)
	}
	if a := c.as(service, "POST", "/api/v1/storage/credentials", `{}`); a.json(t)["access_key_id"] != "ASIAID00000002" {
		t.Errorf("another account got %s", a.Body)
	}
	c.wait(61 * time.Second)
	if a := c.as(service, "POST", "/api/v1/storage/credentials", `{}`); a.json(t)["access_key_id"] != "ASIAID00000003" {
		t.Errorf("a minute later: %s", a.Body)
	}
}

// A token service that is away or odd: said plainly, nothing lent, nothing of what
// it said is passed on, and no key of ours stands in.
func TestStorageFaults(t *testing.T) {
	t.Parallel()
	c := lending(t, "")
	b := c.browser()
	b.enter("demo", "demo")
	tok := b.cli("openid gatehouse:storage")
	says := func(status int, body string, headers ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for i := 0; i+1 < len(headers); i += 2 {
				w.Header().Set(headers[i], headers[i+1])
			}
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		})
	}
	aws := func(id, secret, session string, until time.Time) http.Handler {
		return says(200, `<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>`+id+`</AccessKeyId><SecretAccessKey>`+secret+`</SecretAccessKey><SessionToken>`+session+
			`</SessionToken><Expiration>`+until.UTC().Format(time.RFC3339)+`</Expiration></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`)
	}
	good := c.now().Add(30 * time.Minute)
	deep := strings.Repeat("<a>", 30_000)
	bomb := `<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials><AccessKeyId>&b;</AccessKeyId></Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`
	type fault struct {
		offer string
		s     *cloudsts.Service
		h     http.Handler
		want  string
	}
	for name, f := range map[string]fault{
		"amazon hangs up":            {"datasets", c.aws, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }), "503 storage.unavailable"},
		"amazon has a fault":         {"datasets", c.aws, says(500, "vendor-words"), "503 storage.unavailable"},
		"amazon is busy":             {"datasets", c.aws, says(400, `<ErrorResponse><Error><Code>Throttling</Code><Message>vendor-words</Message></Error></ErrorResponse>`), "503 storage.unavailable"},
		"amazon cannot see us":       {"datasets", c.aws, says(400, `<ErrorResponse><Error><Code>IDPCommunicationError</Code></Error></ErrorResponse>`), "503 storage.unavailable"},
		"amazon does not trust":      {"datasets", c.aws, says(403, `<ErrorResponse><Error><Code>AccessDenied</Code><Message>vendor-words</Message></Error></ErrorResponse>`), "502 storage.refused"},
		"amazon refuses with 200":    {"datasets", c.aws, says(200, `<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>`), "502 storage.refused"},
		"amazon redirects":           {"datasets", c.aws, says(302, "", "Location", "http://169.254.169.254/latest/meta-data"), "502 storage.refused"},
		"amazon is a web page":       {"datasets", c.aws, says(200, "<!doctype html><title>vendor-words</title>"), "502 storage.refused"},
		"amazon says nothing":        {"datasets", c.aws, says(200, ""), "502 storage.refused"},
		"amazon says no content":     {"datasets", c.aws, says(204, ""), "502 storage.refused"},
		"amazon is huge":             {"datasets", c.aws, says(200, "<a>"+strings.Repeat("x", 3<<20)), "502 storage.refused"},
		"amazon is deep":             {"datasets", c.aws, says(200, deep), "502 storage.refused"},
		"amazon sends a bomb":        {"datasets", c.aws, says(200, bomb), "502 storage.refused"},
		"amazon's id is two lines":   {"datasets", c.aws, aws("ASIA\nX", "s", "t", good), "502 storage.refused"},
		"amazon's secret has a bell": {"datasets", c.aws, aws("ASIA", "s&#7;", "t", good), "502 storage.refused"},
		"amazon's token is Chinese":  {"datasets", c.aws, aws("ASIA", "s", "令牌", good), "502 storage.refused"},
		"amazon's token is long":     {"datasets", c.aws, aws("ASIA", "s", strings.Repeat("x", 40_000), good), "502 storage.refused"},
		"amazon lends no token":      {"datasets", c.aws, aws("AKIA", "a-long-lived-key", "", good), "502 storage.refused"},
		"amazon lends for a day":     {"datasets", c.aws, aws("ASIA", "s", "t", c.now().Add(24*time.Hour)), "502 storage.refused"},
		"amazon lends what is over":  {"datasets", c.aws, aws("ASIA", "s", "t", c.now().Add(-time.Minute)), "502 storage.refused"},
		"alibaba knows no role":      {"hangzhou", c.oss, says(404, `{"Code":"EntityNotExist.Role","Message":"vendor-words"}`), "502 storage.refused"},
		"alibaba is busy":            {"hangzhou", c.oss, says(400, `{"Code":"Throttling.User"}`), "503 storage.unavailable"},
		"alibaba is no JSON":         {"hangzhou", c.oss, says(200, `<html>`), "502 storage.refused"},
		"alibaba is a list":          {"hangzhou", c.oss, says(200, `[]`), "502 storage.refused"},
		"alibaba has numbers":        {"hangzhou", c.oss, says(200, `{"Credentials":{"AccessKeyId":1}}`), "502 storage.refused"},
		"alibaba says null":          {"hangzhou", c.oss, says(200, `null`), "502 storage.refused"},
		"alibaba's time is odd":      {"hangzhou", c.oss, says(200, `{"Credentials":{"AccessKeyId":"a","AccessKeySecret":"b","SecurityToken":"c","Expiration":"soon"}}`), "502 storage.refused"},
		"tencent refuses with 200":   {"guangzhou", c.cos, says(200, `{"Response":{"Error":{"Code":"InvalidParameter.WebIdentityTokenError","Message":"vendor-words"},"RequestId":"1"}}`), "502 storage.refused"},
		"tencent is busy with 200":   {"guangzhou", c.cos, says(200, `{"Response":{"Error":{"Code":"RequestLimitExceeded","Message":"vendor-words"}}}`), "503 storage.unavailable"},
		"tencent has a fault":        {"guangzhou", c.cos, says(200, `{"Response":{"Error":{"Code":"InternalError.SystemError","Message":"vendor-words"}}}`), "503 storage.unavailable"},
		"tencent lends and refuses":  {"guangzhou", c.cos, says(200, `{"Response":{"Error":{"Code":"","Message":"x"},"Credentials":{"TmpSecretId":"a","TmpSecretKey":"b","Token":"c"},"ExpiredTime":99999999999}}`), "502 storage.refused"},
		"tencent answers nothing":    {"guangzhou", c.cos, says(200, `{}`), "502 storage.refused"},
		"tencent's year is far":      {"guangzhou", c.cos, says(200, `{"Response":{"Credentials":{"TmpSecretId":"a","TmpSecretKey":"b","Token":"c"},"ExpiredTime":99999999999}}`), "502 storage.refused"},
	} {
		f.s.Set(f.h)
		c.wait(5 * time.Second) // a failure is remembered for less
		a := c.as(tok, "POST", "/api/v1/storage/credentials", `{"name":"`+f.offer+`"}`)
		m := a.json(t)
		if got := fmt.Sprint(a.StatusCode, " ", m["code"]); got != f.want {
			t.Errorf("%s: %s, want %s: %s", name, got, f.want, a.Body)
		}
		if a.StatusCode == 503 && (a.Header.Get("Retry-After") == "" || !strings.Contains(fmt.Sprint(m["message"]), "No long-lived key stands in for it")) {
			t.Errorf("%s: not said plainly: %s", name, a.Body)
		}
		if strings.Contains(a.Body, "vendor-words") || strings.Contains(a.Body, "a-long-lived-key") || m["secret_access_key"] != nil {
			t.Errorf("%s: passed on: %s", name, a.Body)
		}
	}
	if n := len(c.log.named(event.StorageLent)); n != 0 {
		t.Errorf("%d were recorded as lent", n)
	}
	// What cannot be recorded is not lent.
	c.aws.Set(nil)
	c.wait(5 * time.Second)
	c.log.fail(true)
	if a := c.as(tok, "POST", "/api/v1/storage/credentials", `{"name":"datasets"}`); a.StatusCode != http.StatusServiceUnavailable || strings.Contains(a.Body, "secret/") {
		t.Errorf("unrecorded: %d %s", a.StatusCode, a.Body)
	}
	c.log.fail(false)
	if a := c.as(tok, "POST", "/api/v1/storage/credentials", `{"name":"datasets"}`); a.StatusCode != http.StatusOK {
		t.Errorf("afterwards: %d %s", a.StatusCode, a.Body)
	}
}

// The web identity token itself: only of offers that give it away, for the vendor
// alone, and nothing of ours takes it (docs/security.md ST-4, ISS-6).
func TestStorageToken(t *testing.T) {
	t.Parallel()
	c := lending(t, "routes: [{name: api, host: api.localhost, upstream: \"http://127.0.0.1:1\", audience: demo-api}, {name: sts, host: sts.localhost, upstream: \"http://127.0.0.1:1\", audience: sts.amazonaws.com}]\n")
	b := c.browser()
	b.enter("demo", "demo")
	if a := b.page("POST", "/api/v1/storage/token", `{"name":"hangzhou"}`); a.StatusCode != http.StatusForbidden || a.json(t)["code"] != "storage.token" {
		t.Errorf("of an offer that keeps it: %d %s", a.StatusCode, a.Body)
	}
	a := b.page("POST", "/api/v1/storage/token", `{"name":"datasets"}`)
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.Body)
	}
	tok := a.json(t)["token"].(string)
	me, said := c.userID("demo"), claims(t, tok)
	if said["aud"] != "sts.amazonaws.com" || said["sub"] != me || said["iss"] != c.URL || said["exp"].(float64)-said["iat"].(float64) != 630 || a.json(t)["audience"] != "sts.amazonaws.com" {
		t.Errorf("%v", said)
	}
	if until, err := time.Parse(time.RFC3339, a.json(t)["expiration"].(string)); err != nil || until.Unix() != int64(said["exp"].(float64)) {
		t.Errorf("expiration %v of %v", a.json(t)["expiration"], said["exp"])
	}
	if e := c.log.named(event.StorageLent); len(e) != 1 || e[0].Details["what"] != "token" || e[0].Details["audience"] != "sts.amazonaws.com" {
		t.Errorf("%v", e)
	}
	// The vendor takes it.
	if a := c.browser().post(c.urls[c.aws], url.Values{"Action": {"AssumeRoleWithWebIdentity"}, "Version": {"2011-06-15"}, "RoleArn": {c.aws.Role}, "RoleSessionName": {"sdk"},
		"WebIdentityToken": {tok}, "DurationSeconds": {"900"}, "Policy": {"{}"}}); a.StatusCode != http.StatusOK || !strings.Contains(a.Body, "ASIAID00000001") {
		t.Errorf("the vendor: %d %s", a.StatusCode, a.Body)
	}
	// Nobody else does.
	refused := func(what string, a answer) {
		t.Helper()
		var m map[string]any
		_ = json.Unmarshal([]byte(a.Body), &m)
		if a.StatusCode < 400 && m["active"] != false || m["access_token"] != nil || m["sub"] != nil || m["active"] == true {
			t.Errorf("%s takes it: %d %s", what, a.StatusCode, a.Body)
		}
	}
	for _, u := range []string{c.URL + "/oauth2/userinfo", c.URL + "/api/v1/me", c.URL + "/api/v1/storage/credentials", c.at("api", "/"), c.at("sts", "/"), c.Admin + "/api/v1/users"} {
		refused(u, c.bearer(u, tok))
	}
	const exchange, access = "urn:ietf:params:oauth:grant-type:token-exchange", "urn:ietf:params:oauth:token-type:"
	for _, typ := range []string{"access_token", "id_token", "jwt"} {
		refused("exchange as "+typ, c.token(url.Values{"grant_type": {exchange}, "subject_token": {tok}, "subject_token_type": {access + typ}}))
	}
	refused("a JWT grant", c.token(url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {tok}}))
	refused("a refresh", c.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tok}}))
	post := func(path string, form url.Values) answer {
		req, err := http.NewRequest(http.MethodPost, c.URL+path, strings.NewReader(form.Encode()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.SetBasicAuth("demo-app", "demo-secret")
		return (&browser{h: c.harness, client: c.browser().client, Header: http.Header{}}).do(req)
	}
	refused("introspection", post("/oauth2/introspect", url.Values{"token": {tok}}))
	if a := c.browser().get("/oauth2/logout?id_token_hint=" + tok); a.StatusCode < 400 && strings.Contains(a.Body, "DEMO") {
		t.Errorf("logout knows whose it is: %d %s", a.StatusCode, a.Body)
	}
}
