package consumer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	opAck             = "acknowledge message of"
	opChangeInvisible = "change invisible time of message of"
	opReject          = "reject message of"

	// rejectInvisible is how long a message that is rejected stays with its consumer,
	// so that it is not handed out while it becomes a dead letter.
	rejectInvisible = 30 * time.Second
)

// Popped is a message that Receive returned. Until its invisible time is over no other
// member of the group is handed it. Ack, ChangeInvisible and Reject are safe for
// concurrent use; each of them waits until the broker has it on disk, and asks again
// while a broker is away, until ctx ends or the invisible time is over. Their errors are
// *Error: ErrHandleExpired when the message was handed out again meanwhile, and is
// another's; ErrClosed.
type Popped struct {
	Delivery

	owner  *Simple
	queue  message.Queue // where the broker has it, whatever the program does to the Delivery
	offset int64
	fence  uint64
	tries  int // of those that the broker counts

	mu    sync.Mutex
	until time.Time
}

// InvisibleUntil is when the message is handed out again if nothing is heard of it, by
// this machine's clock and what its broker has answered so far.
func (p *Popped) InvisibleUntil() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until
}

func (p *Popped) hide(until time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = until
}

// Ack says that the message is processed: the group is not handed it any more. It is
// never too late for that as long as nobody else was handed the message. Another Ack of
// the same message changes nothing.
func (p *Popped) Ack(ctx context.Context) error {
	return p.owner.observe(ctx, ackOperation, []*Popped{p}, func(ctx context.Context) error {
		return p.settle(ctx, opAck, acknowledged)
	})
}

// ChangeInvisible gives the message another invisible time, from now: more to work on
// it, or less to have it handed out again sooner. protocol.InvalidArgument unless it is
// MinInvisible to MaxInvisible.
func (p *Popped) ChangeInvisible(ctx context.Context, d time.Duration) error {
	if err := checkInvisible(d); err != nil {
		return client.Wrap(opChangeInvisible, p.Topic, p.queue.Broker, err)
	}
	return p.owner.observe(ctx, hideOperation, []*Popped{p}, func(ctx context.Context) error {
		return p.settle(ctx, opChangeInvisible, d)
	})
}

// Reject makes the message a dead letter at once, with the text of the cause, and
// acknowledges it.
func (p *Popped) Reject(ctx context.Context, cause error) error {
	if cause == nil {
		cause = ErrReject
	}
	return p.owner.observe(ctx, rejectOperation, []*Popped{p}, func(ctx context.Context) error {
		return p.reject(ctx, cause)
	})
}

func (p *Popped) reject(ctx context.Context, cause error) error {
	if err := p.settle(ctx, opReject, rejectInvisible); err != nil {
		return err
	}
	if err := p.bury(ctx, cause); err != nil {
		return client.Wrap(opReject, p.queue.Topic, p.queue.Broker, err)
	}
	return p.settle(ctx, opReject, acknowledged)
}

// bury has the broker make the dead letter. The same request again is safe.
func (p *Popped) bury(ctx context.Context, cause error) error {
	req := &protocol.SendBackRequest{
		Group: p.owner.settings.group, ClientID: p.owner.client.ID(),
		Topic: p.queue.Topic, Queue: p.queue.ID, Offset: p.offset, MessageID: p.ID.String(),
		DelayMillis: protocol.ByPolicy, Dead: true, Attempts: p.tries, Error: errorText(cause),
	}
	for failures := 1; ; failures++ {
		err := p.owner.sendBack(ctx, p.queue.Broker, req)
		if err == nil || !protocol.CodeOf(err).Retryable() || !time.Now().Before(p.InvisibleUntil()) {
			return err
		}
		if !pause(ctx, doubled(brokerRetryFirst, brokerRetryMost, failures)) {
			return err
		}
	}
}

func (p *Popped) settle(ctx context.Context, op string, invisible time.Duration) error {
	if p.owner == nil {
		return client.Wrap(op, p.Topic, "", errNotReceived)
	}
	return errors.Join(p.owner.settler.settle(ctx, op, invisible, p)...)
}

// errNotReceived refuses what no Receive has returned.
var errNotReceived = protocol.Errorf(protocol.InvalidArgument, "the message was not received by this consumer")

// unpack makes what a queue gave into messages, in the order of their offsets. Those
// that the filter does not let through, which has to be looked at exactly, are apart.
func (s *Simple) unpack(q *protocol.PoppedQueue, f *topicFilter, from message.Queue, until time.Time) (wanted, others []*Popped, err error) {
	items, err := decodeBatches(q.Batches, from.Broker)
	if err != nil {
		return nil, nil, err
	}
	at := 0
	for i := range items {
		if at == len(q.Messages) || items[i].QueueOffset != q.Messages[at].Offset {
			continue // it is in a batch with others that were handed out
		}
		p := s.newPopped(&items[i], from, q.Fence, q.Messages[at], until)
		if at++; f != nil && !f.match(&items[i]) {
			others = append(others, p)
			continue
		}
		wanted = append(wanted, p)
	}
	if at < len(q.Messages) {
		err = fmt.Errorf("%w: the message at offset %d of %v is not in the answer", protocol.Damaged, q.Messages[at].Offset, from)
	}
	return wanted, others, err
}

func (s *Simple) newPopped(it *item, from message.Queue, fence uint64, m protocol.PoppedMessage, until time.Time) *Popped {
	p := &Popped{
		Delivery: it.Delivery, owner: s, queue: from, offset: m.Offset, fence: fence,
		tries: min(m.Attempt, message.MaxReconsumeTimes), until: until,
	}
	p.replies = s.replies
	p.fromBroker()
	p.Attempt += m.Attempt
	return p
}
