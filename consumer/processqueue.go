package consumer

import (
	"time"

	"github.com/rmqio/rmq/message"
)

// processQueue is what a consumer holds of one queue (RocketMQ's ProcessQueue):
// how far it was pulled, the messages pulled and not finished, and how far it
// can be committed. It is a pure state machine without a lock of its own.
//
// A message waits (ready, behind another of its lane, or failed and to be tried
// again), then runs, then is finished. While draining, a queue takes nothing in
// and drops what need not be finished: the messages above the highest that was
// started, and everything from the lowest failed one on. What stays is finished
// so that the commit has no holes below it, and the next owner gets nothing
// twice.
type processQueue struct {
	queue message.Queue
	fence uint64
	order order
	state queueState

	window    window
	committed int64 // what the broker has confirmed; -1: nothing

	ready   fifo[*item]
	lanes   map[string]*lane // those with an item ready, running or failed
	failed  map[*item]struct{}
	waiting int
	running int
	highest int64 // of the offsets that were started
	bytes   int   // of all chunks that are not free

	paused   bool
	pulling  bool // is part of a pull under way
	behind   bool // the broker had more when it was pulled last
	retryAt  time.Time
	failures int // of pulls in a row
}

type queueState uint8

const (
	queueOpen queueState = iota
	queueDraining
	queueClosed // not ours any more; what still runs is of no concern
)

// newProcessQueue begins at an offset. Committed is what the group has
// committed; -1 is none, so that the start is committed as soon as may be.
func newProcessQueue(queue message.Queue, fence uint64, start, committed int64, o order) *processQueue {
	return &processQueue{
		queue: queue, fence: fence, order: o, committed: committed, highest: -1,
		window: window{next: start}, lanes: map[string]*lane{}, failed: map[*item]struct{}{},
	}
}

// admit takes in the messages of one pull, in the order of their offsets, and
// moves on to next. Messages that were taken in before are skipped.
func (q *processQueue) admit(items []item, next int64, bytes int) {
	if q.state != queueOpen {
		return
	}
	for len(items) > 0 && items[0].QueueOffset < q.window.next {
		items = items[1:]
	}
	c := &chunk{bytes: bytes, left: len(items)}
	for i := range items {
		it := &items[i]
		it.queue, it.chunk, it.offset = q, c, it.QueueOffset
		it.lane, it.laned = q.order.lane(&it.Stored)
		it.priority = levelOf(&it.Stored)
		it.fromBroker()
		q.add(it)
	}
	if len(items) > 0 {
		q.bytes += bytes
	}
	q.window.skip(next)
}

func (q *processQueue) add(it *item) {
	q.window.add(it.offset)
	q.waiting++
	if it.laned {
		if l, busy := q.lanes[it.lane]; busy {
			l.behind.push(it)
			return
		}
		q.lanes[it.lane] = &lane{busy: 1}
	}
	q.ready.push(it)
}

// take starts the next ready message; nil when there is none.
func (q *processQueue) take() *item {
	if q.paused {
		return nil
	}
	it := q.ready.pop()
	if it == nil {
		return nil
	}
	q.started(it)
	return it
}

func (q *processQueue) started(it *item) {
	q.waiting--
	q.running++
	q.highest = max(q.highest, it.offset)
	it.Attempt++
	if q.order == orderFree {
		q.release(it) // its memory is the reader's now
	}
}

// takable reports whether take would give a message.
func (q *processQueue) takable() bool { return !q.paused && q.ready.len() > 0 }

// finish ends a message for good.
func (q *processQueue) finish(it *item) {
	q.running--
	if q.state == queueClosed {
		return
	}
	q.window.finish(it.offset)
	q.release(it)
	if it.laned {
		q.leaveLane(it)
	}
}

// fail ends an attempt. It reports whether the message is to be tried again;
// it keeps its lane until then.
func (q *processQueue) fail(it *item) bool {
	q.running--
	q.untake(it)
	if q.state == queueClosed {
		return false
	}
	q.waiting++
	q.failed[it] = struct{}{}
	if q.state == queueDraining {
		q.dropFrom(it.offset)
		return false
	}
	return true
}

// retry makes a failed message ready, if it is still wanted.
func (q *processQueue) retry(it *item) {
	if _, ok := q.failed[it]; !ok {
		return
	}
	delete(q.failed, it)
	q.ready.push(it)
}

// drain begins to empty the queue.
func (q *processQueue) drain() {
	if q.state != queueOpen {
		return
	}
	q.state = queueDraining
	if q.paused {
		q.dropFrom(0) // nothing is handed out, though that leaves holes
		return
	}
	from := q.highest + 1
	for it := range q.failed {
		from = min(from, it.offset)
	}
	q.dropFrom(from)
}

// close drops everything at once.
func (q *processQueue) close() {
	q.dropFrom(0)
	q.state = queueClosed
}

// dropFrom forgets the waiting messages from an offset on. They stay unfinished.
func (q *processQueue) dropFrom(from int64) {
	keep := func(it *item) bool {
		if it.offset < from {
			return true
		}
		q.drop(it)
		return false
	}
	q.ready.keep(keep)
	for _, l := range q.lanes {
		l.behind.keep(keep)
	}
	for it := range q.failed {
		if !keep(it) {
			delete(q.failed, it)
		}
	}
}

func (q *processQueue) drop(it *item) {
	q.waiting--
	q.release(it)
}

func (q *processQueue) release(it *item) {
	if it.chunk == nil {
		return
	}
	if it.chunk.left--; it.chunk.left == 0 {
		q.bytes -= it.chunk.bytes
	}
	it.chunk = nil
}

// idle reports that nothing waits or runs.
func (q *processQueue) idle() bool { return q.waiting == 0 && q.running == 0 }

// position is the offset of the next message that take would give, in a queue
// of orderFree whose messages never fail.
func (q *processQueue) position() int64 {
	if q.ready.len() > 0 {
		return (*q.ready.front()).offset
	}
	return q.window.next
}

// bounds are the limits of what is held of one queue.
type bounds struct {
	count int
	bytes int
}

// half of the bounds is the mark below which a queue is pulled, and the most a
// pull asks for, so that both together stay within them.
func (b bounds) half() bounds { return bounds{count: max(b.count/2, 1), bytes: max(b.bytes/2, 1)} }

// room reports whether the queue may hold another half of the bounds. A queue
// whose messages go to a reader bounds only what waits. One with handlers bounds
// what runs too, and the span from the lowest unfinished offset on to twice the
// count, as RocketMQ does (consumeConcurrentlyMaxSpan): that much may come again
// after a crash.
func (q *processQueue) room(b bounds) bool {
	count := q.waiting
	if q.order != orderFree {
		count += q.running
		if q.window.span() >= 2*b.count {
			return false
		}
	}
	return q.state == queueOpen && !q.paused &&
		count <= b.count-b.half().count && q.bytes <= b.bytes-b.half().bytes
}
