package producer

import (
	"math/rand/v2"
	"slices"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// A message whose queue was selected stays with it: it is sent there until its
// time is over, so that messages with one selection keep their order.

// SelectByHash sends messages with one key to one queue, as long as the topic's
// writable queues are the same. The hash is that of message groups.
func SelectByHash(key string) SendOption {
	return WithSelector(func(queues []message.Queue, _ *message.Message) int {
		return int(hash(key) % uint64(len(queues)))
	})
}

// SelectRandom sends to any queue.
func SelectRandom() SendOption {
	return WithSelector(func(queues []message.Queue, _ *message.Message) int { return rand.IntN(len(queues)) })
}

// SelectRoundRobin sends to one queue after another, whether their brokers fail
// or not. Without an option messages go in turn, too, but around brokers that
// fail.
func SelectRoundRobin() SendOption {
	return SendOption{pick: func(t *topic, f *fan, _ int64) (*queue, error) {
		return f.queues[t.next.Add(1)%uint64(len(f.queues))], nil
	}}
}

// SelectByMachineRoom sends to the queues of these brokers in turn, around those
// that fail. ErrInvalidArgument when the topic has no writable queue on any.
func SelectByMachineRoom(brokers ...string) SendOption {
	return SendOption{pick: func(t *topic, f *fan, now int64) (*queue, error) {
		room := &fan{}
		for _, q := range f.queues {
			if slices.Contains(brokers, q.Broker) {
				room.queues = append(room.queues, q)
			}
		}
		if len(room.queues) == 0 {
			return nil, protocol.Errorf(protocol.InvalidArgument, "topic %q has no queue to write to on the brokers %q", t.name, brokers)
		}
		return room.inTurn(t.next.Add(1), nil, now), nil
	}}
}
