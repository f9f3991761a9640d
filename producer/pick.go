package producer

import (
	"slices"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// SendOption changes how one message is sent. Without any, a message with a
// group goes to its group's queue, another to the next queue in turn.
type SendOption struct {
	queue    message.Queue
	selector func([]message.Queue, *message.Message) int
}

// ToQueue sends to one queue, which the topic must have and allow writing to.
// Its topic may be empty: the message's.
func ToQueue(q message.Queue) SendOption {
	return SendOption{selector: func(queues []message.Queue, m *message.Message) int {
		want := message.Queue{Topic: m.Topic, Broker: q.Broker, ID: q.ID}
		if q.Topic != "" && q.Topic != m.Topic {
			return -1
		}
		return slices.Index(queues, want)
	}, queue: q}
}

// WithSelector has pick choose among the writable queues, sorted by broker and
// id; it returns an index and must not keep or change the slice.
func WithSelector(pick func(queues []message.Queue, m *message.Message) int) SendOption {
	return SendOption{selector: pick}
}

// choose finds the queue of a message.
func (t *topic) choose(f *fan, m *message.Message, opts []SendOption, now int64) (*queue, binding, error) {
	for _, o := range opts {
		if o.selector == nil {
			continue
		}
		i := o.selector(f.names, m)
		if i >= 0 && i < len(f.queues) {
			return f.queues[i], pinned, nil
		}
		if o.queue != (message.Queue{}) {
			return nil, pinned, protocol.Errorf(protocol.QueueNotFound, "topic %q has no queue %s to write to", t.name, o.queue)
		}
		return nil, pinned, protocol.Errorf(protocol.InvalidArgument, "the selector chose queue %d of %d", i, len(f.queues))
	}
	if m.Group != "" {
		return f.ofGroup(m.Group), grouped, nil
	}
	return f.inTurn(t.next.Add(1), nil, now), free, nil
}

// ofGroup is the queue of a message group: the same one as long as the topic's
// writable queues are the same.
func (f *fan) ofGroup(group string) *queue {
	return f.queues[hash(group)%uint64(len(f.queues))]
}

// hash is FNV-1a of 64 bits.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// inTurn is the turn-th queue, or the next one after it that is better: on a
// broker that has not just failed, and not the queue, nor if possible the
// broker, that is avoided.
func (f *fan) inTurn(turn uint64, avoid *queue, now int64) *queue {
	n := uint64(len(f.queues))
	best, bestRank := f.queues[turn%n], -1
	for i := range n {
		q := f.queues[(turn+i)%n]
		r := rank(q, avoid, now)
		if r == 2 {
			return q
		}
		if r > bestRank {
			best, bestRank = q, r
		}
	}
	return best
}

// rank is 2 for a queue as good as any, 1 for one on the avoided broker, 0 for
// a last resort.
func rank(q, avoid *queue, now int64) int {
	switch {
	case q == avoid || q.out.suspended(now):
		return 0
	case avoid != nil && q.out == avoid.out:
		return 1
	}
	return 2
}

// elsewhere reports whether a message of q that may go anywhere had better go
// to another queue: of another broker, or, when it is not the broker that
// fails, of the same one.
func (f *fan) elsewhere(q *queue, now int64, sameBroker bool) bool {
	return slices.ContainsFunc(f.queues, func(o *queue) bool {
		r := rank(o, q, now)
		return r == 2 || r == 1 && sameBroker
	})
}

func (f *fan) has(q *queue) bool { return slices.Contains(f.queues, q) }

// move finds new queues for messages that leave q. The free ones go to one
// queue, so that what was one batch stays one.
func (p *Producer) move(q *queue, leaving []entry) {
	if len(leaving) == 0 {
		return
	}
	t := p.topics.get(q.Topic)
	f := t.fan.Load()
	if f.err != nil {
		p.fail(q.Broker, failAll(leaving, f.err))
		return
	}
	other := f.inTurn(t.next.Add(1), q, p.clock())
	for i := range leaving {
		e := &leaving[i]
		to := other
		if e.bound == grouped {
			to = f.ofGroup(e.m.Group)
		}
		if !p.put(to, e) {
			p.fail(q.Broker, []outcome{{*e, protocol.Closed}})
		}
	}
}

func failAll(entries []entry, err error) []outcome {
	failures := make([]outcome, len(entries))
	for i := range entries {
		failures[i] = outcome{entries[i], err}
	}
	return failures
}
