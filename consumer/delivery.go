package consumer

import "github.com/rmqio/rmq/message"

// Delivery is a message as it is handed to the program, which may keep it. A
// message that is delivered again to the same consumer is the same Delivery.
type Delivery struct {
	message.Stored
	// Attempt counts the deliveries of the message by this consumer, from 1.
	Attempt int
}

// item is a message that was pulled and is not finished.
type item struct {
	Delivery
	queue  *processQueue
	chunk  *chunk
	offset int64 // as the broker gave it, whatever the program does to the Delivery
	lane   string
	laned  bool // the messages of one lane are handled one after another
}

// chunk is the memory that messages which were pulled together share; it is
// free when the last of them is finished or dropped.
type chunk struct {
	bytes int
	left  int
}

// order says which messages of a queue may be in hand at the same time.
type order uint8

const (
	orderFree   order = iota // all of them
	orderGroups              // one of each message group, and all without a group
	orderQueue               // one
)

func (o order) lane(m *message.Stored) (lane string, laned bool) {
	switch {
	case o == orderQueue:
		return "", true
	case o == orderGroups && m.Group != "":
		return m.Group, true
	default:
		return "", false
	}
}
