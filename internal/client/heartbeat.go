package client

import (
	"context"
	"errors"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

const (
	beatInterval = time.Second
	beatTimeout  = 2 * time.Second
)

// beats is what heartbeats say, and to whom.
type beats struct {
	wake chan struct{} // beat now; holds one

	mu        sync.Mutex
	producers []string
	consumers []protocol.Subscription
	checkers  []string
	watched   map[string]bool          // topics all of whose brokers must know of this client
	sentTo    map[string]bool          // brokers that a producer has sent to
	flying    map[string]chan struct{} // heartbeats under way, by broker; closed at the answer
}

func newBeats() *beats {
	return &beats{wake: make(chan struct{}, 1), sentTo: map[string]bool{}, watched: map[string]bool{}, flying: map[string]chan struct{}{}}
}

// used notes which brokers a producer sends to.
func (b *beats) used(broker string, class protocol.Class) {
	if class != protocol.ClassSend {
		return
	}
	b.mu.Lock()
	known := b.sentTo[broker]
	b.sentTo[broker] = true
	b.mu.Unlock()
	if !known {
		b.now()
	}
}

// now asks for a round at once.
func (b *beats) now() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *beats) announce(producers []string, consumers []protocol.Subscription) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.producers, b.consumers = slices.Clone(producers), slices.Clone(consumers)
}

// watch reports whether the topics have one that is new.
func (b *beats) watch(topics []string) (some bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range topics {
		some = some || !b.watched[t]
		b.watched[t] = true
	}
	return some
}

// forget takes a group, or with "" everything, out of what heartbeats say.
func (b *beats) forget(group string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if group == "" {
		b.producers, b.consumers, b.checkers = nil, nil, nil
		clear(b.watched)
		return
	}
	b.consumers = slices.DeleteFunc(slices.Clone(b.consumers), func(s protocol.Subscription) bool { return s.Group == group })
}

// idle reports that there is nothing to say.
func (b *beats) idle() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.idleLocked()
}

func (b *beats) idleLocked() bool { return len(b.producers) == 0 && len(b.consumers) == 0 }

func (b *beats) topics() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	topics := slices.Collect(maps.Keys(b.watched))
	for _, s := range b.consumers {
		topics = append(topics, s.Topics...)
	}
	return topics
}

func (b *beats) sent() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var brokers []string
	for name := range b.sentTo {
		brokers = append(brokers, name)
	}
	return brokers
}

// takeOff returns what a heartbeat to the broker says, unless one is under way or
// there is nothing to say; the new one ends with landed. What it says was not
// forgotten when it took off, so that whoever settles after that waits for it.
func (b *beats) takeOff(broker string, id string) *protocol.HeartbeatRequest {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.flying[broker] != nil || b.idleLocked() {
		return nil
	}
	b.flying[broker] = make(chan struct{})
	return &protocol.HeartbeatRequest{
		ClientID: id, Language: "go", Version: version(), Producers: b.producers, Consumers: b.consumers, Checkers: b.checkers,
	}
}

func (b *beats) landed(broker string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.flying[broker])
	delete(b.flying, broker)
}

// settle waits until no heartbeat is under way that began before.
func (b *beats) settle(ctx context.Context) {
	b.mu.Lock()
	var flying []chan struct{}
	for _, done := range b.flying {
		flying = append(flying, done)
	}
	b.mu.Unlock()
	for _, done := range flying {
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// Announce says what heartbeats tell from now on, and sends one at once. They
// go every second to the brokers that have a topic of a subscription and to
// those that a producer has sent to. The slices are copied.
func (c *Client) Announce(producers []string, consumers []protocol.Subscription) {
	c.beats.announce(producers, consumers)
	c.beats.now()
}

// Check says that the client can be asked for the outcome of transactions of a
// group, from now on at all brokers of the topics, whether it sends there or not.
func (c *Client) Check(group string, topics []string) {
	c.beats.mu.Lock()
	c.beats.checkers = []string{group}
	c.beats.mu.Unlock()
	c.beats.watch(topics)
	c.beats.now()
}

// Watch has heartbeats go to all brokers of a topic from now on, so that each of
// them can bring what is meant for this client.
func (c *Client) Watch(topic string) {
	if c.beats.watch([]string{topic}) {
		c.beats.now()
	}
}

// Leave ends the membership in a group at all brokers; "" ends the client's
// sessions. Heartbeats do not mention the group any more.
func (c *Client) Leave(ctx context.Context, group string) error {
	ctx, cancel := withDeadline(ctx, defaultTimeout)
	defer cancel()
	targets := c.beatTargets()
	c.beats.forget(group)
	c.beats.settle(ctx)
	errs := make([]error, len(targets))
	var calls sync.WaitGroup
	for i, broker := range targets {
		calls.Go(func() {
			req := &protocol.LeaveGroupRequest{ClientID: c.id, Group: group, Incarnation: c.incarnation}
			_, errs[i] = Call[protocol.Empty](ctx, c, broker, protocol.ClassClient, req)
		})
	}
	calls.Wait()
	return errors.Join(errs...)
}

// beatTargets are the brokers that must know of this client.
func (c *Client) beatTargets() []string {
	targets := c.beats.sent()
	for _, topic := range c.beats.topics() {
		if route := c.routes.cached(topic); route != nil {
			for _, b := range route.Brokers {
				targets = append(targets, b.Broker)
			}
		}
	}
	slices.Sort(targets)
	return slices.Compact(targets)
}

// followBeats sends heartbeats every second and when asked.
func (c *Client) followBeats() {
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	for {
		changed := c.RouteChanged()
		if !c.beats.idle() {
			c.findSubscribed()
			c.beat()
		}
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		case <-changed:
		case <-c.beats.wake:
		}
	}
}

// findSubscribed asks for the routes of new subscriptions; later changes come
// by themselves. A name server that is slow does not hold up heartbeats.
func (c *Client) findSubscribed() {
	ctx, cancel := context.WithTimeout(c.ctx, tryTimeout)
	defer cancel()
	for _, topic := range c.beats.topics() {
		if c.routes.knows(topic) {
			continue
		}
		if _, err := c.Route(ctx, topic); err != nil {
			c.log.Debug("no route of a subscribed topic yet", "topic", topic, "error", err)
		}
	}
}

// beat sends one heartbeat to each target that has none under way.
func (c *Client) beat() {
	for _, broker := range c.beatTargets() {
		req := c.beats.takeOff(broker, c.id)
		if req == nil {
			continue
		}
		req.Incarnation = c.incarnation
		started := c.spawn(func() {
			defer c.beats.landed(broker)
			c.beatOne(broker, *req)
		})
		if !started {
			c.beats.landed(broker)
		}
	}
}

// beatOne names the inbox of the connection that the heartbeat goes over:
// events come back on it.
func (c *Client) beatOne(name string, req protocol.HeartbeatRequest) {
	ctx, cancel := context.WithTimeout(c.ctx, beatTimeout)
	defer cancel()
	_, conn, err := c.reach(ctx, name)
	if err == nil {
		req.Inbox = conn.Inbox()
		_, err = Call[protocol.HeartbeatResponse](ctx, c, name, protocol.ClassClient, &req)
	}
	if err != nil {
		c.log.Debug("heartbeat is not accepted", "broker", name, "error", err)
	}
	if r := c.refusals.answered(name, err, time.Now()); r != nil {
		c.log.Warn("a broker refuses this client", "broker", name, "error", r.Err)
	}
}

// version is the module's, as built into the program.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
