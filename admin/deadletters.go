package admin

import (
	"context"
	"errors"
	"fmt"
	"iter"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// DeadLetters yields the messages that a consumer group has given up, newest first,
// as they are in its dead-letter topic: Origin says where each was sent, what it
// failed with last, and ReconsumeTimes how often. A group without dead letters has
// none, whether it is known or not. See Newest.
func (a *Admin) DeadLetters(ctx context.Context, group string, t Target) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		if err := message.CheckGroup(group); err != nil {
			yield(message.Stored{}, err)
			return
		}
		for m, err := range a.Newest(ctx, Peek{Topic: message.DLQTopic(group)}, t) {
			if isCode(err, protocol.TopicNotFound) {
				return // it has never had any, or they were purged
			}
			if !yield(m, err) {
				return
			}
		}
	}
}

// Resent is where a dead letter was sent to.
type Resent struct {
	MessageID message.ID
	Queue     message.Queue
	Offset    int64
	// Duplicate says that it was sent before.
	Duplicate bool
}

// ResendDeadLetter sends a dead letter, as DeadLetters yields it, to its original
// topic, on the broker where it is: with its id, all groups that read the topic get
// it, and its Origin is the dead letter. It stays among the dead letters; for a day
// (the broker's window of deduplication) the same again does nothing. Errors:
// protocol.TopicNotFound when the topic is gone, protocol.OffsetOutOfRange and
// protocol.NotFound when the dead letter is.
func (a *Admin) ResendDeadLetter(ctx context.Context, group string, m *message.Stored) (Resent, error) {
	req := &protocol.ResendDeadLetterRequest{Group: group, Offset: m.QueueOffset, MessageID: m.ID.String()}
	resp, err := client.Call[protocol.ResendDeadLetterResponse](ctx, a.client, m.Queue.Broker, protocol.ClassAdmin, req)
	if err != nil {
		return Resent{}, client.Wrap("resend dead letter of", group, m.Queue.Broker, err)
	}
	return Resent{
		MessageID: m.ID, Queue: message.Queue{Topic: resp.Topic, Broker: m.Queue.Broker, ID: resp.Queue},
		Offset: resp.Offset, Duplicate: resp.Duplicate,
	}, nil
}

// Purged counts the dead letters that a broker had.
type Purged struct {
	Broker   string
	Messages int64
}

// PurgeDeadLetters removes all dead letters of a group on the brokers of the target
// that have any, by deleting the dead-letter topic: the next dead letter makes it
// anew, and its offsets begin at 0. Those that come while it works may go with them.
func (a *Admin) PurgeDeadLetters(ctx context.Context, group string, t Target) ([]Purged, error) {
	if err := message.CheckGroup(group); err != nil {
		return nil, err
	}
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return nil, err
	}
	name := message.DLQTopic(group)
	answers := ask(ctx, brokers, func(ctx context.Context, broker string) (Purged, error) {
		list, err := client.Call[protocol.ListTopicsResponse](ctx, a.client, broker, protocol.ClassAdmin, &protocol.ListTopicsRequest{Topic: name, Stats: true})
		if err != nil {
			return Purged{}, err
		}
		p := Purged{Broker: broker}
		for _, topic := range list.Topics {
			for _, q := range topic.Queues {
				p.Messages += q.End - q.Min
			}
		}
		if !t.DryRun {
			_, err = client.Call[protocol.Empty](ctx, a.client, broker, protocol.ClassAdmin, &protocol.DeleteTopicRequest{Topic: name})
		}
		return p, err
	})
	there, err := without(answers, protocol.TopicNotFound)
	if errors.Is(err, protocol.TopicNotFound) {
		return nil, nil
	}
	var all []Purged
	for _, x := range there {
		if x.err == nil {
			all = append(all, x.value)
		}
	}
	return all, outcome(fmt.Sprintf("purge dead letters of %q", group), there)
}
