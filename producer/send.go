package producer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Receipt says where a message is stored. Beside an error MessageID is set if the
// message was accepted for sending, and Queue if it may be stored, where.
type Receipt struct {
	MessageID message.ID
	Queue     message.Queue
	// Offset is -1 for a message that the broker holds back until its time.
	Offset    int64
	StoreTime time.Time
	// RecallHandle is what Recall takes; it is set for a message that the broker
	// holds back until its time.
	RecallHandle string
	// Duplicate says that the broker had the message already, from an earlier try
	// or by its deduplication key: the receipt is that of the first time. StoreTime
	// is of an earlier message sent along if many were sent since.
	Duplicate bool
}

// Send sends a message and waits until it is on the broker's disk. The message
// must not be changed meanwhile. Errors are *Error; when ctx is cancelled the
// message is not sent any more, and if it is on its way the outcome is unknown.
//
// A message with the ID of one whose outcome was unknown goes to the queue of that
// one, whatever the options say, and is stored there if that one is not.
func (p *Producer) Send(ctx context.Context, m *message.Message, opts ...SendOption) (Receipt, error) {
	c := newCall(1)
	if _, err := p.accept(ctx, entry{m: m, call: c}, opts, nil); err != nil {
		return Receipt{}, err
	}
	p.await(ctx, c, m.Topic)
	return c.receipts[0], c.errs[0]
}

// SendAsync sends a message and has done called once, with the receipt or an
// *Error: on a goroutine that calls one callback after another, or, when the
// message was refused, before SendAsync returns. It waits only for the first
// route of a topic and for room in the buffer. A later end of ctx has no effect,
// its deadline has. The callback may send, and must not Flush or Close; a nil
// one is SendOneway. Messages of one goroutine to one queue are stored in order.
func (p *Producer) SendAsync(ctx context.Context, m *message.Message, done func(Receipt, error), opts ...SendOption) {
	if _, err := p.accept(ctx, entry{m: m, done: done}, opts, nil); err != nil && done != nil {
		done(Receipt{}, err)
	}
}

// SendOneway is SendAsync without an answer: a failure after the message was
// accepted is only logged.
func (p *Producer) SendOneway(ctx context.Context, m *message.Message, opts ...SendOption) error {
	_, err := p.accept(ctx, entry{m: m}, opts, nil)
	return err
}

// SendBatch sends messages of one topic and waits for all. Those without a
// group go to one queue together; batches too large for one request are split.
// Delayed messages are not for batches. Nothing is sent when one of the messages
// is illegal. Receipts are in the order of the messages; with an error, those that
// are stored have a StoreTime, and the error is that of the first that is not.
func (p *Producer) SendBatch(ctx context.Context, ms []*message.Message, opts ...SendOption) ([]Receipt, error) {
	ms, ts, err := p.interceptAll(ctx, ms)
	if err != nil {
		return nil, err
	}
	if err := p.checkBatch(ms); err != nil {
		ts.tell(func(int) (Receipt, error) { return Receipt{}, err })
		return nil, err
	}
	ms, trace := p.telemetry.BeginBatch(ctx, ms)
	c := newCall(len(ms))
	p.takeAll(ctx, c, ms, opts)
	p.await(ctx, c, ms[0].Topic)
	p.tracedAll(trace, c)
	ts.tell(func(i int) (Receipt, error) { return c.receipts[i], c.errs[i] })
	return c.receipts, c.firstError()
}

// takeAll takes the messages of a batch over, up to the first that is refused.
func (p *Producer) takeAll(ctx context.Context, c *call, ms []*message.Message, opts []SendOption) {
	var near *queue
	for i, m := range ms {
		q, err := p.take(ctx, entry{m: m, call: c, index: i}, opts, near)
		if err != nil {
			c.refuse(i, err)
			return
		}
		if m.Group == "" {
			near = q
		}
	}
}

// checkBatch holds a batch to RocketMQ's rules. Retry topics are no topics to
// send to, and half messages have no way into a batch.
func (p *Producer) checkBatch(ms []*message.Message) error {
	refuse := func(format string, args ...any) error {
		return sendError("", "", protocol.Errorf(protocol.InvalidArgument, format, args...))
	}
	if len(ms) == 0 {
		return refuse("the batch has no message")
	}
	for i, m := range ms {
		if err := check(m, false); err != nil {
			return fmt.Errorf("message %d of %d: %w", i, len(ms), err)
		}
		switch {
		case m.Topic != ms[0].Topic:
			return refuse("message %d of the batch has topic %q, the first has %q", i, m.Topic, ms[0].Topic)
		case m.IsDelayed():
			return refuse("message %d of the batch is delayed: delayed messages are not sent in batches", i)
		}
	}
	return nil
}

// take is accept that nobody observes.
func (p *Producer) take(ctx context.Context, e entry, opts []SendOption, near *queue) (*queue, error) {
	var t *topic
	if e.m != nil {
		t = p.topics.get(e.m.Topic)
	}
	if err := check(e.m, t != nil); err != nil {
		return nil, err
	}
	if t == nil {
		t = p.topics.add(e.m.Topic)
	}
	if e.m.IsDelayed() {
		e.purpose = batch.ToTimer
	}
	e.epoch = p.epochs.enter()
	q, err := p.place(ctx, t, &e, opts, near)
	if err != nil {
		e.epoch.leave(1)
		return nil, sendError(e.m.Topic, "", err)
	}
	return q, nil
}

// place stamps a message and puts it into its queue.
func (p *Producer) place(ctx context.Context, t *topic, e *entry, opts []SendOption, near *queue) (*queue, error) {
	if p.closed.Load() {
		return nil, protocol.Closed
	}
	if ctx.Err() != nil {
		return nil, coded(protocol.Unreachable, errNoTimeFor(ctx))
	}
	now := p.stamp(ctx, e)
	q, err := p.queueFor(ctx, t, e, opts, now)
	if err != nil {
		return nil, err
	}
	if near != nil && e.bound == free && t.fan.Load().asGood(near, q, now) {
		q = near
	}
	p.codec.shrink(e)
	err = p.budget.acquire(ctx, p.ctx.Done(), int64(e.size), p.cfg.OnFull, time.Duration(e.deadline-now))
	if err != nil {
		return nil, err
	}
	if !p.put(q, e) {
		p.budget.release(int64(e.size))
		return nil, e.refusedError()
	}
	return q, nil
}

// stamp gives a message its identity and its deadline, and returns the time.
func (p *Producer) stamp(ctx context.Context, e *entry) (now int64) {
	wall := time.Now()
	now = int64(wall.Sub(p.start))
	e.id, e.born = e.m.ID, wall.UnixMilli()
	if e.id.IsZero() {
		e.id = p.ids.Next()
	}
	if !e.m.BornTime.IsZero() {
		e.born = e.m.BornTime.UnixMilli()
	}
	e.deadline = now + int64(p.cfg.SendTimeout)
	if d, ok := ctx.Deadline(); ok {
		e.deadline = min(e.deadline, int64(d.Sub(p.start)))
	}
	e.size = len(e.m.Body) + e.m.PropertiesBytes() + entryOverhead
	return now
}

// queueFor finds the queue of a message. One whose outcome is unknown goes where
// it went before, as itself.
func (p *Producer) queueFor(ctx context.Context, t *topic, e *entry, opts []SendOption, now int64) (*queue, error) {
	if d, ok := p.doubts.find(e.id); ok && d.queue.Topic == e.m.Topic {
		e.number, e.bound, e.alone, e.sent = d.number, pinned, true, true
		return d.queue, nil
	}
	e.alone = e.m.DedupKey != ""
	return p.choose(ctx, t, e, opts, now)
}

// choose finds the queue; for one that the caller named and the route has not,
// the route is asked for again.
func (p *Producer) choose(ctx context.Context, t *topic, e *entry, opts []SendOption, now int64) (q *queue, err error) {
	f := t.fan.Load()
	if f.err != nil {
		if f, err = p.resolve(ctx, t, e.deadline); err != nil {
			return nil, err
		}
	}
	e.alone = e.alone || f.foreign(e)
	q, e.bound, err = t.choose(f, e.m, opts, now)
	if !errors.Is(err, protocol.QueueNotFound) {
		return q, err
	}
	route, refreshErr := p.client.RefreshRoute(ctx, t.name)
	if refreshErr != nil {
		return nil, errors.Join(err, refreshErr)
	}
	if f = p.topics.use(t, route); f.err != nil {
		return nil, f.err
	}
	q, e.bound, err = t.choose(f, e.m, opts, now)
	return q, err
}

func (p *Producer) put(q *queue, e *entry) bool {
	ready, ok := q.add(e)
	if ready {
		q.out.enlist(q)
	}
	if ok {
		p.sweeper.watch(e.deadline)
	}
	return ok
}

func sendError(topic, broker string, err error) error {
	return client.Wrap(opSend, topic, broker, err)
}

func errNoTimeFor(ctx context.Context) error { return fmt.Errorf("%w: %w", ErrNotSent, ctx.Err()) }

// call is a sender that waits for its messages.
type call struct {
	receipts []Receipt
	errs     []error
	left     atomic.Int64
	ready    chan struct{} // closed when none is left
	// abandoned: the caller waits no more, and what is not sent is not to be sent.
	abandoned atomic.Bool
}

func newCall(n int) *call {
	c := &call{receipts: make([]Receipt, n), errs: make([]error, n), ready: make(chan struct{})}
	c.left.Store(int64(n))
	return c
}

func (c *call) complete(i int, r Receipt, err error) {
	c.receipts[i], c.errs[i] = r, err
	if c.left.Add(-1) == 0 {
		close(c.ready)
	}
}

// refuse completes all messages from the i-th on.
func (c *call) refuse(i int, err error) {
	for ; i < len(c.errs); i++ {
		c.complete(i, Receipt{}, err)
	}
}

// await waits until all messages of a call are answered. A deadline is not
// looked at here: the sweeper answers then, and knows what the end of the time
// means. When ctx is cancelled nothing more of the call is sent.
func (p *Producer) await(ctx context.Context, c *call, topic string) {
	select {
	case <-c.ready:
		return
	case <-ctx.Done():
	}
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		c.abandoned.Store(true)
		for _, q := range p.topics.allQueues() {
			if q.Topic == topic {
				p.fail(q, q.abandon(c, ctx.Err()))
			}
		}
	}
	<-c.ready
}

func (c *call) firstError() error {
	for _, err := range c.errs {
		if err != nil {
			return err
		}
	}
	return nil
}
