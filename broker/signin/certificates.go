package signin

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/store"
	"github.com/remotegpu/gatehouse/connectors"
)

// warnDays are how long before a certificate's end it is spoken of; 0 is after it
// (docs/security.md SP-3).
var warnDays = [...]int{0, 1, 3, 7, 14, 30}

const (
	certificatesEvery = time.Minute
	// certificatesAgain is when a connector that could not be asked is asked again.
	certificatesAgain = 5 * time.Second
)

// seenCertificates are those of a connector when somebody last looked.
type seenCertificates struct {
	Connector    string   `json:"connector"`
	Fingerprints []string `json:"fingerprints"`
}

// watchCertificates tells of certificates that are about to end, once for each
// certificate and threshold whatever the number of replicas, and of ones that
// changed.
func (d *Door) watchCertificates(ctx context.Context) {
	var watched []*Method
	for i := range d.cfg.Methods {
		if _, ok := d.cfg.Methods[i].Connector.(connectors.CertificateHolder); ok {
			watched = append(watched, &d.cfg.Methods[i])
		}
	}
	if len(watched) == 0 {
		return
	}
	tick := time.NewTimer(0)
	defer tick.Stop()
	for {
		next := certificatesEvery
		for _, m := range watched {
			switch err := d.lookAtCertificates(ctx, m); {
			case err == nil || ctx.Err() != nil:
			case errors.Is(err, connectors.ErrUnavailable):
				next = certificatesAgain
			default:
				d.cfg.Log.WarnContext(ctx, "the certificates of a connector were not looked at", "connector", m.ID, "err", err)
			}
		}
		tick.Reset(next)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Door) lookAtCertificates(ctx context.Context, m *Method) error {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	certs, err := m.Connector.(connectors.CertificateHolder).Certificates(ctx)
	if err != nil {
		return err
	}
	d.health.certificates(m.ID, certs)
	if err := d.noteChange(ctx, m, certs); err != nil {
		return err
	}
	now := d.cfg.Now()
	for _, c := range certs {
		left := c.Ends.Sub(now)
		i := slices.IndexFunc(warnDays[:], func(days int) bool { return left <= time.Duration(days)*24*time.Hour })
		if i < 0 {
			continue
		}
		days := strconv.Itoa(warnDays[i])
		_, err := d.cfg.KV.Put(ctx, store.Item{Key: store.Key{Kind: "certificate_warning", ID: store.HashID(m.ID + "\x00" + c.Fingerprint + "\x00" + days)}, Value: []byte(days), Expires: now.Add(400 * 24 * time.Hour)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return err
		}
		whose := "upstream"
		if c.Ours {
			whose = "ours"
		}
		d.cfg.Log.WarnContext(ctx, "a certificate ends", "connector", m.ID, "whose", whose, "ends", c.Ends.UTC().Format(time.RFC3339), "fingerprint", c.Fingerprint)
		if err := d.cfg.Events.Record(ctx, event.Event{Name: event.ConnectorCertificate, Connector: m.ID, Target: m.ID,
			Details: map[string]string{"days": days, "ends": c.Ends.UTC().Format(time.RFC3339), "whose": whose, "fingerprint": c.Fingerprint}}); err != nil {
			return err
		}
	}
	return nil
}

// noteChange records that an upstream signs with other certificates than before
// (SP-11).
func (d *Door) noteChange(ctx context.Context, m *Method, certs []connectors.Certificate) error {
	now := seenCertificates{Connector: m.ID}
	for _, c := range certs {
		if !c.Ours {
			now.Fingerprints = append(now.Fingerprints, c.Fingerprint)
		}
	}
	slices.Sort(now.Fingerprints)
	seen, err := d.certificates.Get(ctx, m.ID)
	if errors.Is(err, store.ErrNotFound) {
		err = d.certificates.Create(ctx, m.ID, now)
		if errors.Is(err, store.ErrConflict) {
			return nil
		}
		return err
	}
	if err != nil || slices.Equal(seen.Fingerprints, now.Fingerprints) {
		return err
	}
	_, err = d.certificates.Update(ctx, m.ID, func(s *seenCertificates) error {
		if slices.Equal(s.Fingerprints, now.Fingerprints) {
			return errUsed // another replica was first
		}
		*s = now
		return nil
	})
	if errors.Is(err, errUsed) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.cfg.Events.Record(ctx, event.Event{Name: event.ConnectorUpdated, Connector: m.ID, Target: m.ID, Details: map[string]string{"certificates": strings.Join(now.Fingerprints, " ")}})
}
