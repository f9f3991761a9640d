package producer

import (
	"math"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// beginFor is for how long after its first try a batch says that the broker may
// begin to count with it. Brokers forget nothing that is less than a minute old.
const beginFor = int64(30 * time.Second)

// identity is who numbers messages; the zero value: nobody does.
type identity struct{ producer, incarnation uint64 }

// queue keeps the messages for one message queue in order. At most one parcel
// is under way; what comes meanwhile gathers behind it. That is the promise of
// order: a parcel that failed goes out again before any later one. Messages are
// numbered when their parcel takes off, so that the broker knows what it has.
//
// The queue starts nothing by itself: its methods say when it has become ready,
// and the broker's outbox then takes from it.
type queue struct {
	message.Queue
	out     *outbox
	limit   int        // bytes of a parcel
	parcels *sync.Pool // of *parcel
	run     identity

	mu        sync.Mutex
	waiting   []*parcel // the last one is open until it is taken
	flying    *parcel
	listed    bool   // the outbox has it on its list
	notBefore int64  // of the next take
	fails     int    // in a row
	next      uint64 // number of the next message
	closed    bool
}

// add takes an entry; ready means that the outbox must be told, ok is false
// when the queue was closed.
func (q *queue) add(e *entry) (ready, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || e.call != nil && e.call.abandoned.Load() {
		return false, false
	}
	n := len(q.waiting)
	if n == 0 || !q.waiting[n-1].takes(e, q.limit) {
		p := q.parcels.Get().(*parcel)
		p.reset(q.Queue, e.purpose, q.run)
		q.waiting = append(q.waiting, p)
		n++
	}
	q.waiting[n-1].add(e)
	return q.listLocked(), true
}

// listLocked reports whether the queue must go on the outbox's list now.
func (q *queue) listLocked() bool {
	if q.listed || q.flying != nil || len(q.waiting) == 0 {
		return false
	}
	q.listed = true
	return true
}

// take gives the next parcel to the outbox. Without one, due says when to ask
// again; 0: the queue will say so itself and is off the list.
func (q *queue) take(now int64) (p *parcel, due int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case len(q.waiting) == 0 || q.flying != nil:
		q.listed = false
		return nil, 0
	case q.notBefore > now:
		return nil, q.notBefore
	}
	p = q.waiting[0]
	q.waiting = append(q.waiting[:0], q.waiting[1:]...)
	p.seal(q.sequenceLocked(p, now))
	q.flying, q.listed = p, false
	return p, 0
}

// sequenceLocked is what a parcel is sent with. One that the broker may have
// keeps its numbers, and so does a message that had one before.
func (q *queue) sequenceLocked(p *parcel, now int64) batch.Sequence {
	s := p.sequence
	switch {
	case !p.numbered():
		return s
	case !p.unknown:
		s.First, p.since = q.next, now
		q.next += uint64(len(p.entries))
	}
	s.Begin = now-p.since < beginFor
	return s
}

// stored ends the flight of a parcel that is on the broker's disk.
func (q *queue) stored() (ready bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.flying, q.notBefore, q.fails = nil, 0, 0
	return q.listLocked()
}

// nextFail counts the failures in a row, and returns how many there were.
func (q *queue) nextFail() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.fails++
	return q.fails - 1
}

// verdict is what a failed try means for the messages of a queue.
type verdict struct {
	err       error
	fatal     bool  // no further try can succeed
	counted   bool  // the broker took it and failed: it counts against the retries
	reached   bool  // the broker may have it
	elsewhere bool  // free messages have a better place to go
	gone      bool  // the topic has this queue no more
	retries   int   // of a free message
	now       int64 // on the producer's clock
	notBefore int64 // of the next try
}

// fate is what becomes of one message.
type fate int

const (
	stays fate = iota
	leaves
	fails
)

// failed ends the flight of a parcel that is not known to be stored. Of its
// messages and those behind it, some fail, some leave for other queues, and the
// rest stays; the order is kept in each part. A parcel that the broker may have
// stays whole.
func (q *queue) failed(v verdict) (_ []outcome, _ []entry, ready bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.flying
	q.flying, q.notBefore = nil, v.notBefore
	for i := range p.entries {
		v.mark(&p.entries[i])
	}
	p.unknown = p.unknown || v.reached && p.numbered()
	if !p.unknown {
		q.unnumberLocked(p)
	}
	failures, leaving, again := v.divide(p, q.Queue, true)
	rest := q.waiting[:0]
	for _, w := range q.waiting {
		f, l, some := v.divide(w, q.Queue, false)
		failures, leaving = append(failures, f...), append(leaving, l...)
		rest = q.keepLocked(rest, w, some)
	}
	clear(q.waiting[len(rest):])
	q.waiting = rest
	if again {
		q.waiting = slices.Insert(q.waiting, 0, p)
	} else {
		q.parcels.Put(p)
	}
	return failures, leaving, q.listLocked()
}

// keepLocked appends a parcel that has something left.
func (q *queue) keepLocked(rest []*parcel, p *parcel, some bool) []*parcel {
	if some {
		return append(rest, p)
	}
	q.parcels.Put(p)
	return rest
}

// unnumberLocked takes back the numbers of a parcel that certainly is not
// stored, unless somebody was told meanwhile that it may be.
func (q *queue) unnumberLocked(p *parcel) {
	told := slices.ContainsFunc(p.entries, func(e entry) bool { return e.finished })
	if p.numbered() && !told {
		q.next = p.sequence.First
	}
}

// cutLocked takes out the messages that match. What the broker may have flies on
// without interest, what was never sent is removed from its parcel.
func (q *queue) cutLocked(match func(*entry) bool) (ended []entry) {
	if q.flying != nil {
		ended = q.flying.finish(match)
	}
	rest := q.waiting[:0]
	for _, p := range q.waiting {
		if p.unknown {
			ended = append(ended, p.finish(match)...)
			rest = q.keepLocked(rest, p, !p.isOver())
			continue
		}
		some := p.keep(q.Queue, func(e *entry) bool {
			if match(e) {
				ended = append(ended, *e)
				return false
			}
			return true
		})
		rest = q.keepLocked(rest, p, some)
	}
	clear(q.waiting[len(rest):])
	q.waiting = rest
	return ended
}

// outcomes gives each entry its error.
func outcomes(ended []entry, why func(*entry) error) []outcome {
	failures := make([]outcome, len(ended))
	for i := range ended {
		failures[i] = outcome{entry: ended[i], err: why(&ended[i])}
	}
	return failures
}

// expire takes out the messages whose time is over, and says when the next one
// is. What is under way then has an unknown outcome.
func (q *queue) expire(now int64) (failures []outcome, next int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.earliestLocked() <= now {
		ended := q.cutLocked(func(e *entry) bool { return e.deadline <= now })
		failures = outcomes(ended, (*entry).timeoutError)
	}
	return failures, q.earliestLocked()
}

func (q *queue) earliestLocked() int64 {
	earliest := int64(math.MaxInt64)
	if q.flying != nil {
		earliest = q.flying.earliest
	}
	for _, p := range q.waiting {
		earliest = min(earliest, p.earliest)
	}
	return earliest
}

// abandon takes out the messages of a call whose caller waits no more.
func (q *queue) abandon(c *call, why error) []outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	ended := q.cutLocked(func(e *entry) bool { return e.call == c })
	return outcomes(ended, func(e *entry) error { return errAbandoned(e.sent, why) })
}

// close fails everything with Closed and refuses what comes.
func (q *queue) close() []outcome {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	ended := q.cutLocked(func(*entry) bool { return true })
	return outcomes(ended, func(e *entry) error { return errClosed(e.sent) })
}

func (v *verdict) mark(e *entry) {
	e.err = v.err
	e.sent = e.sent || v.reached
	if v.counted {
		e.tries++
	}
}

// judge decides on one message, which was part of the try or waited behind it.
func (v *verdict) judge(e *entry, tried bool) (fate, error) {
	switch {
	case tried && v.fatal:
		return fails, v.err
	case e.deadline <= v.now:
		return fails, e.timeoutError()
	case tried && e.bound == free && (v.retries < 0 || e.tries > v.retries):
		return fails, v.err
	case v.gone && e.bound == pinned:
		return fails, v.err
	case v.gone, v.elsewhere && e.bound == free:
		return leaves, nil
	}
	return stays, nil
}

// divide says what becomes of the messages of a parcel, and whether any is left.
func (v *verdict) divide(p *parcel, q message.Queue, tried bool) (failures []outcome, leaving []entry, some bool) {
	if p.unknown {
		failures = v.finish(p, tried)
		return failures, nil, !p.isOver()
	}
	some = p.keep(q, func(e *entry) bool {
		if e.finished {
			return false
		}
		f, err := v.judge(e, tried)
		switch f {
		case fails:
			failures = append(failures, outcome{entry: *e, err: err})
		case leaves:
			leaving = append(leaving, *e)
		}
		return f == stays
	})
	return failures, leaving, some
}

// finish ends the interest in the messages of a parcel that the broker may have
// for which there is no further try.
func (v *verdict) finish(p *parcel, tried bool) []outcome {
	why := func(e *entry) error { return v.judgeUnknown(e, tried) }
	return outcomes(p.finish(func(e *entry) bool { return why(e) != nil }), why)
}

// judgeUnknown decides on a message that the broker may have: it goes nowhere
// else, and is sent again as long as that may help.
func (v *verdict) judgeUnknown(e *entry, tried bool) error {
	switch {
	case e.deadline <= v.now:
		return e.timeoutError()
	case v.gone, tried && v.fatal, tried && v.retries < 0 && e.bound == free:
		return errUnknown(v.err)
	}
	return nil
}
