package sqlite

import (
	"errors"
	"io/fs"
	"os"
	"time"
)

// syncEvery is how much of what was acknowledged a power cut may take. SQLite
// with synchronous=NORMAL leaves the write-ahead log to the kernel, which takes
// half a minute; a firm write brings along everything before it.
const syncEvery = time.Second

// syncer brings the write-ahead log to the disk once a second while there is
// something new in it, beside the writer, whom it does not hold up.
func (s *Store) syncer() {
	defer close(s.synced)
	tick := time.NewTicker(syncEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.done: // the writer has ended; closing the database checkpoints
			return
		case <-tick.C:
		}
		if !s.dirty.Swap(false) {
			continue
		}
		if err := syncFile(s.cfg.Path + "-wal"); err != nil {
			s.dirty.Store(true)
			s.cfg.Log.Warn("sqlite: the write-ahead log did not reach the disk; tried again", "err", err)
		}
	}
}

// syncFile makes a file's content durable. One that is gone was checkpointed.
func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
