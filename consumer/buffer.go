package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/message"
)

// buffer holds the process queues of one consumer: fetchers put messages in,
// handlers take them out, the coordinator adds and removes queues. It is where
// they meet, and safe for concurrent use. It has no goroutines.
//
// Queues take turns, one message of each that has some ready, or as many as
// takeReady has room for; those whose next message has a higher priority go first.
type buffer struct {
	life   context.Context // of the handlers
	order  order
	bounds bounds        // count: of each queue; bytes: of all together
	ready  chan struct{} // something may be ready; holds one, see take
	idled  chan struct{} // a draining queue became idle; holds one

	replies *replier     // what Delivery.Reply uses; set before the first message
	filters topicFilters // set before the first pull

	mu        sync.Mutex
	queues    map[message.Queue]*holding
	spread    map[string]int // pulls under way of queues that have more, by broker
	turn      turns          // those with something ready
	retries   retryHeap
	suspended suspension // of a push consumer; Pull pauses its queues one by one
	pace      pace
	faults    fifo[error] // for the reader of a pull consumer
	ended     error       // what every take ends with; nil: it is open
}

// holding is a queue in the buffer, with the life of its handlers' contexts.
type holding struct {
	*processQueue
	ctx     context.Context // of the handlers; ends when the queue is lost
	cancel  context.CancelCauseFunc
	fetcher chan<- struct{} // holds one: the queue can be pulled again
	inTurn  bool
	replies *replier
}

// take starts the next ready message, so that it can be replied to; nil when
// there is none.
func (h *holding) take() *item {
	it := h.processQueue.take()
	if it != nil {
		it.replies = h.replies
	}
	return it
}

// newBuffer makes an empty one. The handlers' contexts descend from ctx.
func newBuffer(ctx context.Context, o order, b bounds) *buffer {
	return &buffer{
		life: ctx, order: o, bounds: b,
		ready: make(chan struct{}, 1), idled: make(chan struct{}, 1),
		queues: map[message.Queue]*holding{}, spread: map[string]int{},
	}
}

// signal leaves a token in a channel that holds one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// hold takes in a queue that is not there yet. The fetcher is signalled
// whenever the queue can be pulled.
func (b *buffer) hold(q *processQueue, fetcher chan<- struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holdLocked(q, fetcher)
}

func (b *buffer) holdLocked(q *processQueue, fetcher chan<- struct{}) {
	h := &holding{processQueue: q, fetcher: fetcher, replies: b.replies}
	h.ctx, h.cancel = context.WithCancelCause(b.life)
	h.paused = h.paused || b.suspended.of(q.queue)
	b.queues[q.queue] = h
	signal(fetcher)
}

// restart reads a queue from another offset on and forgets what is held of it.
func (b *buffer) restart(queue message.Queue, offset int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.queues[queue]
	if h == nil || h.state != queueOpen {
		return false
	}
	b.restartLocked(h, offset)
	return true
}

func (b *buffer) restartLocked(h *holding, offset int64) {
	fresh := newProcessQueue(h.queue, h.fence, offset, h.committed, b.order)
	fresh.paused = h.paused
	b.loseLocked(h, ErrLeaseLost)
	b.holdLocked(fresh, h.fetcher)
}

// lose lets go of a queue at once: what waits is dropped, the contexts of its
// running handlers end with the cause. A holding that was replaced is left alone.
func (b *buffer) lose(q *processQueue, cause error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.queues[q.queue]
	if h == nil || h.processQueue != q {
		return false
	}
	b.loseLocked(h, cause)
	return true
}

func (b *buffer) loseLocked(h *holding, cause error) {
	h.close()
	h.cancel(cause)
	delete(b.queues, h.queue)
	signal(b.ready) // a reader that waits for the queue's end looks again
}

// drain begins to empty the queues.
func (b *buffer) drain(queues ...message.Queue) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range queues {
		if h := b.queues[q]; h != nil {
			h.drain()
		}
	}
}

// held lists the queues, sorted.
func (b *buffer) held() []message.Queue {
	b.mu.Lock()
	defer b.mu.Unlock()
	queues := make([]message.Queue, 0, len(b.queues))
	for q := range b.queues {
		queues = append(queues, q)
	}
	slices.SortFunc(queues, message.Queue.Compare)
	return queues
}

// get is the process queue, for its fields that do not change; nil if not held.
func (b *buffer) get(queue message.Queue) *processQueue {
	b.mu.Lock()
	defer b.mu.Unlock()
	if h := b.queues[queue]; h != nil {
		return h.processQueue
	}
	return nil
}

// position is the offset of the next message that a reader of the queue gets.
func (b *buffer) position(queue message.Queue) (offset int64, held bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h := b.queues[queue]
	if h == nil {
		return 0, false
	}
	return h.position(), true
}

// idle reports whether nothing of the queues waits or runs.
func (b *buffer) idle(queues ...message.Queue) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range queues {
		if h := b.queues[q]; h != nil && !h.idle() {
			return false
		}
	}
	return true
}

// pending is an offset to be committed.
type pending struct {
	queue  *processQueue
	offset int64
}

// uncommitted lists what of the queues is finished and not committed.
func (b *buffer) uncommitted(queues ...message.Queue) []pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []pending
	for _, q := range queues {
		if h := b.queues[q]; h != nil && h.window.lowest() != h.committed {
			list = append(list, pending{queue: h.processQueue, offset: h.window.lowest()})
		}
	}
	return list
}

func (b *buffer) markCommitted(p pending) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p.queue.committed = p.offset
}

// holdingLocked is where the process queue is held; nil when it is lost.
func (b *buffer) holdingLocked(q *processQueue) *holding {
	if h := b.queues[q.queue]; h != nil && h.processQueue == q {
		return h
	}
	return nil
}

// pause stops or resumes pulling and handing out of queues; false when one of
// them is not held.
func (b *buffer) pause(paused bool, queues []message.Queue) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := true
	for _, q := range queues {
		h := b.queues[q]
		if h == nil {
			all = false
			continue
		}
		b.pauseLocked(h, paused)
	}
	return all
}

func (b *buffer) pauseLocked(h *holding, paused bool) {
	h.paused = paused
	if !paused {
		b.readyLocked(h)
		signal(h.fetcher)
	} else if h.state == queueDraining {
		h.dropFrom(0)
		b.settledLocked(h)
	}
}

// suspend replaces what is suspended.
func (b *buffer) suspend(s suspension) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.suspended = s
	for q, h := range b.queues {
		if paused := s.of(q); paused != h.paused {
			b.pauseLocked(h, paused)
		}
	}
}

// throttled says how the consumer holds itself back.
func (b *buffer) throttled() (suspended bool, perSecond float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pace.limiter != nil {
		perSecond = float64(b.pace.limiter.Limit())
	}
	return b.suspended.some(), perSecond
}

// setPace bounds how many messages are handed out in a second.
func (b *buffer) setPace(perSecond float64, burst int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pace.set(perSecond, burst, time.Now())
	signal(b.ready)
}

// report leaves an error for the reader. Only the newest few are kept.
func (b *buffer) report(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.faults.push(err); b.faults.len() > maxFaults {
		b.faults.pop()
	}
	signal(b.ready)
}

const maxFaults = 64

func (b *buffer) fault() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.faults.pop()
}

// abandon ends the contexts of all running handlers.
func (b *buffer) abandon(cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, h := range b.queues {
		h.cancel(cause)
	}
}

// close lets go of everything and ends every take with ErrClosed.
func (b *buffer) close() { b.end(ErrClosed) }

// end is close that ends takes with another error.
func (b *buffer) end(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = why
	for _, h := range b.queues {
		b.loseLocked(h, errors.Join(ErrLeaseLost, ErrClosed))
	}
	signal(b.ready)
}
