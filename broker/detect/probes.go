package detect

import (
	"context"
	"errors"
	"log/slog"
	"time"
)

// ProbesConfig is what NewProbes needs.
type ProbesConfig struct {
	Raiser *Raiser
	// Endings lists what stops working at a known time.
	Endings func(ctx context.Context) ([]Ending, error)
	// StoreClock asks the store's machine for its time; nil where the store has no
	// other clock than ours.
	StoreClock func(ctx context.Context) (time.Time, error)
	Clocks     *Clocks
	Operations *Operations
	// Replica names this process's machine in what is found of it.
	Replica string
	Log     *slog.Logger
}

// Probes look at what no event tells, on every replica: its own clock and its own
// way to the store are each replica's, and what all find is said once.
type Probes struct {
	cfg  ProbesConfig
	last time.Time // when endings were looked at
}

const (
	probeEvery   = time.Minute
	endingsEvery = 15 * time.Minute
	probeTimeout = 20 * time.Second
	// storeClock names the store's clock among those of hosts.
	storeClock = "store"
)

// NewProbes returns Probes; call Run.
func NewProbes(cfg ProbesConfig) (*Probes, error) {
	if cfg.Raiser == nil || cfg.Endings == nil || cfg.Clocks == nil || cfg.Operations == nil || cfg.Replica == "" || cfg.Log == nil {
		return nil, errors.New("detect: the configuration is incomplete")
	}
	cfg.Operations.over.Store(int64(cfg.Raiser.cfg.Config().Store.Over))
	return &Probes{cfg: cfg}, nil
}

// Run looks every minute until ctx ends, for the first time soon.
func (p *Probes) Run(ctx context.Context) error {
	t := time.NewTimer(5 * time.Second) // not while everything starts
	defer t.Stop()
	failed := false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		err := p.look(ctx)
		if err != nil && ctx.Err() == nil && !failed {
			p.cfg.Log.WarnContext(ctx, "what was found to be odd could not be recorded; tried again", "err", err)
		}
		failed = err != nil
		t.Reset(probeEvery)
	}
}

func (p *Probes) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	cfg, now := p.cfg.Raiser.cfg.Config(), p.cfg.Raiser.cfg.Now()
	errs := p.cfg.Operations.judge(ctx, p.cfg.Raiser, p.cfg.Replica, cfg.Store)
	if p.cfg.StoreClock != nil {
		sent := p.cfg.Raiser.cfg.Now()
		at, err := p.cfg.StoreClock(ctx)
		if err == nil { // a store that is away is said elsewhere
			p.cfg.Clocks.Saw(storeClock, at, at, sent, p.cfg.Raiser.cfg.Now())
		}
	}
	errs = errors.Join(errs, p.cfg.Clocks.judge(ctx, p.cfg.Raiser, p.cfg.Replica, cfg.ClockSkew))
	if p.last.IsZero() || now.Sub(p.last) >= endingsEvery {
		all, err := p.cfg.Endings(ctx)
		if err = errors.Join(err, endings(ctx, p.cfg.Raiser, all, now)); err == nil {
			p.last = now
		}
		errs = errors.Join(errs, err)
	}
	return errs
}
