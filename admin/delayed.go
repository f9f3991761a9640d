package admin

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Delayed is a message that waits for its time.
type Delayed struct {
	// Handle is what Recall takes; it is the one of the producer's receipt.
	Handle string
	// MessageID is zero when the message's record is damaged.
	MessageID message.ID
	Queue     message.Queue
	DeliverAt time.Time
	StoreTime time.Time
}

func newDelayed(broker string, m *protocol.DelayedMessage) Delayed {
	id, _ := message.ParseID(m.ID) // zero without one
	return Delayed{
		Handle: client.Handle{Broker: broker, Held: m.Held}.String(), MessageID: id,
		Queue:     message.Queue{Topic: m.Topic, Broker: broker, ID: m.Queue},
		DeliverAt: time.UnixMilli(m.DeliverAtMillis), StoreTime: time.UnixMilli(m.StoreMillis),
	}
}

// Delayed yields the messages that wait for their time, of a topic or, with "",
// of all, those that are due first first, asking for more as they are taken. An
// error says which broker could not be asked; what others have is found all the
// same. TopicNotFound when no broker of the target has the topic.
func (a *Admin) Delayed(ctx context.Context, topic string, t Target) iter.Seq2[Delayed, error] {
	byTime := func(a, b *Delayed) int { return a.DeliverAt.Compare(b.DeliverAt) }
	return listed(ctx, a, topic, t, byTime, func(broker string) pages[Delayed] {
		req := &protocol.ListDelayedRequest{Topic: topic, Max: queryPage}
		return func() (page []Delayed, more bool, err error) {
			resp, err := client.Call[protocol.ListDelayedResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
			if err != nil {
				return nil, false, client.Wrap("list delayed messages of", topic, broker, err)
			}
			for i := range resp.Messages {
				page = append(page, newDelayed(broker, &resp.Messages[i]))
				req.After = &resp.Messages[i]
			}
			return page, resp.More, nil
		}
	})
}

// PendingDelayed counts what Delayed yields; with an error, on those brokers that
// answered.
func (a *Admin) PendingDelayed(ctx context.Context, topic string, t Target) (int, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return 0, err
	}
	req := &protocol.ListDelayedRequest{Topic: topic, Max: 1}
	answers, err := without(request[protocol.ListDelayedResponse](ctx, a, brokers, req), protocol.TopicNotFound)
	n := 0
	for _, x := range answers {
		if x.err == nil {
			n += x.value.Pending
		}
	}
	return n, err
}

// Recall takes a delayed message back. It reports true when nobody will get it,
// and false when it was delivered before. Errors: ErrBadHandle for what never was
// a handle, ErrBrokerNotFound, and protocol.NotFound when the broker does not know
// such a message, or has forgotten it.
func (a *Admin) Recall(ctx context.Context, handle string) (recalled bool, err error) {
	h, err := a.handle(ctx, handle)
	if err != nil {
		return false, err
	}
	resp, err := client.Call[protocol.RecallResponse](ctx, a.client, h.Broker, protocol.ClassClient, &protocol.RecallRequest{Held: h.Held})
	if err != nil {
		return false, client.Wrap("recall message of", h.Topic, h.Broker, err)
	}
	return resp.Recalled, nil
}

// CheckHandle tells whether a text can be the handle of a delayed message or a
// transaction, as Recall, CheckTransaction and ResolveTransaction take it. The error
// is ErrBadHandle and protocol.InvalidArgument.
func CheckHandle(s string) error {
	_, err := client.ParseHandle(s)
	return err
}

// handle reads a handle, whose broker must be known.
func (a *Admin) handle(ctx context.Context, s string) (client.Handle, error) {
	h, err := client.ParseHandle(s)
	if err == nil {
		_, err = a.masters(ctx, Target{Brokers: []string{h.Broker}})
	}
	return h, err
}

// pages gives the next page of what one broker lists, and whether there is more.
type pages[T any] func() (page []T, more bool, err error)

// listed merges what the target's brokers list of a topic. One that has not the
// topic lists nothing, unless that holds for all.
func listed[T any](ctx context.Context, a *Admin, topic string, t Target, compare func(a, b *T) int, on func(broker string) pages[T]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		brokers, err := a.masters(ctx, t)
		if topic != "" {
			err = errors.Join(message.CheckAnyTopic(topic), err)
		}
		if err != nil {
			yield(none, err)
			return
		}
		all, without := make([]iter.Seq2[T, error], len(brokers)), 0
		for i, b := range brokers {
			all[i] = on(b).all(&without)
		}
		wanted := true
		merge(all, compare, func(v T, err error) bool {
			wanted = yield(v, err)
			return wanted
		})
		if wanted && without == len(brokers) {
			yield(none, protocol.Errorf(protocol.TopicNotFound, "topic %q is not known", topic))
		}
	}
}

// all yields what is on all pages, and counts in without that there is no topic.
func (next pages[T]) all(without *int) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		for more := true; more; {
			page, again, err := next()
			switch {
			case isCode(err, protocol.TopicNotFound):
				*without++
				return
			case err != nil:
				var none T
				yield(none, err)
				return
			}
			for _, v := range page {
				if !yield(v, nil) {
					return
				}
			}
			more = again && len(page) > 0
		}
	}
}
