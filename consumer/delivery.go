package consumer

import (
	"time"

	"github.com/rmqio/rmq/message"
)

// Delivery is a message as it is handed to the program, which may keep it. Its
// body is as its producer had it; see ErrCompressed for what cannot be so. A
// message that is delivered again to the same consumer may be the same Delivery.
type Delivery struct {
	message.Stored
	// Attempt counts the deliveries of the message to the group, from 1: those before
	// it was last given back to the broker, and those by this consumer.
	Attempt int

	replies *replier // nil: it was not delivered by a consumer
	attempt *attempt // nil: the handler may take as long as it likes
}

// Extend gives the handler of this message so long from now, instead of what is left
// of ConsumeTimeout. It reports false when the time is over already. It is for the
// handler, and what it has called, while it runs.
func (d *Delivery) Extend(by time.Duration) bool {
	return d.attempt == nil || d.attempt.extend(by)
}

// fromBroker sets what a message that comes from a retry topic, or was read from the
// dead letters, says of itself.
func (d *Delivery) fromBroker() {
	d.Attempt = d.ReconsumeTimes
	if d.Origin != nil && message.IsReserved(d.Topic) {
		d.Topic = d.Origin.Topic
	}
}

// item is a message that was pulled and is not finished.
type item struct {
	Delivery
	queue  *processQueue
	chunk  *chunk
	offset int64 // as the broker gave it, whatever the program does to the Delivery
	lane   string
	laned  bool // the messages of one lane are handled one after another

	priority uint8 // see turns

	followers []*item // of its lane, in the same batch, behind it; see untake

	held    *heldVerdict // to be given back again
	refused int          // how often the broker did not take it back
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
