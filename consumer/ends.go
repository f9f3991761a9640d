package consumer

import (
	"context"
	"errors"
	"iter"
	"maps"
	"sync"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Lag is how many messages of each queue that is read now were not returned yet.
// What the broker has dropped is not counted; what a filter will not let through is,
// as long as it was not passed over.
func (p *Pull) Lag(ctx context.Context) (map[message.Queue]int64, error) {
	bounds, err := p.bounds(ctx)
	if err != nil {
		return nil, err
	}
	lag := map[message.Queue]int64{}
	for q, o := range bounds {
		if at, held := p.engine.buffer.position(q); held {
			lag[q] = max(o.End-max(at, o.Min), 0)
		}
	}
	return lag, nil
}

// MessagesToEnd is Messages that ends, too, when every queue has been returned
// up to the end that it had when the loop began. It waits for Ready first, and
// yields an error and ends when the ends cannot be found out.
func (p *Pull) MessagesToEnd(ctx context.Context) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		select {
		case <-p.Ready():
		case <-ctx.Done():
			return
		case <-p.gone:
			if _, err := p.one(ctx); errors.Is(err, ErrRefused) {
				yield(nil, err)
			}
			return
		}
		bounds, err := p.bounds(ctx)
		if err != nil {
			yield(nil, err)
			return
		}
		ends := make(map[message.Queue]int64, len(bounds))
		for q, o := range bounds {
			ends[q] = o.End
		}
		for {
			ds, err := p.poll(ctx, 1, func() bool { return p.reached(ends) })
			switch {
			case err != nil && (ended(ctx, err) || !yield(nil, err) || errors.Is(err, ErrRefused)):
				return
			case err == nil && (len(ds) == 0 || !yield(ds[0], nil)):
				return
			}
		}
	}
}

// reached drops from ends the queues that are returned up to there, or not read
// any more, and reports whether none is left.
func (p *Pull) reached(ends map[message.Queue]int64) bool {
	for q, end := range ends {
		if at, held := p.engine.buffer.position(q); !held || at >= end {
			delete(ends, q)
		}
	}
	return len(ends) == 0
}

// bounds are where the queues that are read now begin and end.
func (p *Pull) bounds(ctx context.Context) (map[message.Queue]protocol.QueueOffsets, error) {
	byBroker := map[string]map[message.Queue]StartPosition{}
	for _, q := range p.Assigned() {
		if byBroker[q.Broker] == nil {
			byBroker[q.Broker] = map[message.Queue]StartPosition{}
		}
		byBroker[q.Broker][q] = Latest()
	}
	var mu sync.Mutex
	bounds := map[message.Queue]protocol.QueueOffsets{}
	err := atBrokers(byBroker, func(broker string, positions map[message.Queue]StartPosition) error {
		found, err := p.engine.offsetsAt(ctx, broker, positions)
		mu.Lock()
		defer mu.Unlock()
		maps.Copy(bounds, found)
		return err
	})
	return bounds, err
}
