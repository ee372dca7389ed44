package issuer

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/remotegpu/gatehouse/broker/grant"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/web"
)

// deviceResponse is RFC 8628 section 3.2.
type deviceResponse struct {
	DeviceCode string `json:"device_code"`
	UserCode   string `json:"user_code"`
	URI        string `json:"verification_uri"`
	Complete   string `json:"verification_uri_complete"`
	ExpiresIn  int64  `json:"expires_in"`
	Interval   int64  `json:"interval"`
}

// DeviceAuthorization is POST /oauth2/device_authorization (RFC 8628 section 3.1).
func (is *Issuer) DeviceAuthorization(w http.ResponseWriter, r *http.Request) error {
	return is.endpoint(is.deviceAuthorization)(w, r)
}

func (is *Issuer) deviceAuthorization(w http.ResponseWriter, r *http.Request) error {
	client, form, err := is.posted(w, r)
	if err != nil {
		return err
	}
	if !client.HasGrant(grant.DeviceCode) {
		return oauth(errUnauthorizedClient, "This client may not use the device flow.", nil)
	}
	q := web.RequestOf(r)
	req := grant.DeviceRequest{ClientID: client.ClientID, Name: deviceName(form.Get("device_name")), Agent: q.Agent, IP: q.IP.String()}
	allowed := client.Scopes()
	for _, s := range scopesOf(form.Get("scope")) {
		// As at the authorization endpoint: the answer says which were given.
		if slices.Contains(allowed, s) && (s != "offline_access" || deviceOffline(client)) {
			req.Scopes = append(req.Scopes, s)
		}
	}
	if len(req.Scopes) == 0 {
		return oauth(errInvalidScope, "No scope was asked for that this client may have.", nil)
	}
	// RFC 8707, or by the name that a token exchange has for it.
	resources := form["resource"]
	if a := form.Get("audience"); a != "" && !slices.Contains(resources, a) {
		resources = append(resources, a)
	}
	if req.Audience, err = is.cfg.Clients.Audience(client, resources); err != nil {
		return err
	}
	if req.Challenge, err = challengeOf(form); err != nil {
		return err
	}
	req.Country, req.Place = is.cfg.Place(r.Context(), req.IP)
	if client.Public() { // anybody can ask in its name
		req.Network = web.ClientNetwork(q.IP)
	}
	code, userCode, err := is.cfg.Ledger.NewDevice(r.Context(), req)
	if errors.Is(err, grant.ErrManyDevices) {
		e := web.Fail(http.StatusTooManyRequests, "rate_limited", "error.oauth", err)
		e.JSON = errorBody{Error: errTemporarilyUnavailable, Description: "Too many device requests wait for somebody to answer them. Try again in a minute.", Ref: q.Ref()}
		e.Header = http.Header{"Retry-After": {"60"}}
		return e
	}
	if err != nil {
		return err
	}
	shown := grant.FormatUserCode(userCode)
	return writeJSON(w, deviceResponse{
		DeviceCode: code, UserCode: shown, URI: is.cfg.Issuer + "/device", Complete: is.cfg.Issuer + "/device?user_code=" + shown,
		ExpiresIn: seconds(grant.DeviceTTL), Interval: seconds(grant.DeviceInterval),
	})
}

// deviceOffline reports whether the device flow may give this client a refresh
// token (docs/security.md DF-3).
func deviceOffline(c *grant.Client) bool {
	return c.DeviceOffline && c.HasGrant(grant.RefreshToken)
}

// deviceNameMost bounds what a device calls itself, in characters.
const deviceNameMost = 64

// deviceName is what a device says that it is called, as far as that can be
// shown: on one line, read in one direction.
func deviceName(s string) string {
	out := make([]rune, 0, deviceNameMost)
	for _, c := range strings.Join(strings.Fields(strings.ToValidUTF8(s, "")), " ") {
		if len(out) == deviceNameMost {
			break
		}
		if c == ' ' || unicode.IsGraphic(c) && !unicode.IsSpace(c) {
			out = append(out, c)
		}
	}
	return strings.TrimSpace(string(out))
}

// redeemDevice is the device_code grant (RFC 8628 section 3.4).
func (is *Issuer) redeemDevice(t tokenRequest) (tokenResponse, error) {
	ctx := t.r.Context()
	code := t.form.Get("device_code")
	if code == "" {
		return tokenResponse{}, oauth(errInvalidRequest, "device_code is missing.", nil)
	}
	audience := ""
	if asked := t.form["resource"]; len(asked) > 0 { // may only name the same one, as with a code
		var err error
		if audience, err = is.cfg.Clients.Audience(t.client, asked); err != nil {
			return tokenResponse{}, err
		}
	}
	var parent session.Session
	var scopes []string
	rr := grant.DeviceRedeem{ClientID: t.client.ClientID, Code: code, Verifier: t.form.Get("code_verifier"), GrantID: grant.NewGrantID()}
	rr.Check = func(d grant.Device) (err error) {
		if audience != "" && audience != d.Audience {
			return grant.ErrInvalidTarget
		}
		parent, scopes, err = is.stillAllowed(ctx, t.client, d)
		return err
	}
	d, gave, err := is.cfg.Ledger.RedeemDevice(ctx, rr)
	if errors.Is(err, grant.ErrCodeReused) {
		is.cfg.Log.WarnContext(ctx, "a device code was used twice; its grant is revoked", "client", t.client.ClientID)
		if e := is.endOwn(t.r, gave, "code_reused"); e != nil {
			return tokenResponse{}, e
		}
	}
	if err != nil {
		return tokenResponse{}, pollError(err)
	}
	refresh := slices.Contains(scopes, "offline_access")
	info := session.DeviceInfo{Name: d.Name, Agent: d.Agent, IP: d.IP, Country: d.Country, Place: d.Place, Operator: t.client.DeviceAdmin}
	if !refresh { // nothing of it is left once the access token has ended
		info.Until = is.cfg.Now().Add(is.cfg.Tokens.AccessTTL)
	}
	s, err := is.cfg.Sessions.StartDevice(ctx, parent, info)
	if err != nil {
		return tokenResponse{}, err
	}
	g := grant.Grant{
		ID: rr.GrantID, UserID: d.UserID, UserEpoch: d.UserEpoch, SessionID: s.ID, SID: d.SID, ClientID: t.client.ClientID, Connector: d.Connector,
		Scopes: scopes, Audience: d.Audience, AuthTime: d.AuthTime, ACR: d.ACR, AMR: d.AMR, Refresh: refresh,
	}
	token, err := is.cfg.Ledger.CreateGrant(ctx, g)
	if err != nil { // a second sight of the code came in between
		return tokenResponse{}, errors.Join(err, is.endOwn(t.r, g, "code_reused"))
	}
	return is.issue(ctx, issuance{client: t.client, grant: g, session: s, scopes: scopes, refresh: token, idToken: slices.Contains(scopes, "openid")})
}

// stillAllowed looks again at what a person allowed a device: the session that
// allowed it lives, its account is as it was, and the client may still have it.
func (is *Issuer) stillAllowed(ctx context.Context, c *grant.Client, d grant.Device) (session.Session, []string, error) {
	s, err := is.cfg.Sessions.Get(ctx, d.SessionID)
	if err != nil {
		return s, nil, err
	}
	if s.UserID != d.UserID || s.UserEpoch != d.UserEpoch || !takes(c, d.Connector) || s.Connector != d.Connector {
		return s, nil, session.ErrEnded
	}
	if err := is.agreed(ctx, c, d.UserID, d.Granted); err != nil {
		return s, nil, err
	}
	scopes, err := is.deviceScopes(ctx, c, s, d.Granted)
	if err == nil && len(scopes) == 0 {
		err = session.ErrEnded
	}
	return s, scopes, err
}

// takes reports whether people may come to a client by a connector (UP-8).
func takes(c *grant.Client, connector string) bool {
	return len(c.AllowedConnectors) == 0 || slices.Contains(c.AllowedConnectors, connector)
}

// deviceScopes are those that a device of this client gets from this person: no
// role unless the client's entry says so, nor offline_access (DF-3).
func (is *Issuer) deviceScopes(ctx context.Context, c *grant.Client, s session.Session, scopes []string) ([]string, error) {
	s.Kind, s.Operator = session.Device, c.DeviceAdmin
	if !deviceOffline(c) {
		scopes = slices.DeleteFunc(slices.Clone(scopes), func(sc string) bool { return sc == "offline_access" })
	}
	return is.cfg.Grantable(ctx, s, scopes)
}

// pollError is what a device that polls is told (RFC 8628 section 3.5).
func pollError(err error) error {
	for _, e := range []struct {
		err        error
		code, text string
	}{
		{grant.ErrDevicePending, errAuthorizationPending, "Nobody has answered yet."},
		{grant.ErrDeviceSlow, errSlowDown, "Wait five seconds longer between requests from now on."},
		{grant.ErrDeviceExpired, errExpiredToken, "The device code has expired. Ask for a new one."},
		{grant.ErrDeviceRefused, errAccessDenied, "The person did not agree."},
	} {
		if errors.Is(err, e.err) {
			return oauth(e.code, e.text, nil)
		}
	}
	return err
}
