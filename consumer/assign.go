package consumer

import (
	"slices"

	"github.com/rmqio/rmq/message"
)

// averagely is RocketMQ's default strategy (AllocateMessageQueueAveragely): the
// queues, in their order, are cut into one run for each member, in the order of
// the members; the first runs are longer by one when it does not come out even.
// Members that come after the last queue get none. Both slices are sorted and
// without doubles, so that every member comes to the same result by itself.
// The result shares memory with queues.
func averagely(queues []message.Queue, members []string, self string) []message.Queue {
	at, found := slices.BinarySearch(members, self)
	if !found {
		return nil
	}
	size, longer := len(queues)/len(members), len(queues)%len(members)
	from := at*size + min(at, longer)
	if at < longer {
		size++
	}
	return queues[from : from+size]
}
