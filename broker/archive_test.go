package broker_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/test/peers/cloudstore"
)

// A broker archives into the buckets of its configuration, follows a reload, says
// how far it is, finds old events again, and verifies.
func TestArchive(t *testing.T) {
	t.Parallel()
	oss := &cloudstore.Store{Vendor: "oss", Endpoint: "oss-cn-hangzhou.aliyuncs.com", Region: "cn-hangzhou", Bucket: "acme-audit", Key: "LTAI", Secret: "oss-secret"}
	cos := &cloudstore.Store{Vendor: "cos", Endpoint: "cos.ap-guangzhou.myqcloud.com", Region: "ap-guangzhou", Bucket: "acme-audit-1250000000", Key: "AKID", Secret: "cos-secret", Keeps: true}
	front := cloudstore.Serve(t, oss, cos)
	buckets := fmt.Sprintf(`
oss: {endpoint: oss-cn-hangzhou.aliyuncs.com, access_key: LTAI, secret_key: oss-secret, bucket: acme-audit, proxy: %[1]q, ca_file: %[2]q}
cos: {endpoint: cos.ap-guangzhou.myqcloud.com, access_key: AKID, secret_key: cos-secret, bucket: acme-audit-1250000000, proxy: %[1]q, ca_file: %[2]q}
`, front.Proxy, front.CAFile)
	h := start(t, buckets+"audit: {archive: [oss], every: 100ms}\n")
	h.operator(http.MethodPost, "/api/v1/keys/rotate", `{"alg":"RS256"}`)
	h.archivedIn(oss, 0)
	if n := len(cos.Objects()); n != 0 {
		t.Errorf("%d objects in a bucket that is no archive", n)
	}
	if m := h.operator(http.MethodGet, "/metrics", "").Body; !strings.Contains(m, "gatehouse_archive_lag_seconds ") {
		t.Error("no lag is told")
	}
	// Another bucket, by a reload; the first one rests.
	h.reloads(buckets+"audit: {archive: [cos], every: 100ms, prefix: log/}\n", "audit", "")
	h.archivedIn(cos, 0)
	if !slices.ContainsFunc(cos.Objects(), func(n string) bool { return strings.HasPrefix(n, "log/20") && strings.HasSuffix(n, ".jsonl.gz") }) {
		t.Errorf("%q", cos.Objects())
	}
	before := len(oss.Objects())
	h.operator(http.MethodPost, "/api/v1/keys/rotate", `{"alg":"ES256"}`)
	h.archivedIn(cos, len(cos.Objects()))
	if n := len(oss.Objects()); n != before {
		t.Errorf("%d objects more in a bucket that is no archive any more", n-before)
	}

	if a := h.operator(http.MethodPost, "/api/v1/audit/restore", `{"archive":"cos"}`); a.StatusCode != http.StatusOK || a.json(t)["events"].(float64) < 1 {
		t.Errorf("%d %s", a.StatusCode, a.Body)
	}
	for body, want := range map[string]int{`{"archive":"s3"}`: http.StatusBadRequest, `{"archive":"cos","after":"soon"}`: http.StatusBadRequest, `{"archive":"oss"}`: http.StatusOK} {
		if a := h.operator(http.MethodPost, "/api/v1/audit/restore", body); a.StatusCode != want {
			t.Errorf("%s: %d %s", body, a.StatusCode, a.Body)
		}
	}

	cfg, _, err := h.load("127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	var probes []string
	for _, p := range broker.Check(t.Context(), cfg, broker.Options{Log: discard()}) {
		if strings.HasPrefix(p.Name, "bucket ") {
			probes = append(probes, fmt.Sprintf("%s %v %v %s", p.Name, p.OK, p.Required, p.Detail))
		}
	}
	if len(probes) != 2 || !strings.HasPrefix(probes[0], "bucket oss true false ") || !strings.HasPrefix(probes[1], "bucket cos true true ") || !strings.HasSuffix(probes[1], "write-once") {
		t.Errorf("%q", probes)
	}
	r, err := broker.OpenArchive(cfg, "cos", broker.Options{Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	within(t, 10*time.Second, "it verifies", func() bool { // the server goes on: an object may stand there for a moment without its manifest
		rep, err := r.Verify(t.Context(), h.auditKey())
		if err != nil || rep.Records < 2 {
			t.Fatalf("%+v %v", rep, err)
		}
		return len(rep.Faults) == 0
	})
	if _, err := broker.OpenArchive(cfg, "s3", broker.Options{Log: discard()}); err == nil {
		t.Error("an archive in no bucket")
	}
}

// archivedIn waits until a bucket has more objects, signed.
func (h *harness) archivedIn(s *cloudstore.Store, than int) {
	h.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		all := s.Objects()
		if len(all) > than && strings.HasSuffix(all[len(all)-1], ".manifest.json") {
			return
		}
		if time.Now().After(end) {
			h.t.Fatalf("nothing more than %q in %s", all, s.Bucket)
		}
	}
}

// auditKey is the key to verify with, as the API tells it.
func (h *harness) auditKey() event.Verification {
	h.t.Helper()
	text, _ := h.operator(http.MethodGet, "/api/v1/audit/key", "").json(h.t)["public_key"].(string)
	key, err := event.ParsePublicKey([]byte(text))
	if err != nil {
		h.t.Fatal(err)
	}
	return event.Verification{Key: key}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }
