package admin

import (
	"context"
	"errors"
	"iter"
	"slices"

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

// matches tells apart what a batch holds beside the messages asked for.
func (q *MessageQuery) matches(m *message.Stored) bool {
	switch {
	case !q.ID.IsZero():
		return m.ID == q.ID && (q.Topic == "" || m.Topic == q.Topic)
	case q.LogIndex != 0:
		return true
	default:
		return m.Topic == q.Topic && slices.Contains(m.Keys, q.Key)
	}
}

// Messages yields all messages that match, newest first, asking for more as they
// are taken: those of one broker by their place in its log, those of different
// brokers by the time they were stored. A body is as its producer had it; one that
// cannot be decompressed is as it was stored, with its Compression. An error says what could not be searched;
// what comes after it is found all the same.
func (a *Admin) Messages(ctx context.Context, q MessageQuery, t Target) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		brokers, err := a.masters(ctx, t)
		if err != nil {
			yield(message.Stored{}, err)
			return
		}
		all := make([]iter.Seq2[message.Stored, error], len(brokers))
		for i, b := range brokers {
			all[i] = a.messagesOn(ctx, q, b)
		}
		mergeNewest(all, yield)
	}
}

// messagesOn yields the messages of one broker, newest first.
func (a *Admin) messagesOn(ctx context.Context, q MessageQuery, broker string) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		req := &protocol.QueryMessagesRequest{Topic: q.Topic, Key: q.Key, LogIndex: q.LogIndex, Max: queryPage}
		if !q.ID.IsZero() {
			req.ID = q.ID.String()
		}
		fail := func(err error) bool {
			return yield(message.Stored{}, client.Wrap("query messages", q.Topic, broker, err))
		}
		for {
			resp, err := client.Call[protocol.QueryMessagesResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
			switch {
			case errors.Is(err, protocol.TopicNotFound):
				return // another broker may have it
			case err != nil:
				fail(err)
				return
			case !a.yieldMatches(resp.Batches, broker, q, yield):
				return
			case resp.Damage != "" && !fail(protocol.Errorf(protocol.Damaged, "%s", resp.Damage)):
				return
			case resp.Next == 0:
				return
			}
			req.Before = resp.Next
		}
	}
}

// queryPage is how many messages one request asks for.
const queryPage = 64

// yieldMatches reports whether more is wanted.
func (a *Admin) yieldMatches(b []byte, broker string, q MessageQuery, yield func(message.Stored, error) bool) bool {
	var messages []message.Stored
	for len(b) > 0 {
		var err error
		if messages, b, err = batch.Decode(messages[:0], b, broker); err != nil {
			return yield(message.Stored{}, client.Wrap("query messages", q.Topic, broker, err))
		}
		for _, m := range slices.Backward(messages) {
			if !q.matches(&m) {
				continue
			}
			a.decoder.Open(&m.Message) // which else stays as it was stored
			if !yield(m, nil) {
				return false
			}
		}
	}
	return true
}

// MessageAt reads the message at an offset of a queue, with its body as those of
// Messages. Errors: OffsetOutOfRange
// when the queue has none there, ErrBrokerNotFound, TopicNotFound, QueueNotFound.
func (a *Admin) MessageAt(ctx context.Context, q message.Queue, offset int64) (message.Stored, error) {
	fail := func(err error) (message.Stored, error) {
		return message.Stored{}, client.Wrap("read message", q.Topic, q.Broker, err)
	}
	if _, err := a.masters(ctx, Target{Brokers: []string{q.Broker}}); err != nil {
		return fail(err)
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
			a.decoder.Open(&m.Message) // which else stays as it was stored
			return m, nil
		}
	}
	return fail(protocol.Errorf(protocol.Damaged, "the batch at %d does not have it", offset))
}
