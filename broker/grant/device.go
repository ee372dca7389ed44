package grant

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

// DeviceRequest is what a device asks for (RFC 8628 section 3.1), and what is
// known of it: Name is what it says of itself.
type DeviceRequest struct {
	ClientID  string   `json:"client"`
	Scopes    []string `json:"scopes"`
	Audience  string   `json:"aud"`
	Challenge string   `json:"challenge,omitempty"` // S256; then a verifier is needed
	Name      string   `json:"name,omitempty"`
	Agent     string   `json:"agent,omitempty"`
	IP        string   `json:"ip,omitempty"`
	Country   string   `json:"country,omitempty"`
	Place     string   `json:"place,omitempty"` // in English
	// Network is whose unfinished requests it counts among; "" for a client that
	// has authenticated.
	Network string `json:"network,omitempty"`
}

// DeviceApproval is what a person lets a device have, and by which session.
type DeviceApproval struct {
	UserID    string    `json:"user,omitempty"`
	UserEpoch uint64    `json:"epoch,omitempty"`
	SessionID string    `json:"session,omitempty"` // the browser's
	SID       string    `json:"sid,omitempty"`
	Connector string    `json:"connector,omitempty"`
	Granted   []string  `json:"granted,omitempty"` // of the scopes that were asked for
	AuthTime  time.Time `json:"auth_time,omitzero"`
	ACR       string    `json:"acr,omitempty"`
	AMR       []string  `json:"amr,omitempty"`
}

// Device is a device authorization: a request that waits for a person, or what
// became of it. The device code is not in it.
type Device struct {
	// ID names the record. It is made of the device code and does not tell it.
	ID string `json:"-"`
	DeviceRequest
	UserCode string      `json:"user_code"`
	State    DeviceState `json:"state,omitempty"` // moved once
	By       string      `json:"by,omitempty"`    // the session that decided
	DeviceApproval
	Issued   time.Time     `json:"issued"`
	Interval time.Duration `json:"interval"`        // between polls
	Polled   time.Time     `json:"polled,omitzero"` // when Interval last grew
	Grant    string        `json:"grant,omitempty"` // set by the one redemption
}

// DeviceState is what a person said to a device; "" while they have not.
type DeviceState string

// The answers of a person.
const (
	DeviceAllowed DeviceState = "allowed"
	DeviceRefused DeviceState = "refused"
)

const (
	// DeviceTTL is how long the codes of the device flow are good for.
	DeviceTTL = 10 * time.Minute
	// DeviceInterval is how long a device waits between polls at first.
	DeviceInterval = 5 * time.Second
	// deviceKept is how long a record outlives its codes: a device that comes too
	// late is told so, and a replay is recognised.
	deviceKept = 10 * time.Minute
	// liveDevices bounds the requests that wait at any time, all clients'
	// together, and with them the store and the guesses of section 5.1.
	liveDevices = 4096
)

// Errors of the device flow. Those of polling are what RFC 8628 section 3.5
// calls them.
var (
	ErrDevicePending = errors.New("authorization_pending")
	ErrDeviceSlow    = errors.New("slow_down")
	ErrDeviceExpired = errors.New("expired_token")
	ErrDeviceRefused = errors.New("access_denied")
	// ErrNoDevice means that a user code is unknown, has expired or was used: which
	// of them nobody is told.
	ErrNoDevice = errors.New("no such device request")
	// ErrManyDevices means that too many requests wait already.
	ErrManyDevices = errors.New("too many device requests wait")
)

// userCode finds the device that a user code belongs to. It lives as long as
// the code, whatever becomes of the device, so that no live code is there twice.
type userCode struct {
	Device string    `json:"device"`
	Issued time.Time `json:"issued"`
}

// Ends is when the codes are no longer good for anything.
func (d Device) Ends() time.Time { return d.Issued.Add(DeviceTTL) }

// NewDevice stores a request and returns its two codes (RFC 8628 section 3.2):
// the device code, of which only the hash is kept, and the user code. It fails
// with ErrManyDevices when the network, or everybody together, has too many
// that nobody has answered.
func (l *Ledger) NewDevice(ctx context.Context, r DeviceRequest) (deviceCode, code string, err error) {
	live, err := l.liveDevices(ctx)
	if err != nil {
		return "", "", err
	}
	if live >= liveDevices || !l.pace.admit(r.Network) {
		return "", "", ErrManyDevices
	}
	now := l.cfg.Now()
	deviceCode = rand.Text() + rand.Text()
	id := store.HashID(deviceCode)
	for range 10 { // of 2^34.5 one in millions is taken
		if code, err = newUserCode(); err != nil {
			return "", "", fmt.Errorf("new device: %w", err)
		}
		if err = l.userCodes.Create(ctx, userCodeID(code), userCode{Device: id, Issued: now}); !errors.Is(err, store.ErrConflict) {
			break
		}
	}
	if err == nil {
		err = l.devices.Create(ctx, id, Device{DeviceRequest: r, UserCode: code, Issued: now, Interval: DeviceInterval})
	}
	if err != nil {
		return "", "", fmt.Errorf("new device: %w", err)
	}
	l.pace.issued()
	return deviceCode, code, nil
}

func userCodeID(code string) string { return store.HashID("user code\x00" + code) }

// FindDevice returns the request that waits under a user code (in the form of
// ParseUserCode), or ErrNoDevice. Whoever calls it has a Guess for it.
func (l *Ledger) FindDevice(ctx context.Context, code string) (Device, error) {
	u, err := l.userCodes.Get(ctx, userCodeID(code))
	if errors.Is(err, store.ErrNotFound) {
		return Device{}, ErrNoDevice
	}
	if err != nil {
		return Device{}, err
	}
	d, err := l.Device(ctx, u.Device)
	if err == nil && (d.UserCode != code || !l.waits(d)) {
		err = ErrNoDevice
	}
	return d, err
}

func (l *Ledger) waits(d Device) bool { return d.State == "" && l.cfg.Now().Before(d.Ends()) }

// Device returns a device authorization by its id, in whatever state, or
// ErrNoDevice.
func (l *Ledger) Device(ctx context.Context, id string) (Device, error) {
	d, err := l.devices.Get(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		return Device{}, ErrNoDevice
	}
	d.ID = id
	return d, err
}

// AllowDevice is a person's yes, once: ErrNoDevice when the request does not
// wait any more.
func (l *Ledger) AllowDevice(ctx context.Context, id string, a DeviceApproval) error {
	return l.decide(ctx, id, DeviceAllowed, a.SessionID, a)
}

// RefuseDevice is a person's no, once: ErrNoDevice when the request does not
// wait any more.
func (l *Ledger) RefuseDevice(ctx context.Context, id, sessionID string) error {
	return l.decide(ctx, id, DeviceRefused, sessionID, DeviceApproval{})
}

func (l *Ledger) decide(ctx context.Context, id string, s DeviceState, by string, a DeviceApproval) error {
	d, err := l.devices.Update(ctx, id, func(d *Device) error {
		if !l.waits(*d) {
			return ErrNoDevice
		}
		d.State, d.By, d.DeviceApproval = s, by, a
		return nil
	})
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoDevice
	}
	if err != nil {
		return err
	}
	l.pace.answered(d.Network)
	return nil
}

// DeviceRedeem presents a device code. GrantID names the grant that the caller
// will make of it. Check decides, before the code is used up, whether what was
// allowed may still be had; it may be called more than once.
type DeviceRedeem struct {
	ClientID, Code, Verifier, GrantID string
	Check                             func(Device) error
}

// RedeemDevice is a poll (RFC 8628 section 3.4), and the one success of a device
// code (docs/security.md DF-4, G3). A second sight of the code after it revokes
// the grant that it gave: ErrCodeReused, and that grant as it ended. Another
// client's, or one without the verifier of the request, changes nothing. A poll
// that has to wait reads once and writes nothing.
func (l *Ledger) RedeemDevice(ctx context.Context, r DeviceRedeem) (Device, Grant, error) {
	id := store.HashID(r.Code)
	d, err := l.Device(ctx, id)
	switch {
	case errors.Is(err, ErrNoDevice):
		return Device{}, Grant{}, fmt.Errorf("no such device code: %w", ErrInvalidGrant)
	case err != nil:
		return Device{}, Grant{}, err
	}
	if err := l.redeemable(d, r); err != nil {
		if errors.Is(err, ErrDevicePending) {
			err = l.paced(ctx, d)
		}
		if !errors.Is(err, ErrCodeReused) {
			return Device{}, Grant{}, err
		}
	}
	var gave string
	d, err = l.devices.Update(ctx, id, func(d *Device) error {
		if err := l.redeemable(*d, r); err != nil {
			gave = d.Grant
			return err
		}
		if err := r.Check(*d); err != nil {
			return err
		}
		d.Grant = r.GrantID
		return nil
	})
	if errors.Is(err, ErrCodeReused) {
		g, err := l.Revoke(ctx, gave, "device code used twice")
		if err != nil {
			return Device{}, Grant{}, err
		}
		return Device{}, g, ErrCodeReused
	}
	if errors.Is(err, store.ErrNotFound) {
		return Device{}, Grant{}, fmt.Errorf("the device code has just expired: %w", ErrInvalidGrant)
	}
	d.ID = id
	return d, Grant{}, err
}

// redeemable says why a device code gives nothing.
func (l *Ledger) redeemable(d Device, r DeviceRedeem) error {
	switch {
	case d.ClientID != r.ClientID:
		return fmt.Errorf("the device code is another client's: %w", ErrInvalidGrant)
	case d.Grant != "":
		return ErrCodeReused
	}
	if err := checkPKCE(d.Challenge, r.Verifier); err != nil {
		return err
	}
	switch {
	case d.State == DeviceRefused:
		return ErrDeviceRefused
	case !l.cfg.Now().Before(d.Ends()):
		return ErrDeviceExpired
	case d.State != DeviceAllowed:
		return ErrDevicePending
	}
	return nil
}

// paced answers a poll that has to wait: ErrDevicePending, or ErrDeviceSlow for
// one that came too soon. The longer interval is written down, so that it holds
// on every replica and after a restart.
func (l *Ledger) paced(ctx context.Context, d Device) error {
	interval, grew := l.pace.poll(d)
	if interval == 0 {
		return ErrDevicePending
	}
	if !grew {
		return ErrDeviceSlow
	}
	now := l.cfg.Now()
	_, err := l.devices.Update(ctx, d.ID, func(d *Device) error {
		if d.Interval >= interval || d.State != "" {
			return errSame
		}
		d.Interval, d.Polled = interval, now
		return nil
	})
	if err != nil && !errors.Is(err, errSame) {
		return fmt.Errorf("slow a device down: %w", err)
	}
	return ErrDeviceSlow
}

// liveDevices is how many user codes are good for something, as far as this
// replica knows: it counts them in the store every half minute at most, and adds
// its own.
func (l *Ledger) liveDevices(ctx context.Context) (int, error) {
	if n, fresh := l.pace.live(); fresh {
		return n, nil
	}
	n, after := 0, ""
	for n < liveDevices {
		page, next, err := l.userCodes.List(ctx, "", "", after, 500)
		if err != nil {
			return 0, fmt.Errorf("count device requests: %w", err)
		}
		n += len(page)
		if next == "" {
			break
		}
		after = next
	}
	l.pace.counted(n)
	return n, nil
}
