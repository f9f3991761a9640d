package consumer

import (
	"context"
	"sync"
)

// crew runs the handlers of a consumer, as many at once as it is told. It is safe
// for concurrent use.
//
// Goroutines: one for each handler; end waits for them.
type crew struct {
	work    func(ctx context.Context) // returns when ctx ends, or there is no more work
	running sync.WaitGroup

	mu      sync.Mutex
	life    context.Context // nil: not begun, or over
	want    int
	dismiss []context.CancelFunc // of those that work
}

// begin starts the handlers.
func (c *crew) begin(ctx context.Context, work func(context.Context)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life, c.work = ctx, work
	c.resizeLocked()
}

// resize has so many handlers run from now on. One too many ends with its message.
func (c *crew) resize(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = n
	c.resizeLocked()
}

func (c *crew) resizeLocked() {
	if c.life == nil {
		return
	}
	for len(c.dismiss) < c.want {
		ctx, cancel := context.WithCancel(c.life)
		c.dismiss = append(c.dismiss, cancel)
		c.running.Go(func() { c.work(ctx) })
	}
	for _, cancel := range c.dismiss[c.want:] {
		cancel()
	}
	c.dismiss = c.dismiss[:c.want]
}

// end waits for all handlers; the caller has seen to it that there is no more work.
func (c *crew) end() {
	c.mu.Lock()
	c.life = nil
	c.mu.Unlock()
	c.running.Wait()
	for _, cancel := range c.dismiss {
		cancel()
	}
}
