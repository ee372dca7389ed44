package session_test

import (
	"testing"

	"github.com/remotegpu/gatehouse/broker/session"
)

func TestDeviceName(t *testing.T) {
	for agent, want := range map[string]string{
		"": "", "curl/8.5": "curl", "gatehouse/1.0": "Gatehouse CLI", "<script>": "",
		"Mozilla/5.0 (Windows NT 10.0) Chrome/156.0 Safari/537.36 Edg/156.0":    "Edge · Windows",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15) Version/19 Safari/605.1": "Safari · macOS",
		"Mozilla/5.0 (Linux; Android 15) Chrome/156.0 Mobile Safari/537.36":     "Chrome · Android",
		"Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150":  "Firefox · Linux",
	} {
		if got := session.DeviceName(agent); got != want {
			t.Errorf("%q: %q, want %q", agent, got, want)
		}
	}
}
