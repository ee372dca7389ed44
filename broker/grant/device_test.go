package grant

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

func deviceRequest() DeviceRequest {
	return DeviceRequest{ClientID: "tv", Scopes: []string{"openid"}, Audience: "api", Network: "192.0.2.1/32"}
}

func asking(t *testing.T, l *Ledger, r DeviceRequest) (code string, d Device) {
	t.Helper()
	code, shown, err := l.NewDevice(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	if d, err = l.FindDevice(context.Background(), shown); err != nil {
		t.Fatal(err)
	}
	return code, d
}

func (l *Ledger) redeemFor(code, grantID string) error {
	_, _, err := l.RedeemDevice(context.Background(), DeviceRedeem{ClientID: "tv", Code: code, GrantID: grantID, Check: func(Device) error { return nil }})
	return err
}

// The states of a device code: each moves once, and what is over is told apart
// only to who holds the device code.
func TestDeviceStates(t *testing.T) {
	ctx := context.Background()
	f := ledger(t, TokensConfig{})
	code, d := asking(t, f.Ledger, deviceRequest())
	if err := f.redeemFor(code, "g"); !errors.Is(err, ErrDevicePending) {
		t.Errorf("pending: %v", err)
	}
	if err := f.AllowDevice(ctx, d.ID, DeviceApproval{UserID: "u", SessionID: "s", Granted: []string{"openid"}}); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"allowed again": f.AllowDevice(ctx, d.ID, DeviceApproval{SessionID: "x"}), "refused after": f.RefuseDevice(ctx, d.ID, "s"), "no such one": f.RefuseDevice(ctx, "nothing", "s")} {
		if !errors.Is(err, ErrNoDevice) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := f.FindDevice(ctx, d.UserCode); !errors.Is(err, ErrNoDevice) {
		t.Errorf("its user code goes on: %v", err)
	}
	// What the check refuses has used nothing up.
	no := errors.New("no")
	if _, _, err := f.RedeemDevice(ctx, DeviceRedeem{ClientID: "tv", Code: code, GrantID: "g", Check: func(Device) error { return no }}); !errors.Is(err, no) {
		t.Errorf("refused: %v", err)
	}
	if err := f.redeemFor(code, "g"); err != nil {
		t.Errorf("its own: %v", err)
	}
	if err := f.redeemFor(code, "g2"); !errors.Is(err, ErrCodeReused) {
		t.Errorf("again: %v", err)
	}
	if _, err := f.CreateGrant(ctx, Grant{ID: "g"}); !errors.Is(err, ErrCodeReused) {
		t.Errorf("a grant that was revoked before it was made: %v", err)
	}

	code, d = asking(t, f.Ledger, deviceRequest())
	if err := f.RefuseDevice(ctx, d.ID, "s"); err != nil {
		t.Fatal(err)
	}
	if err := f.redeemFor(code, "g"); !errors.Is(err, ErrDeviceRefused) {
		t.Errorf("refused: %v", err)
	}
	code, d = asking(t, f.Ledger, deviceRequest())
	f.wait(DeviceTTL)
	if err := f.AllowDevice(ctx, d.ID, DeviceApproval{SessionID: "s"}); !errors.Is(err, ErrNoDevice) {
		t.Errorf("allowed too late: %v", err)
	}
	if err := f.redeemFor(code, "g"); !errors.Is(err, ErrDeviceExpired) {
		t.Errorf("too late: %v", err)
	}
	f.wait(deviceKept)
	if err := f.redeemFor(code, "g"); !errors.Is(err, ErrInvalidGrant) {
		t.Errorf("long after: %v", err)
	}
}

// The device code is nowhere in the store, and no live user code is there twice.
func TestDeviceCodesAtRest(t *testing.T) {
	f := ledger(t, TokensConfig{})
	ctx := context.Background()
	code, d := asking(t, f.Ledger, deviceRequest())
	items, err := f.cfg.KV.List(ctx, "device", "", "", "", 10)
	if err != nil || len(items) != 1 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for _, it := range items {
		if strings.Contains(it.ID+string(it.Value), code) || strings.Contains(string(it.Value), d.UserCode) || strings.Contains(string(it.Value), "openid") {
			t.Error("the record tells a code or is not sealed")
		}
	}
	if err := f.userCodes.Create(ctx, userCodeID(d.UserCode), userCode{Device: "another", Issued: f.cfg.Now()}); err == nil {
		t.Error("a live user code was given twice")
	}
	f.wait(DeviceTTL)
	if err := f.userCodes.Create(ctx, userCodeID(d.UserCode), userCode{Device: "another", Issued: f.cfg.Now()}); err != nil {
		t.Errorf("an old user code is not free again: %v", err)
	}
}

// RFC 8628 section 3.5: who hurries waits five seconds longer each time, also on
// another replica; who does not is never told so.
func TestDevicePace(t *testing.T) {
	f := ledger(t, TokensConfig{})
	other, err := New(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	code, _ := asking(t, f.Ledger, deviceRequest())
	poll := func(what string, l *Ledger, after time.Duration, want error) {
		t.Helper()
		f.wait(after)
		if err := l.redeemFor(code, "g"); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
	}
	poll("the first", f.Ledger, 0, ErrDevicePending)
	poll("in time", f.Ledger, 5*time.Second, ErrDevicePending)
	poll("hurried by the network", f.Ledger, 4500*time.Millisecond, ErrDevicePending)
	poll("too soon", f.Ledger, time.Second, ErrDeviceSlow)
	poll("as before", f.Ledger, 5*time.Second, ErrDeviceSlow)       // of 10
	poll("still too soon", f.Ledger, 12*time.Second, ErrDeviceSlow) // of 15
	poll("as told", f.Ledger, 20*time.Second, ErrDevicePending)
	poll("at another replica, as told", other, 20*time.Second, ErrDevicePending)
	poll("at another replica, too soon", other, 10*time.Second, ErrDeviceSlow) // of 20
	poll("and back", f.Ledger, 20*time.Second, ErrDeviceSlow)                  // of 25
	for range 30 {
		_ = f.redeemFor(code, "g")
	}
	if d, err := f.Device(context.Background(), f.onlyDevice(t)); err != nil || d.Interval != intervalMost {
		t.Errorf("the interval has no end: %v %v", d.Interval, err)
	}
}

func (f *fixture) onlyDevice(t *testing.T) string {
	t.Helper()
	items, err := f.cfg.KV.List(context.Background(), "device", "", "", "", 10)
	if err != nil || len(items) != 1 {
		t.Fatalf("%d devices, %v", len(items), err)
	}
	return items[0].ID
}

// DF-5: where a challenge came, each poll needs its verifier; none learns
// anything without, and nothing is used up.
func TestDevicePKCE(t *testing.T) {
	f := ledger(t, TokensConfig{})
	ctx := context.Background()
	verifier := strings.Repeat("v", 43)
	sum := sha256.Sum256([]byte(verifier))
	r := deviceRequest()
	r.Challenge = base64.RawURLEncoding.EncodeToString(sum[:])
	code, d := asking(t, f.Ledger, r)
	redeem := func(client, v string) error {
		_, _, err := f.RedeemDevice(ctx, DeviceRedeem{ClientID: client, Code: code, Verifier: v, GrantID: "g", Check: func(Device) error { return nil }})
		return err
	}
	for _, want := range []error{ErrDevicePending, nil} {
		for what, err := range map[string]error{"no verifier": redeem("tv", ""), "another verifier": redeem("tv", strings.Repeat("w", 43)), "another client": redeem("phone", verifier)} {
			if !errors.Is(err, ErrInvalidGrant) {
				t.Errorf("%s, before %v: %v", what, want, err)
			}
		}
		if err := redeem("tv", verifier); !errors.Is(err, want) {
			t.Errorf("its own: %v, want %v", err, want)
		}
		if want != nil {
			if err := f.AllowDevice(ctx, d.ID, DeviceApproval{SessionID: "s"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	bare, d := asking(t, f.Ledger, deviceRequest())
	if err := f.AllowDevice(ctx, d.ID, DeviceApproval{SessionID: "s"}); err != nil {
		t.Fatal(err)
	}
	if code = bare; !errors.Is(redeem("tv", verifier), ErrInvalidGrant) { // somebody may have stripped the challenge
		t.Error("a verifier for a request without a challenge")
	}
}

// G3: of many redemptions at once on two replicas one succeeds.
func TestDeviceRedeemedOnce(t *testing.T) {
	f := ledger(t, TokensConfig{})
	other, err := New(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	code, d := asking(t, f.Ledger, deviceRequest())
	if err := f.AllowDevice(context.Background(), d.ID, DeviceApproval{SessionID: "s"}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	good := 0
	for i := range 64 {
		wg.Go(func() {
			err := []*Ledger{f.Ledger, other}[i%2].redeemFor(code, fmt.Sprint("g", i))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good++
			} else if !errors.Is(err, ErrCodeReused) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if good != 1 {
		t.Errorf("%d of 64 redeemed the code", good)
	}
}

// Of an allow and a deny at once, of many sessions, one counts.
func TestDeviceDecidedOnce(t *testing.T) {
	f := ledger(t, TokensConfig{})
	_, d := asking(t, f.Ledger, deviceRequest())
	var mu sync.Mutex
	var wg sync.WaitGroup
	good := 0
	for i := range 32 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				err = f.AllowDevice(context.Background(), d.ID, DeviceApproval{SessionID: fmt.Sprint(i)})
			} else {
				err = f.RefuseDevice(context.Background(), d.ID, fmt.Sprint(i))
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				good++
			} else if !errors.Is(err, ErrNoDevice) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if good != 1 {
		t.Errorf("%d answers counted", good)
	}
}

// G10: an address has few requests that nobody answers, its network more; what
// was answered does not count, and a client that authenticated has no address.
func TestDeviceRequestsAreBounded(t *testing.T) {
	f := ledger(t, TokensConfig{})
	f.SetDeviceRequests(3)
	ctx := context.Background()
	from := func(network string) error {
		r := deviceRequest()
		r.Network = network
		_, _, err := f.NewDevice(ctx, r)
		return err
	}
	for i := range 40 { // each answered
		_, d := asking(t, f.Ledger, deviceRequest())
		if err := f.RefuseDevice(ctx, d.ID, "s"); err != nil {
			t.Fatal(i, err)
		}
	}
	for i := range 4 {
		if err := from("192.0.2.1/32"); (i < 3) != (err == nil) || err != nil && !errors.Is(err, ErrManyDevices) {
			t.Errorf("%d: %v", i, err)
		}
	}
	n := 3
	for i := 2; i < 60; i++ {
		if from(fmt.Sprintf("192.0.2.%d/32", i)) == nil {
			n++
		}
	}
	if n != networkTimes*3 {
		t.Errorf("%d of one /24", n)
	}
	if err := from("198.51.100.1/32"); err != nil {
		t.Errorf("another network: %v", err)
	}
	if err := from(""); err != nil {
		t.Errorf("an authenticated client: %v", err)
	}
	f.wait(time.Minute)
	if err := from("192.0.2.1/32"); err != nil {
		t.Errorf("a minute later: %v", err)
	}
	// All together: the store holds so many, whoever asks.
	f.pace.counted(liveDevices)
	if err := from(""); !errors.Is(err, ErrManyDevices) {
		t.Errorf("more than may live: %v", err)
	}
}

// DF-2: five wrong codes by session, by account and by address; a right one does
// not count; all together stay below 2^-20.
func TestGuesses(t *testing.T) {
	f := ledger(t, TokensConfig{})
	ctx := context.Background()
	wrong := func(session, account, network string) error {
		_, w, err := f.Guess(ctx, session, account, network)
		if err == nil {
			w()
		}
		return err
	}
	for what, key := range map[string]func(i int) (string, string, string){
		"session": func(i int) (string, string, string) { return "s", fmt.Sprint("a", i), fmt.Sprint("n", i) },
		"account": func(i int) (string, string, string) { return fmt.Sprint("t", i), "b", fmt.Sprint("m", i) },
		"network": func(i int) (string, string, string) { return fmt.Sprint("u", i), fmt.Sprint("c", i), "o" },
	} {
		for i := range 30 { // right ones
			s, a, n := key(i)
			found, _, err := f.Guess(ctx, s, a, n)
			if err != nil {
				t.Fatalf("%s: a right one counts: %v", what, err)
			}
			found()
		}
		for i := range wrongCodes + 1 {
			s, a, n := key(i)
			err := wrong(s, a, n)
			ge, _ := errors.AsType[*GuessError](err)
			if (i < wrongCodes) != (err == nil) || err != nil && (ge == nil || ge.After != DeviceTTL || ge.All) {
				t.Errorf("%s %d: %v", what, i, err)
			}
		}
	}
	f.wait(DeviceTTL)
	if err := wrong("s", "b", "o"); err != nil {
		t.Errorf("after the life of a code: %v", err)
	}
	f.wait(DeviceTTL)
	for range 1000 {
		asking(t, f.Ledger, DeviceRequest{ClientID: "tv"})
	}
	n := 0
	for i := range 100 {
		err := wrong(fmt.Sprint("x", i), fmt.Sprint("y", i), fmt.Sprint("z", i))
		if ge, _ := errors.AsType[*GuessError](err); err != nil && (ge == nil || !ge.All) {
			t.Fatal(err)
		}
		if err == nil {
			n++
		}
	}
	if n != guessBudget/1000 || float64(n)*1000/25.6e9 >= 1.0/(1<<20) {
		t.Errorf("%d guesses among 1000 codes", n)
	}
}

// Replicas tell each other of wrong codes.
func TestGuessesAreTold(t *testing.T) {
	f := ledger(t, TokensConfig{})
	other, err := New(f.cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = other.Run(ctx) }()
	defer func() { cancel(); <-done }()
	wrong := func(account string, i int) {
		t.Helper()
		_, wrong, err := f.Guess(ctx, fmt.Sprint(account, " s", i), account, fmt.Sprint(account, " n", i))
		if err != nil {
			t.Fatal(err)
		}
		wrong()
	}
	told := func(account string, n int) bool {
		for range 400 {
			if other.pace.wrong.Count("account "+account) >= n {
				return true
			}
			time.Sleep(5 * time.Millisecond)
		}
		return false
	}
	for i := 0; other.pace.all.Count("") == 0; i++ { // until it listens
		wrong(fmt.Sprint("probe ", i), 0)
		time.Sleep(5 * time.Millisecond)
	}
	for i := range wrongCodes {
		wrong("them", i)
	}
	if !told("them", wrongCodes) {
		t.Fatal("the other replica was not told")
	}
	if _, _, err := other.Guess(ctx, "s", "them", "n"); err == nil {
		t.Error("the other replica lets them go on")
	}
}
