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
	// windowBytes is how much may be under way to one broker: more than a disk takes
	// in the time of a commit, and less than a broker lets wait of one caller, which
	// would refuse the rest. What waits here meanwhile makes larger batches.
	windowBytes = 8 << 20

	firstBackoff = 10 * time.Millisecond
	lastBackoff  = time.Second

	// minAnswerTime is what a broker is given at least to answer a frame that may be
	// sent again: sending it to a slow disk twice makes nothing faster.
	minAnswerTime = time.Second
)

// outbox sends the parcels of one broker's queues. Its goroutine takes what is
// ready, waits for nothing, and puts parcels that are ready together into one
// frame; while it does so, more get ready.
type outbox struct {
	p      *Producer
	broker string
	wake   chan struct{} // the list has something new; holds one
	health health
	flying atomic.Int64 // bytes of frames that are not answered

	mu   sync.Mutex
	list []*queue
}

// frame is what goes to the broker at once. It is the request itself, so that
// parcels are copied only into the connection's buffer.
type frame struct {
	client, group string
	queues        []*queue
	parcels       []*parcel
	size          int
	latest        int64
	begun         int64 // when it was sent
}

// RequestCode implements protocol.Request.
func (f *frame) RequestCode() protocol.Code { return protocol.SendMessage }

// AppendBinary is the encoding of protocol.SendRequest.
func (f *frame) AppendBinary(dst []byte) ([]byte, error) {
	dst = protocol.AppendSender(dst, f.client, f.group)
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
	o.signal()
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

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
		if len(ready) > 0 && o.health.paused(now) {
			return ready, o.health.until.Load()
		}
		if o.flying.Load() >= windowBytes {
			return ready, 0 // until an answer comes
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
// has expired, and less when the frame may be sent again.
func (o *outbox) start(f *frame) {
	f.client, f.group, f.begun = o.p.client.ID(), o.p.cfg.Group, o.p.clock()
	until := f.latest
	if !o.p.cfg.NoIdempotence {
		until = min(until, o.p.clock()+int64(max(o.p.cfg.SendTimeout/3, minAnswerTime)))
	}
	ctx, cancel := context.WithDeadline(o.p.ctx, o.p.start.Add(time.Duration(until)))
	o.flying.Add(int64(f.size))
	o.p.client.Start(ctx, o.broker, protocol.ClassSend, f, func(payload []byte, err error) {
		cancel()
		if left := o.flying.Add(-int64(f.size)); left < windowBytes && left+int64(f.size) >= windowBytes {
			o.signal()
		}
		o.answered(f, payload, err)
	})
}

// answered deals with the outcome of a frame; it does not block.
func (o *outbox) answered(f *frame, payload []byte, err error) {
	var resp protocol.SendResponse
	if err == nil {
		err = f.read(payload, &resp)
	}
	took := time.Duration(o.p.clock() - f.begun)
	if err != nil {
		o.suspend(err, took)
		for _, q := range f.queues {
			o.failed(q, err, mayBeStored(err))
		}
		return
	}
	o.note(resp.Results, took)
	for i, r := range resp.Results {
		if r.Err == nil {
			o.stored(f.queues[i], f.parcels[i], r)
			continue
		}
		o.failed(f.queues[i], r.Err, r.Err.Code == protocol.UnknownOutcome)
	}
}

// read decodes the answer. One that makes no sense is none.
func (f *frame) read(payload []byte, resp *protocol.SendResponse) error {
	if err := protocol.Unmarshal(payload, resp); err != nil {
		return protocol.Errorf(protocol.UnknownOutcome, "the answer cannot be read: %v", err)
	}
	if len(resp.Results) != len(f.parcels) {
		return protocol.Errorf(protocol.UnknownOutcome, "%d results for %d batches", len(resp.Results), len(f.parcels))
	}
	return nil
}

// mayBeStored reports whether a broker may have stored the batches of a frame
// that was not answered as it should be.
func mayBeStored(err error) bool {
	switch protocol.CodeOf(err) {
	case protocol.SystemError, protocol.UnknownOutcome, protocol.Closed, protocol.Unreachable:
		return !errors.Is(err, client.ErrNotSent)
	}
	return false
}

func (o *outbox) stored(q *queue, p *parcel, r protocol.SendResult) {
	if q.stored() {
		o.enlist(q)
	}
	o.p.stored(q, p, r)
}

// failed decides on the messages of a queue whose parcel is not known to be
// stored; reached: but it may be.
func (o *outbox) failed(q *queue, err error, reached bool) {
	v := o.p.judge(q, err)
	v.reached = reached
	failures, leaving, ready := q.failed(v)
	if ready {
		o.enlist(q)
	}
	o.p.fail(q, failures)
	o.p.move(q, leaving)
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
	v.fatal = !code.Retryable() && !aboutRoute(code)
	t := p.topics.get(q.Topic)
	f := t.fan.Load()
	if aboutRoute(code) {
		p.topics.distrust(t)
		v.fatal, v.gone = f.err != nil, !f.has(q)
	}
	v.elsewhere = !aboutQuota(code) && f.elsewhere(q, now, !brokerWide(code))
	if !brokerWide(code) && code != protocol.IllegalMessage { // which the next message need not be
		v.notBefore = now + int64(max(backoff(q.nextFail()), retryAfter(err)))
	}
	return v
}
