package portal

import (
	"context"
	"errors"
	"net/http"

	"github.com/remotegpu/gatehouse/broker/web"
)

// Reload is what reading the configuration again came to.
type Reload struct {
	Changed []string `json:"changed"` // keys that are in use now
	Restart []string `json:"restart"` // keys that differ and wait for a restart
	// Findings are warnings; of a configuration that was refused, everything.
	Findings []Finding `json:"findings"`
}

// Finding is a complaint about the configuration, as `gatehouse check` prints it.
type Finding struct {
	Severity string `json:"severity"`
	File     string `json:"file,omitempty"`
	Line     int    `json:"line,omitempty"`
	Column   int    `json:"column,omitempty"`
	Rule     string `json:"rule"`
	Text     string `json:"text"`
	Fix      string `json:"fix,omitempty"`
}

// ErrRejected means that the configuration was refused and nothing was changed.
var ErrRejected = errors.New("the configuration was refused")

// apiReload has the configuration read again.
func (p *Portal) apiReload(ctx context.Context, c *caller, r *http.Request) (any, error) {
	out, err := p.reload(ctx, c.actor())
	if !errors.Is(err, ErrRejected) {
		return out, err
	}
	e := web.Fail(http.StatusUnprocessableEntity, "config.rejected", "error.config_rejected", err)
	e.JSON = map[string]any{"error": "invalid_configuration", "code": "config.rejected", "message": "The configuration was refused; nothing was changed.",
		"ref": web.RequestOf(r).Ref(), "findings": out.Findings}
	return nil, e
}
