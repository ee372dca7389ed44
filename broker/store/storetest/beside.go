package storetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/store"
)

func logs(t *testing.T, s store.Store, kind string) {
	var last uint64
	for i := range 50 {
		pos, err := s.Append(t.Context(), kind, fmt.Append(nil, i))
		if err != nil || pos <= last {
			t.Fatalf("Append %d = %d after %d, %v", i, pos, last, err)
		}
		last = pos
		if _, err := s.Append(t.Context(), kind+"other", []byte("other")); err != nil {
			t.Fatal(err)
		}
	}
	var after uint64
	n := 0
	for {
		seq, err := s.Read(t.Context(), kind, after, 8)
		if err != nil {
			t.Fatal(err)
		}
		page := 0
		for pos, entry := range seq {
			if pos <= after || string(entry) != fmt.Sprint(n) {
				t.Fatalf("entry %d at %d after %d = %q", n, pos, after, entry)
			}
			after = pos
			n++
			page++
		}
		if page == 0 {
			break
		}
	}
	if n != 50 {
		t.Fatalf("the log gave %d entries of 50", n)
	}
}

// trims: what is old goes, the rest and other topics stay, and a position is
// given once, even after everything was removed.
func trims(t *testing.T, s store.Store, kind string) {
	read := func(topic string) (positions []uint64) {
		t.Helper()
		seq, err := s.Read(t.Context(), topic, 0, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for pos := range seq {
			positions = append(positions, pos)
		}
		return positions
	}
	if err := s.Trim(t.Context(), kind, 100); err != nil {
		t.Fatalf("Trim of a topic that is not there: %v", err)
	}
	var all sync.WaitGroup
	for writer := range 25 { // together more than one step of a driver's
		all.Go(func() {
			for i := range 100 {
				if _, err := s.Append(t.Context(), kind, fmt.Append(nil, i)); err != nil {
					t.Error(err)
				}
			}
			if _, err := s.Append(t.Context(), kind+"other", fmt.Append(nil, writer)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	were := read(kind)
	if err := s.Trim(t.Context(), kind, 0); err != nil || len(read(kind)) != len(were) {
		t.Fatalf("Trim before 0 left %d of %d, %v", len(read(kind)), len(were), err)
	}
	if err := s.Trim(t.Context(), kind, were[2300]); err != nil {
		t.Fatal(err)
	}
	if got := read(kind); len(got) != 200 || got[0] != were[2300] {
		t.Fatalf("Trim left %d entries from %d on, want 200 from %d on", len(got), got[0], were[2300])
	}
	if err := s.Trim(t.Context(), kind, were[2499]+1); err != nil || len(read(kind)) != 0 {
		t.Fatalf("Trim of all left %d, %v", len(read(kind)), err)
	}
	if n := len(read(kind + "other")); n != 25 {
		t.Fatalf("another topic has %d entries of 25", n)
	}
	if pos, err := s.Append(t.Context(), kind, []byte("next")); err != nil || pos <= were[2499] {
		t.Fatalf("after trimming all, Append gave %d, which is not above %d: %v", pos, were[2499], err)
	}
	if err := s.Trim(t.Context(), kind, math.MaxUint64); err != nil || len(read(kind)) != 0 {
		t.Fatalf("Trim of whatever there is left %d, %v", len(read(kind)), err)
	}
}

func receive(t *testing.T, ch <-chan []byte) (string, bool) {
	t.Helper()
	select {
	case msg, ok := <-ch:
		return string(msg), ok
	case <-time.After(10 * time.Second):
		t.Fatal("no message in ten seconds")
		return "", false
	}
}

func busDelivers(t *testing.T, s store.Store, kind string) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	a, err := s.Subscribe(ctx, kind)
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Subscribe(ctx, kind)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := s.Publish(t.Context(), kind, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	for _, ch := range []<-chan []byte{a, b} {
		for i := range 20 {
			if msg, ok := receive(t, ch); !ok || msg != fmt.Sprint(i) {
				t.Fatalf("message %d = %q, %v", i, msg, ok)
			}
		}
	}
	cancel()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case _, ok := <-a:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the subscription outlives its context")
		}
	}
}

func leases(t *testing.T, s store.Store, kind string) {
	held, release, err := s.Lease(t.Context(), kind, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := s.Lease(t.Context(), kind, 5*time.Second); !errors.Is(err, store.ErrLeaseHeld) {
		t.Fatalf("a second holder: %v, want ErrLeaseHeld", err)
	}
	if held.Err() != nil {
		t.Fatal("the lease ended by itself")
	}
	release()
	select {
	case <-held.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("release does not end the lease")
	}
	_, release, err = s.Lease(t.Context(), kind, 5*time.Second)
	if err != nil {
		t.Fatalf("a lease that was released: %v", err)
	}
	release()
	var got atomic.Int32
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, _, err := s.Lease(t.Context(), kind+"race", 5*time.Second); err == nil {
				got.Add(1)
			} else if !errors.Is(err, store.ErrLeaseHeld) {
				t.Errorf("lease in a race: %v", err)
			}
		})
	}
	wg.Wait()
	if got.Load() != 1 {
		t.Fatalf("%d of 16 got the lease", got.Load())
	}
}

func contexts(t *testing.T, s store.Store, kind string) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, store.Key{Kind: kind, ID: "a"}); err == nil || errors.Is(err, store.ErrNotFound) {
		t.Errorf("Get under a cancelled context: %v; nothing may be concluded from it", err)
	}
	if _, err := s.Put(ctx, store.Item{Key: store.Key{Kind: kind, ID: "a"}}); err == nil {
		t.Error("Put under a cancelled context reports success")
	}
	if _, err := s.List(ctx, kind, "", "", "", 1); err == nil {
		t.Error("List under a cancelled context reports an empty list")
	}
}

// tells: what is written is told, by the write itself; what is refused is not.
func tells(t *testing.T, s store.Store, kind string) {
	news, err := s.Subscribe(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	k := store.Key{Kind: kind, ID: "a"}
	tell := func(text string) store.Message { return store.Message{Topic: kind, Data: []byte(text)} }
	for _, firm := range []bool{false, true} {
		k.ID += "x"
		v := put(t, s, store.Item{Key: k, Value: []byte("x"), Firm: firm, Tell: tell("made")})
		if msg, ok := receive(t, news); !ok || msg != "made" {
			t.Fatalf("heard %q, %v of a new item", msg, ok)
		}
		if it, err := s.Get(t.Context(), k); err != nil || it.Tell.Topic != "" {
			t.Fatalf("Get = %+v, %v; a message is not stored", it, err)
		}
		if _, err := s.Put(t.Context(), store.Item{Key: k, Version: v + 7, Firm: firm, Tell: tell("refused")}); !errors.Is(err, store.ErrConflict) {
			t.Fatalf("another version: %v", err)
		}
		put(t, s, store.Item{Key: k, Value: []byte("y"), Version: v, Firm: firm, Tell: tell("changed")})
		if msg, ok := receive(t, news); !ok || msg != "changed" {
			t.Fatalf("heard %q, %v of a change", msg, ok)
		}
		// Already over when it is written: told all the same.
		k.ID += "x"
		put(t, s, store.Item{Key: k, Expires: time.Now().Add(-time.Hour), Firm: firm, Tell: tell("over")})
		if msg, ok := receive(t, news); !ok || msg != "over" {
			t.Fatalf("heard %q, %v of an item that is over", msg, ok)
		}
	}
}

// lostLink: whoever listens or holds a lease is told when the store ends, and
// nothing is promised afterwards.
func lostLink(t *testing.T, s store.Store, kind string) {
	news, err := s.Subscribe(t.Context(), kind)
	if err != nil {
		t.Fatal(err)
	}
	held, release, err := s.Lease(t.Context(), kind, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := receive(t, news); ok {
		t.Error("a message from a closed store")
	}
	select {
	case <-held.Done():
	case <-time.After(10 * time.Second):
		t.Error("a lease outlives its store")
	}
	k := store.Key{Kind: kind, ID: "a"}
	for what, err := range map[string]error{
		"Put":       second(s.Put(t.Context(), store.Item{Key: k})),
		"firm Put":  second(s.Put(t.Context(), store.Item{Key: k, Firm: true})),
		"Delete":    s.Delete(t.Context(), k),
		"Append":    second(s.Append(t.Context(), kind, []byte("x"))),
		"Get":       second(s.Get(t.Context(), k)),
		"List":      second(s.List(t.Context(), kind, "", "", "", 1)),
		"Subscribe": second(s.Subscribe(t.Context(), kind)),
		"Check":     second(s.Check(t.Context())),
	} {
		if !errors.Is(err, store.ErrUnavailable) {
			t.Errorf("%s on a closed store: %v, want ErrUnavailable", what, err)
		}
	}
	if _, _, err := s.Lease(t.Context(), kind, 5*time.Second); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Lease on a closed store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("closing twice: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

// leaseFencing: who has lost a lease cannot give back that of the next holder.
func leaseFencing(t *testing.T, s store.Store, kind string) {
	ctx, cancel := context.WithCancel(t.Context())
	held, releaseOld, err := s.Lease(ctx, kind, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	cancel() // the holder's own context ends: so does the lease
	<-held.Done()
	var release func()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if _, release, err = s.Lease(t.Context(), kind, 5*time.Second); err == nil {
			break
		}
		if !errors.Is(err, store.ErrLeaseHeld) || time.Now().After(deadline) {
			t.Fatalf("a lease whose holder is gone: %v", err)
		}
	}
	releaseOld()
	if _, _, err := s.Lease(t.Context(), kind, 5*time.Second); !errors.Is(err, store.ErrLeaseHeld) {
		t.Fatalf("the old holder gave back the new one's lease: %v", err)
	}
	release()
}
