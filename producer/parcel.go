package producer

import (
	"math"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// binding says how free a message is in the choice of its queue.
type binding uint8

const (
	free    binding = iota // any queue
	grouped                // the queue of its group
	pinned                 // the queue that the caller chose
)

// entryOverhead is what a waiting message takes beside its contents.
const entryOverhead = 128

// entry is one message on its way, and who waits for it: a callback, a call, or
// nobody.
type entry struct {
	m        *message.Message
	id       message.ID
	born     int64 // Unix milliseconds
	deadline int64 // on the producer's clock
	done     func(Receipt, error)
	call     *call
	index    int // in the call
	epoch    *epoch
	err      error // of the last try
	size     int   // against the budget
	tries    int   // that reached a broker and failed there
	bound    binding
	sent     bool // a broker may have it
	finished bool // answered; what comes later interests nobody
}

// outcome is an entry that failed.
type outcome struct {
	entry
	err error
}

// timeoutError is what the end of the time means for the entry.
func (e *entry) timeoutError() error {
	if e.sent {
		return errNoAnswer(e.err)
	}
	return errNoTime(e.err)
}

// parcel is a batch of one queue with those who wait for it. Once sealed it
// takes no more messages.
type parcel struct {
	builder  *batch.Builder
	entries  []entry
	bytes    []byte // the encoding, once sealed
	earliest int64  // no entry's deadline is before it
	latest   int64  // nor after it
	async    bool   // some entry has a callback
}

func (p *parcel) reset(q message.Queue) {
	clear(p.entries)
	p.entries, p.bytes, p.async = p.entries[:0], nil, false
	p.earliest, p.latest = math.MaxInt64, 0
	if p.builder == nil {
		p.builder = batch.NewBuilder(q.Topic, q.ID)
		return
	}
	p.builder.Reset(q.Topic, q.ID)
}

func (p *parcel) add(e *entry) {
	x := *e.m
	x.ID, x.BornTime = e.id, time.UnixMilli(e.born)
	p.builder.Add(&x)
	p.entries = append(p.entries, *e)
	p.async = p.async || e.done != nil
	p.earliest, p.latest = min(p.earliest, e.deadline), max(p.latest, e.deadline)
}

// takes reports whether a message of that size may be added.
func (p *parcel) takes(size, limit int) bool {
	return p.bytes == nil && len(p.entries) < batch.MaxCount &&
		(len(p.entries) == 0 || p.builder.Len()+size <= limit)
}

func (p *parcel) seal() {
	if p.bytes == nil {
		p.bytes = p.builder.Finish()
	}
}

// keep removes the entries that keep says no to, and encodes the rest again.
// It reports whether any is left.
func (p *parcel) keep(q message.Queue, keep func(*entry) bool) bool {
	var rest []entry
	for i := range p.entries {
		if keep(&p.entries[i]) {
			rest = append(rest, p.entries[i])
		}
	}
	if len(rest) == len(p.entries) {
		return true
	}
	sealed := p.bytes != nil
	p.reset(q)
	for i := range rest {
		p.add(&rest[i])
	}
	if sealed && len(rest) > 0 {
		p.seal()
	}
	return len(rest) > 0
}
