package broker

import "golang.org/x/sys/unix"

// mountedSecret reports whether a file lies on a read-only mount or in memory,
// where its mode is not ours to choose.
func mountedSecret(path string) bool {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return false
	}
	return fs.Flags&unix.ST_RDONLY != 0 || fs.Type == unix.TMPFS_MAGIC
}
