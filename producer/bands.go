package producer

import (
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// bands are the queues of a topic of priorities by broker, so that each queue
// gets one band of priorities: of n queues of a broker, priority p goes to queue
// p*n/10. Priorities that share a queue keep the order in which they were sent;
// with ten queues or more none does.
type bands [][]*queue

// newBands returns nil for a topic that is not one of priorities on any of its
// brokers. The queues are the route's, sorted by broker and id.
func newBands(route *client.Route, queues []*queue) bands {
	if !slices.ContainsFunc(route.Brokers, func(b protocol.TopicRoute) bool { return b.Type == message.Priority }) {
		return nil
	}
	var b bands
	for i, q := range queues {
		if i == 0 || q.Broker != queues[i-1].Broker {
			b = append(b, nil)
		}
		b[len(b)-1] = append(b[len(b)-1], q)
	}
	return b
}

// of is the priority's queue on the turn-th broker, or on the next one after it
// that is better; see fan.inTurn.
func (b bands) of(priority int, turn uint64, avoid *queue, now int64) *queue {
	var best *queue
	bestRank := -1
	for i := range uint64(len(b)) {
		q := b.on(turn+i, priority)
		if r := rank(q, avoid, now); r > bestRank {
			best, bestRank = q, r
		}
	}
	return best
}

// on is the priority's queue on the turn-th broker.
func (b bands) on(turn uint64, priority int) *queue {
	queues := b[turn%uint64(len(b))]
	return queues[priority*len(queues)/(message.MaxPriority+1)]
}

// freely is the queue of a message that may go to any, but for its priority.
func (f *fan) freely(m *message.Message, turn uint64, avoid *queue, now int64) *queue {
	if f.bands != nil {
		return f.bands.of(m.Priority, turn, avoid, now)
	}
	return f.inTurn(turn, avoid, now)
}

// asGood reports whether a free message may as well go to near as to q.
func (f *fan) asGood(near, q *queue, now int64) bool {
	return (f.bands == nil || near.ID == q.ID) && rank(near, nil, now) == good
}
