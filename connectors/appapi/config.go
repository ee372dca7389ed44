package appapi

import (
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/remotegpu/gatehouse/broker/problem"
)

// Address is one address of a configuration: its field and key, what is
// written there, and what is used.
type Address struct{ Field, Rule, Written, Default string }

// Used returns the address without the slash at its end.
func (a Address) Used() string {
	if a.Written != "" {
		return strings.TrimRight(a.Written, "/")
	}
	return a.Default
}

// Problems complains about an address that could not be called.
func (a Address) Problems() []problem.Problem {
	if a.Written == "" {
		return nil
	}
	u, err := url.Parse(a.Written)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return []problem.Problem{{Field: a.Field, Rule: a.Rule, Text: "This is not the address of a web server.", Fix: "for example https://api.example.com"}}
	case u.User != nil || u.Fragment != "" || u.RawQuery != "":
		return []problem.Problem{{Field: a.Field, Rule: a.Rule, Text: "An address with a user name, a ? or a # part is not used here.", Fix: u.Scheme + "://" + u.Host + u.Path}}
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return []problem.Problem{{Field: a.Field, Rule: a.Rule, Text: "http sends the application's secret and people's tokens readable over the network.", Fix: "https://" + u.Host + u.Path, Warning: true}}
	}
	return nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Trusted returns the hosts that may be private: those that the operator wrote.
// Behind the connector's own proxy the vendor's hosts are among them, since it
// is the proxy that resolves names there and the outgoing client calls only
// hosts that it was told.
func Trusted(proxy string, called ...Address) []string {
	var hosts []string
	for _, a := range called {
		if a.Written == "" && proxy == "" {
			continue
		}
		if u, err := url.Parse(a.Used()); err == nil && !slices.Contains(hosts, u.Hostname()) {
			hosts = append(hosts, u.Hostname())
		}
	}
	return hosts
}

// Refuse returns the problem that keeps a configuration from being used, if any.
func Refuse(ps []problem.Problem) error {
	for _, p := range ps {
		if !p.Warning {
			return p
		}
	}
	return nil
}
