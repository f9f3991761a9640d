package nameserver

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// registry is which brokers there are and which topics they have. It does no
// I/O and reads no clock; it is not safe for concurrent use.
//
// Whose word counts: a broker is known by its name and id. A name belongs to one
// cluster as long as any broker of that name is registered. Of two starts of a
// broker the one with the higher incarnation counts: it takes the place of the
// lower at once, and what the lower says later is refused with Conflict, so that
// it learns that it was replaced. Within one incarnation the addresses stay: the
// same incarnation from other addresses is another process set up with the same
// name by mistake, and is refused with Conflict until the first is gone.
type registry struct {
	timeout time.Duration
	brokers map[brokerKey]*broker
}

type brokerKey struct {
	name string
	id   int
}

// broker is one registration.
type broker struct {
	protocol.BrokerIdentity
	addresses []string
	topics    map[string]protocol.TopicConfig
	version   uint64
	seen      time.Time
}

// change is what became of the routes.
type change struct {
	any    bool     // something changed
	topics []string // whose routes changed, sorted; none when the broker has none
}

func newRegistry(timeout time.Duration) *registry {
	return &registry{timeout: timeout, brokers: make(map[brokerKey]*broker)}
}

func keyOf(id protocol.BrokerIdentity) brokerKey { return brokerKey{name: id.Broker, id: id.ID} }

// register takes a broker and all its topics in, or renews them. One that is
// older than what is known of the same incarnation renews only.
func (r *registry) register(now time.Time, req *protocol.RegisterBrokerRequest) (change, error) {
	if err := checkRegistration(req); err != nil {
		return change{}, err
	}
	if err := r.checkPlace(req); err != nil {
		return change{}, err
	}
	known := r.brokers[keyOf(req.BrokerIdentity)]
	if known != nil && known.Incarnation == req.Incarnation && req.DataVersion < known.version {
		known.seen = now
		return change{}, nil
	}
	b := &broker{
		BrokerIdentity: req.BrokerIdentity,
		addresses:      slices.Clone(req.Addresses),
		topics:         make(map[string]protocol.TopicConfig, len(req.Topics)),
		version:        req.DataVersion,
		seen:           now,
	}
	for _, t := range req.Topics {
		b.topics[t.Name] = t
	}
	r.brokers[keyOf(req.BrokerIdentity)] = b
	return difference(known, b), nil
}

// checkPlace refuses a registration that another one stands against.
func (r *registry) checkPlace(req *protocol.RegisterBrokerRequest) error {
	for key, b := range r.brokers {
		if key.name == req.Broker && key.id != req.ID && b.Cluster != req.Cluster {
			return inOtherCluster(b, req.Cluster)
		}
	}
	known := r.brokers[keyOf(req.BrokerIdentity)]
	switch {
	case known == nil:
		return nil
	case req.Incarnation < known.Incarnation:
		return replaced(known)
	case req.Incarnation > known.Incarnation:
		return nil
	case req.Cluster != known.Cluster:
		return inOtherCluster(known, req.Cluster)
	case !slices.Equal(req.Addresses, known.addresses):
		return protocol.Errorf(protocol.Conflict, "broker %s with id %d is registered from %v already, now it comes from %v; are two brokers set up with one name?",
			known.Broker, known.ID, known.addresses, req.Addresses)
	}
	return nil
}

// heartbeat renews a registration, and applies the changes that it brings when
// they follow what is known; false asks for a new registration.
func (r *registry) heartbeat(now time.Time, req *protocol.BrokerHeartbeatRequest) (known bool, c change, err error) {
	b := r.brokers[keyOf(req.BrokerIdentity)]
	if b == nil || b.Incarnation < req.Incarnation {
		return false, change{}, nil
	}
	if req.Incarnation < b.Incarnation {
		return false, change{}, replaced(b)
	}
	if b.Cluster != req.Cluster {
		return false, change{}, inOtherCluster(b, req.Cluster)
	}
	if err := checkTopics(req.Changed); err != nil {
		return false, change{}, err
	}
	b.seen = now
	if req.Base != 0 && req.Base == b.version && req.DataVersion > b.version {
		c = b.apply(req)
	}
	return b.version == req.DataVersion, c, nil
}

// apply takes in changes of a broker's topics.
func (b *broker) apply(req *protocol.BrokerHeartbeatRequest) change {
	var c change
	for _, t := range req.Changed {
		if old, ok := b.topics[t.Name]; !ok || old != t {
			b.topics[t.Name] = t
			c.topics = append(c.topics, t.Name)
		}
	}
	for _, name := range req.Removed {
		if _, ok := b.topics[name]; ok {
			delete(b.topics, name)
			c.topics = append(c.topics, name)
		}
	}
	b.version = req.DataVersion
	slices.Sort(c.topics)
	c.topics = slices.Compact(c.topics)
	c.any = len(c.topics) > 0
	return c
}

// leave takes a broker out; one that is not there is no error.
func (r *registry) leave(id protocol.BrokerIdentity) (change, error) {
	b := r.brokers[keyOf(id)]
	switch {
	case b == nil:
		return change{}, nil
	case id.Incarnation < b.Incarnation:
		return change{}, replaced(b)
	case b.Cluster != id.Cluster:
		return change{}, inOtherCluster(b, id.Cluster)
	}
	delete(r.brokers, keyOf(id))
	return difference(b, nil), nil
}

// expire drops the brokers that were silent for the timeout.
func (r *registry) expire(now time.Time) (change, []protocol.BrokerIdentity) {
	var all change
	var dropped []protocol.BrokerIdentity
	for key, b := range r.brokers {
		if now.Sub(b.seen) < r.timeout {
			continue
		}
		delete(r.brokers, key)
		dropped = append(dropped, b.BrokerIdentity)
		all.any = true
		all.topics = append(all.topics, slices.Collect(maps.Keys(b.topics))...)
	}
	slices.Sort(all.topics)
	all.topics = slices.Compact(all.topics)
	return all, dropped
}

// route is who has a topic, sorted by broker and id.
func (r *registry) route(topic string) ([]protocol.TopicRoute, error) {
	if err := message.CheckAnyTopic(topic); err != nil {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	var routes []protocol.TopicRoute
	for _, b := range r.brokers {
		if t, ok := b.topics[topic]; ok {
			routes = append(routes, b.route(t))
		}
	}
	if len(routes) == 0 {
		return nil, protocol.Errorf(protocol.TopicNotFound, "no broker has topic %q", topic)
	}
	slices.SortFunc(routes, func(a, b protocol.TopicRoute) int {
		return cmp.Or(cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.ID, b.ID))
	})
	return routes, nil
}

func (b *broker) route(t protocol.TopicConfig) protocol.TopicRoute {
	return protocol.TopicRoute{
		Cluster: b.Cluster, Broker: b.Broker, ID: b.ID, Addresses: b.addresses,
		ReadQueues: t.ReadQueues, WriteQueues: t.WriteQueues, Perm: t.Perm, Type: t.Type,
	}
}

// cluster is all brokers, sorted by cluster, name and id.
func (r *registry) cluster() []protocol.BrokerInfo {
	infos := make([]protocol.BrokerInfo, 0, len(r.brokers))
	for _, b := range r.brokers {
		infos = append(infos, protocol.BrokerInfo{
			BrokerIdentity: b.BrokerIdentity, Addresses: b.addresses, Topics: len(b.topics),
			DataVersion: b.version, LastSeenMillis: b.seen.UnixMilli(),
		})
	}
	slices.SortFunc(infos, func(a, b protocol.BrokerInfo) int {
		return cmp.Or(cmp.Compare(a.Cluster, b.Cluster), cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.ID, b.ID))
	})
	return infos
}

// topics is the names of all topics, sorted.
func (r *registry) topics() []string {
	names := make(map[string]bool)
	for _, b := range r.brokers {
		for t := range b.topics {
			names[t] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// difference is what changes for clients when a registration takes another's
// place; nil: none.
func difference(before, after *broker) change {
	if before == nil || after == nil {
		b := cmp.Or(before, after)
		return change{any: true, topics: slices.Sorted(maps.Keys(b.topics))}
	}
	moved := before.Cluster != after.Cluster || !slices.Equal(before.addresses, after.addresses)
	c := change{any: moved}
	for name, t := range after.topics {
		if old, ok := before.topics[name]; moved || !ok || old != t {
			c.topics = append(c.topics, name)
		}
	}
	for name := range before.topics {
		if _, ok := after.topics[name]; !ok {
			c.topics = append(c.topics, name)
		}
	}
	slices.Sort(c.topics)
	c.any = c.any || len(c.topics) > 0
	return c
}

func replaced(b *broker) error {
	return protocol.Errorf(protocol.Conflict, "broker %s with id %d was started again since, at %v", b.Broker, b.ID, b.addresses)
}

func inOtherCluster(b *broker, cluster string) error {
	return protocol.Errorf(protocol.Conflict, "broker name %s belongs to cluster %s (%v) already, not to %s", b.Broker, b.Cluster, b.addresses, cluster)
}
