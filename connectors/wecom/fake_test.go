package wecom

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const (
	secret   = "s3cret-of-the-app"
	callback = "https://id.example.com/auth/qywx/callback"
	// inside is what WeCom's own browser calls itself on Android.
	inside = "Mozilla/5.0 (Linux; Android 12; M2102J2SC Build/SKQ1.211006.001; wv) AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/86.0.4240.99 XWEB/4313 MMWEBSDK/20220805 Mobile Safari/537.36 MMWEBID/7654 MicroMessenger/8.0.27.2220(0x28001B37) WeChat/arm64 Weixin NetType/WIFI wxwork/4.0.19 Language/zh_CN ABI/arm64"
)

var attempt = connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY2", CallbackURL: callback}

// fake is WeCom with one member. Its fields are changed by srv.Set.
type fake struct {
	t       *testing.T
	srv     *connectortest.Server
	codes   map[string]bool
	visitor map[string]any
	member  map[string]any
	detail  map[string]any
	tokens  map[string]bool
	ahead   time.Duration
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, codes: map[string]bool{}, tokens: map[string]bool{},
		visitor: map[string]any{"userid": "ZhangSan"},
		member:  map[string]any{"userid": "ZhangSan", "name": "张三", "department": []int{42, 7}, "position": "工程师", "status": 1, "mobile": "13800001234"},
		detail:  map[string]any{"userid": "ZhangSan", "gender": "1", "avatar": "https://static.example/a.png", "email": "zs@example.com", "biz_mail": "zhangsan@corp.example.com", "mobile": "13800001234"},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /cgi-bin/gettoken", func(w http.ResponseWriter, r *http.Request) {
		if q := r.URL.Query(); q.Get("corpid") != "ww0123" || q.Get("corpsecret") != secret {
			reply(w, map[string]any{"errcode": 40001, "errmsg": "invalid credential, hint: [" + q.Get("corpsecret") + "], from ip: 10.0.0.1"})
			return
		}
		token := "app-token-" + rand.Text()
		f.srv.Set(func() { f.tokens[token] = true })
		reply(w, map[string]any{"errcode": 0, "errmsg": "ok", "access_token": token, "expires_in": 7200})
	})
	api := func(answer func(r *http.Request) map[string]any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			good := false
			f.srv.Set(func() { good = f.tokens[r.URL.Query().Get("access_token")] })
			if !good {
				reply(w, map[string]any{"errcode": 40014, "errmsg": "invalid access_token, hint: [" + r.URL.Query().Get("access_token") + "]"})
				return
			}
			a := answer(r)
			if a["errcode"] == nil {
				a["errcode"], a["errmsg"] = 0, "ok"
			}
			reply(w, a)
		}
	}
	mux.HandleFunc("GET /cgi-bin/auth/getuserinfo", api(func(r *http.Request) map[string]any {
		ok := false
		code := r.URL.Query().Get("code")
		f.srv.Set(func() { ok = f.codes[code]; delete(f.codes, code) })
		if !ok {
			return map[string]any{"errcode": 40029, "errmsg": "invalid code " + code}
		}
		return f.visitor
	}))
	mux.HandleFunc("GET /cgi-bin/user/get", api(func(*http.Request) map[string]any { return f.member }))
	mux.HandleFunc("POST /cgi-bin/auth/getuserdetail", api(func(r *http.Request) map[string]any {
		var b map[string]string
		_ = json.NewDecoder(r.Body).Decode(&b)
		if b["user_ticket"] != "ticket" {
			return map[string]any{"errcode": 40097, "errmsg": "invalid args"}
		}
		return f.detail
	}))
	f.srv = connectortest.NewServer(t, mux)
	return f
}

func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func (f *fake) now() time.Time { return time.Now().Add(f.ahead) }

func (f *fake) config() Config {
	return Config{CorpID: "ww0123", AgentID: "1000002", Secret: secret, QRURL: f.srv.URL + "/wwlogin", AuthorizeURL: f.srv.URL + "/authorize", APIURL: f.srv.URL}
}

func (f *fake) open(cfg Config) *Connector {
	f.t.Helper()
	c, err := Open(f.srv.Env("qywx", f.now, slog.DiscardHandler), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.(*Connector)
}

func (f *fake) upstream(d connectors.Departure) connectors.Return {
	u, err := url.Parse(d.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	code := rand.Text()
	f.srv.Set(func() { f.codes[code] = true })
	return connectors.Return{Method: http.MethodGet, Params: url.Values{"code": {code}, "state": {u.Query().Get("state")}}}
}

func (f *fake) signIn(ctx context.Context, c *Connector) (connectors.Identity, error) {
	f.t.Helper()
	d, err := c.Begin(ctx, attempt)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.Finish(ctx, attempt, d.Secret, f.upstream(d))
}
