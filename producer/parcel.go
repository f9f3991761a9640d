package producer

import (
	"context"
	"math"
	"time"

	"github.com/rmqio/rmq/internal/telemetry"
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

// entry is one message on its way, and who waits for it: a callback, a call, both
// when interceptors want to know of a call's message, or nobody.
type entry struct {
	m        *message.Message
	id       message.ID
	born     int64 // Unix milliseconds
	deadline int64 // on the producer's clock
	done     func(Receipt, error)
	call     *call
	index    int             // in the call
	trace    *telemetry.Send // nil: nobody traces it
	epoch    *epoch
	err      error // of the last try
	size     int   // against the budget
	purpose  batch.Purpose
	tries    int // that reached a broker and failed there
	bound    binding
	sent     bool // a broker may have it
	finished bool // answered; what comes later interests nobody
	alone    bool // shares its parcel with no other
	number   number
}

// number is a message's number in its queue.
type number struct {
	known bool
	value uint64
	since int64 // when it was first sent with it, on the producer's clock
}

// outcome is an entry that failed.
type outcome struct {
	entry
	err   error
	queue *queue // where it failed
}

// refusedError is why a queue does not take the entry.
func (e *entry) refusedError() error {
	if e.call != nil && e.call.abandoned.Load() {
		return errAbandoned(e.sent, context.Canceled)
	}
	return errClosed(e.sent)
}

// timeoutError is what the end of the time means for the entry.
func (e *entry) timeoutError() error {
	if e.sent {
		return errNoAnswer(e.err)
	}
	return errNoTime(e.err)
}

// parcel is a batch of one queue, of messages with one purpose, with those who
// wait for it. Once sealed it takes no more messages.
//
// While unknown is set a broker may have stored it: then it stays as it is, with
// its numbers and bytes, until the broker has said what became of it, or nobody
// wants to know any more.
type parcel struct {
	builder  *batch.Builder
	purpose  batch.Purpose
	entries  []entry
	bytes    []byte // the encoding, once sealed
	earliest int64  // no entry's deadline is before it
	latest   int64  // nor after it
	async    bool   // some entry has a callback
	sequence batch.Sequence
	since    int64 // when it was first sent with its numbers
	unknown  bool
}

func (p *parcel) reset(q message.Queue, purpose batch.Purpose, run identity) {
	clear(p.entries)
	p.entries, p.bytes, p.async, p.purpose = p.entries[:0], nil, false, purpose
	p.earliest, p.latest = math.MaxInt64, 0
	p.sequence, p.since, p.unknown = batch.Sequence{Producer: run.producer, Incarnation: run.incarnation}, 0, false
	if p.builder == nil {
		p.builder = batch.NewBuilder(q.Topic, q.ID)
	}
	p.builder.Begin(&batch.Lead{Topic: q.Topic, Queue: q.ID, Purpose: purpose, Sequence: p.sequence})
}

func (p *parcel) add(e *entry) {
	x := *e.m
	x.ID, x.BornTime = e.id, time.UnixMilli(e.born)
	x.ReconsumeTimes, x.Origin = 0, nil // of a message that was received: it is the producer's own now
	p.builder.Add(&x)
	p.entries = append(p.entries, *e)
	if e.number.known { // the broker may have it, from another parcel
		p.sequence.First, p.sequence.Again, p.since, p.unknown = e.number.value, true, e.number.since, true
	}
	p.async = p.async || e.done != nil
	p.earliest, p.latest = min(p.earliest, e.deadline), max(p.latest, e.deadline)
}

// takes reports whether a message may be added, to a size of about limit.
func (p *parcel) takes(e *entry, limit int) bool {
	if p.bytes != nil || p.purpose != e.purpose || len(p.entries) == batch.MaxCount {
		return false
	}
	return len(p.entries) == 0 || !e.alone && !p.entries[0].alone && p.builder.Len()+e.size <= limit
}

func (p *parcel) numbered() bool { return p.sequence.Producer != 0 }

// seal gives the parcel its sequence and completes it.
func (p *parcel) seal(s batch.Sequence) {
	switch {
	case p.bytes == nil:
		if p.numbered() {
			p.builder.SetSequence(s)
		}
		p.bytes = p.builder.Finish()
	case p.sequence != s:
		batch.SetSequence(p.bytes, s)
	}
	p.sequence = s
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
	p.reset(q, p.purpose, identity{p.sequence.Producer, p.sequence.Incarnation})
	for i := range rest {
		p.add(&rest[i])
	}
	if sealed && len(rest) > 0 {
		p.seal(p.sequence)
	}
	return len(rest) > 0
}

// finish ends the interest in the entries that match, in a parcel that a broker
// may have, and returns them.
func (p *parcel) finish(match func(*entry) bool) (ended []entry) {
	p.earliest = math.MaxInt64
	for i := range p.entries {
		e := &p.entries[i]
		if !e.finished && match(e) {
			e.finished, e.sent = true, true
			e.number = number{known: p.numbered(), value: p.sequence.First + uint64(i), since: p.since}
			ended = append(ended, *e)
		}
		if !e.finished {
			p.earliest = min(p.earliest, e.deadline)
		}
	}
	return ended
}

// isOver reports whether nobody waits for any of it.
func (p *parcel) isOver() bool { return p.earliest == math.MaxInt64 }
