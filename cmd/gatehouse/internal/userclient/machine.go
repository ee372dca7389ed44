package userclient

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Headless reports whether there is nobody in front of this machine who could use
// a browser on it: it is reached over SSH, is a CI job, or has no screen.
func Headless(getenv func(string) string) bool {
	for _, name := range []string{"SSH_CONNECTION", "SSH_TTY", "CI"} {
		if getenv(name) != "" {
			return true
		}
	}
	return runtime.GOOS != "darwin" && getenv("DISPLAY") == "" && getenv("WAYLAND_DISPLAY") == ""
}

// openTime is how long a browser's starter may take to fail.
const openTime = 3 * time.Second

// OpenBrowser has the desktop, or the program that $BROWSER names, open an
// address. One that runs on is taken to have opened it.
func OpenBrowser(ctx context.Context, getenv func(string) string, address string) error {
	if !strings.HasPrefix(address, "https://") && !strings.HasPrefix(address, "http://") {
		return fmt.Errorf("%s is not opened: %w", Printable(address, 100), ErrHostile)
	}
	var candidates []string
	if b, _, _ := strings.Cut(getenv("BROWSER"), ":"); b != "" {
		candidates = append(candidates, b)
	}
	if runtime.GOOS == "darwin" {
		candidates = append(candidates, "open")
	} else {
		candidates = append(candidates, "xdg-open", "wslview")
	}
	for _, name := range candidates {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		return started(ctx, exec.Command(path, address)) // not of ctx: the browser outlives us
	}
	return errors.New("there is no program to open a browser with (xdg-open, or one that BROWSER names)")
}

// started starts a program and waits a moment for it to fail.
func started(ctx context.Context, cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C here does not end it
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }() // ends with the browser, or with us
	t := time.NewTimer(openTime)
	defer t.Stop()
	select {
	case err := <-done:
		return err
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
