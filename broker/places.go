package broker

import (
	"context"
	"net/netip"

	"github.com/remotegpu/gatehouse/broker/geo"
	"github.com/remotegpu/gatehouse/broker/web"
)

// placeOf says where an address is, for events and sessions, in English: by the
// word of a trusted proxy about its own request, else by geoip_file.
func (b *Broker) placeOf(ctx context.Context, ip string) (country, place string) {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return "", ""
	}
	found := b.places().Lookup(addr, "en")
	if q := web.RequestFrom(ctx); q.Country+q.City != "" && q.IP == addr {
		if code := geo.Code(q.Country); code != "" && code != found.Country {
			found = geo.Place{Country: code} // the file's names are of elsewhere
		}
		if city := geo.Clean(q.City); city != "" {
			found.City = city
		}
	}
	return found.Country, found.String("en")
}

// placeFor says where an address is, for people.
func (b *Broker) placeFor(ip, locale string) string {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return ""
	}
	return b.places().Lookup(addr, locale).String(locale)
}

// country is that of a network, by geoip_file; "" is not known.
func (b *Broker) country(network string) string {
	p, err := netip.ParsePrefix(network)
	if err != nil {
		return ""
	}
	return b.places().Lookup(p.Addr(), "en").Country
}

// places are those of the configuration that serves; nil knows nothing.
func (b *Broker) places() *geo.Finder {
	if s := b.current.Load(); s != nil {
		return s.finder
	}
	return nil
}
