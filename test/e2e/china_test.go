//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// vendor is one of the doubles of test/peers/{dingtalk,wecom,feishu}-api. None
// has been compared with the vendor.
type vendor struct {
	t   *testing.T
	g   *gatehouse
	id  string
	url string
}

const (
	// onDesk and inWeCom are what browsers call themselves.
	onDesk  = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/156.0 Safari/537.36"
	inWeCom = "Mozilla/5.0 (Linux; Android 12; M2102J2SC; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/86.0.4240.99 Mobile Safari/537.36 MicroMessenger/8.0.27 wxwork/4.0.19 Language/zh_CN"
)

// startChina starts the three doubles and the program that knows them all.
func startChina(t *testing.T) map[string]*vendor {
	t.Helper()
	vs := map[string]*vendor{}
	for _, id := range []string{"dingtalk", "wecom", "feishu"} {
		vs[id] = &vendor{t: t, id: id, url: startPeer(t, id+"-api", freePort(t))["URL"]}
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"config/gatehouse.yml": fmt.Sprintf(`
sessions: {recheck: 1s, recheck_grace: 4h}
rate_limits: {attempts: 100000}
connectors:
  - {id: dingtalk, type: dingtalk, name: 钉钉, client_id: ding-client, client_secret: ding-secret, corp_id: ding0123, authorize_url: "%[1]s/oauth2/auth", api_url: "%[1]s", oapi_url: "%[1]s", groups_map: {"42": gpu-users}}
  - {id: wecom, type: wecom, name: 企业微信, corp_id: ww0123, agent_id: "1000002", secret: wecom-secret, private_info: true, qr_url: "%[2]s/wwlogin/sso/login", authorize_url: "%[2]s/connect/oauth2/authorize", api_url: "%[2]s"}
  - {id: feishu, type: feishu, name: 飞书, app_id: cli_0123, app_secret: feishu-secret, tenant_key: tenant-1, authorize_url: "%[3]s/open-apis/authen/v1/authorize", token_url: "%[3]s/oauth/v3/token", api_url: "%[3]s"}
`, vs["dingtalk"].url, vs["wecom"].url, vs["feishu"].url)})
	g := serve(t, dir, []string{"--dev"})
	for _, v := range vs {
		v.g = g
	}
	return vs
}

func (v *vendor) hostile(names string) {
	v.t.Helper()
	resp, err := http.Post(v.url+"/control?hostile="+names, "text/plain", nil)
	if err != nil {
		v.t.Fatal(err)
	}
	resp.Body.Close()
}

// fetched says how often the application's token was asked for.
func (v *vendor) fetched() int {
	v.t.Helper()
	_, body := get(v.t, v.url+"/control")
	var s struct{ Fetched int }
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		v.t.Fatal(err)
	}
	return s.Fetched
}

var attemptLink = regexp.MustCompile(`\?attempt=([A-Z2-7]{26})"`)

// leave begins a sign-in and returns the vendor's address.
func (v *vendor) leave(p *person, agent string) *url.URL {
	v.t.Helper()
	a := p.follow(p.send(http.MethodGet, "/", nil))
	m := attemptLink.FindStringSubmatch(a.Body)
	if m == nil {
		v.t.Fatalf("no sign-in page (%d):\n%s", a.StatusCode, a.Body)
	}
	to, err := p.send(http.MethodGet, "/signin/"+v.id+"?attempt="+m[1], nil, "User-Agent", agent).Location()
	if err != nil {
		v.t.Fatal(err)
	}
	return to
}

// away chooses who on the vendor's page and returns the address that leads back.
func (v *vendor) away(to *url.URL, agent, who string) string {
	v.t.Helper()
	req, _ := http.NewRequest(http.MethodGet, to.String(), nil)
	req.Header.Set("User-Agent", agent)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		v.t.Fatal(err)
	}
	m := regexp.MustCompile(`id="` + who + `" href="([^"]+)"`).FindSubmatch(body)
	if m == nil {
		v.t.Fatalf("%s: %s is not on the page of %s: %d\n%s", v.id, who, to, resp.StatusCode, body)
	}
	return html.UnescapeString(string(m[1]))
}

// enter signs somebody in and returns the page where it ended.
func (v *vendor) enter(p *person, who string) page {
	v.t.Helper()
	return p.follow(p.send(http.MethodGet, v.away(v.leave(p, onDesk), onDesk, who), nil))
}

func meOf(t *testing.T, p *person) map[string]any {
	t.Helper()
	return (&github{t: t}).me(p)
}

// Members come in by their stable ids and departments, with an address that is
// not taken as verified; others do not; one token of the application serves all.
func TestChinaSignIn(t *testing.T) {
	vs := startChina(t)
	accounts := map[string]string{}
	for id, want := range map[string]struct{ subject, email, groups string }{
		"dingtalk": {"uZhang", "zhangsan@corp.example.com", "[gpu-users dingtalk:7]"},
		"wecom":    {"ww0123/zhangsan", "<nil>", "[wecom:42 wecom:7]"},
		"feishu":   {"tenant-1/on_zhang", "zhangsan@corp.example.com", "[feishu:od-42 feishu:od-7]"},
	} {
		v := vs[id]
		p := newPerson(t, v.g)
		back := v.away(v.leave(p, onDesk), onDesk, "张三")
		if a := p.follow(p.send(http.MethodGet, back, nil)); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/" {
			t.Fatalf("%s: back at %s: %d\n%s", id, a.Request.URL, a.StatusCode, v.g.out)
		}
		me := meOf(t, p)
		if me["connector"] != id || fmt.Sprint(me["email"]) != want.email || me["email_verified"] == true || fmt.Sprint(me["groups"]) != want.groups || me["name"] != "张三" {
			t.Errorf("%s: %v", id, me)
		}
		if ids := me["identities"].([]any); ids[0].(map[string]any)["subject"] != want.subject {
			t.Errorf("%s: identity %v", id, ids)
		}
		// One name and one address at all three: three accounts, since none of them vouches for the address.
		if same := accounts[fmt.Sprint(me["id"])]; same != "" {
			t.Errorf("%s and %s lead to one account (docs/security.md UP-5)", id, same)
		}
		accounts[fmt.Sprint(me["id"])] = id
		// The same answer again, here and in another browser.
		for _, who := range []*person{p, newPerson(t, v.g)} {
			if a := who.send(http.MethodGet, back, nil); a.StatusCode != http.StatusOK || a.Header.Get("Location") != "" {
				t.Errorf("%s: a second time: %d to %q", id, a.StatusCode, a.Header.Get("Location"))
			}
		}
		// Somebody else's answer in one's own attempt.
		other := newPerson(t, v.g)
		theirs, _ := url.Parse(v.away(v.leave(newPerson(t, v.g), onDesk), onDesk, "李四"))
		mine, _ := url.Parse(v.away(v.leave(other, onDesk), onDesk, "李四"))
		q := theirs.Query()
		q.Set("state", mine.Query().Get("state"))
		mine.RawQuery = q.Encode()
		if a := other.follow(other.send(http.MethodGet, mine.String(), nil)); id == "feishu" && meOf(t, other) != nil { // the one that checks PKCE
			t.Errorf("%s: a code of another attempt: %d", id, a.StatusCode)
		}
		if a := v.enter(newPerson(t, v.g), "李四"); a.StatusCode != http.StatusOK {
			t.Errorf("%s: 李四: %d", id, a.StatusCode)
		}
		if n := v.fetched(); n != 1 {
			t.Errorf("%s: %d tokens of the application", id, n)
		}
		v.hostile("tokens-lost")
		if p := newPerson(t, v.g); v.enter(p, "张三").StatusCode != http.StatusServiceUnavailable || meOf(t, p) != nil {
			t.Errorf("%s: without a token that is taken", id)
		}
		v.hostile("")
	}
	for id, whos := range map[string][]string{"dingtalk": {"路人"}, "wecom": {"路人", "王五"}, "feishu": {"王五", "赵六", "钱七"}} {
		for _, who := range whos {
			p := newPerson(t, vs[id].g)
			if a := vs[id].enter(p, who); a.StatusCode != http.StatusForbidden || meOf(t, p) != nil {
				t.Errorf("%s: %s: %d", id, who, a.StatusCode)
			}
		}
	}
	for _, id := range []string{"dingtalk", "feishu"} {
		p := newPerson(t, vs[id].g)
		if a := vs[id].enter(p, "取消"); a.StatusCode != http.StatusOK || meOf(t, p) != nil {
			t.Errorf("%s: turned back: %d", id, a.StatusCode)
		}
	}
	// Inside WeCom's app: its own address, and what is told after asking.
	w, p := vs["wecom"], newPerson(t, vs["wecom"].g)
	to := w.leave(p, inWeCom)
	if to.Path != "/connect/oauth2/authorize" || to.Fragment != "wechat_redirect" {
		t.Fatalf("inside WeCom: %s", to)
	}
	p.follow(p.send(http.MethodGet, w.away(to, inWeCom, "张三"), nil))
	if me := meOf(t, p); me["email"] != "zhangsan@corp.example.com" || me["email_verified"] == true {
		t.Errorf("inside WeCom: %v", me)
	}
	w.secretsStayHere(vs)
}

// secretsStayHere looks for them in what the program wrote.
func (v *vendor) secretsStayHere(vs map[string]*vendor) {
	v.t.Helper()
	log := v.g.out.String()
	for _, s := range []string{"ding-secret", "wecom-secret", "feishu-secret", "access_token=", "corpsecret", "13800001234", "from ip:", "authCode="} {
		if strings.Contains(log, s) {
			v.t.Errorf("the log holds %q", s)
		}
	}
}

// What the vendors may answer instead: nobody gets in, and the page says so.
func TestChinaTrouble(t *testing.T) {
	vs := startChina(t)
	for id, cases := range map[string]map[string]int{
		"dingtalk": {"down": 503, "huge": 502, "garbage": 502, "code-expired": 502, "limit": 503, "busy": 503, "gone": 403, "other-company": 403, "code-name": 200},
		"wecom":    {"down": 503, "huge": 502, "garbage": 502, "code-expired": 502, "limit": 503, "busy": 503, "ip": 502, "out-of-range": 403, "no-book": 200, "old-spelling": 200},
		"feishu":   {"down": 503, "huge": 502, "garbage": 502, "code-expired": 502, "limit": 503, "gone": 403, "frozen": 403, "no-book": 200},
	} {
		v := vs[id]
		for hostile, want := range cases {
			v.hostile(hostile)
			p := newPerson(t, v.g)
			if a := v.enter(p, "张三"); a.StatusCode != want || (meOf(t, p) != nil) != (want == http.StatusOK) {
				t.Errorf("%s, %s: %d, want %d; signed in: %v", id, hostile, a.StatusCode, want, meOf(t, p))
			} else if strings.Contains(a.Body, "hint:") || strings.Contains(a.Body, "errcode") || strings.Contains(a.Body, "sign in</") && hostile == "garbage" {
				t.Errorf("%s, %s: the page quotes the vendor", id, hostile)
			}
		}
		v.hostile("")
		if a := v.enter(newPerson(t, v.g), "张三"); a.StatusCode != http.StatusOK {
			t.Errorf("%s, afterwards: %d", id, a.StatusCode)
		}
	}
	vs["wecom"].secretsStayHere(vs)
}

// DingTalk and Feishu are asked again with the application's own token: groups
// follow, an outage keeps sessions, and who is no longer there is out. What
// WeCom proved is not asked again, and limits the session.
func TestChinaRecheck(t *testing.T) {
	vs := startChina(t)
	for id, moved := range map[string]string{"dingtalk": "[dingtalk:99]", "feishu": "[feishu:od-99]"} {
		t.Run(id, func(t *testing.T) {
			t.Parallel()
			vs[id].at(t).follows(moved)
		})
	}
	t.Run("wecom", func(t *testing.T) {
		t.Parallel()
		v := vs["wecom"].at(t)
		p := newPerson(t, v.g)
		v.enter(p, "张三")
		_, tokens := p.redeem(p.code("openid offline_access groups"))
		v.hostile("out-of-range")
		time.Sleep(1200 * time.Millisecond)
		if status, _ := p.refresh(tokens["refresh_token"]); status != http.StatusOK || meOf(t, p) == nil {
			t.Errorf("asked again, or ended early: %d", status)
		}
	})
}

// at is the vendor for a subtest.
func (v *vendor) at(t *testing.T) *vendor { return &vendor{t, v.g, v.id, v.url} }

// follows checks that groups follow and leaving ends all.
func (v *vendor) follows(moved string) {
	p := newPerson(v.t, v.g)
	v.enter(p, "张三")
	_, tokens := p.redeem(p.code("openid offline_access groups"))
	again := func() int {
		v.t.Helper()
		time.Sleep(1200 * time.Millisecond) // older than sessions.recheck: a refresh asks first
		var status int
		status, tokens = p.refresh(tokens["refresh_token"])
		return status
	}
	v.hostile("moved")
	status, groups := again(), ""
	for range 50 { // the browser's own session follows in the background of its next use
		if groups = fmt.Sprint(meOf(v.t, p)["groups"]); groups == moved {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if status != http.StatusOK || groups != moved {
		v.t.Errorf("moved: %d %s", status, groups)
	}
	v.hostile("down")
	if status := again(); status != http.StatusOK || meOf(v.t, p) == nil {
		v.t.Fatalf("an outage ended a session within recheck_grace: %d", status)
	}
	v.hostile("gone")
	if status := again(); status != http.StatusBadRequest || tokens["error"] != "invalid_grant" || meOf(v.t, p) != nil {
		v.t.Errorf("gone: %d %v, browser in: %v", status, tokens, meOf(v.t, p) != nil)
	}
}

// Chromium goes the whole way, on a desk and as WeCom's own browser.
func TestBrowserChina(t *testing.T) {
	vs := startChina(t)
	g := vs["wecom"].g
	t.Run("desk", func(t *testing.T) {
		browser(t, nil, "china.mjs", append([]string{g.URL, ""}, slices.Sorted(slices.Values([]string{"dingtalk", "feishu", "wecom"}))...)...)
	})
	t.Run("inside WeCom, scripts off", func(t *testing.T) { browser(t, []string{"NOJS=1"}, "china.mjs", g.URL, inWeCom, "wecom") })
}
