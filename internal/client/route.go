package client

import (
	"cmp"
	"slices"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Route says which brokers have a topic. It is never changed once made.
type Route struct {
	Topic   string
	Brokers []protocol.TopicRoute
}

// newRoute keeps of each broker name the entry with the lowest id.
func newRoute(topic string, brokers []protocol.TopicRoute) *Route {
	brokers = slices.Clone(brokers)
	slices.SortFunc(brokers, func(a, b protocol.TopicRoute) int {
		return cmp.Or(cmp.Compare(a.Broker, b.Broker), cmp.Compare(a.ID, b.ID))
	})
	brokers = slices.CompactFunc(brokers, func(a, b protocol.TopicRoute) bool { return a.Broker == b.Broker })
	return &Route{Topic: topic, Brokers: brokers}
}

// ReadQueues are the queues that may be pulled from, sorted by broker and id.
func (r *Route) ReadQueues() []message.Queue {
	return r.queues(func(b *protocol.TopicRoute) int {
		if !b.Perm.CanRead() {
			return 0
		}
		return b.ReadQueues
	})
}

// WriteQueues are the queues that may be sent to, sorted by broker and id.
func (r *Route) WriteQueues() []message.Queue {
	return r.queues(func(b *protocol.TopicRoute) int {
		if !b.Perm.CanWrite() {
			return 0
		}
		return b.WriteQueues
	})
}

func (r *Route) queues(count func(*protocol.TopicRoute) int) []message.Queue {
	var queues []message.Queue
	for i := range r.Brokers {
		for id := range count(&r.Brokers[i]) {
			queues = append(queues, message.Queue{Topic: r.Topic, Broker: r.Brokers[i].Broker, ID: id})
		}
	}
	return queues
}

func (r *Route) equal(o *Route) bool {
	return r != nil && o != nil && slices.EqualFunc(r.Brokers, o.Brokers, func(a, b protocol.TopicRoute) bool {
		return a.Cluster == b.Cluster && a.Broker == b.Broker && a.ID == b.ID && a.ReadQueues == b.ReadQueues &&
			a.WriteQueues == b.WriteQueues && a.Perm == b.Perm && a.Type == b.Type && slices.Equal(a.Addresses, b.Addresses)
	})
}
