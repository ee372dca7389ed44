package wecom

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const (
	infoPath   = "/cgi-bin/auth/getuserinfo"
	memberPath = "/cgi-bin/user/get"
	tokenPath  = "/cgi-bin/gettoken"
	detailPath = "/cgi-bin/auth/getuserdetail"
)

func TestSuite(t *testing.T) {
	f := newFake(t)
	connectortest.Redirect{Connector: f.open(f.config()), Upstream: f.upstream, Troubles: f.srv.Troubles(infoPath, memberPath), NoPKCE: true}.Run(t)
}

// The first call of all is the one for the application's token.
func TestSuiteCold(t *testing.T) {
	f := newFake(t)
	for _, tr := range f.srv.Troubles(tokenPath) {
		if tr.Name == "slow" || tr.Name == "drips" {
			continue // appapi's tests have these, with a clock of their own
		}
		tr.Begin()
		if _, err := f.signIn(t.Context(), f.open(f.config())); err == nil || errors.Is(err, connectors.ErrNotAllowed) || errors.Is(err, connectors.ErrUnavailable) != tr.Unavailable {
			t.Errorf("%s: %v", tr.Name, err)
		}
		tr.End()
	}
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
	id, err := f.signIn(t.Context(), f.open(f.config()))
	if err != nil {
		t.Fatal(err)
	}
	if id.Subject != "ww0123/zhangsan" || id.Username != "ZhangSan" || id.Name != "张三" || id.EmailVerified || id.Email != "" || !slices.Equal(id.Groups, []string{"42", "7"}) {
		t.Errorf("%+v", id)
	}
	if id.Claims["mobile"] != nil || id.Claims["position"] != "工程师" || id.Claims["corpid"] != "ww0123" || id.Claims["errcode"] != nil {
		t.Errorf("claims %v", id.Claims)
	}
	// What was proved is proved once (docs/security.md SE-11).
	if _, renews := any(f.open(f.config())).(connectors.Renewer); renews || id.Renewal != nil {
		t.Error("it can be renewed")
	}
	// The older spelling, and another case of it, are the same person.
	f.srv.Set(func() { f.visitor = map[string]any{"UserId": "ZHANGSAN", "DeviceId": "d"} })
	if again, err := f.signIn(t.Context(), f.open(f.config())); err != nil || again.Subject != id.Subject {
		t.Errorf("%q %v", again.Subject, err)
	}
}

// What WeCom gives after asking the person, inside its own app.
func TestPrivateInfo(t *testing.T) {
	f := newFake(t)
	f.visitor["user_ticket"] = "ticket"
	cfg := f.config()
	cfg.PrivateInfo = true
	id, err := f.signIn(t.Context(), f.open(cfg))
	if err != nil || id.Email != "zhangsan@corp.example.com" || id.EmailVerified || id.Picture != "https://static.example/a.png" || id.Claims["user_ticket"] != nil {
		t.Errorf("%+v %v", id, err)
	}
	f.srv.Forget()
	if id, err = f.signIn(t.Context(), f.open(f.config())); err != nil || id.Email != "" || f.srv.Called("POST "+detailPath) != 0 {
		t.Errorf("asked without being told to: %+v %v", id, err)
	}
	f.srv.Set(func() { f.detail["userid"] = "lisi" })
	if id, err := f.signIn(t.Context(), f.open(cfg)); err == nil || errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("the entry of somebody else: %+v %v", id, err)
	}
}

// Somebody whom WeChat knows and the company does not, members that the
// application may not see, and such as are turned off.
func TestWhoIsNoMember(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*fake)
		code   string
	}{
		"openid":          {func(f *fake) { f.visitor = map[string]any{"openid": "o1"} }, "not_member"},
		"old spelling":    {func(f *fake) { f.visitor = map[string]any{"OpenId": "o1", "DeviceId": "d"} }, "not_member"},
		"openid and more": {func(f *fake) { f.visitor["openid"] = "o1" }, "not_member"},
		"customer":        {func(f *fake) { f.visitor = map[string]any{"openid": "o1", "external_userid": "wm1"} }, "not_member"},
		"unknown":         {func(f *fake) { f.member = map[string]any{"errcode": 60111, "errmsg": "x"} }, "not_member"},
		"not in sight":    {func(f *fake) { f.member = map[string]any{"errcode": 60011, "errmsg": "x"} }, "not_member"},
		"disabled":        {func(f *fake) { f.member["status"] = 2 }, "account_disabled"},
		"left":            {func(f *fake) { f.member["status"] = 5 }, "account_disabled"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			tc.change(f)
			_, err := f.signIn(t.Context(), f.open(f.config()))
			refusal(t, err, tc.code)
		})
	}
	f := newFake(t)
	f.member["userid"] = "lisi"
	if id, err := f.signIn(t.Context(), f.open(f.config())); err == nil || errors.Is(err, connectors.ErrNotAllowed) {
		t.Errorf("the entry of somebody else: %+v %v", id, err)
	}
	// An application without the address book still knows who came.
	f = newFake(t)
	f.member = map[string]any{"errcode": 48002, "errmsg": "api forbidden"}
	if id, err := f.signIn(t.Context(), f.open(f.config())); err != nil || id.Subject != "ww0123/zhangsan" || id.Name != "ZhangSan" || id.Groups != nil {
		t.Errorf("%+v %v", id, err)
	}
}

// The address inside the app is matched against a pattern: the documented
// parameters in their order, nothing else, and the fragment. The QR page is for
// every other browser, WeChat's own among them.
func TestDepartures(t *testing.T) {
	f := newFake(t)
	cfg := f.config()
	at := func(cfg Config, agent string) string {
		t.Helper()
		a := attempt
		a.UserAgent = agent
		a.ForceAuthn, a.LoginHint = true, "x"
		d, err := f.open(cfg).Begin(t.Context(), a)
		if err != nil {
			t.Fatal(err)
		}
		return d.URL
	}
	const back = "https%3A%2F%2Fid.example.com%2Fauth%2Fqywx%2Fcallback"
	want := f.srv.URL + "/authorize?appid=ww0123&redirect_uri=" + back + "&response_type=code&scope=snsapi_base&state=" + attempt.ID + "&agentid=1000002#wechat_redirect"
	if got := at(cfg, inside); got != want {
		t.Errorf("inside: %s", got)
	}
	cfg.PrivateInfo = true
	if got := at(cfg, inside); got != strings.Replace(want, "snsapi_base", "snsapi_privateinfo", 1) {
		t.Errorf("inside, private: %s", got)
	}
	want = f.srv.URL + "/wwlogin?login_type=CorpApp&appid=ww0123&agentid=1000002&redirect_uri=" + back + "&state=" + attempt.ID
	for _, agent := range []string{"", "Mozilla/5.0 (X11; Linux x86_64) Chrome/156.0", strings.Replace(inside, "wxwork/4.0.19 ", "", 1)} {
		if got := at(cfg, agent); got != want {
			t.Errorf("%.40s: %s", agent, got)
		}
	}
	for _, id := range []string{"", "a-b", "a_b", "张", strings.Repeat("a", 129), "a&b"} { // [a-zA-Z0-9], 128 at most
		if d, err := f.open(cfg).Begin(t.Context(), connectors.Attempt{ID: id, CallbackURL: callback}); err == nil {
			t.Errorf("state %q: %s", id, d.URL)
		}
	}
}

func TestApplicationToken(t *testing.T) {
	const call = "GET " + tokenPath
	f := newFake(t)
	c := f.open(f.config())
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
	f.srv.Set(func() { clear(f.tokens) }) // the clocks disagree, or the secret was reset
	enter(3)
	if err := c.Check(t.Context()); err != nil || f.srv.Called(call) != 3 {
		t.Errorf("check: %v", err)
	}
	f.srv.Answer(connectortest.Status(200, strings.Repeat("a", 1<<20)), infoPath) // whatever it says
	if err := c.Check(t.Context()); err != nil {
		t.Errorf("check: %v", err)
	}
	f.srv.Answer(connectortest.Status(502, ""), infoPath)
	if err := c.Check(t.Context()); !errors.Is(err, connectors.ErrUnavailable) {
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
		"wrong secret":       {tokenPath, `{"errcode":40001,"errmsg":"secret text"}`, 200, false, "40001"},
		"wrong company":      {tokenPath, `{"errcode":40013,"errmsg":"secret text"}`, 200, false, "40013"},
		"our address":        {tokenPath, `{"errcode":60020,"errmsg":"not allow to access from your ip, secret text"}`, 200, false, "可信IP"},
		"too often":          {tokenPath, `{"errcode":45009,"errmsg":"secret text"}`, 200, true, "45009"},
		"busy":               {tokenPath, `{"errcode":-1,"errmsg":"secret text"}`, 200, true, "-1"},
		"no token":           {tokenPath, `{"errcode":0,"expires_in":7200}`, 200, false, "documents"},
		"no life":            {tokenPath, `{"errcode":0,"access_token":"a"}`, 200, false, "documents"},
		"token with line":    {tokenPath, `{"errcode":0,"access_token":"a\nb","expires_in":7200}`, 200, false, "documents"},
		"code":               {infoPath, `{"errcode":40029,"errmsg":"invalid code, secret text"}`, 200, false, "40029"},
		"too many at once":   {infoPath, `{"errcode":45033,"errmsg":"secret text"}`, 200, true, "45033"},
		"token never good":   {infoPath, `{"errcode":42001,"errmsg":"secret text"}`, 200, true, "42001"},
		"nobody":             {infoPath, `{"errcode":0}`, 200, false, "documents"},
		"no errcode":         {infoPath, `{"userid":"x"}`, 200, false, "documents"},
		"text errcode":       {infoPath, `{"errcode":"0","userid":"x"}`, 200, false, "documents"},
		"userid with slash":  {infoPath, `{"errcode":0,"userid":"ww9/x"}`, 200, false, "documents"},
		"number for userid":  {infoPath, `{"errcode":0,"userid":7}`, 200, false, "documents"},
		"404":                {infoPath, `{"errcode":0,"userid":"x"}`, 404, false, "404"},
		"member unreadable":  {memberPath, `{"errcode":0,"userid":"ZhangSan","department":{}}`, 200, false, "documents"},
		"member, other code": {memberPath, `{"errcode":41009,"errmsg":"secret text"}`, 200, false, "41009"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			f.srv.Answer(connectortest.Status(tc.status, tc.body), tc.path)
			id, err := f.signIn(t.Context(), f.open(f.config()))
			if err == nil || id.Subject != "" || !strings.Contains(err.Error(), tc.want) {
				t.Fatalf("%+v %v", id, err)
			}
			if errors.Is(err, connectors.ErrUnavailable) != tc.unavailable || errors.Is(err, connectors.ErrNotAllowed) {
				t.Errorf("got %v", err)
			}
			for _, s := range []string{"secret text", secret, "app-token", "access_token=", "corpsecret"} {
				if strings.Contains(err.Error(), s) {
					t.Errorf("the error quotes %q: %v", s, err)
				}
			}
		})
	}
	f := newFake(t)
	cfg := f.config()
	cfg.Secret = "wrong-secret"
	if err := f.open(cfg).Check(t.Context()); err == nil || strings.Contains(err.Error(), "wrong-secret") || !strings.Contains(err.Error(), "40001") {
		t.Errorf("check: %v", err)
	}
	// Longer than WeCom makes them: not sent.
	d, _ := f.open(f.config()).Begin(t.Context(), attempt)
	back := f.upstream(d)
	back.Params.Set("code", strings.Repeat("a", 513))
	if _, err := f.open(f.config()).Finish(t.Context(), attempt, d.Secret, back); err == nil || f.srv.Called("GET "+infoPath) != 0 {
		t.Errorf("%v", err)
	}
}

func TestProblems(t *testing.T) {
	good := Config{CorpID: "ww1", AgentID: "1000002", Secret: "s"}
	if ps := good.Problems(); len(ps) != 0 {
		t.Errorf("%v", ps)
	}
	for rule, change := range map[string]func(*Config){
		"connector.corp_id": func(c *Config) { c.CorpID = "" }, "wecom.corp_id": func(c *Config) { c.CorpID = "a&b /" },
		"connector.agent_id": func(c *Config) { c.AgentID = "" }, "wecom.agent_id": func(c *Config) { c.AgentID = "x&y" },
		"connector.secret": func(c *Config) { c.Secret = "" }, "wecom.redirect_uri": func(c *Config) { c.RedirectURI = "x" },
		"wecom.qr_url": func(c *Config) { c.QRURL = "https://x?y" }, "wecom.authorize_url": func(c *Config) { c.AuthorizeURL = "https://x#y" },
		"wecom.api_url": func(c *Config) { c.APIURL = "http://api.example.com" },
	} {
		c := good
		change(&c)
		if ps := c.Problems(); len(ps) != 1 || ps[0].Rule != rule || ps[0].Warning != (rule == "wecom.api_url") {
			t.Errorf("%s: %v", rule, ps)
		}
	}
	var trusted []string
	env := connectors.Env{HTTP: func(_, _ string, hosts ...string) (*http.Client, error) {
		trusted = hosts
		return http.DefaultClient, nil
	}}
	good.APIURL = "https://qy.internal:8443/"
	if _, err := Open(env, good); err != nil || !slices.Equal(trusted, []string{"qy.internal"}) {
		t.Errorf("%v %v", trusted, err)
	}
	if _, err := Open(env, Config{}); err == nil {
		t.Error("opened without anything")
	}
}
