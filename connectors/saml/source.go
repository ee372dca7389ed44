package saml

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/remotegpu/gatehouse/connectors"
)

// How often metadata is read: what the document says, within these bounds; a
// file, which costs nothing, at each look; and once a minute at most when a
// signature fits no key, for providers that change theirs in a hurry.
const (
	refreshMin     = time.Hour
	refreshMax     = 24 * time.Hour
	refreshDefault = 6 * time.Hour
	refreshHurry   = time.Minute
)

// source keeps the identity provider's metadata up to date. What was read stays
// in use until its validUntil while a new one cannot be had.
type source struct {
	cfg    Config
	pin    *x509.Certificate
	client *http.Client
	now    func() time.Time
	log    *slog.Logger

	flight singleflight.Group
	mu     sync.Mutex
	last   *provider
	read   time.Time // when last was read
	tried  time.Time
}

// get returns the provider; it is read now if it never was, or is over.
func (s *source) get(ctx context.Context) (*provider, error) {
	if p := s.usable(); p != nil {
		return p, nil
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	if p := s.usable(); p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("saml: the metadata's validUntil is over: %w", connectors.ErrUnavailable)
}

func (s *source) usable() *provider {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || !s.last.ValidUntil.IsZero() && !s.now().Before(s.last.ValidUntil) {
		return nil
	}
	return s.last
}

// due reports whether the schedule asks for a new copy.
func (s *source) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil {
		return true
	}
	now := s.now()
	if s.cfg.MetadataURL == "" {
		return s.cfg.MetadataFile != ""
	}
	every := min(max(cmp.Or(s.last.CacheFor, refreshDefault), refreshMin), refreshMax)
	next := s.read.Add(every)
	// A document that ends soon is replaced before it does.
	if u := s.last.ValidUntil; !u.IsZero() {
		if early := u.Add(-refreshMin); early.Before(next) {
			next = early
		}
	}
	return !now.Before(next) && now.Sub(s.tried) >= refreshHurry
}

// hurry reads again because a signature fitted no key. It reports whether there
// are other keys now.
func (s *source) hurry(ctx context.Context, known *provider) bool {
	if s.cfg.MetadataXML != "" {
		return false
	}
	s.mu.Lock()
	early := s.now().Sub(s.tried) < refreshHurry
	s.mu.Unlock()
	if early {
		return s.usable() != known
	}
	if err := s.refresh(ctx); err != nil {
		s.log.WarnContext(ctx, "saml: the metadata was not read again", "err", err)
	}
	return s.usable() != known
}

// refresh reads the metadata. Many callers at once are one reading.
func (s *source) refresh(ctx context.Context) error {
	done := s.flight.DoChan("metadata", func() (any, error) {
		// Others wait for this too: it outlives the caller, in the client's time.
		return nil, s.load(context.WithoutCancel(ctx))
	})
	select {
	case r := <-done:
		return r.Err
	case <-ctx.Done():
		return fmt.Errorf("saml: metadata: %w: %w", ctx.Err(), connectors.ErrUnavailable)
	}
}

func (s *source) load(ctx context.Context) error {
	s.mu.Lock()
	s.tried = s.now()
	s.mu.Unlock()
	doc, err := s.fetch(ctx)
	if err != nil {
		return fmt.Errorf("saml: metadata: %w: %w", err, connectors.ErrUnavailable)
	}
	p, err := parseMetadata(doc, s.cfg.EntityID, s.pin)
	if err != nil {
		return fmt.Errorf("%w: %w", err, connectors.ErrUnavailable)
	}
	now := s.now()
	if !p.ValidUntil.IsZero() && !now.Before(p.ValidUntil) {
		return fmt.Errorf("saml: metadata: its validUntil was %s: %w", p.ValidUntil.Format(time.RFC3339), connectors.ErrUnavailable)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil && s.last.EntityID != p.EntityID && s.cfg.EntityID == "" {
		// Else whoever answers at that address could become another provider.
		return fmt.Errorf("saml: metadata: it is now that of %s, and was that of %s; write the new one as entity_id: %w", p.EntityID, s.last.EntityID, connectors.ErrUnavailable)
	}
	s.last, s.read = p, now
	return nil
}

func (s *source) fetch(ctx context.Context) ([]byte, error) {
	switch {
	case s.cfg.MetadataXML != "":
		return []byte(s.cfg.MetadataXML), nil
	case s.cfg.MetadataFile != "":
		f, err := os.Open(s.cfg.MetadataFile)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return io.ReadAll(io.LimitReader(f, maxMetadata+1))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.MetadataURL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/samlmetadata+xml, application/xml;q=0.9, */*;q=0.1")
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d", s.cfg.MetadataURL, resp.StatusCode)
	}
	return io.ReadAll(resp.Body)
}
