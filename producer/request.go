package producer

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	// MaxRequests is how many requests of a producer may wait for replies; one more
	// is refused with ErrBusy.
	MaxRequests = 1 << 16
	// recentReplies is how many replies are remembered, so that one that a broker
	// brings twice is recognised.
	recentReplies = 1024

	opRequest = "request of"
)

// requests are those that wait for a reply, by their correlation ids.
type requests struct {
	running sync.WaitGroup // those with a goroutine

	mu      sync.Mutex
	closed  bool
	waiting map[string]chan *message.Stored // each holds one
	recent  map[string]message.ID           // the reply that each of order has had
	order   [recentReplies]string
	next    int // in order
	late    uint64
}

func newRequests() *requests {
	return &requests{waiting: map[string]chan *message.Stored{}, recent: map[string]message.ID{}}
}

// open makes room for the reply to a request.
func (r *requests) open(correlation string) (<-chan *message.Stored, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.closed:
		return nil, protocol.Closed
	case len(r.waiting) == MaxRequests:
		return nil, protocol.Errorf(protocol.Busy, "%d requests wait for replies", MaxRequests)
	}
	reply := make(chan *message.Stored, 1)
	r.waiting[correlation] = reply
	return reply, nil
}

// spawn runs fn on a goroutine of its own, unless the producer is closed.
func (r *requests) spawn(fn func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.running.Go(fn)
	return true
}

func (r *requests) forget(correlation string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.waiting, correlation)
}

// close lets no request begin; those that wait end with the producer's context.
func (r *requests) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
}

// take is given what brokers bring. The first reply to a request wins.
func (r *requests) take(b []byte) error {
	ms, rest, err := batch.Decode(nil, b, "")
	if err != nil || len(ms) != 1 || len(rest) != 0 || ms[0].CorrelationID == "" {
		return protocol.Errorf(protocol.IllegalMessage, "not a batch of one reply: %v", err)
	}
	m := &ms[0]
	m.Queue, m.QueueOffset = message.Queue{}, -1 // a reply is in no queue
	r.mu.Lock()
	defer r.mu.Unlock()
	reply, waits := r.waiting[m.CorrelationID]
	switch {
	case waits:
		delete(r.waiting, m.CorrelationID)
		r.rememberLocked(m.CorrelationID, m.ID)
		reply <- m
	case r.recent[m.CorrelationID] == m.ID:
		// It was brought before, and the broker does not know that it arrived.
	default:
		r.late++
		return protocol.Errorf(protocol.NotFound, "nobody waits for the reply: it is late, or the request has had another")
	}
	return nil
}

func (r *requests) rememberLocked(correlation string, reply message.ID) {
	delete(r.recent, r.order[r.next])
	r.order[r.next] = correlation
	r.next = (r.next + 1) % recentReplies
	r.recent[correlation] = reply
}

// LateReplies counts the replies that nobody waited for any more, and those to
// requests that have had another.
func (p *Producer) LateReplies() uint64 {
	p.requests.mu.Lock()
	defer p.requests.mu.Unlock()
	return p.requests.late
}

// Request sends a message to whoever consumes its topic and waits for the reply,
// until ctx's deadline, or SendTimeout when it has none. The message's
// CorrelationID, ReplyTo and ReplyBy are set in a copy. A reply finds its way
// also when this producer has lost its connection meanwhile and made another to
// any broker of the topic. Of several replies the first is returned.
//
// Errors are *Error, those of Send and ErrNoReply; ErrBusy when MaxRequests wait.
func (p *Producer) Request(ctx context.Context, m *message.Message, opts ...SendOption) (*message.Stored, error) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	r, err := p.request(ctx, m, opts)
	if err != nil {
		return nil, err
	}
	return r.wait(ctx)
}

// RequestAsync is Request that has done called once, with the reply or the
// error: on a goroutine of its own, or, when the request was refused, before
// RequestAsync returns. It waits only for what SendAsync waits for. A later end
// of ctx has no effect, its deadline has. The callback may send, and must not
// Flush or Close.
func (p *Producer) RequestAsync(ctx context.Context, m *message.Message, done func(*message.Stored, error), opts ...SendOption) {
	ctx, cancel := p.bound(ctx)
	r, err := p.request(ctx, m, opts)
	if err != nil {
		cancel()
		done(nil, err)
		return
	}
	deadline, _ := ctx.Deadline()
	cancel()
	ctx, cancel = context.WithDeadline(context.WithoutCancel(ctx), deadline)
	wait := func() {
		defer cancel()
		done(r.wait(ctx))
	}
	if !p.requests.spawn(wait) {
		wait()
	}
}

// request is one that was sent.
type request struct {
	p           *Producer
	topic       string
	correlation string
	reply       <-chan *message.Stored
	sent        *call
}

// request sends a request; ctx has a deadline.
func (p *Producer) request(ctx context.Context, m *message.Message, opts []SendOption) (*request, error) {
	if err := check(m, false); err != nil {
		return nil, err
	}
	x := *m
	x.CorrelationID, x.ReplyTo = rand.Text(), p.client.ID()
	x.ReplyBy, _ = ctx.Deadline()
	r := &request{p: p, topic: m.Topic, correlation: x.CorrelationID, sent: newCall(1)}
	var err error
	if r.reply, err = p.requests.open(r.correlation); err != nil {
		return nil, client.Wrap(opRequest, m.Topic, "", err)
	}
	p.client.Watch(m.Topic)
	if _, err := p.accept(ctx, entry{m: &x, call: r.sent}, opts, nil); err != nil {
		p.requests.forget(r.correlation)
		return nil, err
	}
	return r, nil
}

// wait returns the reply, whatever becomes of the send: it may be faster than
// the broker's answer.
func (r *request) wait(ctx context.Context) (*message.Stored, error) {
	defer r.p.requests.forget(r.correlation)
	sent := r.sent.ready
	for {
		select {
		case m := <-r.reply:
			return m, nil
		case <-sent:
			if err := r.sent.errs[0]; err != nil {
				return r.lastChance(err)
			}
			sent = nil
		case <-r.p.ctx.Done():
			return r.lastChance(client.Wrap(opRequest, r.topic, "", protocol.Closed))
		case <-ctx.Done():
			return r.lastChance(r.timeoutError(ctx))
		}
	}
}

// lastChance prefers a reply that has come to an error.
func (r *request) lastChance(err error) (*message.Stored, error) {
	select {
	case m := <-r.reply:
		return m, nil
	default:
		return nil, err
	}
}

// timeoutError is what the end of ctx means. The send is over then too, and knows
// why when it was not done.
func (r *request) timeoutError(ctx context.Context) error {
	r.p.await(ctx, r.sent, r.topic)
	if err := r.sent.errs[0]; err != nil {
		return err
	}
	return client.Wrap(opRequest, r.topic, "", coded(protocol.UnknownOutcome, fmt.Errorf("%w: %w", ErrNoReply, ctx.Err())))
}
