package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
)

// reader is the placer of a consumer without a group, or of a broadcasting member that
// keeps its offsets itself: it reads all queues of its topics, or those that were
// assigned.
type reader struct {
	engine  *engine
	missing map[string]bool // topics that do not exist, as logged
	told    map[string]bool // brokers whose trouble was told

	mu       sync.Mutex
	assigned []message.Queue // sorted
	explicit bool            // read assigned, not the topics
}

func newReader(e *engine) *reader {
	return &reader{engine: e, missing: map[string]bool{}, told: map[string]bool{}}
}

// assign replaces what is read.
func (r *reader) assign(queues []message.Queue) {
	queues = slices.Clone(queues)
	slices.SortFunc(queues, message.Queue.Compare)
	r.mu.Lock()
	r.assigned, r.explicit = slices.Compact(queues), true
	r.mu.Unlock()
	signal(r.engine.wake)
}

func (r *reader) assignment() ([]message.Queue, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.assigned, r.explicit
}

func (r *reader) place(ctx context.Context) bool {
	queues, explicit := r.assignment()
	if explicit {
		r.drop(func(q message.Queue) bool { return !slices.Contains(queues, q) })
		return r.open(ctx, queues)
	}
	routes, complete := r.engine.findRoutes(ctx, r.missing)
	for _, route := range routes {
		queues = append(queues, route.ReadQueues()...)
	}
	r.drop(func(q message.Queue) bool { return gone(q, routes) })
	return r.open(ctx, queues) && complete
}

// gone reports that a queue's broker has the topic without the queue. A broker
// that is not in the route is away for a while.
func gone(q message.Queue, routes []*client.Route) bool {
	for _, r := range routes {
		if r.Topic != q.Topic {
			continue
		}
		for _, b := range r.Brokers {
			if b.Broker == q.Broker {
				return !slices.Contains(r.ReadQueues(), q)
			}
		}
	}
	return false
}

func (r *reader) drop(unwanted func(message.Queue) bool) {
	for _, q := range r.engine.buffer.held() {
		if held := r.engine.buffer.get(q); held != nil && unwanted(q) {
			r.engine.buffer.lose(held, ErrLeaseLost)
		}
	}
}

// open begins to read the queues that are not read yet.
func (r *reader) open(ctx context.Context, queues []message.Queue) bool {
	byBroker := map[string]map[message.Queue]StartPosition{}
	for _, q := range queues {
		if r.engine.buffer.get(q) != nil || r.goOn(ctx, q) {
			continue
		}
		if byBroker[q.Broker] == nil {
			byBroker[q.Broker] = map[message.Queue]StartPosition{}
		}
		byBroker[q.Broker][q] = r.engine.starts.of(q)
	}
	complete := true
	for broker, positions := range byBroker {
		complete = r.openAt(ctx, broker, positions) && complete
	}
	return complete
}

// goOn reads a queue where the member's file says, if it does.
func (r *reader) goOn(ctx context.Context, q message.Queue) bool {
	if r.engine.ledger == nil {
		return false
	}
	offset, known := r.engine.ledger.of(q)
	if known {
		r.engine.hold(ctx, q, 0, offset, offset)
	}
	return known
}

func (r *reader) openAt(ctx context.Context, broker string, positions map[message.Queue]StartPosition) bool {
	starts, err := r.engine.startsAt(ctx, broker, positions)
	for q, offset := range starts {
		r.engine.hold(ctx, q, 0, offset, -1)
	}
	r.tell(broker, err)
	return err == nil
}

// tell reports the first of several errors of a broker in a row that does not
// pass by itself: a queue that does not exist.
func (r *reader) tell(broker string, err error) {
	var refusal *Error
	lasting := errors.As(err, &refusal) && !refusal.Retryable
	if lasting && !r.told[broker] {
		r.engine.log.Error("queues cannot be read, trying again", "broker", broker, "error", err)
		if r.engine.onFault != nil {
			r.engine.onFault(err)
		}
	}
	r.told[broker] = lasting
}
