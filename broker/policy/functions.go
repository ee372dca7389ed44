package policy

import (
	"net/netip"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
)

// inCIDR is inCIDR(request.ip, "10.0.0.0/8"): whether an address is in a
// network. What is no address or no network is an error, and so a refusal.
func inCIDR() cel.EnvOption {
	return cel.Function("inCIDR", cel.Overload("in_cidr_string_string", []*cel.Type{cel.StringType, cel.StringType}, cel.BoolType,
		cel.BinaryBinding(func(address, network ref.Val) ref.Val {
			a, _ := address.Value().(string)
			n, _ := network.Value().(string)
			ip, err := netip.ParseAddr(a)
			if err != nil {
				return types.NewErr("inCIDR: %q is no address", a)
			}
			p, err := netip.ParsePrefix(n)
			if err != nil {
				return types.NewErr("inCIDR: %q is no network", n)
			}
			return types.Bool(p.Contains(ip.Unmap()))
		})))
}
