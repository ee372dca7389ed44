package policy

import "testing"

func TestInCIDR(t *testing.T) {
	for src, want := range map[string]bool{
		`inCIDR(request.ip, "10.0.0.0/8")`:        true,
		`inCIDR(request.ip, "10.2.0.0/16")`:       false,
		`!inCIDR(request.ip, "nonsense")`:         false, // an error refuses, whichever way it is asked
		`!inCIDR("::1", "10.0.0.0/8")`:            true,
		`inCIDR("::ffff:10.1.2.3", "10.0.0.0/8")`: true,
		`!inCIDR("", "10.0.0.0/8")`:               false,
	} {
		e, err := Compile(AtRoute, Bool, src)
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		d, _ := e.Decide(t.Context(), Input{Request: &Request{IP: "10.1.2.3"}})
		if d.Allowed != want {
			t.Errorf("%s: %v", src, d.Allowed)
		}
	}
	if _, err := Compile(AtRoute, Bool, `inCIDR(request.ip)`); err == nil {
		t.Error("one argument is taken")
	}
}
