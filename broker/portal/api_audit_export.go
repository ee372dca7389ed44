package portal

import (
	"encoding/csv"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event/index"
)

// exporter streams all that a filter finds.
type exporter struct {
	p      *Portal
	filter index.Filter
	names  bool
	csv    bool
	most   int // 0 is all
}

// exportPage is how many events are in memory at a time.
const exportPage = 500

// exportColumns are the columns of a CSV export.
func exportColumns() []string {
	return []string{"time", "name", "severity", "actor", "actor_name", "target", "target_name", "connector", "client", "ip", "agent", "request_id", "ref", "details", "id", "position"}
}

// serve answers. A search that fails in the middle cuts the connection: what has
// arrived must not look whole.
func (x exporter) serve(w http.ResponseWriter, r *http.Request, still func() error) error {
	kind, name := "application/x-ndjson", "audit.jsonl"
	if x.csv {
		kind, name = "text/csv; charset=utf-8", "audit.csv"
	}
	page, err := x.p.eventsOf(r.Context(), x.filter, "", x.limit(0), x.names)
	if err != nil { // nothing was written yet: an error as usual
		return err
	}
	out := lines(w, kind, name)
	write := x.writer(out)
	for n := 0; ; {
		for _, v := range page.Items {
			if err := write(v); err != nil {
				x.p.cutOff(r, "an export of the audit log", err)
			}
		}
		n += len(page.Items)
		if page.Next == "" || x.most > 0 && n >= x.most {
			return nil
		}
		err := still()
		if err == nil {
			page, err = x.p.eventsOf(r.Context(), x.filter, page.Next, x.limit(n), x.names)
		}
		if err != nil {
			x.p.cutOff(r, "an export of the audit log", err)
		}
	}
}

// limit is how many the next page may have.
func (x exporter) limit(had int) int {
	if x.most == 0 {
		return exportPage
	}
	return min(exportPage, x.most-had)
}

func (x exporter) writer(w io.Writer) func(eventView) error {
	if !x.csv {
		enc := json.NewEncoder(w)
		return func(v eventView) error { return enc.Encode(v) }
	}
	out := csv.NewWriter(w)
	_ = out.Write(exportColumns()) // into its buffer; Flush says what went wrong
	out.Flush()
	return func(v eventView) error { return writeCSV(out, v) }
}

// safeCell keeps a program that opens the file from taking a text for a formula
// (docs/security.md AD-9, ASVS 1.2.10).
func safeCell(s string) string {
	if s != "" && strings.ContainsRune("=+-@\t\r", rune(s[0])) {
		return "'" + s
	}
	return s
}

func writeCSV(out *csv.Writer, v eventView) error {
	details := ""
	if len(v.Details) > 0 {
		js, err := json.Marshal(v.Details)
		if err != nil {
			return err
		}
		details = string(js)
	}
	cells := []string{v.Time.UTC().Format(time.RFC3339Nano), string(v.Name), string(v.Severity), v.Actor, v.ActorName, v.Target, v.TargetName, v.Connector, v.Client, v.IP, v.Agent,
		v.RequestID, v.Ref, details, v.ID, strconv.FormatUint(v.Position, 10)}
	for i := range cells {
		cells[i] = safeCell(cells[i])
	}
	if err := out.Write(cells); err != nil {
		return err
	}
	out.Flush()
	return out.Error()
}

// lineWait is how long a reader may take for what is written at once.
const lineWait = 30 * time.Second

// lines begins an answer of lines that is sent as it is made.
func lines(w http.ResponseWriter, kind, file string) http.ResponseWriter {
	h := w.Header()
	h.Set("Content-Type", kind)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no")
	if file != "" {
		h.Set("Content-Disposition", `attachment; filename="`+file+`"`)
	}
	return patient{w, http.NewResponseController(w)}
}

// patient gives each write its own time: an export may take minutes, and a
// reader who has gone must not hold it.
type patient struct {
	http.ResponseWriter
	rc *http.ResponseController
}

// Write writes.
func (p patient) Write(b []byte) (int, error) {
	_ = p.rc.SetWriteDeadline(time.Now().Add(lineWait))
	return p.ResponseWriter.Write(b)
}

// cutOff ends an answer that has begun and cannot be finished, in such a way that
// the reader notices.
func (p *Portal) cutOff(r *http.Request, what string, err error) {
	if r.Context().Err() == nil {
		p.log.WarnContext(r.Context(), what+" was cut off", "err", err)
	}
	panic(http.ErrAbortHandler)
}
