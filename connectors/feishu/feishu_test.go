package feishu

import (
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

const (
	codePath = "/oauth/v3/token"
	infoPath = "/open-apis/authen/v1/user_info"
	bookPath = "/open-apis/contact/v3/users/" + union
)

func TestSuite(t *testing.T) {
	f := newFake(t)
	connectortest.Redirect{Connector: f.open(f.config("tenant1")), Upstream: f.upstream, Troubles: f.srv.Troubles(codePath, infoPath, bookPath)}.Run(t)
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
	id, err := f.signIn(t.Context(), f.open(f.config("tenant1")))
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "tenant1/"+union || id.Username != "5d9bdxxx" || id.Name != "张三" || id.Email != "zhangsan@corp.example.com" || id.EmailVerified ||
		id.Picture != "https://static.example/b.png" || !slices.Equal(id.Groups, []string{"od-a", "od-b"}) {
		t.Errorf("%+v", id)
	}
	if id.Claims["mobile"] != nil || id.Claims["job_title"] != "工程师" || id.Claims["tenant_key"] != "tenant1" {
		t.Errorf("claims %v", id.Claims)
	}
	if strings.Contains(string(id.Renewal), "token") {
		t.Errorf("a token is kept: %s", id.Renewal)
	}
	if !strings.HasPrefix(f.kind, "application/x-www-form-urlencoded") {
		t.Errorf("exchanged by %s", f.kind)
	}
}

// Lark still has the second version of the endpoint, which takes JSON.
func TestOlderEndpoint(t *testing.T) {
	f := newFake(t)
	cfg := f.config("tenant1")
	cfg.TokenURL = f.srv.URL + "/open-apis/authen/v2/oauth/token"
	if _, err := f.signIn(t.Context(), f.open(cfg)); err != nil || !strings.HasPrefix(f.kind, "application/json") {
		t.Errorf("%s: %v", f.kind, err)
	}
}

func TestAnybody(t *testing.T) {
	f := newFake(t)
	id, err := f.signIn(t.Context(), f.open(f.config("")))
	if err != nil || id.Subject != "tenant1/"+union || id.Renewal != nil || id.Groups != nil || id.Email != "zhangsan@corp.example.com" || id.EmailVerified {
		t.Errorf("%+v %v", id, err)
	}
	if f.srv.Called("POST "+tokenPath) != 0 {
		t.Error("asked in the application's name for nothing")
	}
}

func TestCompany(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fake)
		code   string
	}{
		"another company": {func(f *fake) { f.user["tenant_key"] = "tenant2" }, "not_member"},
		"case":            {func(f *fake) { f.user["tenant_key"] = "TENANT1" }, "not_member"},
		"unknown":         {func(f *fake) { f.code = 41012 }, "not_member"},
		"frozen":          {func(f *fake) { f.entry["status"] = map[string]any{"is_frozen": true} }, "account_disabled"},
		"resigned":        {func(f *fake) { f.entry["status"] = map[string]any{"is_resigned": true} }, "account_disabled"},
		"exited":          {func(f *fake) { f.entry["status"] = map[string]any{"is_exited": true} }, "account_disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			tc.change(f)
			_, err := f.signIn(t.Context(), f.open(f.config("tenant1")))
			refusal(t, err, tc.code)
		})
	}
	f := newFake(t)
	f.entry["union_id"] = "on_other"
	if id, err := f.signIn(t.Context(), f.open(f.config("tenant1"))); err == nil || errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("the entry of somebody else: %+v %v", id, err)
	}
}

// Without the permission to read the address book people still get in: without
// departments, and for as long as what cannot be renewed lasts.
func TestWithoutAddressBook(t *testing.T) {
	for _, code := range []int{99991672, 41050} {
		f := newFake(t)
		f.code = code
		id, err := f.signIn(t.Context(), f.open(f.config("tenant1")))
		if err != nil || id.Subject != "tenant1/"+union || id.Groups != nil || id.Renewal != nil || id.Email == "" {
			t.Errorf("%d: %+v %v", code, id, err)
		}
	}
}

func TestRenew(t *testing.T) {
	f := newFake(t)
	c := f.open(f.config("tenant1"))
	id, err := f.signIn(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	f.srv.Set(func() { f.entry["department_ids"] = []string{"od-c"} })
	fresh, err := c.Renew(t.Context(), id)
	if err != nil || fresh.Subject != id.Subject || !slices.Equal(fresh.Groups, []string{"od-c"}) {
		t.Fatalf("%+v %v", fresh, err)
	}
	for k := range id.Claims { // a rule that held at the sign-in can hold again
		if _, ok := fresh.Claims[k]; !ok {
			t.Errorf("the claim %s is gone", k)
		}
	}
	for _, code := range []int{41012, 41050} { // gone, or moved out of sight
		f.srv.Set(func() { f.code = code })
		_, err = c.Renew(t.Context(), id)
		refusal(t, err, "not_member")
	}
	for _, code := range []int{99991400, 99991672, 1234567} { // neither yes nor no
		f.srv.Set(func() { f.code = code })
		if _, err = c.Renew(t.Context(), id); !errors.Is(err, connectors.ErrUnavailable) || errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%d: %v", code, err)
		}
	}
	f.srv.Set(func() { f.code = 0; f.entry["status"] = map[string]any{"is_resigned": true} })
	_, err = c.Renew(t.Context(), id)
	refusal(t, err, "account_disabled")
	for name, cfg := range map[string]Config{"another company": f.config("tenant2"), "none": f.config("")} {
		if _, err := f.open(cfg).Renew(t.Context(), id); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, state := range []string{"", "{}", "null", `{"tenant":"tenant1"}`} {
		broken := id
		broken.Renewal = []byte(state)
		if _, err := c.Renew(t.Context(), broken); !errors.Is(err, connectors.ErrNotAllowed) {
			t.Errorf("%q: %v", state, err)
		}
	}
}

func TestApplicationToken(t *testing.T) {
	const call = "POST " + tokenPath
	f := newFake(t)
	c := f.open(f.config("tenant1"))
	enter := func(calls int) {
		t.Helper()
		if _, err := f.signIn(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		if n := f.srv.Called(call); n != calls {
			t.Errorf("%d calls for a token, want %d", n, calls)
		}
	}
	enter(1)
	enter(1)
	f.ahead = 2 * time.Hour
	enter(2)
	f.srv.Set(func() { clear(f.tokens) })
	enter(3)
	if err := c.Check(t.Context()); err != nil || f.srv.Called(call) != 3 {
		t.Errorf("check: %v", err)
	}
	f.srv.Answer(connectortest.Status(502, ""), tokenPath)
	if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
		t.Errorf("check: %v", err)
	}
	f.srv.Answer(nil, tokenPath)
	cfg := f.config("")
	cfg.AppSecret = "wrong-secret"
	if err := f.open(cfg).Check(t.Context()); err == nil || strings.Contains(err.Error(), "wrong-secret") || !strings.Contains(err.Error(), "10014") {
		t.Errorf("check: %v", err)
	}
}

func TestAnswersThatRefuse(t *testing.T) {
	for name, tc := range map[string]struct {
		path, body  string
		status      int
		unavailable bool
		want        string
	}{
		"code":              {codePath, `{"code":20003,"error":"invalid_grant","error_description":"secret text"}`, 400, false, "20003"},
		"with 200":          {codePath, `{"code":20003,"msg":"secret text"}`, 200, false, "20003"},
		"by RFC 6749":       {codePath, `{"error":"invalid_grant","error_description":"secret text"}`, 400, false, "invalid_grant"},
		"markup":            {codePath, `{"error":"<b>secret text</b>"}`, 400, false, "unreadable"},
		"its own trouble":   {codePath, `{"code":20050,"error":"server_error"}`, 400, true, "20050"},
		"too often":         {codePath, `{"code":99991400,"msg":"secret text"}`, 400, true, "99991400"},
		"no token":          {codePath, `{"code":0,"token_type":"Bearer"}`, 200, false, "documents"},
		"token with line":   {codePath, `{"code":0,"access_token":"a\nb"}`, 200, false, "documents"},
		"token, odd code":   {codePath, `{"access_token":"a","code":"x"}`, 200, false, "documents"},
		"token with 404":    {codePath, `{"access_token":"a","code":0}`, 404, false, "404"},
		"a page":            {codePath, `404 page not found`, 404, false, "404"},
		"token not taken":   {infoPath, `{"code":20005,"msg":"secret text"}`, 200, false, "20005"},
		"no code":           {infoPath, `{"data":{"union_id":"u","tenant_key":"tenant1"}}`, 200, false, "documents"},
		"no union_id":       {infoPath, `{"code":0,"data":{"open_id":"o","tenant_key":"tenant1"}}`, 200, false, "documents"},
		"no tenant":         {infoPath, `{"code":0,"data":{"union_id":"u"}}`, 200, false, "documents"},
		"slash":             {infoPath, `{"code":0,"data":{"union_id":"u","tenant_key":"tenant1/x"}}`, 200, false, "documents"},
		"0 with 403":        {infoPath, `{"code":0,"data":{"union_id":"u","tenant_key":"tenant1"}}`, 403, false, "403"},
		"wrong secret":      {tokenPath, `{"code":10014,"msg":"secret text"}`, 200, false, "10014"},
		"no app token":      {tokenPath, `{"code":0}`, 200, false, "documents"},
		"never good":        {bookPath, `{"code":99991663,"msg":"secret text"}`, 400, true, "99991663"},
		"no entry":          {bookPath, `{"code":0,"data":{}}`, 200, false, "documents"},
		"entry, other code": {bookPath, `{"code":43001,"msg":"secret text"}`, 200, false, "43001"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.srv.Answer(connectortest.Status(tc.status, tc.body), tc.path)
			id, err := f.signIn(t.Context(), f.open(f.config("tenant1")))
			if err == nil || id.Subject != "" || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%+v %v", id, err)
			}
			if errors.Is(err, connectors.ErrUnavailable) != tc.unavailable || errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("got %v", err)
			}
			for _, s := range []string{"secret text", secret, "app-token", "user-token"} {
				if strings.Contains(err.Error(), s) {
					t.Errorf("the error quotes %q: %v", s, err)
				}
			}
		})
	}
	for path, codes := range map[string]map[string]string{
		codePath: {`{"code":20010,"error":"invalid_grant"}`: "app_not_open"},
		infoPath: {`{"code":20021}`: "account_disabled", `{"code":20022}`: "account_disabled", `{"code":20008}`: "account_disabled"},
	} {
		for body, code := range codes {
			f := newFake(t)
			f.srv.Answer(connectortest.Status(400, body), path)
			_, err := f.signIn(t.Context(), f.open(f.config("tenant1")))
			refusal(t, err, code)
		}
	}
}

func TestBegin(t *testing.T) {
	f := newFake(t)
	cfg := f.config("tenant1")
	cfg.RedirectURI, cfg.Scopes = "https://sso.example.com/cb", []string{"contact:user.email:readonly", "contact:user.employee_id:readonly"}
	a := attempt
	a.ForceAuthn = true
	d, err := f.open(cfg).Begin(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(d.URL)
	for k, want := range map[string]string{"client_id": "cli_1", "scope": strings.Join(cfg.Scopes, " "), "prompt": "consent", "redirect_uri": cfg.RedirectURI, "state": attempt.ID} {
		if got := u.Query().Get(k); got != want {
			t.Errorf("%s is %q", k, got)
		}
	}
	d, _ = f.open(f.config("")).Begin(t.Context(), attempt)
	if u, _ = url.Parse(d.URL); u.Query().Has("scope") || u.Query().Has("prompt") {
		t.Errorf("%s", d.URL)
	}
}

func TestProblems(t *testing.T) {
	good := Config{AppID: "a", AppSecret: "b", TenantKey: "t"}
	if ps := good.Problems(); len(ps) != 0 {
		t.Errorf("%v", ps)
	}
	for rule, change := range map[string]func(*Config){
		"connector.app_id": func(c *Config) { c.AppID = "" }, "connector.app_secret": func(c *Config) { c.AppSecret = "" },
		"feishu.everybody": func(c *Config) { c.TenantKey = "" }, "feishu.tenant_key": func(c *Config) { c.TenantKey = "a b" },
		"feishu.scope": func(c *Config) { c.Scopes = []string{"a b"} }, "feishu.redirect_uri": func(c *Config) { c.RedirectURI = "x" },
		"feishu.authorize_url": func(c *Config) { c.AuthorizeURL = "x" }, "feishu.token_url": func(c *Config) { c.TokenURL = "x" },
		"feishu.api_url": func(c *Config) { c.APIURL = "x" },
	} {
		c := good
		change(&c)
		if ps := c.Problems(); len(ps) != 1 || ps[0].Rule != rule || ps[0].Warning != (rule == "feishu.everybody") {
			t.Errorf("%s: %v", rule, ps)
		}
	}
	var trusted []string
	env := connectors.Env{HTTP: func(_, _ string, hosts ...string) (*http.Client, error) {
		trusted = hosts
		return http.DefaultClient, nil
	}}
	good.Proxy = "http://p:1"
	if _, err := Open(env, good); err != nil || !slices.Equal(trusted, []string{"accounts.feishu.cn", "open.feishu.cn"}) {
		t.Errorf("%v %v", trusted, err)
	}
	if _, err := Open(env, Config{}); err == nil {
		t.Error("opened without an application")
	}
}
