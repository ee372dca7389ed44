package objectstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/remotegpu/gatehouse/broker/redact"
)

// Lives and bounds of lending.
const (
	// ownTokenLife is how long a token lives with which we ask ourselves,
	// TokenLife one that is given away; vendors refuse old ones, and what is stolen
	// should not last.
	ownTokenLife = 5 * time.Minute
	TokenLife    = 10 * time.Minute
	// maxAnswer bounds what a token service says, in bytes.
	maxAnswer = 128 << 10
	// again is how long one account gets the same credentials once more, failed how
	// long it gets the same failure: so a thousand jobs that start at once ask the
	// vendor once, whose limits are of the whole cloud account.
	again  = time.Minute
	failed = 2 * time.Second
	// remembered bounds the accounts whose credentials are kept.
	remembered = 10_000
	// clockSlack is by how much a vendor's clock may differ from ours.
	clockSlack = 15 * time.Minute
)

// ErrAccount means that an account's id cannot be a part of a prefix.
var ErrAccount = errors.New("the account's id cannot stand in a prefix")

// Lent are credentials for the objects under one prefix.
type Lent struct {
	AccessKeyID     string
	SecretAccessKey redact.String
	SessionToken    redact.String
	Expires         time.Time
}

// LenderEnv is what a Lender gets from us.
type LenderEnv struct {
	Env
	// Sign makes a web identity token: RS256, one string as aud, typ of its own.
	Sign func(ctx context.Context, audience, subject string, life time.Duration) (string, error)
}

// Lender lends credentials of one offer: it shows the vendor's token service a
// web identity token of ours and passes on what that lends. It has no other key
// and falls back to none. It is safe for concurrent use.
type Lender struct {
	Credentials
	Where    Address
	endpoint *url.URL
	service  service
	env      LenderEnv
	http     *http.Client
	flight   singleflight.Group
	mu       sync.Mutex
	recent   map[string]outcome
}

// outcome is what an account was told last.
type outcome struct {
	lent Lent
	err  error
	at   time.Time
}

// service is how a vendor's token service is spoken to.
type service struct {
	// ask makes the request for an account.
	ask func(ctx context.Context, l *Lender, q question) (*http.Request, error)
	// read takes an answer apart: what was lent, or the vendor's code and message.
	read func(status int, body []byte) (Lent, said, error)
}

// question is what a token service is asked.
type question struct{ token, role, session, policy string }

// said is a token service's refusal.
type said struct{ Code, Message string }

// OpenLender returns the lender of an offer. Nothing is asked yet.
func OpenLender(c Credentials, b BucketConfig, env LenderEnv) (*Lender, error) {
	kind := Kind(c.Provider)
	for _, p := range c.Problems() {
		if !p.Warning {
			return nil, fmt.Errorf("storage_credentials %s: %w", c.Name, p)
		}
	}
	a, ps := b.Address(kind)
	for _, p := range ps {
		if !p.Warning {
			return nil, fmt.Errorf("%s: %w", b.ID(kind), p)
		}
	}
	l := &Lender{Credentials: c.WithDefaults(), Where: a, env: env, recent: map[string]outcome{}}
	switch kind {
	case OSS:
		l.service = service{askAliyun, readAliyun}
	case COS:
		l.service = service{askTencent, readTencent}
	default:
		l.service = service{askAmazon, readAmazon}
	}
	at := c.STSEndpoint
	if at == "" {
		at = a.tokenService()
	}
	var err error
	if l.endpoint, err = url.Parse(at); err != nil {
		return nil, fmt.Errorf("storage_credentials %s: sts_endpoint: %w", c.Name, err)
	}
	if l.endpoint.Path == "" {
		l.endpoint.Path = "/"
	}
	if l.http, err = env.HTTP(b.Proxy, b.CAFile, l.endpoint.Hostname()); err != nil {
		return nil, fmt.Errorf("storage_credentials %s: %w", c.Name, err)
	}
	return l, nil
}

// tokenService is where a vendor lends, as its documents say.
func (a Address) tokenService() string {
	switch {
	case a.Kind == OSS:
		return "https://sts.aliyuncs.com"
	case a.Kind == COS:
		return "https://sts.tencentcloudapi.com"
	case a.Kind == S3 && vendorOf(a.hostname()) == S3 && strings.HasPrefix(a.Region, "cn-"):
		return "https://sts." + a.Region + ".amazonaws.com.cn"
	case a.Kind == S3 && vendorOf(a.hostname()) == S3:
		return "https://sts." + a.Region + ".amazonaws.com"
	}
	return a.URL() // MinIO, and others of Amazon's protocol, lend where they store
}

// Service names the token service that an offer is lent by: one of a cloud, however
// many addresses it has, by the provider's name, any other by its URL. b is the
// bucket's section.
func (c Credentials) Service(b BucketConfig) string {
	a, _ := b.Address(Kind(c.Provider))
	switch {
	case c.STSEndpoint != "":
		u, err := url.Parse(c.STSEndpoint)
		if err != nil || vendorOf(u.Hostname()) != "" {
			return c.Provider
		}
		return c.STSEndpoint
	case a.Kind == OSS, a.Kind == COS, vendorOf(a.hostname()) == S3:
		return c.Provider
	}
	return a.URL()
}

// URL is the store's own address.
func (a Address) URL() string {
	if a.TLS {
		return "https://" + a.Host
	}
	return "http://" + a.Host
}

// Token makes a web identity token for an account, for the vendor alone.
func (l *Lender) Token(ctx context.Context, id string) (token string, expires time.Time, err error) {
	if !account.MatchString(id) {
		return "", time.Time{}, ErrAccount
	}
	expires = l.env.Now().Add(TokenLife)
	token, err = l.env.Sign(ctx, l.Audience, id, TokenLife)
	return token, expires, err
}

// Lend returns credentials for an account: a *LendError where the token service
// cannot be asked or will not lend.
func (l *Lender) Lend(ctx context.Context, id string) (Lent, error) {
	if !account.MatchString(id) {
		return Lent{}, ErrAccount
	}
	if o, ok := l.recently(id); ok {
		return o.lent, o.err
	}
	done := l.flight.DoChan(id, func() (any, error) {
		if o, ok := l.recently(id); ok {
			return o.lent, o.err
		}
		// Whoever asked first may go away; the others still wait.
		lent, err := l.assume(context.WithoutCancel(ctx), id)
		l.remember(id, outcome{lent: lent, err: err, at: l.env.Now()})
		return lent, err
	})
	select {
	case <-ctx.Done():
		return Lent{}, ctx.Err()
	case r := <-done:
		lent, _ := r.Val.(Lent)
		return lent, r.Err
	}
}

func (l *Lender) recently(id string) (outcome, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	o, ok := l.recent[id]
	return o, ok && l.fresh(o)
}

func (l *Lender) fresh(o outcome) bool {
	life := again
	if o.err != nil {
		life = failed
	}
	age := l.env.Now().Sub(o.at)
	return age >= 0 && age < life
}

func (l *Lender) remember(id string, o outcome) {
	var e *LendError
	if o.err != nil && !errors.As(o.err, &e) {
		return // ours, such as a store that is away: it has limits of its own
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.recent) >= remembered {
		for k, old := range l.recent {
			if !l.fresh(old) {
				delete(l.recent, k)
			}
		}
		if len(l.recent) >= remembered {
			clear(l.recent)
		}
	}
	l.recent[id] = o
}

// assume asks the token service.
func (l *Lender) assume(ctx context.Context, id string) (Lent, error) {
	policy, err := l.sessionPolicy(l.For(l.Prefix, id))
	if err != nil {
		return Lent{}, l.fail(false, said{}, err)
	}
	token, err := l.env.Sign(ctx, l.Audience, id, ownTokenLife)
	if err != nil {
		return Lent{}, err
	}
	lent, no, err := l.put(ctx, question{token: token, role: l.For(l.RoleARN, id), session: sessionName(id), policy: policy})
	if err != nil {
		return Lent{}, err
	}
	if no.Code != "" {
		return Lent{}, l.refused(no)
	}
	if err := l.sound(lent); err != nil {
		return Lent{}, l.fail(false, said{}, err)
	}
	return lent, nil
}

// put sends a question and takes the answer apart.
func (l *Lender) put(ctx context.Context, q question) (Lent, said, error) {
	r, err := l.service.ask(ctx, l, q)
	if err != nil {
		return Lent{}, said{}, l.fail(false, said{}, err)
	}
	resp, err := l.http.Do(r)
	if err != nil {
		return Lent{}, said{}, l.fail(true, said{}, stripURL(err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Lent{}, said{}, l.fail(true, said{}, err)
	case len(body) > maxAnswer:
		return Lent{}, said{}, l.fail(false, said{}, fmt.Errorf("the answer is longer than %d bytes", maxAnswer))
	case resp.StatusCode/100 == 3:
		return Lent{}, said{}, l.fail(false, said{}, fmt.Errorf("it answers with a redirect (%d), which is not followed: correct sts_endpoint", resp.StatusCode))
	}
	lent, no, err := l.service.read(resp.StatusCode, body)
	switch {
	case err == nil && (no.Code != "" || resp.StatusCode/100 == 2):
		return lent, no, nil
	case resp.StatusCode/100 == 5, resp.StatusCode == http.StatusTooManyRequests:
		return Lent{}, said{}, l.fail(true, said{}, fmt.Errorf("it answers %d", resp.StatusCode))
	case err == nil:
		err = errors.New("it says neither what it lends nor why not")
	}
	return Lent{}, said{}, l.fail(false, said{}, fmt.Errorf("the answer (%d) is none of a token service: %w", resp.StatusCode, err))
}

// stripURL takes the URL off an error of http.Client: in Alibaba's is a nonce,
// and whose address it was is said anyway.
func stripURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// sound refuses credentials that are none, and such as live longer than was asked.
func (l *Lender) sound(c Lent) error {
	for _, f := range []struct {
		what, v string
		max     int
	}{{"access key id", c.AccessKeyID, 1024}, {"secret access key", c.SecretAccessKey.Reveal(), 1024}, {"session token", c.SessionToken.Reveal(), 32 << 10}} {
		if f.v == "" || len(f.v) > f.max || strings.ContainsFunc(f.v, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return fmt.Errorf("the %s in its answer is none", f.what)
		}
	}
	switch left := c.Expires.Sub(l.env.Now()); {
	case left <= 0:
		return errors.New("it lent what has expired already; set the clocks by NTP")
	case left > l.TTL+clockSlack:
		return fmt.Errorf("it lent for %s, and was asked for %s", left.Round(time.Second), l.TTL)
	}
	return nil
}

// sessionName is how the vendor's own log names the caller: letters, digits and
// + = , . @ _ - alone, 2 to 64 of them.
func sessionName(id string) string {
	name := "gatehouse-" + id
	return name[:min(len(name), 64)]
}

// Check asks the token service with a token that is none, and wants to be refused
// in its own words: so it is there, and lends to nobody who has no proof.
func (l *Lender) Check(ctx context.Context) (string, error) {
	const nobody = "gatehouse-check"
	policy, err := l.sessionPolicy(l.For(l.Prefix, nobody))
	if err != nil {
		return "", err
	}
	lent, no, err := l.put(ctx, question{token: "e30.e30.e30", role: l.For(l.RoleARN, nobody), session: nobody, policy: policy})
	switch {
	case err != nil:
		return "", err
	case no.Code == "" && lent.AccessKeyID != "":
		return "", l.fail(false, said{}, errors.New("it lends against a token that is none: whoever can reach it has the bucket"))
	case no.Code == "":
		return "", l.fail(false, said{}, errors.New("it takes a token that is none"))
	}
	if e := l.refused(no); e.Unavailable || e.setup {
		return "", e
	}
	return l.endpoint.Host + " answers, and refused what is no token; for the rest somebody has to ask", nil
}
