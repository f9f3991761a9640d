package admin

import (
	"context"
	"iter"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Peek says what is looked at.
type Peek struct {
	Topic string
	// Queue is nil for all queues, else the one of this number on every broker of
	// the target that has it.
	Queue *int
}

// Pages of Newest: how many messages of a queue are read at once, first and at
// most, and the bytes of one request.
const (
	peekFirst = 4
	peekMost  = 64
	peekBytes = 1 << 20
)

// Newest yields the messages that a topic has, newest first, reading more as they
// are taken: those of one queue from its end down, those of different queues by the
// time they were stored, with bodies as those of Messages. No group is involved and nothing is committed. What is
// stored after the call is not among them. An error says what could not be read;
// what comes after it is found all the same. Errors: TopicNotFound, QueueNotFound,
// NoPermission, Damaged.
func (a *Admin) Newest(ctx context.Context, p Peek, t Target) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		topic, err := a.DescribeTopic(ctx, p.Topic, t)
		if err != nil {
			yield(message.Stored{}, err)
			return
		}
		all := a.newestOf(ctx, topic, p.Queue)
		if len(all) == 0 && p.Queue != nil {
			yield(message.Stored{}, protocol.Errorf(protocol.QueueNotFound, "topic %q has no queue %d to read", p.Topic, *p.Queue))
			return
		}
		mergeNewest(all, yield)
	}
}

func (a *Admin) newestOf(ctx context.Context, t *Topic, queue *int) []iter.Seq2[message.Stored, error] {
	var all []iter.Seq2[message.Stored, error]
	for _, b := range t.Brokers {
		for _, q := range b.Queues {
			if q.Queue >= b.ReadQueues || queue != nil && q.Queue != *queue {
				continue
			}
			all = append(all, a.newestIn(ctx, message.Queue{Topic: t.Name, Broker: b.Broker, ID: q.Queue}, q.Min, q.End))
		}
	}
	return all
}

// newestIn yields the messages of a queue from the one before end down to first.
func (a *Admin) newestIn(ctx context.Context, q message.Queue, first, end int64) iter.Seq2[message.Stored, error] {
	return func(yield func(message.Stored, error) bool) {
		for page := int64(peekFirst); end > first; {
			from := max(first, end-page)
			messages, err := a.readRange(ctx, q, from, end)
			gone := isCode(err, protocol.OffsetOutOfRange) // retention has taken it
			switch {
			case err == nil:
				page = min(2*page, peekMost)
			case page > 1 && (gone || isCode(err, protocol.Damaged)):
				page = 1 // what is above the fault comes first, one by one
				continue
			case gone:
				return
			default:
				yield(message.Stored{}, client.Wrap("read messages", q.Topic, q.Broker, err))
				return
			}
			for _, m := range slices.Backward(messages) {
				a.decoder.Open(&m.Message) // which else stays as it was stored
				if !yield(m, nil) {
					return
				}
			}
			end = from
		}
	}
}

// readRange reads the messages of a queue from an offset to before another.
func (a *Admin) readRange(ctx context.Context, q message.Queue, from, to int64) ([]message.Stored, error) {
	var found []message.Stored
	for at := from; at < to; {
		messages, next, err := a.readFrom(ctx, q, at, to-at)
		if err != nil {
			return nil, err
		}
		for _, m := range messages {
			if m.QueueOffset >= at && m.QueueOffset < to {
				found = append(found, m)
			}
		}
		at = next
	}
	return found, nil
}

// readFrom reads the batches of a queue from an offset on, and says where it goes
// on behind them.
func (a *Admin) readFrom(ctx context.Context, q message.Queue, offset, count int64) (found []message.Stored, next int64, err error) {
	req := &protocol.PullRequest{
		MaxBytes: peekBytes, MaxCount: count,
		Queues: []protocol.PullQueue{{Topic: q.Topic, Queue: q.ID, Offset: offset}},
	}
	resp, err := client.Call[protocol.PullResponse](ctx, a.client, q.Broker, protocol.ClassPull, req)
	switch {
	case err != nil:
		return nil, 0, err
	case len(resp.Queues) == 0:
		return nil, 0, protocol.Errorf(protocol.OffsetOutOfRange, "%v has no message at %d", q, offset)
	case resp.Queues[0].Err != nil:
		return nil, 0, resp.Queues[0].Err
	}
	next = resp.Queues[0].Next
	if next <= offset {
		return nil, 0, protocol.Errorf(protocol.SystemError, "%v goes on at %d behind %d", q, next, offset)
	}
	for b := resp.Queues[0].Batches; len(b) > 0; {
		if found, b, err = batch.Decode(found, b, q.Broker); err != nil {
			return nil, 0, err
		}
	}
	return found, next, nil
}
