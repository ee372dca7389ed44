package dingtalk

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
	union    = "z21HjQliSzpw0Yxx"
	callback = "https://id.example.com/auth/ding/callback"
)

var attempt = connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY2", CallbackURL: callback}

// fake is DingTalk with one person. Its fields are changed by srv.Set.
type fake struct {
	t      *testing.T
	srv    *connectortest.Server
	codes  map[string]bool
	corp   string
	me     map[string]any
	person map[string]any
	code   int // errcode of the older half; 0 answers
	tokens map[string]bool
	life   int
	ahead  time.Duration
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, codes: map[string]bool{}, corp: "ding0123", tokens: map[string]bool{}, life: 7200,
		me: map[string]any{"nick": "小张", "unionId": union, "openId": "o1", "email": "private@example.com", "mobile": "13800001234", "avatarUrl": "https://static.example/a.png"},
		person: map[string]any{"userid": "zhangsan", "unionid": union, "name": "张三", "email": "zs@example.com", "org_email": "zhangsan@corp.example.com",
			"mobile": "13800001234", "dept_id_list": []int{42, 7, 42}, "active": true, "title": "工程师"},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1.0/oauth2/userAccessToken", func(w http.ResponseWriter, r *http.Request) {
		var b map[string]string
		_ = json.NewDecoder(r.Body).Decode(&b)
		ok := false
		f.srv.Set(func() { ok = f.codes[b["code"]]; delete(f.codes, b["code"]) })
		if b["clientId"] != "app" || b["clientSecret"] != secret || b["grantType"] != "authorization_code" || !ok {
			connectortest.Status(http.StatusBadRequest, `{"code":"invalidParameter.authCode.notFound","message":"`+b["code"]+`","requestid":"x"}`)(w, r)
			return
		}
		reply(w, map[string]any{"accessToken": "user-token", "refreshToken": "r", "expireIn": 7200, "corpId": f.corp})
	})
	mux.HandleFunc("GET /v1.0/contact/users/me", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("x-acs-dingtalk-access-token") != "user-token" {
			connectortest.Status(http.StatusUnauthorized, `{"code":"InvalidAuthentication","message":"x"}`)(w, r)
			return
		}
		reply(w, f.me)
	})
	mux.HandleFunc("POST /v1.0/oauth2/accessToken", func(w http.ResponseWriter, r *http.Request) {
		var b map[string]string
		_ = json.NewDecoder(r.Body).Decode(&b)
		if b["appKey"] != "app" || b["appSecret"] != secret {
			connectortest.Status(http.StatusBadRequest, `{"code":"invalidClientIdOrSecret","message":"`+b["appSecret"]+`"}`)(w, r)
			return
		}
		token := "app-token-" + rand.Text()
		f.srv.Set(func() { f.tokens[token] = true })
		reply(w, map[string]any{"accessToken": token, "expireIn": f.life})
	})
	company := func(answer func(b map[string]string) any) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			good := false
			f.srv.Set(func() { good = f.tokens[r.URL.Query().Get("access_token")] })
			var b map[string]string
			_ = json.NewDecoder(r.Body).Decode(&b)
			switch {
			case !good:
				reply(w, map[string]any{"errcode": 40014, "errmsg": "不合法的access_token " + r.URL.Query().Get("access_token")})
			case f.code != 0:
				reply(w, map[string]any{"errcode": f.code, "errmsg": "quoted " + b["unionid"]})
			default:
				reply(w, map[string]any{"errcode": 0, "errmsg": "ok", "result": answer(b)})
			}
		}
	}
	mux.HandleFunc("POST /topapi/user/getbyunionid", company(func(map[string]string) any { return map[string]any{"contact_type": 0, "userid": f.person["userid"]} }))
	mux.HandleFunc("POST /topapi/v2/user/get", company(func(b map[string]string) any {
		if b["userid"] != f.person["userid"] {
			return map[string]any{}
		}
		return f.person
	}))
	f.srv = connectortest.NewServer(t, mux)
	return f
}

func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func (f *fake) now() time.Time { return time.Now().Add(f.ahead) }

func (f *fake) config(corp string) Config {
	return Config{ClientID: "app", ClientSecret: secret, CorpID: corp, AuthorizeURL: f.srv.URL + "/oauth2/auth", APIURL: f.srv.URL + "/", OAPIURL: f.srv.URL}
}

func (f *fake) open(cfg Config) *Connector {
	f.t.Helper()
	c, err := Open(f.srv.Env("ding", f.now, slog.DiscardHandler), cfg)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.(*Connector)
}

// upstream is DingTalk's page: it gives a code, under its own name for it.
func (f *fake) upstream(d connectors.Departure) connectors.Return {
	u, err := url.Parse(d.URL)
	if err != nil {
		f.t.Fatal(err)
	}
	code := rand.Text()
	f.srv.Set(func() { f.codes[code] = true })
	return connectors.Return{Method: http.MethodGet, Params: url.Values{"authCode": {code}, "state": {u.Query().Get("state")}}}
}

func (f *fake) signIn(ctx context.Context, c *Connector) (connectors.Identity, error) {
	f.t.Helper()
	d, err := c.Begin(ctx, attempt)
	if err != nil {
		f.t.Fatal(err)
	}
	return c.Finish(ctx, attempt, d.Secret, f.upstream(d))
}
