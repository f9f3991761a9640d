package quota

import (
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// Limits of the memory for buckets.
const (
	// sweepFrom is how many buckets there must be before full ones are looked for.
	sweepFrom = 1024
	// maxBuckets is how many there may be. When so many are not full, any half of
	// them is dropped; their senders begin with full ones then.
	maxBuckets = 1 << 16
)

// Key names a sender or a topic with its own buckets.
type Key struct {
	Scope protocol.QuotaScope // empty: a topic
	Name  string
	Topic uint64 // a topic's number, so that one that is made again begins anew
}

// Bound is a quota that a batch must keep to.
type Bound struct {
	Key   Key
	Rates protocol.Rates
}

// Size is what a batch takes from its quotas.
type Size struct{ Messages, Bytes int }

// Buckets are the buckets of all that send. One that has filled up again is the
// same as none, and is dropped. Safe for concurrent use; it has no goroutine.
type Buckets struct {
	mu      sync.Mutex
	pairs   map[Key]*pair
	sweepAt int // the number of pairs at which full ones are dropped
}

// pair are the buckets of one quota.
type pair struct {
	rates           protocol.Rates
	messages, bytes bucket
}

// NewBuckets makes them; none is in use.
func NewBuckets() *Buckets { return &Buckets{pairs: map[Key]*pair{}, sweepAt: sweepFrom} }

// Take takes what a batch needs from the buckets of all bounds, or from none of
// them: then wait is how long, by what is in the buckets now, until all would
// agree, and slowest the bound with that wait. A bound whose rates differ from
// those before begins with full buckets.
func (b *Buckets) Take(now time.Time, bounds []Bound, s Size) (wait time.Duration, slowest int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range bounds {
		if w := b.pairLocked(now, &bounds[i]).wait(s); w > wait {
			wait, slowest = w, i
		}
	}
	if wait > 0 {
		return wait, slowest
	}
	for i := range bounds {
		b.pairLocked(now, &bounds[i]).take(s)
	}
	return 0, 0
}

// Give puts back what Take took, for a batch that was not stored.
func (b *Buckets) Give(now time.Time, bounds []Bound, s Size) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range bounds {
		b.pairLocked(now, &bounds[i]).give(s)
	}
}

// Len is how many senders and topics have buckets now.
func (b *Buckets) Len() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pairs)
}

// pairLocked finds the buckets of a bound, filled as of now.
func (b *Buckets) pairLocked(now time.Time, bound *Bound) *pair {
	p := b.pairs[bound.Key]
	if p != nil && p.rates == bound.Rates {
		p.fill(now)
		return p
	}
	if p == nil && len(b.pairs) >= b.sweepAt {
		b.sweepLocked(now)
	}
	p = &pair{
		rates:    bound.Rates,
		messages: newBucket(bound.Rates.MessagesPerSecond, now),
		bytes:    newBucket(bound.Rates.BytesPerSecond, now),
	}
	b.pairs[bound.Key] = p
	return p
}

// sweepLocked drops full buckets and, when hardly any is, others. The next sweep
// comes when there are twice as many, so that each new one pays for the look at
// two.
func (b *Buckets) sweepLocked(now time.Time) {
	for key, p := range b.pairs {
		if p.fill(now); p.messages.full() && p.bytes.full() {
			delete(b.pairs, key)
		}
	}
	for key := range b.pairs {
		if len(b.pairs) <= maxBuckets/2 {
			break
		}
		delete(b.pairs, key)
	}
	b.sweepAt = max(sweepFrom, 2*len(b.pairs))
}

func (p *pair) fill(now time.Time) {
	p.messages.fill(now)
	p.bytes.fill(now)
}

func (p *pair) wait(s Size) time.Duration {
	return max(p.messages.wait(s.Messages), p.bytes.wait(s.Bytes))
}

func (p *pair) take(s Size) {
	p.messages.take(s.Messages)
	p.bytes.take(s.Bytes)
}

func (p *pair) give(s Size) {
	p.messages.give(s.Messages)
	p.bytes.give(s.Bytes)
}
