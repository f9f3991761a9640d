package broker

import (
	"cmp"
	"strings"

	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// checkKind holds a batch to its topic's type: all of its messages must be of
// that kind. It says nothing of a topic that takes all. A type can be changed at
// any time and holds for what is sent from then on: messages that are in the
// topic, or are held back for it, stay.
func checkKind(t *topic.Topic, h *batch.Header) error {
	var legal bool
	group, priority := h.Uses.Any&batch.UsesGroup != 0, h.Uses.Any&batch.UsesPriority != 0
	delayed := h.Purpose == batch.ToTimer || h.Uses.Any&batch.UsesDelay != 0
	plain := h.Purpose == batch.ToQueue && !delayed
	switch cmp.Or(t.Type, message.Mixed) {
	case message.Mixed:
		legal = true
	case message.Normal:
		legal = plain && !group && !priority
	case message.FIFO:
		legal = plain && h.Uses.All&batch.UsesGroup != 0
	case message.Delayed:
		legal = h.Purpose == batch.ToTimer && h.Uses.All&batch.UsesDelay != 0
	case message.Transaction:
		legal = h.Purpose == batch.ToTransaction
	case message.Priority:
		legal = plain && !group
	}
	if legal {
		return nil
	}
	return protocol.Errorf(protocol.IllegalMessage, "topic %q is of type %s; %s was sent", t.Name, t.Type, kindText(h))
}

// kindText says what the messages of a batch are.
func kindText(h *batch.Header) string {
	var with []string
	for _, x := range []struct {
		use  batch.Use
		text string
	}{{batch.UsesGroup, "a group"}, {batch.UsesPriority, "a priority"}, {batch.UsesDelay, "a delay"}} {
		if h.Uses.Any&x.use != 0 {
			with = append(with, x.text)
		}
	}
	what := "a message"
	if h.Purpose == batch.ToTransaction {
		what = "a half message of a transaction"
	}
	switch telling := batch.UsesGroup | batch.UsesPriority | batch.UsesDelay; {
	case h.Uses.Any&telling != h.Uses.All&telling:
		return "a batch of messages some of which have " + strings.Join(with, " and ")
	case len(with) > 0:
		return what + " with " + strings.Join(with, " and ")
	case h.Purpose == batch.ToQueue:
		return "a message without group, delay or priority"
	}
	return what
}
