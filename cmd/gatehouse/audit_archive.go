package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/remotegpu/gatehouse/broker"
	"github.com/remotegpu/gatehouse/broker/event"
	"github.com/remotegpu/gatehouse/broker/event/archive"
	"github.com/remotegpu/gatehouse/config"
)

// archiveFlags name an archive in place of the running server's log.
type archiveFlags struct {
	Archive string `help:"Verify the archive in this bucket, as audit.archive calls it; no server needs to run." placeholder:"NAME" xor:"from"`
	Dir     string `help:"Verify an archive that was downloaded: the folder that holds what was below the prefix." placeholder:"FOLDER" type:"existingdir" xor:"from"`
}

func (f archiveFlags) given() bool { return f.Archive != "" || f.Dir != "" }

// open returns a reader of the archive.
func (f archiveFlags) open(e env) (*archive.Reader, error) {
	if f.Dir != "" {
		return broker.OpenArchiveFolder(f.Dir)
	}
	// A mistake elsewhere does not matter here, and a demo has little in it.
	cfg, _, err := config.Load(e.config, config.LoadOptions{Types: broker.Types(), Dev: true})
	if cfg == nil {
		return nil, err
	}
	return broker.OpenArchive(cfg, f.Archive, broker.Options{Version: version, Log: broker.NewLogger(e.stderr, config.LogConfig{Level: "error", Format: "text"})})
}

// verify verifies the archive; it fails when something is wrong.
func (f archiveFlags) verify(e env, v event.Verification, asJSON bool) error {
	r, err := f.open(e)
	if err != nil {
		return err
	}
	report, err := r.Verify(e.ctx, v)
	if err != nil {
		return err
	}
	if asJSON {
		err = e.printJSON(report)
	} else {
		err = showArchive(e, report)
	}
	if err == nil && len(report.Faults) > 0 {
		return errReported
	}
	return err
}

// showArchive prints a report for people.
func showArchive(e env, r archive.Report) error {
	out := e.stdout
	fmt.Fprintf(out, "%d objects, %d blocks, %d records, %s to %s\n", r.Objects, r.Blocks, r.Records, r.From.UTC().Format(time.RFC3339), r.To.UTC().Format(time.RFC3339))
	fmt.Fprintf(out, "newest block for the next --checkpoint: %s\n", r.Checkpoint)
	if r.Key == "" {
		fmt.Fprintln(e.stderr, "gatehouse: compared with itself alone: whoever can write to the archive could have made all of it. Pass the audit key's public half, kept elsewhere, with --key.")
	}
	if len(r.Faults) == 0 {
		_, err := fmt.Fprintln(out, "the archive is as it was sealed")
		return err
	}
	fmt.Fprintln(out, "THE ARCHIVE IS NOT AS IT WAS SEALED:")
	w := tabwriter.NewWriter(out, 2, 4, 2, ' ', 0)
	fmt.Fprintln(w, "FAULT\tCOUNT\tBLOCK\tPOSITION\tOBJECT\tWHAT")
	for _, f := range r.Faults {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\n", f.Name, f.Count, span(f.Block, f.ToBlock), span(f.Position, f.ToPosition), f.Object, f.Text)
	}
	if r.More {
		fmt.Fprintln(w, "…\t\t\t\t\tand more")
	}
	return w.Flush()
}
