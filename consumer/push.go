package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Handler processes one message. Nil finishes it. With an error, or a panic, the
// broker delivers it again later, to any member of the group, when the group's policy
// says, or RetryAfter; and when that was often enough, or with ErrReject, it is a dead
// letter. Nothing waits for it meanwhile, and the group's offset passes it as soon as
// the broker has it.
//
// A message of a message group (with Ordered, any message) keeps its place: it is
// tried again by this consumer, after SuspendTime, and the messages of its group (with
// Ordered, of its queue) wait behind it. It is a dead letter with ErrReject or after
// MaxReconsumeTimes.
//
// The context ends when the message has run for ConsumeTimeout, which Delivery.Extend
// moves, when its queue
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
	batch    BatchHandler // nil: one message at a time
	ready    chan struct{}
	started  atomic.Bool
	crew     crew

	mu        sync.Mutex
	suspended suspension
	perSecond float64
	burst     int
	engine    *engine // while Run runs
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
	c := &Push{
		cfg: cfg, settings: s, handler: handler, ready: make(chan struct{}),
		suspended: newSuspension(), perSecond: cfg.Rate, burst: cfg.Burst,
	}
	c.crew.resize(cfg.Concurrency)
	return c, nil
}

// Ready is closed when the consumer reads, for the first time, all the queues
// that it should.
func (c *Push) Ready() <-chan struct{} { return c.ready }

// Run consumes until ctx ends, whatever happens to the servers. Then it drains:
// it pulls no more, lets the running handlers finish for up to ShutdownTimeout,
// commits, gives its queues back and leaves the group. Messages that were pulled
// and not handed out are dropped; their new owner gets them. When Run returns,
// no goroutine of the consumer runs; a handler that does not return holds it up.
// It ends by itself, with ErrRefused, when the group does not take the consumer, and
// at once with ErrOffsetsInUse or ErrOffsetsDamaged.
func (c *Push) Run(ctx context.Context) error {
	if c.started.Swap(true) {
		return fmt.Errorf("run consumer of group %q: %w", c.cfg.Group, ErrClosed)
	}
	ledger, err := c.settings.openLedger()
	if err != nil {
		return fmt.Errorf("consumer of group %q: %w", c.cfg.Group, err)
	}
	defer ledger.close()
	cl, err := c.settings.newClient(ctx)
	if err != nil {
		return fmt.Errorf("consumer of group %q: %w", c.cfg.Group, err)
	}
	defer cl.Close()
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	e := newEngine(life, c.settings, cl, c.ready)
	e.ledger = ledger
	c.attach(e)
	defer c.detach()
	c.crew.begin(life, func(ctx context.Context) { c.work(ctx, e) })
	e.run(ctx, context.WithoutCancel(ctx), e.placer()) // its error is logged
	e.buffer.close()
	c.crew.end()
	if e.refusal != nil {
		return fmt.Errorf("consumer of group %q: %w", c.cfg.Group, e.refusal)
	}
	return nil
}

// work is what each handler's goroutine does. Whoever leaves has somebody else look
// at what there is to do.
func (c *Push) work(ctx context.Context, e *engine) {
	defer signal(e.buffer.ready)
	if c.batch != nil {
		c.handleBatches(ctx, e)
	} else {
		c.handle(ctx, e)
	}
}

// handle hands out messages until ctx ends or the buffer is closed.
func (c *Push) handle(ctx context.Context, e *engine) {
	b := e.buffer
	var done *item
	for ctx.Err() == nil {
		it, life, err := b.takeNext(ctx, done)
		if err != nil {
			return
		}
		if done = it; !c.process(life, e, it) {
			done = nil
		}
	}
	if done != nil {
		b.finish(done)
	}
}

// process reports whether the message is finished. One that was given back without
// an answer is not handled again, but given back again.
func (c *Push) process(ctx context.Context, e *engine, it *item) (finished bool) {
	if h := it.held; h != nil {
		it.Attempt--
		return c.settle(ctx, e, it, h.verdict, h.err)
	}
	d := e.open(it)
	ctx, x := e.telemetry.Process(ctx, &d.Stored)
	err := c.call(ctx, d)
	if x != nil {
		x.End(failureOf(err))
	}
	if err == nil {
		return true
	}
	return c.settle(ctx, e, it, c.judge(it, err), err)
}

// call runs the handler; a panic is an error.
func (c *Push) call(ctx context.Context, d *Delivery) (err error) {
	if c.cfg.ConsumeTimeout > 0 {
		a := newAttempt(ctx, c.cfg.ConsumeTimeout)
		defer a.end()
		ctx, d.attempt = a, a
	}
	defer recovered(&err)
	return c.handler(ctx, d)
}

// recovered is deferred: it makes a panic the error.
func recovered(err *error) {
	if v := recover(); v != nil {
		*err = &handlerPanic{value: v, stack: debug.Stack()}
	}
}

// handlerPanic is the error of a handler that has panicked.
type handlerPanic struct {
	value any
	stack []byte
}

func (p *handlerPanic) Error() string { return fmt.Sprintf("handler panics: %v\n%s", p.value, p.stack) }
