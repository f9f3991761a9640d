package producer

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// refreshTimeout bounds one question of the goroutine that follows routes.
const refreshTimeout = 2 * time.Second

// topics are the topics that were sent to, with their queues. Queues are never
// removed: a route that comes back finds what waits for it.
type topics struct {
	stale    chan struct{} // a topic is distrusted; holds one
	newQueue func(message.Queue) *queue

	mu     sync.RWMutex
	closed bool
	byName map[string]*topic
	queues map[message.Queue]*queue
	all    []*queue
}

// topic is one topic that was sent to.
type topic struct {
	name      string
	fan       atomic.Pointer[fan]
	next      atomic.Uint64 // of the round robin
	stale     atomic.Bool   // a broker contradicts the route
	resolving chan struct{} // held by who looks for the first route; holds one
}

// fan is what a route means for sending: the queues to choose from, in order.
// It is never changed.
type fan struct {
	route  *client.Route
	queues []*queue
	names  []message.Queue
	bands  bands          // of a topic of priorities
	kinds  []message.Kind // what the topic takes alone
	err    error          // why there are none
}

func newTopics(newQueue func(message.Queue) *queue) *topics {
	return &topics{
		stale: make(chan struct{}, 1), newQueue: newQueue,
		byName: map[string]*topic{}, queues: map[message.Queue]*queue{},
	}
}

// get returns a topic that was sent to; nil: none was.
func (ts *topics) get(name string) *topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return ts.byName[name]
}

// allTopics lists those that were sent to.
func (ts *topics) allTopics() []*topic {
	ts.mu.RLock()
	defer ts.mu.RUnlock()
	return slices.Collect(maps.Values(ts.byName))
}

// add returns the topic, which is new if it was not sent to before.
func (ts *topics) add(name string) *topic {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t := ts.byName[name]; t != nil {
		return t
	}
	t := &topic{name: name, resolving: make(chan struct{}, 1)}
	t.next.Store(rand.Uint64()) // programs that send one message each do not all begin with the same queue
	t.fan.Store(&fan{err: protocol.TopicNotFound})
	ts.byName[name] = t
	return t
}

// use takes a route into use, and returns the fan.
func (ts *topics) use(t *topic, route *client.Route) *fan {
	if f := t.fan.Load(); f.route == route {
		return f
	}
	f := &fan{route: route, names: route.WriteQueues(), kinds: kindsOf(route)}
	if len(f.names) == 0 {
		f.err = protocol.Errorf(protocol.NoPermission, "topic %q has no queue to write to", t.name)
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return &fan{err: protocol.Closed}
	}
	for _, name := range f.names {
		q := ts.queues[name]
		if q == nil {
			q = ts.newQueue(name)
			ts.queues[name] = q
			ts.all = append(ts.all, q)
		}
		f.queues = append(f.queues, q)
	}
	f.bands = newBands(route, f.queues)
	t.fan.Store(f)
	return f
}

func (ts *topics) allQueues() []*queue {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.all[:len(ts.all):len(ts.all)]
}

// close lets no queue be added any more, and returns all.
func (ts *topics) close() []*queue {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.closed = true
	return ts.all
}

// distrust has the route of a topic asked for again.
func (ts *topics) distrust(t *topic) {
	t.stale.Store(true)
	select {
	case ts.stale <- struct{}{}:
	default:
	}
}

// route finds a route by asking the client, and has the topic created when it
// may be.
func (p *Producer) route(ctx context.Context, name string) (*client.Route, error) {
	if p.cfg.NoAutoCreate {
		return p.client.Route(ctx, name)
	}
	return p.client.EnsureTopic(ctx, name)
}

// resolve finds the first route of a topic, trying again until the deadline
// while no server can be asked.
func (p *Producer) resolve(ctx context.Context, t *topic, deadline int64) (*fan, error) {
	ctx, cancel := context.WithDeadline(ctx, p.start.Add(time.Duration(deadline)))
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	select {
	case t.resolving <- struct{}{}:
		defer func() { <-t.resolving }()
	case <-ctx.Done():
		return nil, p.endOf(ctx, nil)
	}
	if f := t.fan.Load(); f.err == nil {
		return f, nil
	}
	for tries := 0; ; tries++ {
		route, err := p.route(ctx, t.name)
		if err == nil {
			f := p.topics.use(t, route)
			return f, f.err
		}
		if !protocol.CodeOf(err).Retryable() {
			return nil, err
		}
		timer := time.NewTimer(backoff(tries))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, p.endOf(ctx, err)
		}
	}
}

// endOf says why a wait before anything was sent has ended.
func (p *Producer) endOf(ctx context.Context, last error) error {
	switch {
	case p.ctx.Err() != nil:
		return protocol.Closed
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errNoTime(last)
	}
	return coded(protocol.Unreachable, errNoTimeFor(ctx))
}

// followRoutes keeps the fans as the routes are.
func (p *Producer) followRoutes(ctx context.Context) {
	for {
		changed := p.client.RouteChanged()
		for _, t := range p.topics.allTopics() {
			p.reload(ctx, t)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-p.topics.stale:
		}
	}
}

// reload takes the newest route of a topic that had one. A topic that is gone
// is kept as such: its next send looks for it again.
func (p *Producer) reload(ctx context.Context, t *topic) {
	distrusted := t.stale.Swap(false)
	if t.fan.Load().route == nil {
		return
	}
	if route := p.client.CachedRoute(t.name); route != nil && !distrusted {
		p.topics.use(t, route) // which is nothing for most: all topics are gone through for one change
		return
	}
	ctx, cancel := context.WithTimeout(ctx, refreshTimeout)
	defer cancel()
	var err error
	if distrusted {
		_, err = p.client.RefreshRoute(ctx, t.name)
	}
	var route *client.Route
	if err == nil || errors.Is(err, protocol.TopicNotFound) {
		route, err = p.route(ctx, t.name)
	}
	switch {
	case err == nil:
		p.topics.use(t, route)
	case errors.Is(err, protocol.TopicNotFound):
		t.fan.Store(&fan{err: err})
	default:
		p.cfg.Logger.Debug("route is not refreshed", "topic", t.name, "error", err)
	}
}
