package producer

import (
	"math"
	"sync"

	"github.com/rmqio/rmq/message"
)

// queue keeps the messages for one message queue in order. At most one parcel
// is under way; what comes meanwhile gathers behind it. That is the promise of
// order: a parcel that failed goes out again before any later one.
//
// The queue starts nothing by itself: its methods say when it has become ready,
// and the broker's outbox then takes from it.
type queue struct {
	message.Queue
	out     *outbox
	limit   int        // bytes of a parcel
	parcels *sync.Pool // of *parcel

	mu        sync.Mutex
	waiting   []*parcel // the last one is open until it is taken
	flying    *parcel
	listed    bool  // the outbox has it on its list
	notBefore int64 // of the next take
	fails     int   // in a row
	closed    bool
}

// add takes an entry; ready means that the outbox must be told, ok is false
// when the queue was closed.
func (q *queue) add(e *entry) (ready, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, false
	}
	n := len(q.waiting)
	if n == 0 || !q.waiting[n-1].takes(e.size, q.limit) {
		p := q.parcels.Get().(*parcel)
		p.reset(q.Queue)
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
	p.seal()
	q.flying, q.listed = p, false
	return p, 0
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

// failed ends the flight of a parcel that is not stored. Of its messages and
// those behind it, some fail, some leave for other queues, and the rest stays;
// the order is kept in each part.
func (q *queue) failed(v verdict) (failures []outcome, leaving []entry, ready bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	decide := func(e *entry, tried bool) bool {
		if e.finished {
			return false
		}
		f, err := v.judge(e, tried)
		switch f {
		case fails:
			failures = append(failures, outcome{*e, err})
		case leaves:
			leaving = append(leaving, *e)
		}
		return f == stays
	}
	p := q.flying
	q.flying, q.notBefore = nil, v.notBefore
	for i := range p.entries {
		v.mark(&p.entries[i])
	}
	again := p.keep(q.Queue, func(e *entry) bool { return decide(e, true) })
	q.filterLocked(func(e *entry) bool { return decide(e, false) })
	if again {
		q.waiting = append([]*parcel{p}, q.waiting...)
	} else {
		q.parcels.Put(p)
	}
	return failures, leaving, q.listLocked()
}

// filterLocked drops from the waiting parcels what keep says no to.
func (q *queue) filterLocked(keep func(*entry) bool) {
	rest := q.waiting[:0]
	for _, p := range q.waiting {
		if p.keep(q.Queue, keep) {
			rest = append(rest, p)
		} else {
			q.parcels.Put(p)
		}
	}
	clear(q.waiting[len(rest):])
	q.waiting = rest
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

// expire takes out the messages whose time is over, and says when the next one
// is. What is under way then has an unknown outcome, and the parcel flies on
// without interest; what was never sent is removed from its parcel.
func (q *queue) expire(now int64) (failures []outcome, next int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	next = math.MaxInt64
	if q.flying != nil {
		failures = q.flying.finish(now)
		next = q.flying.earliest
	}
	late := false
	for _, p := range q.waiting {
		late = late || p.earliest <= now
	}
	if late {
		q.filterLocked(func(e *entry) bool {
			if e.deadline <= now {
				failures = append(failures, outcome{*e, e.timeoutError()})
			}
			return e.deadline > now
		})
	}
	for _, p := range q.waiting {
		next = min(next, p.earliest)
	}
	return failures, next
}

// finish ends the interest in the entries of a parcel under way whose deadline
// is not after now.
func (p *parcel) finish(now int64) (failures []outcome) {
	p.earliest = math.MaxInt64
	for i := range p.entries {
		e := &p.entries[i]
		if !e.finished && e.deadline <= now {
			e.finished, e.sent = true, true
			failures = append(failures, outcome{*e, e.timeoutError()})
		}
		if !e.finished {
			p.earliest = min(p.earliest, e.deadline)
		}
	}
	return failures
}

// close fails everything with Closed and refuses what comes.
func (q *queue) close() (failures []outcome) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	if q.flying != nil {
		failures = q.flying.finish(math.MaxInt64)
	}
	q.filterLocked(func(e *entry) bool {
		failures = append(failures, outcome{entry: *e})
		return false
	})
	for i := range failures {
		failures[i].err = errClosed(failures[i].sent)
	}
	return failures
}
