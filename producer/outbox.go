package producer

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// frameBytes is when a frame goes off; one more parcel fits the limit of a
	// frame, however large it is.
	frameBytes = 1 << 20
	// frameParcels bounds what one request asks of the broker.
	frameParcels = 1 << 10

	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second
)

// outbox sends the parcels of one broker's queues. Its goroutine takes what is
// ready, waits for nothing, and puts parcels that are ready together into one
// frame; while it does so, more get ready.
type outbox struct {
	p      *Producer
	broker string
	wake   chan struct{} // the list has something new; holds one
	until  atomic.Int64  // no try before; 0: the broker did not just fail

	mu    sync.Mutex
	list  []*queue
	fails int // in a row
}

// frame is what goes to the broker at once. It is the request itself, so that
// parcels are copied only into the connection's buffer.
type frame struct {
	queues  []*queue
	parcels []*parcel
	size    int
	latest  int64
}

// RequestCode implements protocol.Request.
func (f *frame) RequestCode() protocol.Code { return protocol.SendMessage }

// AppendBinary is the encoding of protocol.SendRequest.
func (f *frame) AppendBinary(dst []byte) ([]byte, error) {
	for _, p := range f.parcels {
		dst = append(dst, p.bytes...)
	}
	return dst, nil
}

func (f *frame) add(q *queue, p *parcel) {
	f.queues, f.parcels = append(f.queues, q), append(f.parcels, p)
	f.size += len(p.bytes)
	f.latest = max(f.latest, p.latest)
}

// enlist tells the outbox that a queue is ready.
func (o *outbox) enlist(q *queue) {
	o.mu.Lock()
	o.list = append(o.list, q)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// suspended reports whether the broker has just failed.
func (o *outbox) suspended(now int64) bool { return o.until.Load() > now }

func (o *outbox) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var ready []*queue
	for {
		var due int64
		ready, due = o.send(ready)
		var timed <-chan time.Time
		if due > 0 {
			timer.Reset(time.Duration(due - o.p.clock()))
			timed = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-o.wake:
		case <-timed:
		}
	}
}

// send takes and sends until nothing is due. It returns the queues that have
// to wait, and until when at most.
func (o *outbox) send(ready []*queue) (later []*queue, due int64) {
	for {
		o.mu.Lock()
		ready, o.list = append(ready, o.list...), o.list[:0]
		o.mu.Unlock()
		now := o.p.clock()
		if len(ready) > 0 && o.suspended(now) {
			return ready, o.until.Load()
		}
		var f *frame
		if f, ready, due = collect(ready, now); f == nil {
			return ready, due
		}
		o.start(f)
	}
}

// collect fills one frame from the queues in turn; nil: none is due. It returns
// the queues that are still to be asked, and when the first of them is due.
func collect(ready []*queue, now int64) (f *frame, later []*queue, due int64) {
	later = ready[:0]
	for i, q := range ready {
		if f != nil && (f.size >= frameBytes || len(f.parcels) == frameParcels) {
			later = append(later, ready[i:]...)
			break
		}
		p, at := q.take(now)
		switch {
		case p != nil:
			if f == nil {
				f = &frame{}
			}
			f.add(q, p)
		case at > 0:
			later = append(later, q)
			if due == 0 || at < due {
				due = at
			}
		}
	}
	clear(ready[len(later):])
	return f, later, due
}

// start sends a frame. The answer is waited for until the last of its messages
// has expired.
func (o *outbox) start(f *frame) {
	ctx, cancel := context.WithDeadline(o.p.ctx, o.p.start.Add(time.Duration(f.latest)))
	o.p.client.Start(ctx, o.broker, protocol.ClassSend, f, func(payload []byte, err error) {
		cancel()
		o.answered(f, payload, err)
	})
}

// answered deals with the outcome of a frame; it does not block.
func (o *outbox) answered(f *frame, payload []byte, err error) {
	var resp protocol.SendResponse
	if err == nil {
		err = protocol.Unmarshal(payload, &resp)
	}
	if err == nil && len(resp.Results) != len(f.parcels) {
		err = protocol.Errorf(protocol.SystemError, "%d results for %d batches", len(resp.Results), len(f.parcels))
	}
	if err != nil {
		o.suspend(err)
		for _, q := range f.queues {
			o.failed(q, err)
		}
		return
	}
	for i, r := range resp.Results {
		if r.Err == nil {
			o.stored(f.queues[i], f.parcels[i], r)
			continue
		}
		if brokerWide(r.Err.Code) {
			o.suspend(r.Err)
		}
		o.failed(f.queues[i], r.Err)
	}
}

func (o *outbox) stored(q *queue, p *parcel, r protocol.SendResult) {
	if o.until.Load() != 0 {
		o.resume()
	}
	if q.stored() {
		o.enlist(q)
	}
	o.p.stored(q, p, r)
}

// failed decides on the messages of a queue whose parcel was not stored.
func (o *outbox) failed(q *queue, err error) {
	failures, leaving, ready := q.failed(o.p.judge(q, err))
	if ready {
		o.enlist(q)
	}
	o.p.fail(q.Broker, failures)
	o.p.move(q, leaving)
}

// suspend keeps the broker from being asked for a while that doubles with each
// failure in a row. Frames that fail together count as one.
func (o *outbox) suspend(err error) {
	now := o.p.clock()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.until.Load() > now {
		return
	}
	wait := backoff(o.fails)
	o.fails++
	var e *protocol.Error
	if errors.As(err, &e) {
		wait = max(wait, e.RetryAfter())
	}
	o.until.Store(now + int64(wait))
	o.p.cfg.Logger.Debug("broker fails, sends wait", "broker", o.broker, "wait", wait, "error", err)
}

func (o *outbox) resume() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fails = 0
	o.until.Store(0)
}

// backoff is 10 ms, doubled for each earlier failure up to 1 s, and of that a
// random half to the whole.
func backoff(fails int) time.Duration {
	d := min(firstBackoff<<min(fails, 10), lastBackoff)
	return d/2 + rand.N(d/2+1)
}

// brokerWide reports whether a refusal is about the broker as a whole.
func brokerWide(code protocol.ErrorCode) bool {
	switch code {
	case protocol.Busy, protocol.Unavailable, protocol.Unreachable, protocol.UnknownOutcome:
		return true
	}
	return false
}

// aboutRoute reports whether a refusal says that the route is wrong.
func aboutRoute(code protocol.ErrorCode) bool {
	switch code {
	case protocol.TopicNotFound, protocol.QueueNotFound, protocol.NoPermission:
		return true
	}
	return false
}

// judge finds out what a failed try means for the messages of a queue, and has
// the route refreshed when it looks wrong.
func (p *Producer) judge(q *queue, err error) verdict {
	code, now := protocol.CodeOf(err), p.clock()
	v := verdict{
		err: err, retries: p.cfg.Retries, now: now,
		counted: code == protocol.SystemError || code == protocol.UnknownOutcome,
	}
	v.reached = v.counted || code == protocol.Unreachable && !errors.Is(err, client.ErrNotSent)
	v.fatal = !code.Retryable() && !aboutRoute(code)
	t := p.topics.get(q.Topic)
	f := t.fan.Load()
	if aboutRoute(code) {
		p.topics.distrust(t)
		v.fatal, v.gone = f.err != nil, !f.has(q)
	}
	v.elsewhere = f.elsewhere(q, now, !brokerWide(code))
	if !brokerWide(code) {
		v.notBefore = now + int64(backoff(q.nextFail()))
	}
	return v
}
