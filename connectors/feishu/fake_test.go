package feishu

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/connectors"
	"github.com/remotegpu/gatehouse/connectors/connectortest"
)

const (
	secret   = "s3cret-of-the-app"
	union    = "on_94a1ee5551019f18cd73d9f111898cf2"
	callback = "https://id.example.com/auth/lark/callback"
)

var attempt = connectors.Attempt{ID: "ABCDEFGHIJKLMNOPQRSTUVWXY2", CallbackURL: callback}

// fake is Feishu with one person. Its fields are changed by srv.Set.
type fake struct {
	t      *testing.T
	srv    *connectortest.Server
	codes  map[string][2]string // each with its challenge and redirect_uri
	user   map[string]any
	entry  map[string]any
	code   int // of the address book; 0 answers
	kind   string
	tokens map[string]bool
	ahead  time.Duration
}

func newFake(t *testing.T) *fake {
	f := &fake{t: t, codes: map[string][2]string{}, tokens: map[string]bool{},
		user: map[string]any{"name": "张三", "open_id": "ou_1", "union_id": union, "user_id": "5d9bdxxx", "tenant_key": "tenant1", "avatar_url": "https://static.example/a.png",
			"email": "private@example.com", "enterprise_email": "zhangsan@corp.example.com", "mobile": "+8613800001234"},
		entry: map[string]any{"name": "张三", "open_id": "ou_1", "union_id": union, "user_id": "5d9bdxxx", "department_ids": []string{"od-b", "od-a", "od-b"}, "job_title": "工程师",
			"enterprise_email": "zhangsan@corp.example.com", "mobile": "+8613800001234", "avatar": map[string]any{"avatar_240": "https://static.example/b.png"},
			"status": map[string]any{"is_frozen": false, "is_resigned": false, "is_activated": true, "is_exited": false}},
	}
	token := func(w http.ResponseWriter, r *http.Request) {
		p := map[string]string{}
		if f.kind = r.Header.Get("Content-Type"); strings.HasPrefix(f.kind, "application/json") {
			_ = json.NewDecoder(r.Body).Decode(&p)
		} else {
			_ = r.ParseForm()
			for k := range r.PostForm {
				p[k] = r.PostForm.Get(k)
			}
		}
		sum := sha256.Sum256([]byte(p["code_verifier"]))
		var want [2]string
		f.srv.Set(func() { want = f.codes[p["code"]]; delete(f.codes, p["code"]) })
		switch {
		case p["client_id"] != "cli_1" || p["client_secret"] != secret:
			refuse(w, 20002, "invalid_client")
		case want[0] == "" || p["redirect_uri"] != want[1] || p["grant_type"] != "authorization_code":
			refuse(w, 20003, "invalid_grant")
		case base64.RawURLEncoding.EncodeToString(sum[:]) != want[0]:
			refuse(w, 20049, "invalid_grant")
		default:
			reply(w, map[string]any{"code": 0, "access_token": "user-token", "token_type": "Bearer", "expires_in": 7200, "scope": "auth:user.id:read"})
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/v3/token", token)
	mux.HandleFunc("POST /open-apis/authen/v2/oauth/token", token)
	mux.HandleFunc("GET /open-apis/authen/v1/user_info", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer user-token" {
			reply(w, map[string]any{"code": 20005, "msg": "invalid access token"})
			return
		}
		reply(w, map[string]any{"code": 0, "msg": "success", "data": f.user})
	})
	mux.HandleFunc("POST /open-apis/auth/v3/tenant_access_token/internal", func(w http.ResponseWriter, r *http.Request) {
		var b map[string]string
		_ = json.NewDecoder(r.Body).Decode(&b)
		if b["app_id"] != "cli_1" || b["app_secret"] != secret {
			reply(w, map[string]any{"code": 10014, "msg": "app secret invalid " + b["app_secret"]})
			return
		}
		token := "t-app-token-" + rand.Text()
		f.srv.Set(func() { f.tokens[token] = true })
		reply(w, map[string]any{"code": 0, "msg": "ok", "tenant_access_token": token, "expire": 7200})
	})
	mux.HandleFunc("GET /open-apis/contact/v3/users/{id}", func(w http.ResponseWriter, r *http.Request) {
		good := false
		f.srv.Set(func() { good = f.tokens[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")] })
		switch q := r.URL.Query(); {
		case !good:
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]any{"code": 99991663, "msg": "Invalid access token for authorization. " + r.Header.Get("Authorization")})
		case f.code != 0:
			w.WriteHeader(http.StatusBadRequest)
			reply(w, map[string]any{"code": f.code, "msg": "secret text"})
		case r.PathValue("id") != union || q.Get("user_id_type") != "union_id" || q.Get("department_id_type") != "open_department_id":
			reply(w, map[string]any{"code": 41012, "msg": "user id invalid"})
		default:
			reply(w, map[string]any{"code": 0, "msg": "success", "data": map[string]any{"user": f.entry}})
		}
	})
	f.srv = connectortest.NewServer(t, mux)
	return f
}

func refuse(w http.ResponseWriter, code int, name string) {
	w.WriteHeader(http.StatusBadRequest)
	reply(w, map[string]any{"code": code, "error": name, "error_description": "secret text"})
}

func reply(w http.ResponseWriter, v any) { _ = json.NewEncoder(w).Encode(v) }

func (f *fake) now() time.Time { return time.Now().Add(f.ahead) }

func (f *fake) config(tenant string) Config {
	return Config{AppID: "cli_1", AppSecret: secret, TenantKey: tenant, AuthorizeURL: f.srv.URL + "/open-apis/authen/v1/authorize", TokenURL: f.srv.URL + "/oauth/v3/token", APIURL: f.srv.URL}
}

func (f *fake) open(cfg Config) *Connector {
	f.t.Helper()
	c, err := Open(f.srv.Env("lark", f.now, slog.DiscardHandler), cfg)
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
	f.srv.Set(func() { f.codes[code] = [2]string{u.Query().Get("code_challenge"), u.Query().Get("redirect_uri")} })
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
