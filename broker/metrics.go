package broker

import (
	"context"
	"fmt"

	"go.opentelemetry.io/otel/metric"

	"github.com/rmqio/rmq/broker/meter"
	"github.com/rmqio/rmq/message/batch"
)

// metricScope names the library that tells of the broker.
const metricScope = "github.com/rmqio/rmq/broker"

// RocketMQ's units, which become part of a name in Prometheus.
const (
	inBytes  = "bytes"
	inMillis = "milliseconds"
)

// instrument is one metric, as RocketMQ 5 has it.
type instrument struct {
	name, unit, description string
	counter                 bool // else a gauge
}

// instruments are all metrics but those of histograms, which Produce has.
func instruments() []instrument {
	return []instrument{
		{"rocketmq_processor_watermark", "", "Requests under way, pulls that wait included", false},
		{"rocketmq_broker_permission", "", "What clients may do: 4 read, 6 read and write", false},
		{"rocketmq_topic_number", "", "Topics", false},
		{"rocketmq_consumer_group_number", "", "Consumer groups", false},
		{"rocketmq_messages_in_total", "", "Messages that producers have sent", true},
		{"rocketmq_throughput_in_total", "", "Bytes of the messages that producers have sent, as they are stored", true},
		{"rocketmq_messages_out_total", "", "Messages that were given to consumers", true},
		{"rocketmq_throughput_out_total", "", "Bytes that were given to consumers", true},
		{"rocketmq_producer_connections", "", "Producers", false},
		{"rocketmq_consumer_connections", "", "Members of consumer groups", false},
		{"rocketmq_consumer_lag_messages", "", "Messages that a group has not finished", false},
		{"rocketmq_consumer_lag_latency", inMillis, "Age of the oldest message that a group has not finished", false},
		{"rocketmq_consumer_inflight_messages", "", "Messages that a group was given and has not finished", false},
		{"rocketmq_consumer_queueing_latency", inMillis, "Age of the oldest message that a group was not given", false},
		{"rocketmq_consumer_ready_messages", "", "Messages that a group was not given", false},
		{"rocketmq_send_to_dlq_messages_total", "", "Messages that have become dead letters", true},
		{"rocketmq_half_messages", "", "Messages of transactions that are not decided", false},
		{"rocketmq_commit_messages_total", "", "Messages of transactions that were committed", true},
		{"rocketmq_rollback_messages_total", "", "Messages of transactions that were rolled back", true},
		{"rocketmq_timing_messages", "", "Messages that wait for their time", false},
		{"rocketmq_timer_enqueue_total", "", "Messages that were to wait for their time", true},
		{"rocketmq_timer_dequeue_total", "", "Messages whose time has come", true},
		{"rocketmq_timer_dequeue_latency", inMillis, "How late the message is that is due first", false},
		{"rocketmq_storage_size", inBytes, "Size of the log", false},
		{"rocketmq_storage_flush_behind_bytes", inBytes, "What was taken and is not on disk yet", false},
		{"rocketmq_storage_message_reserve_time", inMillis, "Age of the oldest record of the log", false},
		{"rmq_metrics_left_out", "", "Groups that have no lag series, because there are too many or their lag cannot be told", false},
	}
}

// metrics tells a meter of the broker at each collection.
type metrics struct {
	broker *Broker
	named  map[string]metric.Int64Observable
	limit  int // of groups in topics, and of topics, that have series of their own
	// ready counts what groups were not given, as groupAdmin counts what they have not
	// finished.
	ready *groupAdmin
}

// Observe has a meter of the provider tell of the broker, until Close. The labels
// cluster, node_type and node_id are the resource's of the provider. It is called
// once. The provider must set no limit of series below 20,000.
func (b *Broker) Observe(mp metric.MeterProvider) (err error) {
	b.observing, err = newMetrics(b).observe(mp)
	return err
}

func newMetrics(b *Broker) *metrics {
	return &metrics{broker: b, named: map[string]metric.Int64Observable{}, limit: meter.Limit, ready: newGroupAdmin(b)}
}

func (m *metrics) observe(mp metric.MeterProvider) (metric.Registration, error) {
	of := mp.Meter(metricScope)
	var all []metric.Observable
	for _, i := range instruments() {
		observable, err := i.register(of)
		if err != nil {
			return nil, fmt.Errorf("metric %s: %w", i.name, err)
		}
		m.named[i.name], all = observable, append(all, observable)
	}
	return of.RegisterCallback(m.collect, all...)
}

func (i *instrument) register(of metric.Meter) (metric.Int64Observable, error) {
	if i.counter {
		return of.Int64ObservableCounter(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description))
	}
	return of.Int64ObservableGauge(i.name, metric.WithUnit(i.unit), metric.WithDescription(i.description))
}

// collect never fails as a whole: what could not be found out is logged and left out.
func (m *metrics) collect(_ context.Context, o metric.Observer) error {
	c := &collection{metrics: m, observer: o, popping: map[string]bool{}}
	c.whole()
	c.storage()
	c.topics()
	c.groups()
	c.lags()
	c.connections()
	return nil
}

// meterKind is what the messages of a batch count as.
func meterKind(h *batch.Header) meter.Kind {
	switch {
	case h.Purpose == batch.ToTransaction:
		return meter.Transaction
	case h.Purpose == batch.ToTimer:
		return meter.Delay
	case h.Uses.Any&batch.UsesGroup != 0:
		return meter.FIFO
	case h.Uses.Any&batch.UsesPriority != 0:
		return meter.Priority
	}
	return meter.Normal
}
