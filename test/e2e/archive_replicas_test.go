//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// signedIn counts how often each sign-in stands in the archive.
func (s *objectStore) signedIn(t *testing.T, bucket string) map[string]int {
	t.Helper()
	times := map[string]int{}
	for _, name := range s.objects(t, bucket, ".jsonl.gz") {
		plain, err := gzip.NewReader(bytes.NewReader(s.get(t, bucket, name)))
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(plain)
		in.Buffer(nil, 16<<20)
		for in.Scan() {
			var line struct{ Event struct{ ID, Name string } }
			if err := json.Unmarshal(in.Bytes(), &line); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if line.Event.Name == "signin.succeeded" {
				times[line.Event.ID]++
			}
		}
		if err := in.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return times
}

// Two replicas on one Redis archive into one bucket, and whichever of them writes
// is killed in the middle of an object, or between the store's word and its own
// note of it: the other goes on, and the bucket holds the log with neither a gap
// nor anything twice.
func TestArchiveByTwoReplicas(t *testing.T) {
	s := startObjectStore(t, "minio")
	s.bucket(t, "audit", false)
	f := newFaulty(t, s)
	a, b := serveTwo(t, "redis://"+startRedis(t, "redis").addr(0)+"/0", fmt.Sprintf(
		"minio: {endpoint: %q, use_ssl: false, access_key: peeradmin, secret_key: peeradmin-secret, bucket: audit}\n"+
			"audit: {archive: [minio], every: 1s}\n", strings.TrimPrefix(f.URL, "http://")))
	entered := 0
	enter := func(gs ...*gatehouse) {
		t.Helper()
		for _, g := range gs {
			p := newPerson(t, a)
			p.at(g)
			if r := p.signIn(p.follow(p.send(http.MethodGet, "/", nil)), "local", "demo", "demo"); r.StatusCode != http.StatusOK {
				t.Fatalf("sign-in: %d", r.StatusCode)
			}
			entered++
		}
	}
	archived := func() bool { return len(s.signedIn(t, "audit")) >= entered }
	enter(a, b, a, b)
	eventually(t, time.Minute, "the first sign-ins are archived", archived)
	key := s.auditKey(t, "audit")

	// After the first round it is known who writes: the one that was left alone.
	for _, round := range []struct {
		dies, stays *gatehouse
		how         string
	}{{a, b, "slow"}, {b, a, "lost"}, {a, b, "slow"}} {
		f.set("", round.how)
		enter(round.stays, round.dies)
		eventually(t, time.Minute, "an object is on its way", func() bool { return f.left() == 0 })
		round.dies.stop(syscall.SIGKILL)
		enter(round.stays, round.stays)
		eventually(t, 90*time.Second, "the other archives what both recorded", archived)
		round.dies.start()
		enter(round.dies)
	}
	eventually(t, time.Minute, "all is archived", archived)

	for id, n := range s.signedIn(t, "audit") {
		if n != 1 {
			t.Errorf("the sign-in %s is archived %d times", id, n)
		}
	}
	rep := a.verified(t, "--archive", "minio", "--key", key)
	if len(rep.Faults) > 0 || uint64(rep.Blocks) != rep.Last || rep.Records < entered {
		t.Errorf("%+v", rep)
	}
	if out := a.run("audit", "search", "--name", "audit.archive_failed", "--severity", "critical"); strings.Contains(out, "audit.archive_failed") {
		t.Errorf("a replica found the bucket in another's way:\n%s", out)
	}
}
