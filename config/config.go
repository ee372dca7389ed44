// Package config composes the configurations of the packages that own them, and
// defines what nobody owns. It reads files, finds the place of every complaint,
// and knows no vendor but the fixed top-level keys.
package config

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/remotegpu/gatehouse/broker/apikey"
	"github.com/remotegpu/gatehouse/broker/detect"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/gateway"
	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/issuer"
	"github.com/remotegpu/gatehouse/broker/notify"
	"github.com/remotegpu/gatehouse/broker/objectstore"
	"github.com/remotegpu/gatehouse/broker/portal"
	"github.com/remotegpu/gatehouse/broker/problem"
	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/sentry"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/signin"
	"github.com/remotegpu/gatehouse/broker/token"
	"github.com/remotegpu/gatehouse/broker/tracing"
	"github.com/remotegpu/gatehouse/broker/uptimekuma"
	"github.com/remotegpu/gatehouse/broker/user"
	"github.com/remotegpu/gatehouse/broker/web"
	"github.com/remotegpu/gatehouse/broker/workload"
)

// Config is the whole configuration (docs/configuration.md). The tag "one" marks
// a list that may be written as its only element, "later" a key that this version
// accepts and does not serve.
type Config struct {
	Issuer         string                    `yaml:"issuer"`
	Listen         string                    `yaml:"listen"`         // default 127.0.0.1:8080
	GatewayListen  string                    `yaml:"gateway_listen"` // default: shares Listen
	AdminListen    string                    `yaml:"admin_listen"`   // default 127.0.0.1:9091
	AdminHosts     []string                  `yaml:"admin_hosts"`    // public names of AdminListen
	TLS            TLSConfig                 `yaml:"tls"`
	TrustedProxies []string                  `yaml:"trusted_proxies"`
	ProxyProtocol  bool                      `yaml:"proxy_protocol,later"`
	DataDir        string                    `yaml:"data_dir"` // default data; admin.token lies there
	Store          redact.String             `yaml:"store"`    // default sqlite:data/gatehouse.db
	SecretKeyFile  string                    `yaml:"secret_key_file"`
	Roles          portal.Roles              `yaml:"roles"`
	Tokens         grant.TokensConfig        `yaml:"tokens"`
	Sessions       session.SessionsConfig    `yaml:"sessions"`
	Keys           token.KeysConfig          `yaml:"keys"`
	Registration   issuer.RegistrationConfig `yaml:"registration,later"`
	RateLimits     signin.LimitsConfig       `yaml:"rate_limits"`
	DefaultLocale  string                    `yaml:"default_locale"`
	Brand          string                    `yaml:"brand"`      // name on the pages; default RemoteGPU
	Support        string                    `yaml:"support"`    // whom error pages name
	GeoIPFile      string                    `yaml:"geoip_file"` // mmdb: where addresses are
	GeoIPHeaders   GeoIPHeaders              `yaml:"geoip_headers"`
	TimeZone       string                    `yaml:"time_zone"`

	Connectors []Connector `yaml:"-"` // the shortcuts first, then `connectors`

	Clients   []grant.Client         `yaml:"clients"`
	Resources []grant.Resource       `yaml:"resources"`
	Routes    []gateway.Route        `yaml:"routes"`
	Consoles  gateway.ConsolesConfig `yaml:"consoles"`

	Trust              []workload.Rule            `yaml:"trust"`
	APIKeys            apikey.KeysConfig          `yaml:"api_keys"`
	ServiceAccounts    []user.ServiceAccount      `yaml:"service_accounts"`
	DingTalk           []notify.Channel           `yaml:"dingtalk,one"`
	WeChat             []notify.Channel           `yaml:"wechat,one"`
	Slack              []notify.Channel           `yaml:"slack,one"`
	Feishu             []notify.Channel           `yaml:"feishu,one"`
	Webhooks           []notify.Webhook           `yaml:"webhooks"`
	SMTP               []notify.SMTP              `yaml:"smtp,one"`
	Notify             []notify.Rule              `yaml:"notify"`
	S3                 []objectstore.BucketConfig `yaml:"s3,one"`
	OSS                []objectstore.BucketConfig `yaml:"oss,one"`
	COS                []objectstore.BucketConfig `yaml:"cos,one"`
	MinIO              []objectstore.BucketConfig `yaml:"minio,one"`
	Audit              event.AuditConfig          `yaml:"audit"`
	StorageCredentials []objectstore.Credentials  `yaml:"storage_credentials"`

	Detection detect.Config `yaml:"detection"`

	Outgoing   OutgoingConfig    `yaml:"outgoing"`
	Sentry     sentry.Config     `yaml:"sentry"`
	UptimeKuma uptimekuma.Config `yaml:"uptime_kuma"`
	Tracing    tracing.Config    `yaml:"tracing"`
	Log        LogConfig         `yaml:"log"`
	Debug      bool              `yaml:"debug"` // pprof on admin_listen

	// Dev is set by `serve --dev` alone.
	Dev bool `yaml:"-"`
}

// GeoIPHeaders name headers in which a trusted proxy says where its client is;
// they count before geoip_file, and from nobody else.
type GeoIPHeaders struct {
	Country string `yaml:"country"` // of the code of ISO 3166-1
	City    string `yaml:"city"`
}

// TLSConfig names the certificate of the public listener.
type TLSConfig struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

// OutgoingConfig bounds our own calls (docs/security.md G6).
type OutgoingConfig struct {
	AllowPrivate   []string `yaml:"allow_private"` // hosts and networks
	Proxy          string   `yaml:"proxy"`
	CAFile         string   `yaml:"ca_file"`
	ProxyUntrusted bool     `yaml:"proxy_untrusted"`
}

// LogConfig is the `log` section.
type LogConfig struct {
	Level  string `yaml:"level"`  // debug, info (default), warn, error
	Format string `yaml:"format"` // json (default) or text
	// Flood is how many lines of one message a second are written; default 100,
	// -1 is no bound.
	Flood int `yaml:"flood"`
	// Access writes a line for every request; AccessFields are what it says.
	Access       bool     `yaml:"access"`
	AccessFields []string `yaml:"access_fields"`
}

// AccessFieldsOrDefault are the fields of the access log; none: there is no such
// log.
func (c LogConfig) AccessFieldsOrDefault() []string {
	switch {
	case !c.Access:
		return nil
	case len(c.AccessFields) == 0:
		return web.AccessDefault()
	}
	return c.AccessFields
}

// Connector is one way to sign in: what the operator says of it, and the
// section that its type owns.
type Connector struct {
	ID           string            `yaml:"id"`
	Type         string            `yaml:"type"`
	Name         string            `yaml:"name"`
	Org          string            `yaml:"org"` // default: the id
	Domains      []string          `yaml:"domains,some"`
	TrustEmail   bool              `yaml:"trust_email"` // its word about addresses of its domains counts
	Allow        *string           `yaml:"allow"`
	Signup       string            `yaml:"signup"`    // open (default), domains, invite
	Enforce      bool              `yaml:"enforce"`   // everyone of its domains must come by it
	LinkOnly     bool              `yaml:"link_only"` // can be linked to an account, leads into none
	Disabled     bool              `yaml:"disabled"`  // as if it were not there
	Hidden       bool              `yaml:"hidden"`
	GroupsMap    map[string]string `yaml:"groups_map"`
	GroupsPrefix *string           `yaml:"groups_prefix"`
	// Settings points to the type's own Config, decoded.
	Settings any `yaml:"-"`
	// Served is false for a type that a later version serves.
	Served bool `yaml:"-"`
}

// reserved ids are what entries of roles begin with.
var reserved = map[string]bool{"local": true, "group": true, "email": true}

// IssuerURL is the parsed issuer.
func (c *Config) IssuerURL() *url.URL {
	u, err := url.Parse(c.Issuer)
	if err != nil {
		return &url.URL{}
	}
	return u
}

// Problems complains about what stands outside the owners' sections, and about
// sections that do not fit together.
func (c *Config) Problems() []problem.Problem {
	var ps []problem.Problem
	add := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix})
	}
	warn := func(field, rule, text, fix string) {
		ps = append(ps, problem.Problem{Field: field, Rule: rule, Text: text, Fix: fix, Warning: true})
	}
	u, err := url.Parse(c.Issuer)
	switch {
	case c.Issuer == "":
		add("Issuer", "issuer.missing", "issuer is missing: the public URL of this broker, which tokens will carry as iss.", "issuer: https://id.example.com")
	case err != nil || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		add("Issuer", "issuer.url", "issuer is not a URL without query, fragment and user.", "issuer: https://id.example.com")
	case strings.HasSuffix(c.Issuer, "/"):
		add("Issuer", "issuer.slash", "issuer has a trailing slash: tokens would name another issuer than clients expect.", "issuer: "+strings.TrimRight(c.Issuer, "/"))
	case u.Path != "":
		add("Issuer", "issuer.path", "issuer has a path; this broker's addresses are at the root of a host.", "issuer: "+u.Scheme+"://"+u.Host)
	case u.Scheme == "http" && !c.Dev:
		add("Issuer", "issuer.https", "issuer uses http: cookies and tokens would travel in clear.", "https, or `serve --dev` on your own machine")
	case c.Dev && !loopback(u.Hostname()):
		add("Issuer", "issuer.dev", "--dev is for loopback addresses alone: its passwords are public.", "issuer: http://127.0.0.1:8080, or leave --dev out")
	}
	for _, l := range []struct{ field, v string }{{"Listen", c.Listen}, {"GatewayListen", c.GatewayListen}, {"AdminListen", c.AdminListen}} {
		if l.v == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(l.v); err != nil {
			add(l.field, "listen.address", fmt.Sprintf("%q is not host:port.", l.v), "127.0.0.1:8080")
		}
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		add("TLS", "tls.pair", "TLS needs both cert_file and key_file.", "")
	}
	for i, p := range c.TrustedProxies {
		if _, err := ParsePrefix(p); err != nil {
			add(fmt.Sprintf("TrustedProxies[%d]", i), "trusted_proxies", fmt.Sprintf("%q is not an address or network.", p), "10.0.0.0/8 or 192.0.2.7")
		}
	}
	for _, h := range []struct{ field, name string }{{"GeoIPHeaders.Country", c.GeoIPHeaders.Country}, {"GeoIPHeaders.City", c.GeoIPHeaders.City}} {
		switch {
		case h.name == "":
		case !httpguts.ValidHeaderFieldName(h.name):
			add(h.field, "geoip_headers.name", fmt.Sprintf("%q is no name of a header.", h.name), "CF-IPCountry")
		case len(c.TrustedProxies) == 0:
			add(h.field, "geoip_headers.proxy", "Only a proxy in trusted_proxies may say where its client is, and there is none.", "trusted_proxies: [192.0.2.7]")
		}
	}
	// Behind a TLS terminator that is not named, every client has its address.
	if len(c.TrustedProxies) == 0 && c.TLS.CertFile == "" && u != nil && u.Scheme == "https" {
		warn("Issuer", "tls.nowhere", "issuer is https, but there is neither tls.cert_file nor a TLS terminator in trusted_proxies: every client would seem to come from the same address.", "trusted_proxies: [127.0.0.1/32]")
	}
	if c.DefaultLocale != "" && c.DefaultLocale != "en" && c.DefaultLocale != "zh-CN" {
		add("DefaultLocale", "locale", fmt.Sprintf("There are no texts in %q.", c.DefaultLocale), "en or zh-CN")
	}
	if c.TimeZone != "" {
		if _, err := time.LoadLocation(c.TimeZone); err != nil {
			add("TimeZone", "time_zone", fmt.Sprintf("%q is not a time zone of the IANA database.", c.TimeZone), "Asia/Shanghai")
		}
	}
	switch c.Log.Level {
	case "", "debug", "info", "warn", "error":
	default:
		add("Log.Level", "log.level", fmt.Sprintf("%q is no level.", c.Log.Level), "debug, info, warn or error")
	}
	switch c.Log.Format {
	case "", "json", "text":
	default:
		add("Log.Format", "log.format", fmt.Sprintf("%q is no format.", c.Log.Format), "json or text")
	}
	for i, f := range c.Log.AccessFields {
		if !slices.Contains(web.AccessFields(), f) {
			add(fmt.Sprintf("Log.AccessFields[%d]", i), "log.access_fields", fmt.Sprintf("%q is no field of the access log.", f), strings.Join(web.AccessFields(), ", "))
		}
	}
	if c.Log.Flood < -1 {
		add("Log.Flood", "log.flood", "flood is how many lines of one message a second are written.", "100, or -1 for no bound")
	}
	if err := ValidStore(c.Store.Reveal()); err != nil {
		add("Store", "store", err.Error(), "sqlite:data/gatehouse.db or redis://host:6379/0")
	}
	for i, s := range c.Outgoing.AllowPrivate {
		if strings.ContainsAny(s, "/: ") {
			if _, err := ParsePrefix(s); err != nil {
				add(fmt.Sprintf("Outgoing.AllowPrivate[%d]", i), "outgoing.allow_private", fmt.Sprintf("%q is neither a host nor a network.", s), "10.0.0.0/8 or gitlab.example.internal")
			}
		}
	}
	if schemes := []string{"http", "https", "socks5"}; c.Outgoing.Proxy != "" && !validURL(c.Outgoing.Proxy, schemes...) {
		add("Outgoing.Proxy", "url", "This is no URL with a host, of the scheme "+strings.Join(schemes, " or ")+".", "")
	}
	return append(ps, c.across()...)
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}

// ParsePrefix reads a network or a single address.
func ParsePrefix(s string) (netip.Prefix, error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	ip, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(ip, ip.BitLen()), nil
}

// ValidStore checks the form of the `store` key; it says nothing of its secret.
func ValidStore(s string) error {
	scheme, rest, ok := strings.Cut(s, ":")
	switch {
	case s == "":
		return nil
	case !ok || rest == "":
		return fmt.Errorf("the store is not written as driver:address")
	case scheme == "sqlite":
		_, query, _ := strings.Cut(rest, "?")
		if query != "" && query != "durability=full" {
			return fmt.Errorf("sqlite takes ?durability=full and nothing else")
		}
	case scheme == "redis", scheme == "rediss", scheme == "redis+sentinel", scheme == "rediss+sentinel", scheme == "redis+cluster", scheme == "rediss+cluster":
		if !strings.HasPrefix(rest, "//") {
			return fmt.Errorf("the address of Redis begins with %s://", scheme)
		}
		if strings.Contains(rest, "skip_verify") {
			return fmt.Errorf("skip_verify would let anybody stand in for Redis; give a ca_file instead")
		}
	default:
		return fmt.Errorf("there is no store driver %q", scheme)
	}
	return nil
}
