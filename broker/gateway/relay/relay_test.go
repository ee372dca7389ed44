package relay

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// frame makes a frame as RFC 6455 section 5.2 draws it.
func wsFrame(op byte, n int, masked bool) []byte {
	out := []byte{0x80 | op}
	bit := byte(0)
	if masked {
		bit = 0x80
	}
	switch {
	case n < 126:
		out = append(out, bit|byte(n))
	case n < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, bit|126), uint16(n))
	default:
		out = binary.BigEndian.AppendUint64(append(out, bit|127), uint64(n))
	}
	if masked {
		out = append(out, 1, 2, 3, 4)
	}
	return append(out, bytes.Repeat([]byte{0x88}, n)...) // a payload that looks like close frames
}

// However the bytes are cut, boundaries are where frames end and nowhere else.
func TestFramesAreFollowed(t *testing.T) {
	var all []byte
	ends := map[int]bool{0: true}
	for _, n := range []int{0, 1, 125, 126, 127, 65535, 65536, 70000} {
		for _, masked := range []bool{false, true} {
			all = append(all, wsFrame(2, n, masked)...)
			ends[len(all)] = true
		}
	}
	for _, step := range []int{1, 2, 3, 7, 4096, len(all)} {
		var f frames
		for at := 0; at < len(all); at += step {
			f.pass(all[at:min(at+step, len(all))])
			if got, want := f.boundary(), ends[min(at+step, len(all))]; got != want {
				t.Fatalf("steps of %d: at %d boundary %v, want %v", step, at+step, got, want)
			}
			if f.closing {
				t.Fatalf("steps of %d: a payload was taken for a close frame", step)
			}
		}
	}
	var f frames
	f.pass(wsFrame(8, 2, true))
	if !f.closing {
		t.Fatal("a close frame passed unseen")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add(wsFrame(1, 126, true), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, step uint8) {
		var whole, parts frames
		whole.pass(b)
		for chunk := range slices.Chunk(b, int(step)+1) {
			parts.pass(chunk)
		}
		if whole.boundary() != parts.boundary() || whole.closing != parts.closing || whole.left != parts.left {
			t.Fatalf("%x in steps of %d: %+v, %+v", b, step, whole, parts)
		}
	})
}

// relayed is a relay between two pipes.
type relayed struct {
	relay        *Relay
	client, up   net.Conn // the outer ends
	over         chan struct{}
	finished     chan struct{}
	began, ended time.Time
}

func startRelay(t *testing.T) *relayed {
	c1, c2 := net.Pipe()
	u1, u2 := net.Pipe()
	x := &relayed{relay: New(Config{Buffers: &Buffers{}}), client: c1, up: u1, over: make(chan struct{}), finished: make(chan struct{}), began: time.Now()}
	go func() {
		x.relay.Run(t.Context(), x.over, c2, nil, u2, nil)
		x.ended = time.Now()
		close(x.finished)
	}()
	return x
}

// GW-9: the close frame stands between two frames, with the code of the cause.
func TestCloseFrameWaitsForTheBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := startRelay(t)
		whole := wsFrame(2, 1000, false)
		go func() { _, _ = x.up.Write(whole[:500]) }()
		got := make([]byte, 500)
		if _, err := io.ReadFull(x.client, got); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, x.up) }()
		x.relay.End(Forbidden)
		x.relay.End(SessionEnded) // the first one counts
		time.Sleep(100 * time.Millisecond)
		go func() { _, _ = x.up.Write(whole[500:]) }()
		rest, _ := io.ReadAll(x.client)
		want := append(slices.Clone(whole[500:]), closeFrame(Forbidden, false)...)
		if !bytes.Equal(rest, want) {
			t.Fatalf("the client got %d bytes that end in %x", len(rest), rest[max(0, len(rest)-8):])
		}
		<-x.finished
	})
}

// Without a boundary in time both sides are cut, and nothing lands in a frame.
func TestWithoutBoundaryTheConnectionIsCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := startRelay(t)
		half := wsFrame(2, 1000, false)[:500]
		go func() { _, _ = x.up.Write(half) }()
		go func() { _, _ = io.Copy(io.Discard, x.up) }()
		if _, err := io.ReadFull(x.client, make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
		at := time.Now()
		close(x.over)
		rest, _ := io.ReadAll(x.client)
		<-x.finished
		if len(rest) != 0 || x.ended.Sub(at) > 2*atBoundary {
			t.Fatalf("%d bytes after the cut, which took %v", len(rest), x.ended.Sub(at))
		}
	})
}

// A client that reads nothing holds up no end: the write that waits for it is
// given up long before its own limit.
func TestStalledClientIsCutInTime(t *testing.T) {
	x := startRelay(t)
	go func() { _, _ = x.up.Write(wsFrame(2, 1000, false)) }()
	if _, err := x.client.Read(make([]byte, 1)); err != nil { // the rest nobody reads
		t.Fatal(err)
	}
	x.relay.End(SessionEnded)
	select {
	case <-x.finished:
	case <-time.After(WriteLimit / 4):
		t.Fatal("the end waits for the client")
	}
}

// After the peer's own close frame ours is not added (RFC 6455 section 5.5.1).
func TestNothingFollowsACloseFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := startRelay(t)
		sent := wsFrame(8, 2, false)
		go func() { _, _ = x.up.Write(sent) }()
		if _, err := io.ReadFull(x.client, make([]byte, len(sent))); err != nil {
			t.Fatal(err)
		}
		x.relay.End(SessionEnded)
		rest, _ := io.ReadAll(x.client)
		<-x.finished
		if len(rest) != 0 {
			t.Fatalf("%x follows the upstream's close frame", rest)
		}
	})
}

// An idle connection holds no buffer; what comes, a deadline and the end are
// reported as by Read.
func TestReadReady(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	bs := &Buffers{}
	if _, _, _, handled := readReady(struct{ net.Conn }{in}, bs); handled {
		t.Error("a wrapped connection is read past its wrapper")
	}
	_ = in.SetReadDeadline(time.Now().Add(time.Millisecond))
	buf, n, err, handled := readReady(in, bs)
	if !handled {
		return // not on this system
	}
	if buf != nil || n != 0 || err == nil {
		t.Errorf("nothing came: buffer %v, %d, %v", buf != nil, n, err)
	}
	_ = in.SetReadDeadline(time.Time{})
	_, _ = out.Write([]byte("abc"))
	if buf, n, err, _ = readReady(in, bs); err != nil || string(buf[:n]) != "abc" {
		t.Errorf("%d, %v", n, err)
	}
	out.Close()
	if _, n, err, _ = readReady(in, bs); n != 0 || err != io.EOF {
		t.Errorf("the end: %d, %v", n, err)
	}
}

// Who may only look sends control frames, however the bytes are cut.
func TestControlFramesAlone(t *testing.T) {
	var all, want []byte
	for _, n := range []int{0, 5, 125} {
		all = append(append(append(all, wsFrame(1, n, true)...), wsFrame(9, n, true)...), wsFrame(0, 70000, true)...)
		want = append(want, wsFrame(9, n, true)...)
	}
	all, want = append(all, wsFrame(8, 2, true)...), append(want, wsFrame(8, 2, true)...)
	for _, step := range []int{1, 3, 4096, len(all)} {
		var c controlFrames
		var got []byte
		for at := 0; at < len(all); at += step {
			got = append(got, c.filter(all[at:min(at+step, len(all))])...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("steps of %d: %d bytes pass, want %d", step, len(got), len(want))
		}
	}
}
