package dingtalk

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

var (
	publicPaths  = []string{"/v1.0/oauth2/userAccessToken", "/v1.0/contact/users/me"}
	companyPaths = []string{"/topapi/user/getbyunionid", "/topapi/v2/user/get"}
)

func TestSuite(t *testing.T) {
	f := newFake(t)
	connectortest.Redirect{Connector: f.open(f.config("ding0123")), Upstream: f.upstream, Troubles: f.srv.Troubles(append(publicPaths, companyPaths...)...)}.Run(t)
}

func TestSuiteWithoutCompany(t *testing.T) {
	f := newFake(t)
	connectortest.Redirect{Connector: f.open(f.config("")), Upstream: f.upstream, Troubles: f.srv.Troubles(publicPaths...)}.Run(t)
}

func refusal(t *testing.T, err error, code string) {
	t.Helper()
	var r *connectors.Refusal
	if !errors.As(err, &r) || r.Code != code || !errors.Is(err, connectors.ErrNotAllowed) {
		t.Fatalf("got %v, want the refusal %s", err, code)
	}
}

func TestMember(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config("ding0123"))
	id, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	// The company's own address, not as verified; the number of a department.
	if id.Subject != union || id.Username != "zhangsan" || id.Name != "张三" || id.Email != "zhangsan@corp.example.com" || id.EmailVerified || !slices.Equal(id.Groups, []string{"42", "7"}) {
		t.Errorf("%+v", id)
	}
	if id.Claims["mobile"] != nil || id.Claims["title"] != "工程师" || id.Claims["corpId"] != "ding0123" {
		t.Errorf("claims %v", id.Claims)
	}
	if s := string(id.Renewal); strings.Contains(s, "token") {
		t.Errorf("a token is kept: %s", s)
	}
}

func TestAnybody(t *testing.T) {
	f := newFake(t)
	id, err := f.signIn(t.Context(), f.open(f.config("")))
	if err != nil || id.Subject != union || id.Renewal != nil || id.Groups != nil || id.Email != "private@example.com" || id.EmailVerified || id.Claims["mobile"] != nil {
		t.Errorf("%+v %v", id, err)
	}
	if f.srv.Called("POST /topapi/user/getbyunionid") != 0 {
		t.Error("the company was asked about somebody who need not be in it")
	}
}

// Only members of the company: by what was chosen at the sign-in, and by the
// application's own company.
func TestCompany(t *testing.T) {
	for name, change := range map[string]func(*fake){
		"another company chosen": func(f *fake) { f.corp = "ding9999" },
		"none chosen":            func(f *fake) { f.corp = "" },
		"case":                   func(f *fake) { f.corp = "DING0123" },
		"not in the company":     func(f *fake) { f.code = 60121 },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			change(f)
			_, err := f.signIn(t.Context(), f.open(f.config("ding0123")))
			refusal(t, err, "not_member")
		})
	}
	f := newFake(t)
	f.person["unionid"] = "somebody-else"
	if id, err := f.signIn(t.Context(), f.open(f.config("ding0123"))); err == nil || errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("the entry of somebody else: %+v %v", id, err)
	}
}

func TestRenew(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config("ding0123"))
	id, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	f.srv.Set(func() { f.person["dept_id_list"] = []int{9} })
	fresh, err := c.Renew(t.Context(), id)
	if err != nil || fresh.Subject != id.Subject || !slices.Equal(fresh.Groups, []string{"9"}) {
		t.Fatalf("%+v %v", fresh, err)
	}
	for k := range id.Claims { // a rule that held at the sign-in can hold again
		if _, ok := fresh.Claims[k]; !ok {
			t.Errorf("the claim %s is gone", k)
		}
	}
	f.srv.Set(func() { f.code = 60121 })
	_, err = c.Renew(t.Context(), id)
	refusal(t, err, "not_member")
	for _, code := range []int{-1, 90018, 88, 60011} { // neither yes nor no
		f.srv.Set(func() { f.code = code })
		if _, err = c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%d: %v", code, err)
		}
	}
	f.srv.Set(func() { f.code = 0 })
	for name, cfg := range map[string]Config{"another company": f.config("ding9999"), "none": f.config("")} {
		if _, err := f.open(cfg).Renew(t.Context(), id); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, state := range []string{"", "{}", "null", `{"union":""}`} {
		broken := id
		broken.Renewal = []byte(state)
		if _, err := c.Renew(t.Context(), broken); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%q: %v", state, err)
		}
	}
}

// The application's token is kept until shortly before its end, and replaced
// when DingTalk no longer takes it.
func TestApplicationToken(t *testing.T) {
	const call = "POST /v1.0/oauth2/accessToken"
	f := newFake(t)
	c := f.open(f.config("ding0123"))
	enter := func() {
		t.Helper()
		if _, err := f.signIn(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	enter()
	enter()
	if n := f.srv.Called(call); n != 1 {
		t.Errorf("%d calls for a token", n)
	}
	f.ahead = 2 * time.Hour // the clocks agree: it is over
	enter()
	if n := f.srv.Called(call); n != 2 {
		t.Errorf("%d calls for a token", n)
	}
	f.srv.Set(func() { clear(f.tokens) }) // they do not: DingTalk says so
	enter()
	if n := f.srv.Called(call); n != 3 {
		t.Errorf("%d calls for a token", n)
	}
	f.srv.Answer(connectortest.Status(200, `{"errcode":42001,"errmsg":"x"}`), "/topapi/user/getbyunionid")
	if _, err := f.signIn(t.Context(), c); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("no token is taken: %v", err)
	}
	if n := f.srv.Called(call); n != 4 {
		t.Errorf("%d calls for a token: it goes round", n)
	}
}

func TestAnswersThatRefuse(t *testing.T) {
	for name, tc := range map[string]struct {
		path, body string
		status     int
		is         error // nil: a fault
		want       string
	}{
		"code":                  {publicPaths[0], `{"code":"invalidParameter.authCode.notFound","message":"secret text"}`, 400, nil, "invalidParameter.authCode.notFound"},
		"with 200":              {publicPaths[0], `{"code":"x.y","message":"secret text"}`, 200, nil, "x.y"},
		"number":                {publicPaths[0], `{"code":400,"message":"secret text"}`, 200, nil, "400"},
		"markup":                {publicPaths[0], `{"code":"<b>secret text</b>"}`, 400, nil, "unreadable"},
		"no words":              {publicPaths[0], `{}`, 404, nil, "404"},
		"no token":              {publicPaths[0], `{"accessToken":"","corpId":"ding0123"}`, 200, nil, "documents"},
		"token with line":       {publicPaths[0], `{"accessToken":"a\r\nb","corpId":"ding0123"}`, 200, nil, "documents"},
		"throttled":             {publicPaths[1], `{"code":"Forbidden.AccessDenied.QpsLimitForApi","message":"secret text"}`, 403, connectors.ErrUnavailable, "QpsLimit"},
		"no permission":         {publicPaths[1], `{"code":"Forbidden.AccessDenied.AccessTokenPermissionDenied"}`, 403, nil, "AccessTokenPermissionDenied"},
		"no unionId":            {publicPaths[1], `{"nick":"x"}`, 200, nil, "documents"},
		"unionId with a slash":  {publicPaths[1], `{"nick":"x","unionId":"a/b"}`, 200, nil, "documents"},
		"no errcode":            {companyPaths[0], `{"result":{"userid":"x"}}`, 200, nil, "documents"},
		"text errcode":          {companyPaths[0], `{"errcode":"0","result":{"userid":"x"}}`, 200, nil, "documents"},
		"no userid":             {companyPaths[0], `{"errcode":0,"result":{}}`, 200, nil, "documents"},
		"busy":                  {companyPaths[0], `{"errcode":-1,"errmsg":"secret text"}`, 200, connectors.ErrUnavailable, "-1"},
		"throttled by sub code": {companyPaths[0], `{"errcode":88,"sub_code":"90018","sub_msg":"secret text"}`, 200, connectors.ErrUnavailable, "90018"},
		"unknown":               {companyPaths[0], `{"errcode":88,"sub_code":"isp.x","errmsg":"secret text"}`, 200, nil, "88"},
		"403":                   {companyPaths[1], ``, 403, nil, "403"},
		"no entry":              {companyPaths[1], `{"errcode":0,"result":null}`, 200, nil, "documents"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.srv.Answer(connectortest.Status(tc.status, tc.body), tc.path)
			id, err := f.signIn(t.Context(), f.open(f.config("ding0123")))
			if err == nil || id.Subject != "" || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%+v %v", id, err)
			}
			if errors.Is(err, connectors.ErrUnavailable) != (tc.is != nil) || errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("got %v", err)
			}
			for _, s := range []string{"secret text", secret, "app-token", "access_token=", "user-token"} {
				if strings.Contains(err.Error(), s) {
					t.Errorf("the error quotes %q: %v", s, err)
				}
			}
		})
	}
}

// A server that cannot be reached: the address with the token stays out of the
// error.
func TestErrorsHoldNoAddress(t *testing.T) {
	f := newFake(t)
	f.srv.Answer(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, companyPaths...)
	_, err := f.signIn(t.Context(), f.open(f.config("ding0123")))
	if !errors.Is(err, connectors.ErrUnavailable) || strings.Contains(err.Error(), "app-token") || strings.Contains(err.Error(), "access_token") {
		t.Errorf("%v", err)
	}
	sent := strings.Join(f.srv.Addresses(), " ")
	if strings.Contains(sent, secret) || strings.Contains(sent, "user-token") {
		t.Errorf("a secret in an address: %s", sent)
	}
}

func TestBegin(t *testing.T) {
	f := newFake(t)
	cfg := f.config("ding0123")
	cfg.RedirectURI = "https://sso.example.com/cb"
	d, err := f.open(cfg).Begin(t.Context(), attempt)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(d.URL)
	for k, want := range map[string]string{"client_id": "app", "scope": "openid corpid", "corpId": "ding0123", "prompt": "consent", "redirect_uri": cfg.RedirectURI, "state": attempt.ID} {
		if got := u.Query().Get(k); got != want {
			t.Errorf("%s is %q", k, got)
		}
	}
	d, _ = f.open(f.config("")).Begin(t.Context(), attempt)
	if u, _ = url.Parse(d.URL); u.Query().Get("scope") != "openid" || u.Query().Has("corpId") {
		t.Errorf("without a company: %s", d.URL)
	}
}

func TestReturned(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config(""))
	for name, p := range map[string]url.Values{
		"another state": {"authCode": {"x"}, "state": {"ABCDEFGHIJKLMNOPQRSTUVWXY3"}}, "no state": {"authCode": {"x"}},
		"two states": {"authCode": {"x"}, "state": {attempt.ID, attempt.ID}}, "two codes": {"authCode": {"x", "y"}, "state": {attempt.ID}},
	} {
		d, _ := c.Begin(t.Context(), attempt)
		if _, err := c.Finish(t.Context(), attempt, d.Secret, connectors.Return{Params: p}); err == nil || f.srv.Called("POST "+publicPaths[0]) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Some versions of the page call it code.
	d, _ := c.Begin(t.Context(), attempt)
	back := f.upstream(d)
	back.Params["code"] = back.Params["authCode"]
	delete(back.Params, "authCode")
	if _, err := c.Finish(t.Context(), attempt, d.Secret, back); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config("ding0123"))
	for range 3 {
		if err := c.Check(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := f.srv.Called("POST /v1.0/oauth2/accessToken"); n != 1 {
		t.Errorf("%d calls for a token", n)
	}
	f.srv.Answer(connectortest.Status(503, ""), tokenPath)
	if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	f.srv.Answer(nil, tokenPath)
	cfg := f.config("")
	cfg.ClientSecret = "another"
	if err := f.open(cfg).Check(t.Context()); err == nil || !strings.Contains(err.Error(), "invalidClientIdOrSecret") || strings.Contains(err.Error(), "another") {
		t.Errorf("a wrong secret: %v", err)
	}
}

func TestProblems(t *testing.T) {
	good := Config{ClientID: "a", ClientSecret: "b", CorpID: "ding1"}
	if ps := good.Problems(); len(ps) != 0 {
		t.Errorf("%v", ps)
	}
	for rule, change := range map[string]func(*Config){
		"connector.client_id":     func(c *Config) { c.ClientID = "" },
		"connector.client_secret": func(c *Config) { c.ClientSecret = "" },
		"dingtalk.everybody":      func(c *Config) { c.CorpID = "" },
		"dingtalk.corp_id":        func(c *Config) { c.CorpID = "a b" },
		"dingtalk.redirect_uri":   func(c *Config) { c.RedirectURI = "/cb" },
		"dingtalk.authorize_url":  func(c *Config) { c.AuthorizeURL = "ftp://x" },
		"dingtalk.api_url":        func(c *Config) { c.APIURL = "https://u:p@x" },
		"dingtalk.oapi_url":       func(c *Config) { c.OAPIURL = "http://oapi.example.com" },
	} {
		c := good
		change(&c)
		ps := c.Problems()
		if len(ps) != 1 || ps[0].Rule != rule || ps[0].Warning != (rule == "dingtalk.everybody" || rule == "dingtalk.oapi_url") {
			t.Errorf("%s: %v", rule, ps)
		}
		if js, _ := json.Marshal(ps); strings.Contains(string(js), "u:p") {
			t.Errorf("%s quotes a password", rule)
		}
	}
	var trusted []string
	env := connectors.Env{HTTP: func(_, _ string, hosts ...string) (*http.Client, error) {
		trusted = hosts
		return http.DefaultClient, nil
	}}
	if _, err := Open(env, good); err != nil || len(trusted) != 0 {
		t.Errorf("%v %v", trusted, err)
	}
	good.Proxy = "http://p:1"
	if _, err := Open(env, good); err != nil || !slices.Equal(trusted, []string{"api.dingtalk.com", "oapi.dingtalk.com"}) {
		t.Errorf("%v %v", trusted, err)
	}
	if _, err := Open(env, Config{}); err == nil {
		t.Error("opened without a client")
	}
}
