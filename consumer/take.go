package consumer

import (
	"container/heap"
	"context"
	"time"
)

// take waits for a ready message and starts it. The context is the handler's.
// Whoever leaves passes the token of b.ready on when there is more to do, so
// that one that waits always knows of what is ready and of the next retry.
func (b *buffer) take(ctx context.Context) (*item, context.Context, error) {
	return b.takeNext(ctx, nil)
}

// takeNext is take that ends a message for good first, if there is one: quick
// handlers meet at the mutex, and so come there once for each message.
func (b *buffer) takeNext(ctx context.Context, done *item) (*item, context.Context, error) {
	for {
		it, life, due, err := b.exchange(done, time.Now)
		if it != nil || err != nil {
			return it, life, err
		}
		done = nil
		if err := b.await(ctx, due); err != nil {
			return nil, nil, err
		}
	}
}

// tryTake is take without waiting: without a message, due is the time of the
// next retry, or zero.
func (b *buffer) tryTake(now func() time.Time) (it *item, life context.Context, due time.Time, err error) {
	return b.exchange(nil, now)
}

// exchange is finish, if there is something done, and tryTake.
func (b *buffer) exchange(done *item, now func() time.Time) (it *item, life context.Context, due time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if done != nil {
		b.finishLocked(done.queue, done)
	}
	h, _, due, err := b.turnLocked(1, now)
	if h == nil {
		return nil, nil, due, err
	}
	hadRoom := b.roomLocked(h)
	it = h.take() // makes room when messages go to a reader
	b.roomMadeLocked(h, hadRoom)
	b.turnOverLocked(h, 1, now)
	return it, h.ctx, due, nil
}

// turnLocked is the queue whose turn it is, and how many of its messages may be
// taken, at most so many. Without one, due is when there may be, or zero.
func (b *buffer) turnLocked(most int, now func() time.Time) (h *holding, n int, due time.Time, err error) {
	if b.ended != nil {
		signal(b.ready)
		return nil, 0, due, b.ended
	}
	if len(b.retries) > 0 { // rarely, and to look at the clock takes long
		b.retryLocked(now())
	}
	if len(b.retries) > 0 {
		due = b.retries[0].at
	}
	if b.pace.limiter != nil && !b.turn.empty() {
		if n, at := b.pace.allows(most, now()); n == 0 {
			return nil, 0, at, nil // a retry that is due before waits too
		} else {
			most = n
		}
	}
	return b.nextLocked(), most, due, nil
}

// turnOverLocked lines up a queue of which so many messages were taken, and wakes
// whoever is next.
func (b *buffer) turnOverLocked(h *holding, n int, now func() time.Time) {
	if b.pace.limiter != nil {
		b.pace.spend(n, now())
	}
	b.takeTurnLocked(h)
	if !b.turn.empty() || len(b.retries) > 0 {
		signal(b.ready)
	}
}

// takeBatch waits for ready messages of one queue and starts up to so many of equal
// priority. The context is the handler's.
func (b *buffer) takeBatch(ctx context.Context, most int) ([]*item, context.Context, error) {
	for {
		items, life, due, err := b.tryBatch(most, time.Now)
		if len(items) > 0 || err != nil {
			return items, life, err
		}
		if err := b.await(ctx, due); err != nil {
			return nil, nil, err
		}
	}
}

func (b *buffer) tryBatch(most int, now func() time.Time) (items []*item, life context.Context, due time.Time, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	h, n, due, err := b.turnLocked(most, now)
	if h == nil {
		return nil, nil, due, err
	}
	items = h.takeBatch(n, h.priority())
	for _, it := range items {
		it.replies = h.replies
	}
	b.turnOverLocked(h, len(items), now)
	return items, h.ctx, due, nil
}

// await waits for the token of b.ready, for due if it is set, or for ctx.
func (b *buffer) await(ctx context.Context, due time.Time) error {
	var retry <-chan time.Time
	if !due.IsZero() {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		retry = timer.C
	}
	select {
	case <-b.ready:
	case <-retry:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// nextLocked is the queue whose turn it is.
func (b *buffer) nextLocked() *holding {
	for h := b.turn.pop(); h != nil; h = b.turn.pop() {
		h.inTurn = false
		if h.takable() {
			return h
		}
	}
	return nil
}

// takeTurnLocked lines the queue up if it has something ready.
func (b *buffer) takeTurnLocked(h *holding) {
	if !h.inTurn && h.takable() {
		h.inTurn = true
		b.turn.push(h)
	}
}

// readyLocked is takeTurnLocked that wakes a taker.
func (b *buffer) readyLocked(h *holding) {
	b.takeTurnLocked(h)
	if h.inTurn {
		signal(b.ready)
	}
}

// takeReady takes up to so many ready messages, in runs: as many of a queue as
// there are of the priority that it has its turn for, then of the next. A queue
// that is emptied is pulled while the others' messages are read.
func (b *buffer) takeReady(most int) (items []*item, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended != nil {
		signal(b.ready)
		return nil, b.ended
	}
	for len(items) < most {
		h := b.nextLocked()
		if h == nil {
			break
		}
		items = b.takeRunLocked(h, items, most)
	}
	if !b.turn.empty() {
		signal(b.ready)
	}
	return items, nil
}

func (b *buffer) takeRunLocked(h *holding, items []*item, most int) []*item {
	if items == nil {
		items = make([]*item, 0, min(most, h.ready.len()))
	}
	hadRoom, priority := b.roomLocked(h), h.priority()
	for len(items) < most && h.takable() && h.priority() >= priority {
		items = append(items, h.take())
	}
	b.roomMadeLocked(h, hadRoom)
	b.takeTurnLocked(h)
	return items
}

// finish ends messages for good.
func (b *buffer) finish(items ...*item) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(items) > 0 {
		n := 1
		for n < len(items) && items[n].queue == items[0].queue {
			n++
		}
		b.finishLocked(items[0].queue, items[:n]...)
		items = items[n:]
	}
}

func (b *buffer) finishLocked(q *processQueue, items ...*item) {
	h := b.holdingLocked(q)
	hadRoom := h != nil && b.roomLocked(h)
	for _, it := range items {
		q.finish(it)
	}
	if h == nil {
		return
	}
	b.readyLocked(h)
	b.settledLocked(h)
	b.roomMadeLocked(h, hadRoom)
}

// roomMadeLocked tells the fetcher when a queue without room has some now.
func (b *buffer) roomMadeLocked(h *holding, hadRoom bool) {
	if !hadRoom && b.roomLocked(h) {
		signal(h.fetcher)
	}
}

// fail ends an attempt; the message is ready again at the given time, unless
// false is returned: then it is dropped.
func (b *buffer) fail(it *item, retryAt time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	again := it.queue.fail(it)
	if h := b.holdingLocked(it.queue); h != nil {
		b.settledLocked(h)
	}
	if again {
		heap.Push(&b.retries, retry{item: it, at: retryAt})
		signal(b.ready)
	}
	return again
}

// settledLocked tells of a draining queue that has become idle.
func (b *buffer) settledLocked(h *holding) {
	if h.state == queueDraining && h.idle() {
		signal(b.idled)
	}
}

func (b *buffer) retryLocked(now time.Time) {
	for len(b.retries) > 0 && !b.retries[0].at.After(now) {
		it := heap.Pop(&b.retries).(retry).item
		it.queue.retry(it)
		if h := b.holdingLocked(it.queue); h != nil {
			b.takeTurnLocked(h)
		}
	}
}

// retry is a failed message and when it is tried again.
type retry struct {
	item *item
	at   time.Time
}

// retryHeap has the next one in front; see container/heap.
type retryHeap []retry

func (r retryHeap) Len() int           { return len(r) }
func (r retryHeap) Less(i, j int) bool { return r[i].at.Before(r[j].at) }
func (r retryHeap) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *retryHeap) Push(v any)        { *r = append(*r, v.(retry)) }
func (r *retryHeap) Pop() any {
	last := len(*r) - 1
	v := (*r)[last]
	(*r)[last] = retry{}
	*r = (*r)[:last]
	return v
}
