package notify

import (
	"crypto/sha256"
	"time"
)

// window is a limit of a vendor: at most N messages in any Per.
type window struct {
	N   int
	Per time.Duration
}

// pace is how fast a kind of channel may be written to, and whether what waits
// becomes one message. Each limit is a little below the vendor's, who counts by
// a clock of his own and counts test messages too (docs/notifications.md).
type pace struct {
	windows []window
	// merge tells several events in one message when they come too fast.
	merge bool
}

func paceOf(kind string) pace {
	switch kind {
	case "dingtalk", "wechat":
		return pace{[]window{{18, 62 * time.Second}}, true} // 20 a minute; who exceeds it is shut out for ten
	case "feishu":
		return pace{[]window{{4, 1100 * time.Millisecond}, {90, 62 * time.Second}}, true} // 5 a second and 100 a minute
	case "slack":
		return pace{[]window{{1, 1100 * time.Millisecond}}, true} // 1 a second
	case "smtp":
		return pace{[]window{{30, time.Minute}}, true}
	case "people":
		return pace{[]window{{60, time.Minute}}, false}
	}
	return pace{} // webhooks: every event by itself, as fast as the other side takes them
}

// wait returns how long to wait before another message, given when the last ones
// were sent, oldest first.
func (p pace) wait(sent []time.Time, now time.Time) time.Duration {
	var longest time.Duration
	for _, w := range p.windows {
		if len(sent) < w.N {
			continue
		}
		longest = max(longest, sent[len(sent)-w.N].Add(w.Per).Sub(now))
	}
	return longest
}

// left returns how many messages could be sent at once.
func (p pace) left(sent []time.Time, now time.Time) int {
	left := -1
	for _, w := range p.windows {
		n := w.N
		for _, at := range sent {
			if at.Add(w.Per).After(now) {
				n--
			}
		}
		if left < 0 || n < left {
			left = n
		}
	}
	return left
}

// note adds a message to those sent, and forgets those that count no more.
func (p pace) note(sent []time.Time, now time.Time) []time.Time {
	var longest time.Duration
	for _, w := range p.windows {
		longest = max(longest, w.Per)
	}
	if longest == 0 {
		return nil
	}
	var out []time.Time
	for _, at := range sent {
		if at.Add(longest).After(now) && !at.After(now) { // a clock that went back must not shut us up
			out = append(out, at)
		}
	}
	return append(out, now)
}

const (
	// slowestTry is the longest wait between two tries of one message.
	slowestTry = 5 * time.Minute
	// giveUp is how long a message is tried.
	giveUp = 24 * time.Hour
	// breakAt is after how many failures in a row a channel counts as down.
	breakAt = 5
	// refusedAt is after how many messages refused for good a channel pauses;
	// the pause doubles from firstPause to longestPause.
	refusedAt    = 3
	firstPause   = 10 * time.Minute
	longestPause = 6 * time.Hour
)

// backoff is how long to wait after the given number of tries of a message: one
// second, two, four, up to slowestTry, a quarter more or less by chance so that
// what failed together does not come back together.
func backoff(id string, tries int) time.Duration {
	d := min(time.Second<<min(max(tries-1, 0), 10), slowestTry)
	sum := sha256.Sum256(append([]byte(id), byte(tries)))
	return d*3/4 + d/2*time.Duration(sum[0])/255
}

// pauseAfter is how long a channel that refuses for good is left alone.
func pauseAfter(streak int) time.Duration {
	return min(firstPause<<min(max(streak-refusedAt, 0), 10), longestPause)
}
