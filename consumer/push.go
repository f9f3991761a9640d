package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Handler processes one message. Nil finishes it. An error, or a panic, has it
// delivered again to this consumer, after 1 s and then twice as long each time
// up to 30 s; the group's offset does not pass it meanwhile, and the messages of
// its message group (with Ordered, of its queue) wait behind it. Retry topics
// kept by the broker, and dead letters, do not exist yet.
//
// The context ends when the message has run for ConsumeTimeout, when its queue
// is lost (ErrLeaseLost) or the consumer's drain has taken too long
// (ErrShutdown); not when the context of Run ends, for then running handlers
// may finish.
type Handler func(ctx context.Context, d *Delivery) error

// Push is a member of a group that hands messages to a handler. Make one with
// NewPush and call Run once.
//
// Goroutines: those of the engine and one for each handler that may run at
// once. Run waits for all of them.
type Push struct {
	cfg      Config
	settings settings
	handler  Handler
	ready    chan struct{}
	started  atomic.Bool
}

// NewPush checks the configuration, every fault of it at once. It contacts
// nobody and starts nothing.
func NewPush(_ context.Context, cfg Config, handler Handler) (*Push, error) {
	s, err := cfg.settings()
	if handler == nil {
		err = errors.Join(err, fmt.Errorf("%w: no handler", ErrIllegalConfig))
	}
	if err != nil {
		return nil, fmt.Errorf("consumer of group %q: %w", cfg.Group, err)
	}
	return &Push{cfg: cfg, settings: s, handler: handler, ready: make(chan struct{})}, nil
}

// Ready is closed when the consumer reads, for the first time, all the queues
// that it should.
func (c *Push) Ready() <-chan struct{} { return c.ready }

// Run consumes until ctx ends, whatever happens to the servers. Then it drains:
// it pulls no more, lets the running handlers finish for up to ShutdownTimeout,
// commits, gives its queues back and leaves the group. Messages that were pulled
// and not handed out are dropped; their new owner gets them. When Run returns,
// no goroutine of the consumer runs; a handler that does not return holds it up.
func (c *Push) Run(ctx context.Context) error {
	if c.started.Swap(true) {
		return fmt.Errorf("run consumer of group %q: %w", c.cfg.Group, ErrClosed)
	}
	cl, err := c.settings.newClient(ctx)
	if err != nil {
		return fmt.Errorf("consumer of group %q: %w", c.cfg.Group, err)
	}
	defer cl.Close()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	e := newEngine(life, c.settings, cl, c.ready)
	var handlers sync.WaitGroup
	for range c.cfg.Concurrency {
		handlers.Go(func() { c.handle(life, e.buffer) })
	}
	e.run(ctx, context.WithoutCancel(ctx), newMembership(e)) // its error is logged
	e.buffer.close()
	handlers.Wait()
	return nil
}

// handle hands out messages until the buffer is closed.
func (c *Push) handle(ctx context.Context, b *buffer) {
	for {
		it, life, err := b.take(ctx)
		if err != nil {
			return
		}
		if err := c.call(life, &it.Delivery); err != nil {
			c.failed(b, it, err)
			continue
		}
		b.finish(it)
	}
}

// call runs the handler; a panic is an error.
func (c *Push) call(ctx context.Context, d *Delivery) (err error) {
	if c.cfg.ConsumeTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.ConsumeTimeout)
		defer cancel()
	}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("handler panics: %v\n%s", v, debug.Stack())
		}
	}()
	return c.handler(ctx, d)
}

func (c *Push) failed(b *buffer, it *item, err error) {
	pause := doubled(handlerRetryFirst, handlerRetryMost, it.Attempt)
	log := c.settings.log.With("topic", it.queue.queue.Topic, "broker", it.queue.queue.Broker, "queue", it.queue.queue.ID,
		"offset", it.offset, "message_id", it.ID, "attempt", it.Attempt, "error", err)
	if b.fail(it, time.Now().Add(pause)) {
		log.Warn("handler failed, the message is delivered again", "pause", pause)
		return
	}
	log.Warn("handler failed, the message is left to the queue's next owner")
}
