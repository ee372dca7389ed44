package config_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/remotegpu/gatehouse/config"
)

const (
	hook  = "https://open.feishu.cn/open-apis/bot/v2/hook/"
	whsec = "whsec_d2ViaG9vay1zZWNyZXQtd2ViaG9vay1zZWNyZXQ="
)

// Sections are compared with one another, and the complaint stands where the
// operator has to change something.
func TestSectionsFitTogether(t *testing.T) {
	route := func(name, host, more string) string {
		return "  - {name: " + name + ", host: \"" + host + "\", upstream: \"http://127.0.0.1:1\"" + more + "}\n"
	}
	lease := func(name, host string) string {
		return "  - {name: " + name + ", host: \"" + host + "\", lease: true}\n"
	}
	client := "clients:\n  - {client_id: a, client_secret: secret-of-a, redirect_uris: [https://a.example.com/cb]"
	keyless, minioRole, otherRole := "endpoint: \"http://10.0.0.1:9000\", bucket: b", "\"arn:minio:iam:::role/a\"", "\"arn:minio:iam:::role/b\""
	bucket := "{endpoint: a, access_key: a, secret_key: a, bucket: b}\n"
	for _, c := range []struct {
		name, yaml, severity, rule, text string
		line                             int
	}{
		{"unknown connector", client + ", allowed_connectors: [local, acme]}", "error", "client.connector", `no connector "acme"`, 6},
		{"audience that is no resource", client + ", audiences: [platform-ap]}\nresources: [{name: platform-api}]", "error", "client.audience", `did you mean "platform-api"?`, 6},
		{"introspects no resource", client + ", resource_server_for: [api]}", "error", "client.audience", "neither a resource", 6},
		{"trust for no resource", "trust: [{name: d, provider: oidc, issuer: https://ci.example.com, match: {sub: x}, service_account: s, token_audience: api}]", "error", "trust.audience", "neither a resource", 5},
		{"trust of any repository", "trust:\n  - {name: d, provider: github_actions, service_account: s, match: {\n      repository_owner_id: \"1\",\n      repository_id: \"*\"}}", "error", "trust.id", "compared as a whole", 8},
		{"trust without an owner", "trust:\n  - {name: d, provider: github_actions, service_account: s, match: {repository_id: \"1\"}}", "error", "trust.github_ids", "the ids cannot", 6},
		{"trust in ourselves", "trust: [{name: d, provider: oidc, issuer: https://id.example.com, match: {sub: x}, service_account: s}]", "error", "trust.issuer", "without a rule", 5},
		{"an issuer of two kinds", "trust:\n  - {name: d, provider: gitlab_ci, issuer: https://ci.example.com, match: {project_id: \"1\"}, service_account: s}\n  - {name: e, provider: oidc, issuer: https://ci.example.com, match: {sub: x}, service_account: s}", "error", "trust.issuer", "is gitlab_ci in another rule", 7},
		{"an account that is none", "trust: [{name: d, provider: oidc, issuer: https://ci.example.com, match: {sub: x}, service_account: A b}]", "error", "service_account.name", "needs a name", 5},
		{"two trust rules", "trust:\n  - {name: d, provider: oidc, issuer: https://ci.example.com, match: {sub: x}, service_account: s}\n  - {name: d, provider: oidc, issuer: https://ci.example.com, match: {sub: y}, service_account: s}", "error", "trust.duplicate", "twice", 7},
		{"route for no resource", "routes:\n" + route("a", "a.example.org", ", audience: platform-api"), "warning", "route.audience", "no client can get a token", 6},
		{"two connectors", "connectors: [{id: local, type: local}]", "error", "connector.duplicate", `"local" is there twice`, 5},
		{"two in the list", "connectors:\n  - {id: l, type: local}\n  - {id: l, type: local}", "error", "connector.duplicate", "twice", 7},
		{"reserved id", "connectors: [{id: group, type: local}]", "error", "connector.reserved", "reserved", 5},
		{"id that is none", "connectors: [{id: A b, type: local}]", "error", "connector.id", "stands in addresses", 5},
		{"two clients", client + "}\n  - {client_id: a, redirect_uris: [https://a.example.com/cb]}", "error", "client.duplicate", "twice", 7},
		{"two resources", "resources: [{name: a}, {name: a}]", "error", "resource.duplicate", "twice", 5},
		{"one uri", "resources:\n  - {name: a, uri: https://a.example.com}\n  - {name: b, uri: https://a.example.com}", "error", "resource.duplicate", "twice", 7},
		{"two routes", "routes:\n" + route("a", "a.example.org", "") + route("a", "b.example.org", ""), "error", "route.duplicate", "twice", 7},
		{"two service accounts", "service_accounts: [{name: a}, {name: a}]", "error", "service_account.duplicate", "twice", 5},
		{"shadowed by a wider path", "routes:\n" + route("a", "a.example.org", "") + route("b", "A.example.org", ", path: /v1"), "error", "route.shadowed", `"a" stands before it`, 7},
		{"shadowed by the same path", "routes:\n" + route("a", "a.example.org", ", path: /v1") + route("b", "a.example.org", ", path: /v1/"), "error", "route.shadowed", `"a" stands before it`, 7},
		{"shadowed by a part of the path", "routes:\n" + route("a", "a.example.org", ", path: /v1") + route("b", "a.example.org", ", path: /v1/x"), "error", "route.shadowed", `"a" stands before it`, 7},
		{"shadowed by the same method", "routes:\n" + route("a", "a.example.org", ", methods: [GET, POST]") + route("b", "a.example.org", ", methods: [POST]"), "error", "route.shadowed", `"a" stands before it`, 7},
		{"shadowed by a label", "routes:\n" + route("a", "{tenant}.example.org", "") + route("b", "*.example.org", ", headers: {X-A: b}"), "error", "route.shadowed", `"a" stands before it`, 7},
		{"a header rule on ours", "routes:\n" + route("a", "a.example.org", ", request_headers: {set: {X-Gatehouse-User: root}}"), "error", "route.header_rule", "the gateway's", 6},
		{"shadowed wildcard", "routes:\n" + lease("a", "{node}.consoles.example.org") + route("b", "*.consoles.example.org", ""), "error", "route.shadowed", `"a" stands before it`, 7},
		{"a raw path beside another route", "routes:\n" + route("a", "a.example.org", ", path: /admin") + route("b", "a.example.org", ", raw_path: true"), "error", "route.raw_path", `"a" share a host`, 7},
		{"a raw path under a wildcard", "routes:\n" + route("a", "a.example.org", ", path: /admin") + route("b", "*.example.org", ", raw_path: true"), "error", "route.raw_path", `"a" share a host`, 7},
		{"the issuer's host", "routes:\n" + route("a", "ID.example.com", ""), "error", "route.issuer", "own host", 6},
		{"consoles below the issuer", "routes:\n" + lease("a", "{node}.consoles.example.com"), "warning", "route.same_site", "under the issuer's own domain", 6},
		{"consoles below an app", "routes:\n" + route("b", "app.example.org", "") + lease("a", "{node}.example.org"), "warning", "route.same_site", `under the domain of the route "b"`, 7},
		{"shadowed by a wildcard", "routes:\n" + lease("a", "{node}.example.org") + route("b", "app.example.org", ""), "error", "route.shadowed", `"a" stands before it`, 7},
		{"channels without names", "feishu: [{webhook_url: " + hook + "a, name: x}, {webhook_url: " + hook + "b}]", "error", "notify.name", "needs a name", 5},
		{"channels of one name", "feishu: [{webhook_url: " + hook + "a, name: x}, {webhook_url: " + hook + "b, name: x}]", "error", "notify.duplicate", "two channels", 5},
		{"robot elsewhere", "feishu: {webhook_url: https://open.feishu.cn.example.org/open-apis/bot/v2/hook/a}", "error", "notify.host", "private: true", 5},
		{"address of something else", "wechat: {webhook_url: https://qyapi.weixin.qq.com/cgi-bin/webhook/send}", "error", "notify.robot", "key=", 5},
		{"robot in clear", "wechat: {webhook_url: \"http://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=a\"}", "error", "notify.https", "readable", 5},
		{"secret of nothing", "wechat: {webhook_url: \"https://qyapi.weixin.qq.com/cgi-bin/webhook/send?key=a\", secret: b}", "error", "notify.secret", "signs nothing", 5},
		{"webhook without a secret", "webhooks: [{url: https://a.example.com}]", "error", "webhooks.secret", "whsec_", 5},
		{"password in clear", "smtp: {host: mail.example.com, from: a@example.com, tls: none, username: a, password: b}", "error", "smtp.clear", "in clear", 5},
		{"channel that is none", "notify: [{events: [signout], to: [slak]}]", "error", "notify.to", `no channel "slak"`, 5},
		{"event that is none", "notify: [{events: [signin.lockot], to: [slack]}]", "error", "notify.event", `did you mean "signin.lockout"?`, 5},
		{"glob that is none", "webhooks: [{url: https://a.example.com, secret: " + whsec + ", events: [users.*]}]", "error", "notify.event", `no event "users.*"`, 5},
		{"archive to nowhere", "audit: {archive: [s3]}", "error", "audit.archive", `no bucket "s3"`, 5},
		{"lent from nowhere", "storage_credentials: [{name: a, provider: oss}]", "error", "storage_credentials.provider", "no section oss", 5},
		{"one role for all on cos", "cos: " + bucket + "storage_credentials: [{name: a, provider: cos, role_arn: r, prefix: \"{user.id}/\"}]", "error", "storage_credentials.role", "role alone", 6},
		{"lent from one of two", "minio: [{name: x, " + keyless + "}, {name: y, " + keyless + "}]\nstorage_credentials: [{name: a, provider: minio, role_arn: " + minioRole + "}]", "error", "storage_credentials.bucket", "several buckets", 6},
		{"lent from another", "minio: {" + keyless + "}\nstorage_credentials: [{name: a, provider: minio, bucket: x, role_arn: " + minioRole + "}]", "error", "storage_credentials.bucket", `no bucket "x"`, 6},
		{"lent twice", "minio: {" + keyless + "}\nstorage_credentials:\n  - {name: a, provider: minio, role_arn: " + minioRole + "}\n  - {name: a, provider: minio, role_arn: " + minioRole + "}", "error", "storage_credentials.duplicate", "twice", 8},
		{"lent to a client's audience", "minio: {" + keyless + "}\nclients: [{client_id: minio, redirect_uris: [https://a.example.com/cb]}]\nstorage_credentials: [{name: a, provider: minio, role_arn: " + minioRole + "}]", "error", "storage_credentials.audience", "would count there too", 7},
		{"lent to our command line's audience", "minio: {" + keyless + "}\nstorage_credentials: [{name: a, provider: minio, audience: gatehouse-cli, role_arn: " + minioRole + "}]", "error", "storage_credentials.audience", "would count there too", 6},
		{"lent to a resource's audience", "minio: {" + keyless + "}\nresources: [{name: api}]\nstorage_credentials: [{name: a, provider: minio, audience: api, role_arn: " + minioRole + "}]", "error", "storage_credentials.audience", "would count there too", 7},
		{"one audience at two services", "minio: [{name: x, " + keyless + "}, {name: y, endpoint: \"http://10.0.0.2:9000\", bucket: b}]\nstorage_credentials:\n  - {name: a, provider: minio, bucket: x, role_arn: " + minioRole + "}\n  - {name: b, provider: minio, bucket: y, role_arn: " + minioRole + "}", "error", "storage_credentials.audience", "at another token service", 8},
		{"a token that takes another's role", "minio: {" + keyless + "}\nstorage_credentials:\n  - {name: a, provider: minio, role_arn: " + minioRole + ", allow: 'false'}\n  - {name: b, provider: minio, role_arn: " + otherRole + ", direct: true}", "error", "storage_credentials.audience", "could take the other's role", 8},
		{"no key and not lent", "minio: {" + keyless + "}", "error", "bucket.access_key", "missing", 5},
		{"no key for the archive", "minio: {" + keyless + "}\naudit: {archive: [minio]}\nstorage_credentials: [{name: a, provider: minio, role_arn: " + minioRole + "}]", "error", "bucket.access_key", "the archive writes", 5},
		{"half a key", "minio: {access_key: a, " + keyless + "}\nstorage_credentials: [{name: a, provider: minio, role_arn: " + minioRole + "}]", "error", "bucket.secret_key", "missing", 5},
		{"lent for no access", "minio: {" + keyless + "}\nstorage_credentials: [{name: a, provider: minio, access: [], role_arn: " + minioRole + "}]", "error", "yaml.empty", "no limit at all", 6},
		{"signup without domains", "connectors: [{id: l, type: local, signup: domains}]", "error", "connector.signup", "needs domains", 5},
		{"public upstream", "github: {client_id: a, client_secret: b}", "warning", "connector.public", "everybody with an account", 5},
		{"email role", "roles: {admin: ['email:a@example.com']}", "warning", "roles.email_domain", `No connector has the domain "example.com"`, 5},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, fs, err := parse(head + c.yaml + "\n")
			if (err != nil) != (c.severity == "error") {
				t.Errorf("error: %v", err)
			}
			if !slices.ContainsFunc(fs, func(f config.Finding) bool {
				return f.Severity == c.severity && f.Rule == c.rule && f.Line == c.line && f.File == "c.yml" && strings.Contains(f.Text+" "+f.Fix, c.text)
			}) {
				t.Errorf("%v", fs)
			}
		})
	}
}

// What is right is not complained about.
func TestSectionsThatFit(t *testing.T) {
	_, fs, err := parse(strings.Replace(head, "id.example.com", "id.example.com.cn", 1) + `clients:
  - {client_id: a, redirect_uris: [https://a.example.com/cb], audiences: [api, https://id.example.com.cn, https://b.example.com]}
resources: [{name: api, uri: https://b.example.com}]
routes:
  - {name: long, host: a.example.org, path: /v1/x, upstream: "http://127.0.0.1:1", audience: https://b.example.com}
  - {name: short, host: a.example.org, path: /v1, upstream: "http://127.0.0.1:1", audience: other, auth: [session]}
  - {name: beside, host: a.example.org, path: /v10, upstream: "http://127.0.0.1:1"}
  - {name: consoles, host: "{node}.consoles.com.cn", lease: true}
minio: {endpoint: "http://10.0.0.1:9000", bucket: lent}
s3: {endpoint: s3.amazonaws.com, access_key: a, secret_key: b, bucket: kept}
audit: {archive: [s3]}
storage_credentials:
  - {name: a, provider: minio, role_arn: "arn:minio:iam:::role/a"}
  - {name: b, provider: s3, role_arn: "arn:aws:iam::123456789012:role/b"}
  - {name: c, provider: s3, role_arn: "arn:aws:iam::123456789012:role/c", prefix: "public/", access: [read]}
  - {name: d, provider: s3, role_arn: "arn:aws:iam::123456789012:role/d", audience: sts.amazonaws.com/d, direct: true}
webhooks: [{url: https://a.example.com, secret: ` + whsec + `, events: ["*"]}, {url: https://b.example.com, secret: ` + whsec + `, events: [user.*, signout]}]
notify: [{events: [signin.*], to: [slack, webhooks]}]
`)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		if f.Severity != config.SeverityNote {
			t.Errorf("%s", f)
		}
	}
}

// SC-6: what nobody wrote is safe, and the demo stays on loopback.
func TestSecureDefaults(t *testing.T) {
	cfg, _, err := parse("issuer: https://id.example.com\nclients: [{client_id: a, client_secret: secret-of-a, redirect_uris: [https://a.example.com/]}]\n" +
		"saml: {metadata_url: https://idp.example.com/m}\nldap: {host: h, base_dn: dc=a}\n")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Listen != "127.0.0.1:8080" || cfg.AdminListen != "127.0.0.1:9091" || cfg.GatewayListen != "" || cfg.Debug || len(cfg.TrustedProxies) != 0 || cfg.ProxyProtocol {
		t.Errorf("listeners: %+v", cfg)
	}
	if m := cfg.Registration.Mode; m != "" && m != "off" || !cfg.Clients[0].PKCERequired() || cfg.Clients[0].Trusted || len(cfg.Roles.Admin) != 0 || len(cfg.Outgoing.AllowPrivate) != 0 || cfg.Outgoing.ProxyUntrusted {
		t.Errorf("rights: %+v", cfg)
	}
	for _, k := range cfg.Connectors {
		if k.Type == "local" || k.TrustEmail {
			t.Errorf("a connector that nobody wrote, or one that is trusted: %+v", k)
		}
	}
	dev := func(yaml string, env ...string) (config.Findings, error) {
		o := options(env...)
		o.Dev = true
		_, fs, err := config.Parse([]config.Document{{Name: "c.yml", YAML: []byte(yaml)}}, o)
		return fs, err
	}
	for _, c := range []struct{ yaml, place, rule string }{
		{"issuer: https://id.example.com", "c.yml:1:9", "issuer.dev"},
		{"issuer: http://192.0.2.1:8080", "c.yml:1:9", "issuer.dev"},
		{"listen: 0.0.0.0:8080", "c.yml:1:9", "dev.listen"},
		{"listen: ':8080'", "c.yml:1:9", "dev.listen"},
		{"gateway_listen: 192.0.2.1:8080", "c.yml:1:17", "dev.listen"},
		{"admin_listen: '[::]:9091'", "c.yml:1:15", "dev.listen"},
	} {
		if fs, err := dev(c.yaml); err == nil || !has(fs, c.place, c.rule, "") {
			t.Errorf("--dev with %s: %v", c.yaml, fs)
		}
	}
	if fs, err := dev("", "GATEHOUSE_LISTEN", "0.0.0.0:8080"); err == nil || !has(fs, "$GATEHOUSE_LISTEN:0:0", "dev.listen", "") {
		t.Errorf("--dev with GATEHOUSE_LISTEN: %v", fs)
	}
	if _, err := dev("", "GATEHOUSE_LISTEN", "0.0.0.0:8080", "GATEHOUSE_DEV_CONTAINER", "1"); err != nil {
		t.Errorf("in its container: %v", err)
	}
	if _, err := dev("issuer: https://id.example.com", "GATEHOUSE_DEV_CONTAINER", "1"); err == nil {
		t.Error("--dev took a public issuer in a container")
	}
	for _, ok := range []string{"", "listen: '[::1]:8080'", "listen: localhost:1", "issuer: http://localhost:8080"} {
		if fs, err := dev(ok); err != nil {
			t.Errorf("--dev with %s: %v", ok, fs)
		}
	}
	// Outside --dev an issuer is https, at the root of a host.
	for _, c := range []struct{ issuer, rule string }{
		{"http://id.example.com", "issuer.https"}, {"http://127.0.0.1:8080", "issuer.https"}, {"https://id.example.com/", "issuer.slash"}, {"https://id.example.com/auth", "issuer.path"},
		{"https://id.example.com?x=1", "issuer.url"}, {"https://a@id.example.com", "issuer.url"}, {"id.example.com", "issuer.url"}, {"ftp://id.example.com", "issuer.url"}, {"https://id.example.com#f", "issuer.url"},
	} {
		if _, fs, err := parse("issuer: " + c.issuer + "\nlocal: {users: []}\n"); err == nil || !has(fs, "c.yml:1:9", c.rule, "") {
			t.Errorf("%s: %v", c.issuer, fs)
		}
	}
}
