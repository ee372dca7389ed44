package portal

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/web"
)

// ErrNoArchive means that no bucket is called so.
var ErrNoArchive = errors.New("no bucket is called so")

// restoreRequest names an archive, and a time or a day at each end of what is
// wanted; without them it is all.
type restoreRequest struct {
	Archive string `json:"archive"`
	After   string `json:"after,omitempty"`
	Before  string `json:"before,omitempty"`
}

// restoreView is how many events came back.
type restoreView struct {
	Events int `json:"events"`
}

// apiAuditRestore takes events of an archive into this replica's index, so that
// they are found again. Each object is believed if the audit key signed it. It
// may take minutes.
func (p *Portal) apiAuditRestore(ctx context.Context, c *caller, r *http.Request) (any, error) {
	var req restoreRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	from, err := timeOf("after", req.After)
	if err != nil {
		return nil, err
	}
	to, err := timeOf("before", req.Before)
	if err != nil {
		return nil, err
	}
	if p.index == nil {
		return nil, noIndex()
	}
	n, err := p.restore(ctx, req.Archive, from, to)
	if errors.Is(err, ErrNoArchive) {
		return nil, badRequest("archive must be a bucket of the configuration, as audit.archive calls it")
	}
	if err != nil {
		return nil, web.Fail(http.StatusBadGateway, "audit.restore", "error.store", err)
	}
	return restoreView{Events: n}, p.record(ctx, r, event.Event{Name: event.AdminChanged, Actor: c.actor(), Target: "audit",
		Details: map[string]string{"change": "restore", "archive": req.Archive, "events": strconv.Itoa(n)}})
}
