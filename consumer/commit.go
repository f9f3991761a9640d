package consumer

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// commitLoop commits at every interval what is finished; what fails is tried
// again at the next.
func (e *engine) commitLoop(ctx context.Context) {
	tick := time.NewTicker(e.commitInterval)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := e.commit(ctx, e.buffer.uncommitted(e.buffer.held()...))
		if err != nil && !failing && ctx.Err() == nil {
			e.log.Warn("commit failed, it is tried again", "error", err)
		}
		failing = err != nil
	}
}

// lastCommit commits what a consumer that ends has finished. A broker that is started
// again is away for a moment, in which the commit would fail at once: it is waited for,
// a little, because what is not committed is delivered again.
func (e *engine) lastCommit(ctx context.Context) error {
	waiting, cancel := context.WithTimeout(ctx, awayTimeout)
	defer cancel()
	for failures := 1; ; failures++ {
		err := e.commit(ctx, e.buffer.uncommitted(e.buffer.held()...))
		if !errors.Is(err, protocol.Unreachable) {
			return err
		}
		select {
		case <-time.After(doubled(brokerRetryFirst, brokerRetryMost, failures)):
		case <-waiting.Done():
			return err
		}
	}
}

// commit sends the offsets to their brokers, to all at the same time. A queue
// that turns out to be gone, or its lease, is lost, which is no error. A member that
// keeps its offsets itself writes them.
func (e *engine) commit(ctx context.Context, offsets []pending) error {
	if e.ledger != nil {
		return e.keep(offsets)
	}
	byBroker := map[string][]pending{}
	for _, p := range offsets {
		byBroker[p.queue.queue.Broker] = append(byBroker[p.queue.queue.Broker], p)
	}
	return atBrokers(byBroker, func(broker string, offsets []pending) error {
		return e.commitAt(ctx, broker, offsets)
	})
}

func (e *engine) commitAt(ctx context.Context, broker string, offsets []pending) error {
	req := &protocol.CommitOffsetsRequest{Group: e.group, ClientID: e.client.ID()}
	for _, p := range offsets {
		req.Offsets = append(req.Offsets, protocol.CommitOffset{
			Topic: p.queue.queue.Topic, Queue: p.queue.queue.ID, Offset: p.offset, Fence: p.queue.fence,
		})
	}
	resp, err := client.Call[protocol.CommitOffsetsResponse](ctx, e.client, broker, protocol.ClassClient, req)
	if err != nil {
		if errors.Is(err, protocol.UnknownMember) {
			signal(e.wake)
		}
		return err
	}
	refused := map[message.Queue]*protocol.Error{}
	for _, r := range resp.Refused {
		refused[message.Queue{Topic: r.Topic, Broker: broker, ID: r.Queue}] = r.Err
	}
	var errs []error
	for _, p := range offsets {
		errs = append(errs, e.commitAnswered(p, refused[p.queue.queue]))
	}
	return errors.Join(errs...)
}

func (e *engine) commitAnswered(p pending, refusal *protocol.Error) error {
	switch {
	case refusal == nil:
		e.buffer.markCommitted(p)
		return nil
	case errors.Is(refusal, protocol.Fenced), errors.Is(refusal, protocol.TopicNotFound), errors.Is(refusal, protocol.QueueNotFound):
		e.lose(p.queue, refusal)
		return nil
	default:
		return client.Wrap("commit", p.queue.queue.Topic, p.queue.queue.Broker, refusal)
	}
}

// atBrokers calls fn for each broker at the same time and joins the errors.
func atBrokers[T any](work map[string]T, fn func(broker string, work T) error) error {
	var (
		calls sync.WaitGroup
		mu    sync.Mutex
		errs  []error
	)
	for broker, w := range work {
		calls.Go(func() {
			err := fn(broker, w)
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}
