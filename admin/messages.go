package admin

import (
	"context"
	"errors"
	"iter"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// MessageQuery says which messages are looked for: those of Topic with Key, the
// one with ID, or those of a record of one broker's log.
type MessageQuery struct {
	Topic string
	Key   string
	ID    message.ID
	// LogIndex needs a target of one broker: logs have nothing in common.
	LogIndex uint64
}

// Messages yields all messages that match, newest first on each broker, one
// broker after another, asking for more as they are taken. An error says what
// could not be searched; what comes after it is found all the same.
func (a *Admin) Messages(ctx context.Context, q MessageQuery, t Target) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		brokers, err := a.masters(ctx, t)
		if err != nil {
			yield(message.Stored{}, err)
			return
		}
		for _, b := range brokers {
			if !a.messagesOn(ctx, q, b, yield) {
				return
			}
		}
	}
}

// messagesOn reports whether more is wanted.
func (a *Admin) messagesOn(ctx context.Context, q MessageQuery, broker string, yield func(message.Stored, error) bool) bool {
	req := &protocol.QueryMessagesRequest{Topic: q.Topic, Key: q.Key, LogIndex: q.LogIndex, Max: queryPage}
	if !q.ID.IsZero() {
		req.ID = q.ID.String()
	}
	for {
		resp, err := client.Call[protocol.QueryMessagesResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
		if errors.Is(err, protocol.TopicNotFound) {
			return true // another broker may have it
		}
		if err != nil {
			return yield(message.Stored{}, client.Wrap("query messages", q.Topic, broker, err))
		}
		if !yieldBatches(resp.Batches, broker, yield) {
			return false
		}
		if resp.Damage != "" && !yield(message.Stored{}, client.Wrap("query messages", q.Topic, broker, protocol.Errorf(protocol.Damaged, "%s", resp.Damage))) {
			return false
		}
		if req.Before = resp.Next; req.Before == 0 {
			return true
		}
	}
}

// queryPage is how many messages one request asks for.
const queryPage = 64

func yieldBatches(b []byte, broker string, yield func(message.Stored, error) bool) bool {
	var messages []message.Stored
	for len(b) > 0 {
		var err error
		if messages, b, err = batch.Decode(messages[:0], b, broker); err != nil {
			return yield(message.Stored{}, err)
		}
		for _, m := range messages {
			if !yield(m, nil) {
				return false
			}
		}
	}
	return true
}

// MessageAt reads the message at an offset of a queue. OffsetOutOfRange when
// the queue has none there.
func (a *Admin) MessageAt(ctx context.Context, q message.Queue, offset int64) (message.Stored, error) {
	fail := func(err error) (message.Stored, error) {
		return message.Stored{}, client.Wrap("read message", q.Topic, q.Broker, err)
	}
	req := &protocol.PullRequest{MaxBytes: 1, MaxCount: 1, Queues: []protocol.PullQueue{{Topic: q.Topic, Queue: q.ID, Offset: offset}}}
	resp, err := client.Call[protocol.PullResponse](ctx, a.client, q.Broker, protocol.ClassPull, req)
	switch {
	case err != nil:
		return fail(err)
	case len(resp.Queues) == 0:
		return fail(protocol.Errorf(protocol.OffsetOutOfRange, "%v has no message at %d yet", q, offset))
	case resp.Queues[0].Err != nil:
		return fail(resp.Queues[0].Err)
	}
	messages, _, err := batch.Decode(nil, resp.Queues[0].Batches, q.Broker)
	if err != nil {
		return fail(err)
	}
	for _, m := range messages {
		if m.QueueOffset == offset {
			return m, nil
		}
	}
	return fail(protocol.Errorf(protocol.Damaged, "the batch at %d does not have it", offset))
}
