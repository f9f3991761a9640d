package producer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// budget bounds the bytes that wait. Taking and giving back are one atomic
// operation as long as nobody waits for room.
type budget struct {
	limit   int64
	used    atomic.Int64
	waiters atomic.Int32 // length of line

	mu   sync.Mutex
	line []*waiter // first come, first served
}

type waiter struct {
	size    int64
	granted chan struct{}
}

// try takes size bytes if there is room. When nothing is in use, there is room
// for everything.
func (b *budget) try(size int64) bool {
	for {
		used := b.used.Load()
		if used > 0 && used+size > b.limit {
			return false
		}
		if b.used.CompareAndSwap(used, used+size) {
			return true
		}
	}
}

// acquire takes size bytes; when there is no room it fails or waits, as the
// policy says, until ctx or the producer ends, or the time is over.
func (b *budget) acquire(ctx context.Context, closing <-chan struct{}, size int64, policy OnFull, timeout time.Duration) error {
	if b.waiters.Load() == 0 && b.try(size) {
		return nil
	}
	if policy == Fail {
		return coded(protocol.Busy, ErrBufferFull)
	}
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	w := b.enqueue(size)
	var err error
	select {
	case <-w.granted:
		return nil
	case <-timer.C:
		err = coded(protocol.Busy, ErrBufferFull)
	case <-ctx.Done():
		err = coded(protocol.Busy, errNoTimeFor(ctx))
	case <-closing:
		err = protocol.Closed
	}
	b.abandon(w)
	return err
}

func (b *budget) enqueue(size int64) *waiter {
	w := &waiter{size: size, granted: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.line = append(b.line, w)
	b.waiters.Store(int32(len(b.line)))
	b.grantLocked() // room may have come before the line was seen
	return w
}

func (b *budget) grantLocked() {
	n := 0
	for n < len(b.line) && b.try(b.line[n].size) {
		close(b.line[n].granted)
		n++
	}
	b.line = slices.Delete(b.line, 0, n)
	b.waiters.Store(int32(len(b.line)))
}

// abandon takes a waiter out of the line, or gives back what it was granted
// meanwhile.
func (b *budget) abandon(w *waiter) {
	b.mu.Lock()
	i := slices.Index(b.line, w)
	if i >= 0 {
		b.line = slices.Delete(b.line, i, i+1)
		b.waiters.Store(int32(len(b.line)))
		b.grantLocked() // the next may need less
	}
	b.mu.Unlock()
	if i < 0 {
		b.release(w.size)
	}
}

func (b *budget) release(size int64) {
	if size == 0 {
		return
	}
	b.used.Add(-size)
	if b.waiters.Load() > 0 {
		b.mu.Lock()
		b.grantLocked()
		b.mu.Unlock()
	}
}
