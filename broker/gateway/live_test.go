package gateway

import "testing"

func TestShutdownLetsNoSocketBegin(t *testing.T) {
	var r relays
	if ok := r.enter(); !ok || !r.enter() {
		t.Fatal("refused while open")
	}
	done := r.close()
	if r.enter() {
		t.Fatal("let in while closing")
	}
	r.leave()
	select {
	case <-done:
		t.Fatal("done with one open")
	default:
	}
	r.leave()
	<-done
	<-r.close()
}
