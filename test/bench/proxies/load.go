package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"sync"
	"time"
)

// figures are what one run of a load gave.
type figures struct {
	perSec   float64
	p50, p99 time.Duration
	cpu      time.Duration // of all processes of the contender, for a request
}

// load sends n copies of a raw HTTP/1.1 request over so many connections, each
// waiting for its answer before the next, and reads 200 answers. It parses no
// more than it must, so that on a small machine the driver takes little from
// the server.
func load(addr string, request []byte, connections, n int) (figures, error) {
	type outcome struct {
		took []time.Duration
		err  error
	}
	outcomes := make([]outcome, connections)
	conns := make([]net.Conn, connections)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return figures{}, err
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Minute))
		conns[i] = c
	}
	start := time.Now()
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() {
			o := &outcomes[i]
			o.took = make([]time.Duration, 0, n/connections)
			r := bufio.NewReaderSize(c, 64<<10)
			for range n / connections {
				at := time.Now()
				if o.err = exchange(c, r, request); o.err != nil {
					return
				}
				o.took = append(o.took, time.Since(at))
			}
		})
	}
	wg.Wait()
	elapsed := time.Since(start)
	var all []time.Duration
	for _, o := range outcomes {
		if o.err != nil {
			return figures{}, o.err
		}
		all = append(all, o.took...)
	}
	slices.Sort(all)
	return figures{perSec: float64(len(all)) / elapsed.Seconds(), p50: all[len(all)/2], p99: all[len(all)*99/100]}, nil
}

func exchange(w io.Writer, r *bufio.Reader, request []byte) error {
	if _, err := w.Write(request); err != nil {
		return err
	}
	status, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 200")) {
		return fmt.Errorf("answered %s", bytes.TrimSpace(status))
	}
	length := -1
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		if len(line) == 0 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("Content-Length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("an answer without Content-Length")
	}
	_, err = r.Discard(length)
	return err
}
