package signin

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/session"
	"github.com/remotegpu/gatehouse/broker/store"
)

// device is what a browser that signed in before can show: sealed, so that
// nobody makes one up to get more tries.
type device struct {
	ID       string   `json:"i"`
	Accounts []string `json:"a"`
}

const (
	deviceCookie   = "gatehouse-device"
	deviceAccounts = 5
)

func (d *Door) device(r *http.Request) (device, bool) {
	v, ok := d.cfg.Edge.Cookie(r, deviceCookie)
	if !ok {
		return device{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(v)
	if err != nil {
		return device{}, false
	}
	js, err := d.seal.Open("device", raw)
	if err != nil {
		return device{}, false
	}
	var dev device
	return dev, json.Unmarshal(js, &dev) == nil && dev.ID != ""
}

// knownDevices are the browsers that have signed in to an account.
type knownDevices struct {
	Devices []knownDevice `json:"devices"`
}

type knownDevice struct {
	ID   string    `json:"id"`
	Seen time.Time `json:"seen"`
}

const (
	// devicesMost are remembered of one account, the oldest is forgotten first.
	devicesMost = 20
	deviceLife  = 180 * 24 * time.Hour // of the cookie and of the record, after the last sign-in
	// deviceSeen is how exactly the last sign-in is kept.
	deviceSeen = 24 * time.Hour
)

func (d *Door) newDevices() *store.Collection[knownDevices] {
	return store.NewCollection(d.cfg.KV, store.CollectionConfig[knownDevices]{Kind: "devices", Sealer: d.cfg.Sealer, Now: d.cfg.Now, Expires: func(k knownDevices) time.Time {
		var last time.Time
		for _, v := range k.Devices {
			if v.Seen.After(last) {
				last = v.Seen
			}
		}
		return last.Add(deviceLife)
	}})
}

// rememberDevice notes that a browser signed in to an account, and records that
// it had not before. account is the counter of a typed name, "" where no password
// was typed. A store that cannot be written keeps nobody out.
func (d *Door) rememberDevice(w http.ResponseWriter, r *http.Request, s session.Session, account string) {
	dev, ok := d.device(r)
	if !ok {
		dev = device{ID: rand.Text()}
	}
	if account != "" && !slices.Contains(dev.Accounts, account) {
		dev.Accounts = append(dev.Accounts, account)
		if n := len(dev.Accounts) - deviceAccounts; n > 0 {
			dev.Accounts = dev.Accounts[n:]
		}
	}
	stranger, err := d.learnDevice(r.Context(), s.UserID, dev.ID)
	if err != nil {
		d.cfg.Log.ErrorContext(r.Context(), "the browser of a sign-in was not remembered; it is at the next", "err", err)
	}
	if stranger {
		d.note(r, event.Event{Name: event.SigninNewDevice, Actor: s.UserID, Target: s.ID, Connector: s.Connector})
	}
	js, err := json.Marshal(dev)
	if err != nil {
		return
	}
	d.cfg.Edge.SetCookie(w, deviceCookie, base64.RawURLEncoding.EncodeToString(d.seal.Seal("device", js)), deviceLife)
}

var errKnown = errors.New("the device is known")

// learnDevice reports whether a device is new to an account that others have
// signed in to. The first of an account is nobody's surprise, and of an account
// from before devices were known it is the one that is remembered.
func (d *Door) learnDevice(ctx context.Context, userID, id string) (stranger bool, err error) {
	now := d.cfg.Now()
	learn := func(k *knownDevices) error {
		stranger = false
		for i, v := range k.Devices {
			if v.ID != id {
				continue
			}
			if now.Sub(v.Seen) < deviceSeen {
				return errKnown
			}
			k.Devices[i].Seen = now
			return nil
		}
		stranger = true
		k.Devices = append(k.Devices, knownDevice{id, now})
		if n := len(k.Devices) - devicesMost; n > 0 {
			slices.SortStableFunc(k.Devices, func(a, b knownDevice) int { return a.Seen.Compare(b.Seen) })
			k.Devices = k.Devices[n:]
		}
		return nil
	}
	_, err = d.devices.Update(ctx, userID, learn)
	if errors.Is(err, store.ErrNotFound) {
		err = d.devices.Create(ctx, userID, knownDevices{[]knownDevice{{id, now}}})
		stranger = false
		if errors.Is(err, store.ErrConflict) { // two first sign-ins at once
			_, err = d.devices.Update(ctx, userID, learn)
		}
	}
	if errors.Is(err, errKnown) {
		return false, nil
	}
	return stranger && err == nil, err
}
