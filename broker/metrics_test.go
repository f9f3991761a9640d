package broker

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/meter"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// measuring is a broker without clients whose metrics are read.
type measuring struct {
	*holding
	broker *Broker
	reader *sdkmetric.ManualReader
}

func newMeasuring(t *testing.T, limit int, change ...func(*Config)) *measuring {
	t.Helper()
	h := newHolding(t, change...)
	cfg, err := Config{DataDir: t.TempDir(), Now: h.state.now}.withDefaults()
	h.check(err)
	b := &Broker{cfg: cfg, logger: cfg.Logger, state: h.state, clients: newClients(h.state, nil, cfg), started: cfg.Now()}
	b.groups = newGroupAdmin(b)
	m := &measuring{h, b, sdkmetric.NewManualReader()}
	metrics := newMetrics(b)
	metrics.limit = limit
	registration, err := metrics.observe(sdkmetric.NewMeterProvider(sdkmetric.WithReader(m.reader)))
	h.check(err)
	t.Cleanup(func() { h.check(registration.Unregister()) })
	return m
}

// points are the values of a metric by label.
func (m *measuring) points(name, label string) map[string]int64 {
	m.Helper()
	var rm metricdata.ResourceMetrics
	m.check(m.reader.Collect(m.Context(), &rm))
	points := map[string]int64{}
	for _, metric := range rm.ScopeMetrics[0].Metrics {
		var list []metricdata.DataPoint[int64]
		switch data := metric.Data.(type) {
		case metricdata.Gauge[int64]:
			list = data.DataPoints
		case metricdata.Sum[int64]:
			list = data.DataPoints
		}
		for _, p := range list {
			if metric.Name == name {
				v, _ := p.Attributes.Value(attribute.Key(label))
				points[v.String()] += p.Value
			}
		}
	}
	return points
}

// join makes a client a member of groups, with a version of its own.
func (m *measuring) join(client string, groups ...string) {
	m.Helper()
	req := &protocol.HeartbeatRequest{ClientID: client, Inbox: "inbox." + client, Language: "GO", Version: "V" + client, Producers: []string{"p1", "p2"}}
	for _, g := range groups {
		req.Consumers = append(req.Consumers, protocol.Subscription{Group: g, Topics: []string{"t0"}})
	}
	_, err := m.broker.clients.sessions.Heartbeat(m.state.now(), req)
	m.check(err)
}

// However many groups there are, the series are bounded, and it is said how many
// there would be.
func TestMetrics_LagSeriesAreBounded(t *testing.T) {
	m := newMeasuring(t, 3)
	to := m.topic("t0", 1)
	for i := range 5 {
		rows := []group.Offset{{TopicID: to.ID, Queue: 0, Offset: 0, Reset: true}}
		m.check(m.state.append(m.Context(), store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets(fmt.Sprint("g", i), rows)}))
	}
	if got := m.points("rocketmq_consumer_lag_messages", "consumer_group"); len(got) != 3 {
		t.Errorf("got lag of %v, want 3 groups", got)
	}
	if got := m.points("rmq_metrics_left_out", ""); len(got) != 1 || got[""] != 2 {
		t.Errorf("got %v left out, want 2", got)
	}
	if got := m.points("rocketmq_consumer_group_number", ""); got[""] != 5 {
		t.Errorf("got %v groups", got)
	}
}

func TestMetrics_ConnectionsAreBounded(t *testing.T) {
	m := newMeasuring(t, 2)
	m.topic("t0", 1)
	for i := range 4 {
		m.join(fmt.Sprint("c", i), "g0", "g1")
	}
	want := "map[:4 true:4]"
	if got := fmt.Sprint(m.points("rocketmq_producer_connections", "overflow")); got != want {
		t.Errorf("got producers %s, want %s", got, want)
	}
	if got := m.points("rocketmq_producer_connections", "version"); len(got) != 3 || got["vc0"] != 2 && got["vc1"] != 2 {
		t.Errorf("got producers %v", got)
	}
	if got := m.points("rocketmq_consumer_connections", "overflow"); fmt.Sprint(got) != "map[:2 true:6]" {
		t.Errorf("got consumers %v", got)
	}
}

func TestMetrics_TopicsWithWaitingMessagesAreBounded(t *testing.T) {
	m := newMeasuring(t, 2)
	m.quiet()
	for i := range 4 {
		m.hold(m.topic(fmt.Sprint("t", i), 1), 0, &message.Message{Delay: time.Second})
	}
	if got := m.points("rocketmq_timing_messages", "topic"); len(got) != 2 {
		t.Errorf("got %v, want 2 topics", got)
	}
	if got := m.points("rocketmq_timer_dequeue_latency", "topic"); got[""] != 0 {
		t.Errorf("got %v late before its time", got)
	}
	m.pass(3 * time.Second)
	if got := m.points("rocketmq_timer_dequeue_latency", "topic"); got[""] != 2000 {
		t.Errorf("got %v, want 2000 ms late", got)
	}
}

// What counters had beyond their limit has a label that says so.
func TestMetrics_Overflow(t *testing.T) {
	m := newMeasuring(t, meter.Limit)
	for i := range meter.Limit + 7 {
		m.state.meters.Stored(uint64(i), meter.Normal, 1, 10)
		m.state.meters.Reader("", uint64(i)).Given(1, 10)
		m.state.meters.Buried("", fmt.Sprint(i))
	}
	sizes := func() (n uint64) {
		all, _ := m.broker.Produce(t.Context())
		for _, p := range all[0].Metrics[0].Data.(metricdata.Histogram[int64]).DataPoints {
			n += p.Count
		}
		return n
	}
	if n := sizes(); n < 7 {
		t.Errorf("got sizes of %d messages, want those beyond the limit at least", n)
	}
	for _, name := range []string{"rocketmq_messages_in_total", "rocketmq_messages_out_total"} {
		if got := m.points(name, "overflow"); got["true"] < 7 {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestMeterKind(t *testing.T) {
	for _, c := range []struct {
		purpose batch.Purpose
		m       message.Message
		want    string
	}{
		{batch.ToQueue, message.Message{}, "normal"},
		{batch.ToQueue, message.Message{Group: "g"}, "fifo"},
		{batch.ToQueue, message.Message{Priority: 3}, "priority"},
		{batch.ToTimer, message.Message{Priority: 3, Delay: time.Second}, "delay"},
		{batch.ToTransaction, message.Message{Priority: 3}, "transaction"},
	} {
		if got := meterKind(headerOf(t, c.purpose, c.m)).String(); got != c.want {
			t.Errorf("%+v: got %s, want %s", c.m, got, c.want)
		}
	}
}

func TestMetrics_SystemTopics(t *testing.T) {
	for name, want := range map[string]string{
		"orders": "false false", message.RetryTopic("g"): "true false", message.DLQTopic("g"): "true false", "TRANS_CHECK_MAX_TIME_TOPIC": "false true",
	} {
		retry, system := retryLabel(name), systemLabel(name)
		if got := strings.Join([]string{retry.Value.String(), system.Value.String()}, " "); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// What comes again, or fails, was not stored.
func TestMetrics_WhatIsStoredCountsOnce(t *testing.T) {
	m := newMeasuring(t, meter.Limit)
	to := m.topic("t0", 1)
	h := headerOf(t, batch.ToQueue, message.Message{}, message.Message{})
	s := &sender{state: m.state}
	s.count(&parcel{Header: *h, topic: to}, &protocol.SendResult{})
	s.count(&parcel{Header: *h, topic: to}, &protocol.SendResult{Duplicate: true})
	s.count(&parcel{Header: *h, topic: to}, &protocol.SendResult{Err: protocol.Errorf(protocol.UnknownOutcome, "no")})
	if got := m.points("rocketmq_messages_in_total", "topic"); got["t0"] != 2 {
		t.Errorf("got %v in, want 2", got)
	}
	if got := m.points("rocketmq_throughput_in_total", "topic"); got["t0"] != int64(h.Length) {
		t.Errorf("got %v in, want %d bytes", got, h.Length)
	}
}

func TestMetrics_ADeadLetterCountsOnce(t *testing.T) {
	f := newFailing(t)
	m := f.send(&message.Message{})
	r := back(m)
	r.Dead = true
	for range 3 {
		if _, err := f.backs().sendBack(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	if got := f.state.meters.DeadLetters(func(string) bool { return true }); len(got) != 1 || got[0] != (meter.DeadLetters{Group: "g", Topic: "orders", Messages: 1}) {
		t.Errorf("got %+v, want one", got)
	}
}

// A group in a topic has the sum of its queues' lags, and the highest of their ages.
func TestMetrics_LagOfSeveralQueues(t *testing.T) {
	m := newMeasuring(t, meter.Limit)
	to := m.topic("t0", 3)
	rows := []group.Offset{{TopicID: to.ID, Queue: 0, Reset: true}}
	m.check(m.state.append(m.Context(), store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets("g", rows)}))
	for queue, pause := range []time.Duration{5 * time.Second, 3 * time.Second, time.Second} {
		b := batch.NewBuilder("t0", queue)
		b.Add(&message.Message{ID: m.ids.Next(), BornTime: time.UnixMilli(1)})
		m.check(m.state.append(m.Context(), store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: to.ID, Queue: uint32(queue)}, Count: 1, Data: b.Finish()}))
		m.pass(pause)
	}
	for name, want := range map[string]int64{
		"rocketmq_consumer_lag_messages": 3, "rocketmq_consumer_ready_messages": 3, "rocketmq_consumer_inflight_messages": 0,
		"rocketmq_consumer_lag_latency": 9000, "rocketmq_consumer_queueing_latency": 9000,
	} {
		if got := m.points(name, "topic"); got["t0"] != want {
			t.Errorf("%s: got %v, want %d", name, got, want)
		}
	}
	if got := m.points("rocketmq_storage_message_reserve_time", ""); got[""] != 9000 {
		t.Errorf("the oldest record is %v old", got)
	}
	// The holder of queue 0 was given its message, and of queue 1 nothing.
	m.check(m.state.append(m.Context(), store.Record{Type: store.LeasesRecord, Data: group.EncodeLeases("g", to.ID, "c", []int{0, 1})}))
	_, fence, _ := m.state.groups.Lease("g", to.ID, 0)
	m.state.meters.Reader("g", to.ID).Reached(0, fence, 1)
	for name, want := range map[string]int64{
		"rocketmq_consumer_lag_messages": 3, "rocketmq_consumer_ready_messages": 2, "rocketmq_consumer_inflight_messages": 1,
		"rocketmq_consumer_lag_latency": 9000, "rocketmq_consumer_queueing_latency": 4000,
	} {
		if got := m.points(name, "topic"); got["t0"] != want {
			t.Errorf("with one in flight, %s: got %v, want %d", name, got, want)
		}
	}
}

func TestMetrics_PermissionOfAFullDisk(t *testing.T) {
	var used atomic.Int64
	m := newMeasuring(t, meter.Limit, func(c *Config) {
		c.Store.DiskUse = func(string) (int, int64, error) { return int(used.Load()), 1 << 20, nil }
	})
	for _, c := range []struct {
		used, want int64
	}{{10, 6}, {99, 4}} {
		used.Store(c.used)
		m.retention.look(t.Context())
		if got := m.points("rocketmq_broker_permission", ""); got[""] != c.want {
			t.Errorf("%d %% in use: got %v, want %d", c.used, got, c.want)
		}
	}
}

// A group that reads more topics than there is room for does not take the room of
// those that fit.
func TestMetrics_AGroupHasAllItsSeriesOrNone(t *testing.T) {
	m := newMeasuring(t, 2)
	for g, topics := range []int{1, 2, 1, 1} {
		var rows []group.Offset
		for i := range topics {
			to, ok := m.state.topics.Lookup(fmt.Sprint("t", i))
			if !ok {
				to = m.topic(fmt.Sprint("t", i), 1)
			}
			rows = append(rows, group.Offset{TopicID: to.ID, Reset: true})
		}
		m.check(m.state.append(m.Context(), store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets(fmt.Sprint("g", g), rows)}))
	}
	if got := m.points("rocketmq_consumer_lag_messages", "consumer_group"); fmt.Sprint(got) != "map[g0:0 g2:0]" {
		t.Errorf("got lag of %v", got)
	}
	if got := m.points("rmq_metrics_left_out", ""); got[""] != 2 {
		t.Errorf("got %v left out, want 2", got)
	}
}
