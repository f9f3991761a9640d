package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

const (
	routePoll = 30 * time.Second // the safety net under pushed changes
	// refreshPause is the least time between two rounds of refreshing, and
	// refreshRetry the time after a round that failed.
	refreshPause = 20 * time.Millisecond
	refreshRetry = 250 * time.Millisecond
)

// routes caches the route of every topic that was asked for, also that there
// is none: so that its appearance is noticed.
type routes struct {
	wake chan struct{} // something is dirty; holds one

	mu      sync.Mutex
	topics  map[string]*topicRoute
	dirty   map[string]bool
	changed chan struct{} // closed at the next change
	seq     uint64        // counts fetches, so that an older answer never replaces a newer one
}

// topicRoute is the cached state of one topic; guarded by routes.mu.
type topicRoute struct {
	route   *Route // nil: there is none
	applied uint64 // seq of the answer it came from
	flight  *flight
}

// flight is a fetch that callers of Route wait for.
type flight struct {
	done  chan struct{}
	route *Route
	err   error
}

func newRoutes() *routes {
	return &routes{
		wake: make(chan struct{}, 1), topics: map[string]*topicRoute{},
		dirty: map[string]bool{}, changed: make(chan struct{}),
	}
}

// cached returns what is known without asking.
func (r *routes) cached(topic string) *Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	if e := r.topics[topic]; e != nil {
		return e.route
	}
	return nil
}

func (r *routes) knows(topic string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.topics[topic] != nil
}

// join returns the flight that fetches the topic, and whether it is new: then
// the caller has to see to it that it lands.
func (r *routes) join(topic string) (f *flight, isNew bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entryLocked(topic)
	if e.flight != nil {
		return e.flight, false
	}
	e.flight = &flight{done: make(chan struct{})}
	return e.flight, true
}

func (r *routes) land(topic string, f *flight, route *Route, err error) {
	r.mu.Lock()
	r.entryLocked(topic).flight = nil
	r.mu.Unlock()
	f.route, f.err = route, err
	close(f.done)
}

func (r *routes) entryLocked(topic string) *topicRoute {
	e := r.topics[topic]
	if e == nil {
		e = &topicRoute{}
		r.topics[topic] = e
	}
	return e
}

func (r *routes) nextSeq() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seq++
	return r.seq
}

// apply takes an answer, nil for "no such topic", and returns what holds now.
func (r *routes) apply(topic string, seq uint64, route *Route) *Route {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entryLocked(topic)
	if seq < e.applied {
		return e.route
	}
	e.applied = seq
	if route == e.route || route.equal(e.route) {
		return e.route
	}
	e.route = route
	close(r.changed)
	r.changed = make(chan struct{})
	return route
}

// mark has the topics fetched again soon; markAll, all that are known.
func (r *routes) mark(topics []string) {
	r.mu.Lock()
	for _, t := range topics {
		if r.topics[t] != nil {
			r.dirty[t] = true
		}
	}
	r.mu.Unlock()
	r.signal()
}

func (r *routes) markAll() {
	r.mu.Lock()
	for t := range r.topics {
		r.dirty[t] = true
	}
	r.mu.Unlock()
	r.signal()
}

func (r *routes) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *routes) takeDirty() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	topics := slices.Collect(maps.Keys(r.dirty))
	clear(r.dirty)
	return topics
}

// Route says which brokers have the topic: from the cache, which follows the
// name servers' events and is refreshed every 30 s, or by asking. TopicNotFound
// when nobody has it. While no name server or none of its brokers is there, the
// last known route holds.
func (c *Client) Route(ctx context.Context, topic string) (*Route, error) {
	if route := c.routes.cached(topic); route != nil {
		return route, nil
	}
	f, isNew := c.routes.join(topic)
	if isNew && !c.spawn(func() {
		route, err := c.fetchRoute(c.ctx, topic)
		c.routes.land(topic, f, route, err)
	}) {
		c.routes.land(topic, f, nil, protocol.Closed)
	}
	select {
	case <-f.done:
		return f.route, Wrap("find route of", topic, "", f.err)
	case <-ctx.Done():
		return nil, Wrap("find route of", topic, "", fmt.Errorf("%w: %w", protocol.Unreachable, ctx.Err()))
	}
}

// CachedRoute is a topic's route if it is known now; nil otherwise. It asks
// nobody.
func (c *Client) CachedRoute(topic string) *Route { return c.routes.cached(topic) }

// RefreshRoute asks the name servers, whatever the cache has: for callers whose
// broker says that the route is wrong.
func (c *Client) RefreshRoute(ctx context.Context, topic string) (*Route, error) {
	route, err := c.fetchRoute(ctx, topic)
	return route, Wrap("find route of", topic, "", err)
}

// RouteChanged is closed at the next change of any cached route.
func (c *Client) RouteChanged() <-chan struct{} {
	c.routes.mu.Lock()
	defer c.routes.mu.Unlock()
	return c.routes.changed
}

// fetchRoute asks and updates the cache. That the topic is gone is believed
// only when one of the brokers that had it is registered: a name server that
// has just started, or a broker that is away for a while, takes no route away.
func (c *Client) fetchRoute(ctx context.Context, topic string) (*Route, error) {
	seq := c.routes.nextSeq()
	resp, err := query(ctx, c, &protocol.QueryRouteRequest{Topic: topic},
		func(r *protocol.QueryRouteResponse) bool { return len(r.Brokers) == 0 })
	switch {
	case err == nil && len(resp.Brokers) == 0:
		err = protocol.Errorf(protocol.TopicNotFound, "no broker has topic %q", topic)
	case err == nil:
		c.brokers.learnRoute(resp.Brokers)
		return c.routes.apply(topic, seq, newRoute(topic, resp.Brokers)), nil
	case !errors.Is(err, protocol.TopicNotFound):
		return nil, err
	}
	return c.notFound(ctx, topic, seq, err)
}

// notFound takes the answer that no broker has the topic.
func (c *Client) notFound(ctx context.Context, topic string, seq uint64, notFound error) (*Route, error) {
	brokers, err := c.Cluster(ctx)
	known := c.routes.cached(topic)
	switch {
	case known != nil && (err != nil || !anyRegistered(known, brokers)):
		return known, nil
	case err != nil:
		return nil, err
	case len(brokers) == 0:
		return nil, protocol.Errorf(protocol.Unavailable, "no broker is registered")
	}
	if newer := c.routes.apply(topic, seq, nil); newer != nil {
		return newer, nil
	}
	return nil, notFound
}

func anyRegistered(route *Route, brokers []protocol.BrokerInfo) bool {
	return slices.ContainsFunc(brokers, func(b protocol.BrokerInfo) bool {
		return slices.ContainsFunc(route.Brokers, func(t protocol.TopicRoute) bool { return t.Broker == b.Broker })
	})
}

// routeEvent takes an event of a name server.
func (c *Client) routeEvent(f protocol.Frame) {
	var e protocol.RouteChangedEvent
	switch {
	case f.Code != protocol.RouteChanged:
	case protocol.Unmarshal(f.Payload, &e) != nil || len(e.Topics) == 0:
		c.routes.markAll()
	default:
		c.routes.mark(e.Topics)
	}
}

// followRoutes refreshes what events, failures and the clock make dirty.
func (c *Client) followRoutes() {
	poll := time.NewTicker(routePoll)
	defer poll.Stop()
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-poll.C:
			c.routes.markAll()
			c.pool.prune(time.Now(), c.NameServerAddrs())
		case <-c.routes.wake:
		}
		wait := refreshPause
		if !c.refreshDirty() {
			wait = refreshRetry
		}
		if !c.pause(wait) {
			return
		}
	}
}

// refreshDirty reports whether the name servers answered. When they do not,
// the rest stays dirty.
func (c *Client) refreshDirty() bool {
	topics := c.routes.takeDirty()
	for i, topic := range topics {
		_, err := c.fetchRoute(c.ctx, topic)
		if err != nil && !errors.Is(err, protocol.TopicNotFound) {
			c.routes.mark(topics[i:])
			return false
		}
	}
	return true
}

// EnsureTopic is Route that has a missing topic created, on every broker in
// one step. TopicNotFound when no broker allows that; brokers that cannot be
// reached do not stand in the way of the others.
func (c *Client) EnsureTopic(ctx context.Context, topic string) (*Route, error) {
	route, err := c.Route(ctx, topic)
	if !errors.Is(err, protocol.TopicNotFound) {
		return route, err
	}
	ctx, cancel := withDeadline(ctx, defaultTimeout)
	defer cancel()
	brokers, err := c.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	created, err := c.createTopic(ctx, topic, brokers)
	if len(created) == 0 {
		return nil, Wrap("create", topic, "", err)
	}
	if err != nil {
		c.log.Warn("topic is not on every broker", "topic", topic, "error", err)
	}
	return c.routes.apply(topic, c.routes.nextSeq(), newRoute(topic, created)), nil
}

// createTopic asks all masters at once and makes the route from their answers:
// the name servers know it a moment later.
func (c *Client) createTopic(ctx context.Context, topic string, brokers []protocol.BrokerInfo) ([]protocol.TopicRoute, error) {
	routes, errs := make([]*protocol.TopicRoute, len(brokers)), make([]error, len(brokers))
	var calls sync.WaitGroup
	for i, b := range brokers {
		if b.ID != 0 {
			continue
		}
		calls.Go(func() {
			req := &protocol.PutTopicRequest{Topic: protocol.TopicConfig{Name: topic}, Mode: protocol.PutAuto}
			resp, err := Call[protocol.PutTopicResponse](ctx, c, b.Broker, protocol.ClassAdmin, req)
			if err != nil {
				errs[i] = err
				return
			}
			routes[i] = &protocol.TopicRoute{
				Cluster: b.Cluster, Broker: b.Broker, ID: b.ID, Addresses: b.Addresses,
				ReadQueues: resp.Topic.ReadQueues, WriteQueues: resp.Topic.WriteQueues, Perm: resp.Topic.Perm, Type: resp.Topic.Type,
			}
		})
	}
	calls.Wait()
	var created []protocol.TopicRoute
	for _, r := range routes {
		if r != nil {
			created = append(created, *r)
		}
	}
	if len(brokers) == 0 {
		return nil, protocol.Errorf(protocol.Unavailable, "no broker is registered")
	}
	return created, errors.Join(errs...)
}
