package detect

import (
	"strconv"

	"github.com/remotegpu/gatehouse/broker/event"
)

// Between adds in which countries the two networks are, where that is known: one
// who is in two at once is not on the way from a desk to a train.
func (f *Finding) Between(from, to string) {
	if from == "" || to == "" {
		return
	}
	f.Facts["country_from"], f.Facts["country_to"] = from, to
	if from != to {
		f.Severity = event.Critical
	}
}

// Moved is the finding that a session is used from two networks at once: its uses
// come now from the one and now from the other.
func Moved(session, user, connector, from, to string, times int) Finding {
	return Finding{Rule: RuleMoved, Subject: session, Severity: event.Warning, Target: session, Actor: user, Connector: connector,
		Facts: map[string]string{"from": from, "to": to, "times": strconv.Itoa(times), "session": session}}
}
