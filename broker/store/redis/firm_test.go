package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker/redact"
	"github.com/remotegpu/gatehouse/broker/store"
)

// fakeServer answers commands as answer says; "" means +OK. It stands for server
// versions that are not at hand.
type fakeServer struct {
	addr string
	mu   sync.Mutex
	seen []string
}

func newFake(t *testing.T, answer func(cmd string, args []string) string) *fakeServer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f := &fakeServer{addr: l.Addr().String()}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); ; {
					args, err := readCommand(r)
					if err != nil {
						return
					}
					cmd := strings.ToLower(args[0])
					f.mu.Lock()
					f.seen = append(f.seen, cmd)
					f.mu.Unlock()
					reply := answer(cmd, args[1:])
					if reply == "" {
						reply = "+OK"
					}
					if _, err := io.WriteString(c, reply+"\r\n"); err != nil {
						return
					}
				}
			}()
		}
	}()
	return f
}

func (f *fakeServer) count(cmd string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, c := range f.seen {
		if c == cmd {
			n++
		}
	}
	return n
}

func readCommand(r *bufio.Reader) ([]string, error) {
	number := func(prefix string) (int, error) {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		return strconv.Atoi(strings.TrimPrefix(strings.TrimSpace(line), prefix))
	}
	n, err := number("*")
	if err != nil {
		return nil, err
	}
	args := make([]string, n)
	for i := range args {
		size, err := number("$")
		if err != nil {
			return nil, err
		}
		buf := make([]byte, size+2)
		if _, err := io.ReadFull(r, buf); err != nil {
			return nil, err
		}
		args[i] = string(buf[:size])
	}
	return args, nil
}

func bulk(s string) string { return fmt.Sprintf("$%d\r\n%s", len(s), s) }

func openFake(t *testing.T, f *fakeServer) *Store {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond) // it has no bus
	defer cancel()
	s, err := Open(ctx, Config{URL: redact.String("redis://" + f.addr), Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// Decision (g): a firm item is acknowledged when a replica and the disk confirm
// it, where there are any; an ordinary one asks neither.
func TestFirmWaits(t *testing.T) {
	for _, c := range []struct {
		name, info, wait, waitAOF, eval string
		ok                              bool
		asksReplica, asksDisk           bool
	}{
		{"old server alone", "redis_version:7.0.15\r\naof_enabled:1", "", "", bulk("n"), true, false, false},
		{"disk confirms", "redis_version:7.2.0\r\naof_enabled:1", "", "*2\r\n:1\r\n:0", bulk("n"), true, false, true},
		{"disk does not", "redis_version:7.2.0\r\naof_enabled:1", "", "*2\r\n:0\r\n:0", bulk("n"), false, false, true},
		{"no file to confirm", "redis_version:7.2.0\r\naof_enabled:0", "", "", bulk("n"), true, false, false},
		{"WAITAOF fails", "redis_version:7.4.0\r\naof_enabled:1", "", "-ERR WAITAOF cannot be used", bulk("n"), false, false, true},
		{"replica and disk confirm", "redis_version:8.0.0\r\nslave0:state=online\r\naof_enabled:1", ":1", "*2\r\n:1\r\n:0", bulk("n"), true, true, true},
		{"replica does not", "redis_version:8.0.0\r\nslave0:state=online\r\naof_enabled:1", ":0", "*2\r\n:1\r\n:0", bulk("n"), false, true, false},
		{"replica copies still", "redis_version:7.0.0\r\nslave0:state=wait_bgsave", ":0", "", bulk("n"), true, false, false},
		{"conflict asks nobody", "redis_version:8.0.0\r\nslave0:state=online\r\naof_enabled:1", ":1", "", ":0", false, false, false},
		{"nothing is known", "", "", "", bulk("n"), false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, func(cmd string, _ []string) string {
				switch cmd {
				case "get":
					return bulk("1")
				case "hello":
					return "-ERR unknown command"
				case "zadd":
					return ":1"
				case "info":
					if c.info == "" {
						return "-NOPERM no"
					}
					return bulk(c.info)
				case "eval", "evalsha":
					return c.eval
				case "wait":
					return c.wait
				case "waitaof":
					return c.waitAOF
				}
				return ""
			})
			s := openFake(t, f)
			it := store.Item{Key: store.Key{Kind: "k", ID: "a"}, Firm: true}
			_, err := s.Put(t.Context(), it)
			conflict := c.eval == ":0"
			if (err == nil) != c.ok || !c.ok && !conflict && !errors.Is(err, store.ErrUnavailable) || conflict != errors.Is(err, store.ErrConflict) {
				t.Errorf("Put: %v", err)
			}
			if (f.count("wait") > 0) != c.asksReplica || (f.count("waitaof") > 0) != c.asksDisk {
				t.Errorf("asked: %v", f.seen)
			}
			if n := f.count("eval"); n != 1 {
				t.Errorf("the write was sent %d times", n)
			}
			before := f.count("wait") + f.count("waitaof")
			it.Firm = false
			_, _ = s.Put(t.Context(), it)
			if f.count("wait")+f.count("waitaof") != before {
				t.Error("an ordinary item waits")
			}
		})
	}
}

// A write is never sent twice, not even when the connection breaks: the second
// would conflict with the first.
func TestWritesAreSentOnce(t *testing.T) {
	f := newFake(t, func(cmd string, _ []string) string {
		switch cmd {
		case "get":
			return bulk("1")
		case "hello":
			return "-ERR unknown command"
		case "zadd":
			return ":1"
		case "evalsha", "eval", "publish":
			return "-LOADING an answer after which the library would try again"
		}
		return ""
	})
	s := openFake(t, f)
	it := store.Item{Key: store.Key{Kind: "k", ID: "a"}}
	if _, err := s.Put(t.Context(), it); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("Put: %v", err)
	}
	if n := f.count("evalsha") + f.count("eval"); n != 1 {
		t.Errorf("Put was sent %d times", n)
	}
	it.Firm = true
	if _, err := s.Put(t.Context(), it); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("firm Put: %v", err)
	}
	if n := f.count("eval"); n != 1 {
		t.Errorf("a firm Put was sent %d times", n)
	}
}
