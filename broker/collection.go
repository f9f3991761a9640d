package broker

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/meter"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// collection is one look at everything that there are metrics of.
type collection struct {
	*metrics
	observer metric.Observer
	popping  map[string]bool // groups that pop; since their lag is known
}

func (c *collection) put(name string, value int64, labels ...attribute.KeyValue) {
	c.observer.ObserveInt64(c.named[name], value, metric.WithAttributes(labels...))
}

// putCounted puts what was ever counted.
func (c *collection) putCounted(name string, value int64, labels ...attribute.KeyValue) {
	if value > 0 {
		c.put(name, value, labels...)
	}
}

// Labels, by RocketMQ's names.
func topicLabel(name string) attribute.KeyValue { return attribute.String("topic", name) }
func groupLabel(name string) attribute.KeyValue { return attribute.String("consumer_group", name) }

// overflowLabel marks a series that counts for all that have none of their own. It is
// not OpenTelemetry's: whoever observes that one has all that is new counted there.
func overflowLabel() attribute.KeyValue { return attribute.Bool("overflow", true) }

// retryLabel says that a topic belongs to a group, which reads or may read there
// what it has failed to process.
func retryLabel(topic string) attribute.KeyValue {
	return attribute.Bool("is_retry", strings.HasPrefix(topic, message.RetryPrefix) || strings.HasPrefix(topic, message.DLQPrefix))
}

func systemLabel(topic string) attribute.KeyValue {
	return attribute.Bool("is_system", message.IsReserved(topic) && !retryLabel(topic).Value.AsBool())
}

// processors are RocketMQ's names for the classes of requests.
func processors() map[protocol.Class]string {
	return map[protocol.Class]string{
		protocol.ClassSend: "send", protocol.ClassPull: "pull", protocol.ClassClient: "client_manager", protocol.ClassAdmin: "admin",
	}
}

// whole is of the broker as a whole.
func (c *collection) whole() {
	names := processors()
	for class, server := range c.broker.servers {
		c.put("rocketmq_processor_watermark", int64(server.InFlight()), attribute.String("processor", names[class]))
	}
	permission := message.PermRead | message.PermWrite
	if c.broker.Status().Refusing != nil {
		permission = message.PermRead
	}
	c.put("rocketmq_broker_permission", int64(permission))
	c.put("rocketmq_topic_number", int64(c.broker.state.topics.Count()))
	c.put("rocketmq_consumer_group_number", int64(c.broker.state.groups.Count()))
}

// storageLabels are those that all metrics of RocketMQ's store have, and others.
func storageLabels(others ...attribute.KeyValue) []attribute.KeyValue {
	return append([]attribute.KeyValue{attribute.String("storage_type", "local"), attribute.String("storage_medium", "disk")}, others...)
}

// storage is of the log and of the timers, which RocketMQ has in a store of its own.
func (c *collection) storage() {
	labels := storageLabels()
	s, status := c.broker.state, c.broker.Status()
	now := c.broker.cfg.Now().UnixMilli()
	c.put("rocketmq_storage_size", status.DiskBytes, labels...)
	c.put("rocketmq_storage_flush_behind_bytes", status.PendingBytes, labels...)
	if oldest, err := s.log.Record(status.FirstIndex); err == nil {
		c.put("rocketmq_storage_message_reserve_time", max(now-oldest.StoreMillis, 0), labels...)
	}
	late := int64(0)
	if due, waits := s.timers.Next(); waits {
		late = max(now-due, 0)
	}
	c.put("rocketmq_timer_dequeue_latency", late, labels...)
	shown := 0
	for _, t := range s.topics.List() {
		timing, half := s.timers.LenOf(t.ID), s.transactions.PendingOf(t.ID)
		if timing == 0 && half == 0 || shown == c.limit {
			continue
		}
		shown++
		c.put("rocketmq_timing_messages", int64(timing), storageLabels(topicLabel(t.Name))...)
		c.put("rocketmq_half_messages", int64(half), topicLabel(t.Name))
	}
}

// topics is what was counted by topic. A topic in which something was never counted
// has no series of it.
func (c *collection) topics() {
	exists := func(id uint64) bool { _, ok := c.broker.state.topics.ByID(id); return ok }
	for _, t := range c.broker.state.meters.Topics(exists) {
		labels, ok := c.broker.topicLabels(t.ID)
		if !ok {
			continue
		}
		for k, in := range t.In {
			if in.Messages > 0 {
				typed := append(labels, attribute.String("message_type", meter.Kind(k).String()))
				c.put("rocketmq_messages_in_total", in.Messages, typed...)
				c.put("rocketmq_throughput_in_total", in.Bytes, typed...)
			}
		}
		c.putCounted("rocketmq_timer_enqueue_total", t.Held, storageLabels(labels[0])...)
		c.putCounted("rocketmq_timer_dequeue_total", t.Released, storageLabels(labels[0])...)
		c.putCounted("rocketmq_commit_messages_total", t.Committed, labels[0])
		c.putCounted("rocketmq_rollback_messages_total", t.RolledBack, labels[0])
	}
}

// topicLabels are a topic's, its name first; false when it was deleted. Those of 0
// are of all topics that are not counted by themselves.
func (b *Broker) topicLabels(id uint64) (labels []attribute.KeyValue, ok bool) {
	if id == 0 {
		return []attribute.KeyValue{overflowLabel()}, true
	}
	t, ok := b.state.topics.ByID(id)
	return []attribute.KeyValue{topicLabel(t.Name), systemLabel(t.Name)}, ok
}

// groups is what was counted by group.
func (c *collection) groups() {
	s := c.broker.state
	known := func(name string) bool { _, ok := s.groups.Config(name); return ok || name == "" }
	for _, g := range s.meters.Groups(func(name string, topic uint64) bool {
		_, ok := s.topics.ByID(topic)
		return ok && known(name)
	}) {
		labels := []attribute.KeyValue{overflowLabel()}
		if t, ok := s.topics.ByID(g.Topic); ok {
			labels = []attribute.KeyValue{topicLabel(t.Name), groupLabel(g.Name), retryLabel(t.Name), systemLabel(t.Name)}
		}
		c.put("rocketmq_messages_out_total", g.Out.Messages, labels...)
		c.put("rocketmq_throughput_out_total", g.Out.Bytes, labels...)
	}
	for _, d := range s.meters.DeadLetters(known) {
		labels := []attribute.KeyValue{overflowLabel()}
		if d.Group != "" {
			labels = []attribute.KeyValue{topicLabel(d.Topic), groupLabel(d.Group), systemLabel(d.Topic)}
		}
		c.put("rocketmq_send_to_dlq_messages_total", d.Messages, labels...)
	}
}

// connection is what clients have in common that are counted together. The zero
// value is that of those beyond the limit.
type connection struct{ group, language, version, mode string }

func (k connection) labels() []attribute.KeyValue {
	if k == (connection{}) {
		return []attribute.KeyValue{overflowLabel()}
	}
	labels := []attribute.KeyValue{
		attribute.String("language", strings.ToLower(k.language)), attribute.String("version", strings.ToLower(k.version)),
		attribute.String("protocol_type", "nats"),
	}
	if k.group != "" {
		labels = append(labels, groupLabel(k.group), attribute.String("consume_mode", k.mode), attribute.Bool("is_system", false))
	}
	return labels
}

// connections counts clients, once for each group that they are in.
func (c *collection) connections() {
	producers, consumers := map[connection]int64{}, map[connection]int64{}
	clients, _ := c.broker.clients.list(&protocol.ListClientsRequest{Max: group.MaxSessions})
	for _, client := range clients {
		of := connection{language: client.Said.Language, version: client.Said.Version}
		if n := len(client.Said.Producers); n > 0 {
			c.tally(producers, of, int64(n))
		}
		for _, sub := range client.Consumers {
			of.group, of.mode = sub.Group, c.modeOf(&sub)
			c.tally(consumers, of, 1)
		}
	}
	for k, n := range producers {
		c.put("rocketmq_producer_connections", n, k.labels()...)
	}
	for k, n := range consumers {
		c.put("rocketmq_consumer_connections", n, k.labels()...)
	}
}

func (c *collection) tally(counts map[connection]int64, k connection, n int64) {
	if _, known := counts[k]; !known && len(counts) >= c.limit {
		k = connection{}
	}
	counts[k] += n
}

// modeOf tells the members apart by what they do, and by what they read: those that
// hand messages to handlers read what has failed, too.
func (c *collection) modeOf(sub *protocol.Subscription) string {
	if c.popping[sub.Group] {
		return "pop"
	}
	for _, t := range sub.Topics {
		if t == message.RetryTopic(sub.Group) {
			return "push"
		}
	}
	return "pull"
}
