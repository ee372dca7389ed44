package broker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// ST-1: a secret that everybody can write is refused, one that everybody can read
// is a warning, unless it is mounted from memory as containers get theirs.
func TestSecretMode(t *testing.T) {
	memory, err := os.MkdirTemp("/dev/shm", "gatehouse-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(memory) })
	// The temporary folder is often in memory itself, the repository rarely.
	disk, err := os.MkdirTemp(".", "secrets-test-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(disk) })
	for _, c := range []struct {
		dir           string
		mode          os.FileMode
		warning, fail string
	}{
		{disk, 0o600, "", ""},
		{disk, 0o640, "", ""},
		{disk, 0o644, "chmod 600", ""},
		{disk, 0o444, "chmod 600", ""},
		{disk, 0o602, "", "written by everybody"},
		{memory, 0o444, "", ""},
		{memory, 0o400, "", ""},
		{memory, 0o666, "", "written by everybody"},
	} {
		if c.dir == disk && mountedSecret(disk) {
			c.warning = "" // the repository lies in memory
		}
		name := filepath.Join(c.dir, "secret")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, c.mode); err != nil {
			t.Fatal(err)
		}
		warning, err := secretMode(name)
		if (warning != "") != (c.warning != "") || !strings.Contains(warning, c.warning) || (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%s %o: %q %v", c.dir, c.mode, warning, err)
		}
	}
}
