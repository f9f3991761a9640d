package consumer

import (
	"context"
	"errors"
	"fmt"
)

const (
	// DefaultBatchSize is how many messages a BatchHandler is given at most, unless
	// the configuration says otherwise.
	DefaultBatchSize = 32
	// MaxBatchSize is RocketMQ's bound of consumeMessageBatchMaxSize.
	MaxBatchSize = 1024
)

// BatchHandler processes several messages, one at least: as many of one queue as are
// there, up to BatchSize; nothing is waited for. Messages of one message group (with
// Ordered, of the queue) are in their order.
//
// Nil finishes all of them. With an error, or a panic, what Handler says of one
// message holds for each of them; with Processed for those behind the first ones. A
// message that is delivered again comes alone, so that one that always fails does not
// take others with it; one that waited behind it in its message group counts as not
// delivered. ConsumeTimeout, Delivery.Extend and the context are the batch's.
type BatchHandler func(ctx context.Context, ds []*Delivery) error

// Processed is err of a BatchHandler with how many of the first messages it has
// processed all the same (RocketMQ's ackIndex, which counts from 0): these are
// finished, and err is of the others. Less than 0 is none, more than there are is all.
func Processed(n int, err error) error { return &processed{n: n, err: err} }

type processed struct {
	n   int
	err error
}

func (p *processed) Error() string {
	if p.err == nil {
		return fmt.Sprintf("%d messages are processed, the others are not", p.n)
	}
	return p.err.Error()
}

func (p *processed) Unwrap() error { return p.err }

// split is how many of so many messages a handler has finished, and the error of the
// others.
func split(err error, n int) (finished int, rest error) {
	if err == nil {
		return n, nil
	}
	var p *processed
	if !errors.As(err, &p) {
		return 0, err
	}
	finished = min(max(p.n, 0), n)
	if finished == n {
		return n, nil
	}
	return finished, err
}

// NewPushBatch is NewPush for a handler of several messages at a time.
func NewPushBatch(ctx context.Context, cfg Config, handler BatchHandler) (*Push, error) {
	if handler == nil {
		return NewPush(ctx, cfg, nil)
	}
	c, err := NewPush(ctx, cfg, func(ctx context.Context, d *Delivery) error {
		_, err := split(handler(ctx, []*Delivery{d}), 1)
		return err
	})
	if err != nil {
		return nil, err
	}
	c.batch = handler
	return c, nil
}

func (cfg *Config) checkBatch() error {
	if cfg.BatchSize < 1 || cfg.BatchSize > MaxBatchSize {
		return fmt.Errorf("%w: batch size %d; 1 to %d are allowed", ErrIllegalConfig, cfg.BatchSize, MaxBatchSize)
	}
	return nil
}

// handleBatches hands out batches until ctx ends or the buffer is closed.
func (c *Push) handleBatches(ctx context.Context, e *engine) {
	for ctx.Err() == nil {
		items, life, err := e.buffer.takeBatch(ctx, c.cfg.BatchSize)
		if err != nil {
			return
		}
		if len(items) > 1 {
			c.processBatch(life, e, items)
		} else if c.process(life, e, items[0]) {
			e.buffer.finish(items[0])
		}
	}
}

func (c *Push) processBatch(ctx context.Context, e *engine, items []*item) {
	ds := make([]*Delivery, len(items))
	for i, it := range items {
		ds[i] = e.open(it)
	}
	ctx, x := e.processing(ctx, items)
	n, err := split(c.callBatch(ctx, ds), len(items))
	if x != nil {
		x.End(failureOf(err))
	}
	e.buffer.finish(items[:n]...)
	for items = items[n:]; len(items) > 0; {
		first, behind := items[0], behindIn(items)
		first.followers = items[1:behind]
		if c.settle(ctx, e, first, c.judge(first, err), err) {
			first.followers = nil
			e.buffer.finish(first)
			behind = 1
		}
		items = items[behind:]
	}
}

// callBatch is call for several messages.
func (c *Push) callBatch(ctx context.Context, ds []*Delivery) (err error) {
	if c.cfg.ConsumeTimeout > 0 {
		a := newAttempt(ctx, c.cfg.ConsumeTimeout)
		defer a.end()
		ctx = a
		for _, d := range ds {
			d.attempt = a
		}
	}
	defer recovered(&err)
	return c.batch(ctx, ds)
}

// behindIn is where in a batch the messages of the first one's lane end; they are one
// after another.
func behindIn(items []*item) int {
	n := 1
	for items[0].laned && n < len(items) && items[n].lane == items[0].lane {
		n++
	}
	return n
}
