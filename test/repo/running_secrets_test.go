package repo

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/config"
)

// runningYAML is everything that holds a secret while it runs. Each secret begins
// with MARKED and is there once.
const runningYAML = `
issuer: https://id.example.com
roles: {admin: ["local:demo"]}
github: {client_id: a, client_secret: MARKED-github-secret}
google: {client_id: a, client_secret: MARKED-google-secret, hosted_domains: [acme.com], directory: {admins: {acme.com: admin@acme.com}, service_account: '{"type": "service_account", "client_email": "d@p.iam.gserviceaccount.com", "private_key": "KEYINJSON"}'}}
gitlab: {client_id: a, client_secret: MARKED-gitlab-secret}
ldap: {host: 127.0.0.1, port: 1, allow_plaintext: true, base_dn: "dc=example,dc=com", bind_dn: "cn=admin,dc=example,dc=com", bind_password: MARKED-ldap-password}
local: {users: [{username: demo, password_hash: "$argon2id$v=19$m=19456,t=2,p=1$fLPwHy40dgLraRpXhnUZqg$S6hGkbQ0/LseniYdazF5HwPL26Lqz38MGFMCpp1YiLE"}]}
connectors:
  - {id: oidc1, type: oidc, issuer: "http://127.0.0.1:1", client_id: a, client_secret: MARKED-oidc-secret}
  - {id: oidc2, type: oidc, issuer: "http://127.0.0.1:1", client_id: a, token_endpoint_auth_method: private_key_jwt, private_key: "KEYHERE"}
  - {id: ding, type: dingtalk, client_id: a, client_secret: MARKED-ding-secret, corp_id: c}
  - {id: qywx, type: wecom, corp_id: c, agent_id: "1", secret: MARKED-wecom-secret}
  - {id: lark, type: feishu, app_id: a, app_secret: MARKED-feishu-secret, tenant_key: t}
clients: [{client_id: c, client_secret: MARKED-client-secret, redirect_uris: ["https://app.example.com/cb"]}]
service_accounts: [{name: ci, groups: []}]
dingtalk: {webhook_url: "https://oapi.dingtalk.com/robot/send?access_token=MARKED-ding-token", secret: MARKED-ding-robot}
wechat: {webhook_url: "https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=MARKED-wechat-key"}
slack: {webhook_url: https://hooks.slack.com/services/T0/B0/MARKED-slack-key}
feishu: {webhook_url: https://open.feishu.cn/open-apis/bot/v2/hook/MARKED-feishu-hook, secret: MARKED-feishu-robot}
webhooks: [{name: siem, url: https://siem.example.com/hook/MARKED-webhook-path, secret: WEBHOOKKEY}]
smtp: {host: smtp.example.com, username: gatehouse, password: MARKED-smtp-password, from: gatehouse@example.com}
s3: {endpoint: s3.amazonaws.com, region: us-east-1, access_key: a, secret_key: MARKED-s3-secret, bucket: audit}
oss: {endpoint: oss-cn-hangzhou.aliyuncs.com, access_key: a, secret_key: MARKED-oss-secret, bucket: audit}
cos: {endpoint: cos.ap-guangzhou.myqcloud.com, region: ap-guangzhou, access_key: a, secret_key: MARKED-cos-secret, bucket: audit-1250000000}
minio: {endpoint: "127.0.0.1:1", use_ssl: false, access_key: a, secret_key: MARKED-minio-secret, bucket: audit}
audit: {archive: [s3, oss, cos, minio]}
sentry: {dsn: "https://MARKEDsentrykey@sentry.example.com/1"}
uptime_kuma: {push_url: https://kuma.example.com/api/push/MARKED-kuma-token}
tracing: {otlp_endpoint: "https://otel.example.com:4318", headers: {authorization: MARKED-otel-key}}
`

const (
	runningKey = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgH92wQ0hQ8x7DxfRJ\noybmdZcAJu7DuVf7fnrypqXBeaihRANCAASgL6gkzAR9fo8r/wr2d8ouxkthlq6e\nAYfiXfTqsqsh4gyVf1SLOOI+QPWer7lb0TckN6Q0tJD/jgL9BQGMQrSM\n-----END PRIVATE KEY-----\n"
	keyText    = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgH92wQ0hQ8x7DxfRJ"
	sealingKey = "MARKED-sealing-key-of-32-bytes!!"
	webhookKey = "MARKED-webhook-key-of-32-bytes!!"
)

// walker visits all that a value leads to, unexported fields included.
type walker struct {
	seen  map[seen]bool
	visit func(path string, v reflect.Value)
}

type seen struct {
	at  unsafe.Pointer
	typ reflect.Type
}

func (w *walker) walk(path string, v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() || w.seen[seen{v.UnsafePointer(), v.Type()}] {
			return
		}
		w.seen[seen{v.UnsafePointer(), v.Type()}] = true
		w.walk(path, v.Elem())
	case reflect.Interface:
		if !v.IsNil() {
			w.walk(path, open(v.Elem()))
		}
	case reflect.Struct:
		v = open(v)
		if strings.HasPrefix(v.Type().String(), "redact.Box[") { // what is in it comes out by Reveal alone
			return
		}
		if strings.HasPrefix(v.Type().String(), "atomic.Pointer[") { // whose field has no type
			w.walk(path, v.Addr().MethodByName("Load").Call(nil)[0])
			return
		}
		w.visit(path, v)
		for i := range v.NumField() {
			f := v.Field(i)
			w.walk(path+"."+v.Type().Field(i).Name, reflect.NewAt(f.Type(), unsafe.Pointer(f.UnsafeAddr())).Elem()) //nolint:gosec // a test looks behind unexported fields
		}
	case reflect.Slice, reflect.Array:
		w.visit(path, v)
		if k := v.Type().Elem().Kind(); k == reflect.Struct || k == reflect.Pointer || k == reflect.Interface || k == reflect.Map || k == reflect.Slice || k == reflect.String {
			for i := range v.Len() {
				w.walk(path+"[]", open(v.Index(i)))
			}
		}
	case reflect.Map:
		w.visit(path, v)
		for it := v.MapRange(); it.Next(); {
			w.walk(path+"[]", open(it.Value()))
		}
	}
}

// open is v where it can be pointed at.
func open(v reflect.Value) reflect.Value {
	if v.CanAddr() {
		return v
	}
	p := reflect.New(v.Type()).Elem()
	p.Set(v)
	return p
}

// ST-2: nothing that runs shows a secret, whoever prints it, a test's %+v or a log
// of a struct: clients, connectors, channels, buckets, keys and whatever holds
// them. fmt calls no method on unexported fields, so that the type of a secret
// alone does not keep it from being printed there.
func TestRunningStructsShowNoSecrets(t *testing.T) {
	quoted := func(s string) string { b, _ := json.Marshal(s); return strings.Trim(string(b), `"`) }
	yaml := strings.NewReplacer("KEYINJSON", quoted(runningKey), "KEYHERE", quoted(runningKey), "WEBHOOKKEY", "whsec_"+base64.StdEncoding.EncodeToString([]byte(webhookKey))).Replace(runningYAML)
	dir := t.TempDir()
	cfg, findings, err := config.Parse([]config.Document{{Name: "running.yml", YAML: []byte(yaml)}}, config.LoadOptions{Types: broker.Types(), Env: func(k string) (string, bool) {
		v, ok := map[string]string{"GATEHOUSE_DATA": filepath.Join(dir, "data"), "GATEHOUSE_SECRET_KEY": base64.StdEncoding.EncodeToString([]byte(sealingKey))}[k]
		return v, ok
	}})
	if err != nil {
		t.Fatalf("%v\n%v", err, findings)
	}
	b, err := broker.New(t.Context(), cfg, broker.Options{Version: "test", Log: slog.New(slog.DiscardHandler), Now: time.Now, SecretKeys: redact.String(base64.StdEncoding.EncodeToString([]byte(sealingKey)))})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()

	secrets := map[string]bool{"MARKED": true, keyText: true, base64.StdEncoding.EncodeToString([]byte(webhookKey)): true, base64.StdEncoding.EncodeToString([]byte(sealingKey)): true}
	asNumbers := func(key []byte) { secrets[strings.Trim(fmt.Sprint(key), "[]")] = true }
	asNumbers([]byte(webhookKey))
	asNumbers([]byte(sealingKey))
	// What was made at the start: keys that sign.
	find := walker{seen: map[seen]bool{}, visit: func(_ string, v reflect.Value) {
		switch k := v.Interface().(type) {
		case ed25519.PrivateKey:
			if len(k) > 0 {
				asNumbers(k.Seed())
			}
		case ecdsa.PrivateKey:
			if raw, err := k.Bytes(); err == nil {
				secrets[new(big.Int).SetBytes(raw).String()] = true // as fmt would print it
			}
		case rsa.PrivateKey:
			secrets[k.D.String()] = true
		}
	}}
	find.walk("broker", reflect.ValueOf(b))
	if len(secrets) < 8 {
		t.Fatalf("only %d secrets are known: no keys were found", len(secrets))
	}

	kinds, told := map[reflect.Type]bool{}, map[reflect.Type]bool{}
	look := walker{seen: map[seen]bool{}, visit: func(path string, v reflect.Value) {
		typ := v.Type()
		ours := typ
		for ours.Kind() == reflect.Slice || ours.Kind() == reflect.Map || ours.Kind() == reflect.Pointer {
			ours = ours.Elem()
		}
		if !strings.HasPrefix(ours.PkgPath(), "github.com/remotegpu/gatehouse/") || told[typ] {
			return
		}
		kinds[typ] = true
		for _, verb := range []string{"%+v", "%v", "%#v"} {
			for _, x := range []any{v.Addr().Interface(), v.Interface()} {
				out := fmt.Sprintf(verb, x)
				for s := range secrets {
					if i := strings.Index(out, s); i >= 0 {
						told[typ] = true
						t.Errorf("%s (%s) shows %.60s with %s", typ, path, out[max(0, i-30):], verb)
						return
					}
				}
				if i := strings.Index(out, hex.EncodeToString([]byte("MARKED"))); i >= 0 {
					t.Errorf("%s (%s) shows a secret in hex with %s", typ, path, verb)
				}
			}
		}
	}}
	look.walk("broker", reflect.ValueOf(b))
	if len(kinds) < 100 {
		t.Fatalf("only %d kinds of structs were found", len(kinds))
	}
}
