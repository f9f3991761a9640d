package quota

import "time"

// bucket is a token bucket for one measure, messages or bytes. PerSecond tokens
// come each second, up to one second's worth. It begins full. The zero bucket
// bounds nothing.
//
// More than a second's worth passes when the bucket is full, and leaves a debt:
// else a batch that is larger than the quota of a second could never be sent.
//
// The times come from the caller. One that is before an earlier one adds nothing,
// and later ones are counted from it, so that a clock that is set back neither
// fills a bucket nor closes it.
type bucket struct {
	perSecond float64
	tokens    float64 // below 0: a debt
	filled    time.Time
}

func newBucket(perSecond int64, now time.Time) bucket {
	return bucket{perSecond: float64(perSecond), tokens: float64(perSecond), filled: now}
}

// fill adds what has come since it was called last.
func (b *bucket) fill(now time.Time) {
	if passed := now.Sub(b.filled); passed > 0 {
		b.tokens = min(b.perSecond, b.tokens+b.perSecond*passed.Seconds())
	}
	b.filled = now
}

// wait is how long it takes, from the last fill on, until n tokens may be taken; 0
// or less: they may be now.
func (b *bucket) wait(n int) time.Duration {
	if b.perSecond == 0 {
		return 0
	}
	missing := min(float64(n), b.perSecond) - b.tokens
	return time.Duration(missing / b.perSecond * float64(time.Second))
}

// take takes tokens, whether they are there or not; give puts them back.
func (b *bucket) take(n int) { b.tokens -= float64(n) }
func (b *bucket) give(n int) { b.tokens = min(b.perSecond, b.tokens+float64(n)) }

// full reports whether the bucket does what a new one would.
func (b *bucket) full() bool { return b.perSecond == 0 || b.tokens >= b.perSecond }
