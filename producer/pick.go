package producer

import (
	"slices"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// SendOption changes how one message is sent. Without any, a message with a
// group goes to its group's queue, another to the next queue in turn, in a topic of
// priorities to its priority's queue of the next broker in turn.
type SendOption struct {
	queue    message.Queue
	selector func([]message.Queue, *message.Message) int
	pick     func(t *topic, f *fan, now int64) (*queue, error)
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
// id; it returns an index, or -1 when it wants none of them (ErrQueueNotFound), and
// must not keep or change the slice.
func WithSelector(pick func(queues []message.Queue, m *message.Message) int) SendOption {
	return SendOption{selector: pick}
}

// choose finds the queue of a message.
func (t *topic) choose(f *fan, m *message.Message, opts []SendOption, now int64) (*queue, binding, error) {
	for _, o := range opts {
		if o.pick != nil {
			q, err := o.pick(t, f, now)
			return q, pinned, err
		}
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
		if i < 0 {
			return nil, pinned, protocol.Errorf(protocol.QueueNotFound, "the selector chose none of the %d queues of topic %q", len(f.queues), t.name)
		}
		return nil, pinned, protocol.Errorf(protocol.InvalidArgument, "the selector chose queue %d of %d", i, len(f.queues))
	}
	if m.Group != "" || m.DedupKey != "" {
		return f.fixed(m), grouped, nil
	}
	return f.freely(m, t.next.Add(1), nil, now), free, nil
}

// fixed is the queue of a message with a group or a deduplication key: messages
// with the same key go to one broker, which alone knows whether it has one.
func (f *fan) fixed(m *message.Message) *queue {
	switch {
	case m.Group != "":
		return f.ofGroup(m.Group)
	case f.bands != nil:
		return f.bands.on(hash(m.DedupKey), m.Priority)
	}
	return f.ofGroup(m.DedupKey)
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

// inTurn is the turn-th queue, or the next one after it that is better; see rank.
func (f *fan) inTurn(turn uint64, avoid *queue, now int64) *queue {
	n := uint64(len(f.queues))
	best, bestRank := f.queues[turn%n], noQueue
	for i := range n {
		q := f.queues[(turn+i)%n]
		r := rank(q, avoid, now)
		if r == good {
			return q
		}
		if r > bestRank {
			best, bestRank = q, r
		}
	}
	return best
}

// The ranks of a queue that a message may go to, in RocketMQ's order: available
// and on another broker, reachable and on another broker, anything.
const (
	noQueue    = iota - 1
	lastResort // the one that is avoided, or on a broker that cannot be reached
	mustWait   // on a broker that is paused
	sameBroker // on the avoided broker
	slowBroker // on one that is isolated but answers
	good       // as good as any
)

func rank(q, avoid *queue, now int64) int {
	g := q.out.health.grade(now)
	switch {
	case q == avoid || g == unreachable:
		return lastResort
	case g == busy:
		return mustWait
	case avoid != nil && q.out == avoid.out:
		return sameBroker
	case g == slow:
		return slowBroker
	}
	return good
}

// elsewhere reports whether a message of q that may go anywhere had better go
// to another queue: of another broker, or, when it is not the broker that
// fails, of the same one.
func (f *fan) elsewhere(q *queue, now int64, here bool) bool {
	least := slowBroker
	if here && f.bands == nil { // a priority has one queue on a broker
		least = sameBroker
	}
	return slices.ContainsFunc(f.queues, func(o *queue) bool { return rank(o, q, now) >= least })
}

func (f *fan) has(q *queue) bool { return slices.Contains(f.queues, q) }

// move finds new queues for messages that leave q. The free ones go to one
// queue, so that what was one batch stays one, but for their priorities.
func (p *Producer) move(q *queue, leaving []entry) {
	if len(leaving) == 0 {
		return
	}
	t := p.topics.get(q.Topic)
	f := t.fan.Load()
	if f.err != nil {
		p.fail(q, outcomes(leaving, func(*entry) error { return f.err }))
		return
	}
	other := f.inTurn(t.next.Add(1), q, p.clock())
	for i := range leaving {
		e := &leaving[i]
		to := other
		switch {
		case e.bound == grouped:
			to = f.fixed(e.m)
		case f.bands != nil:
			to = f.bands.of(e.m.Priority, t.next.Add(1), q, p.clock())
		}
		if !p.put(to, e) {
			p.fail(q, []outcome{{entry: *e, err: e.refusedError()}})
		}
	}
}
