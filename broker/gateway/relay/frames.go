package relay

import "encoding/binary"

// frames follows the frames of one direction by their headers alone (RFC 6455
// section 5.2).
type frames struct {
	head    [14]byte
	have    int    // bytes of the header seen
	size    int    // of the last header that was whole
	left    uint64 // bytes of the payload to come
	closing bool   // a close frame has begun
}

func (f *frames) boundary() bool { return f.have == 0 && f.left == 0 }

// pass accounts for bytes that were sent on.
func (f *frames) pass(b []byte) {
	for len(b) > 0 {
		b = b[f.next(b):]
	}
}

// next takes a part of a payload or one byte of a header, and returns how much.
func (f *frames) next(b []byte) int {
	if f.left > 0 {
		n := min(uint64(len(b)), f.left)
		f.left -= n
		return int(n)
	}
	f.head[f.have] = b[0]
	f.have++
	if f.have < 2 {
		return 1
	}
	need := 2
	switch f.head[1] & 0x7f {
	case 126:
		need += 2
	case 127:
		need += 8
	}
	payloadAt := need
	if f.head[1]&0x80 != 0 {
		need += 4
	}
	if f.have < need {
		return 1
	}
	switch n := f.head[1] & 0x7f; n {
	case 126:
		f.left = uint64(binary.BigEndian.Uint16(f.head[2:payloadAt]))
	case 127:
		f.left = binary.BigEndian.Uint64(f.head[2:payloadAt])
	default:
		f.left = uint64(n)
	}
	if f.head[0]&0x0f == 8 {
		f.closing = true
	}
	f.size, f.have = need, 0
	return 1
}

// controlFrames lets ping, pong and close pass and drops the frames of messages:
// for who may look and not act.
type controlFrames struct {
	frames frames
	keep   bool
	out    []byte
}

// filter returns what of b passes; it is good until the next call.
func (c *controlFrames) filter(b []byte) []byte {
	c.out = c.out[:0]
	for len(b) > 0 {
		payload := c.frames.left > 0
		n := c.frames.next(b)
		switch {
		case payload && c.keep:
			c.out = append(c.out, b[:n]...)
		case !payload && c.frames.have == 0: // a header is whole
			if c.keep = c.frames.head[0]&0x0f >= 8; c.keep {
				c.out = append(c.out, c.frames.head[:c.frames.size]...)
			}
		}
		b = b[n:]
	}
	return c.out
}
