package broker_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// weCom is WeCom's API: the code is the userid, and one that begins with o is
// the openid of somebody who is no member.
func weCom(t *testing.T) string {
	reply := func(w http.ResponseWriter, v map[string]any) {
		if v["errcode"] == nil {
			v["errcode"] = 0
		}
		_ = json.NewEncoder(w).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cgi-bin/gettoken", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, map[string]any{"access_token": "app-token", "expires_in": 7200})
	})
	mux.HandleFunc("GET /cgi-bin/auth/getuserinfo", func(w http.ResponseWriter, r *http.Request) {
		if code := r.URL.Query().Get("code"); strings.HasPrefix(code, "o") {
			reply(w, map[string]any{"openid": code})
		} else {
			reply(w, map[string]any{"userid": code})
		}
	})
	mux.HandleFunc("GET /cgi-bin/user/get", func(w http.ResponseWriter, r *http.Request) {
		status := 1
		if r.URL.Query().Get("userid") == "wangwu" {
			status = 2
		}
		reply(w, map[string]any{"userid": r.URL.Query().Get("userid"), "name": "张三", "department": []int{42}, "status": status})
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	return srv.URL
}

// What a browser calls itself decides which page of WeCom's it is sent to; who
// is refused reads why in their own language; the address that the API was
// asked with, and its answer, stay away from the page.
func TestSignInByWeCom(t *testing.T) {
	t.Parallel()
	api := weCom(t)
	h := start(t, `connectors: [{id: qywx, type: wecom, name: 企业微信, corp_id: ww0123, agent_id: "1000002", secret: s3cret, api_url: "`+api+`", groups_map: {"42": gpu-users}}]`)
	leave := func(b *browser) *url.URL {
		t.Helper()
		a := b.get("/signin/qywx?attempt=" + field(t, attemptField, b.follow(b.get("/account"))))
		if a.StatusCode != http.StatusSeeOther {
			t.Fatalf("no departure: %d\n%s", a.StatusCode, a.Body)
		}
		return a.location()
	}
	desk := h.browser()
	to := leave(desk)
	if to.Host != "login.work.weixin.qq.com" || to.Query().Get("appid") != "ww0123" || to.Query().Get("redirect_uri") != h.URL+"/auth/qywx/callback" {
		t.Errorf("on a desk: %s", to)
	}
	inside := h.browser()
	inside.Header.Set("User-Agent", "Mozilla/5.0 (Linux; Android 12; "+strings.Repeat("x", 300)+") MicroMessenger/8.0.27 wxwork/4.0.19")
	if in := leave(inside); in.Host != "open.weixin.qq.com" || in.Fragment != "wechat_redirect" {
		t.Errorf("inside WeCom: %s", in)
	}
	enter := func(b *browser, code string) answer {
		t.Helper()
		return b.follow(b.get("/auth/qywx/callback?" + url.Values{"state": {leave(b).Query().Get("state")}, "code": {code}}.Encode()))
	}
	if a := enter(desk, "ZhangSan"); a.StatusCode != http.StatusOK || a.Request.URL.Path != "/account" || !strings.Contains(a.Body, "张三") {
		t.Errorf("a member: %d at %s", a.StatusCode, a.Request.URL)
	}
	for code, texts := range map[string][2]string{
		"oStranger": {"You are not in an organization that may sign in", "您不在允许登录的组织中"},
		"wangwu":    {"Your account at 企业微信 is turned off", "您在 企业微信 的账号已停用"},
	} {
		for i, lang := range []string{"en", "zh-CN"} {
			b := h.browser()
			b.Header.Set("Accept-Language", lang)
			a := enter(b, code)
			if a.StatusCode != http.StatusForbidden || !strings.Contains(a.Body, texts[i]) || b.in() {
				t.Errorf("%s in %s: %d\n%s", code, lang, a.StatusCode, a.Body)
			}
			for _, s := range []string{"app-token", "s3cret", "errcode"} {
				if strings.Contains(a.Body, s) {
					t.Errorf("%s: the page holds %q", code, s)
				}
			}
		}
	}
}
