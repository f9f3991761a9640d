package broker

import (
	"maps"

	"go.opentelemetry.io/otel/attribute"

	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

// lagGauges are of a group in a topic: sums of its queues, and the highest ages.
type lagGauges struct{ lag, lagMillis, inflight, queueingMillis, ready int64 }

// lags is what groups have to consume, by the same function that answers clients.
// What a group was not given is counted as if it had finished all that it was given.
// A group has the series of all its topics or none.
func (c *collection) lags() {
	names, budget, room, leftOut := c.broker.groups.names(), lagBudget(), c.limit, 0
	for i, name := range names {
		if room == 0 {
			leftOut += len(names) - i
			break
		}
		var gauges map[string]lagGauges
		var err error
		budget.Spend(len(names)-i, func(part *store.Budget) { gauges, err = c.lagsOf(name, part) })
		if err != nil {
			c.broker.logger.Warn("lag of a group for the metrics", "group", name, "err", err)
		}
		if err != nil || len(gauges) > room {
			leftOut++
			continue
		}
		room -= len(gauges)
		for topic, g := range gauges {
			c.putLag(topic, name, g)
		}
	}
	c.put("rmq_metrics_left_out", int64(leftOut))
}

func (c *collection) putLag(topic, group string, g lagGauges) {
	labels := []attribute.KeyValue{topicLabel(topic), groupLabel(group), retryLabel(topic), systemLabel(topic)}
	c.put("rocketmq_consumer_lag_messages", g.lag, labels...)
	c.put("rocketmq_consumer_lag_latency", g.lagMillis, labels...)
	c.put("rocketmq_consumer_inflight_messages", g.inflight, labels...)
	c.put("rocketmq_consumer_queueing_latency", g.queueingMillis, labels...)
	c.put("rocketmq_consumer_ready_messages", g.ready, labels...)
}

// lagsOf is the lag of one group by topic.
func (c *collection) lagsOf(name string, budget *store.Budget) (map[string]lagGauges, error) {
	var status protocol.GroupStatus
	var err error
	budget.Spend(2, func(part *store.Budget) { status, err = c.broker.groups.groupStatus(name, part) })
	if err != nil {
		return nil, err
	}
	ready, err := c.readyOf(name, status.Queues, budget)
	if err != nil {
		return nil, err
	}
	gauges := map[string]lagGauges{}
	for i, q := range status.Queues {
		given := q
		if i < len(ready) && ready[i].Topic == q.Topic && ready[i].Queue == q.Queue { // topics may change meanwhile
			given = ready[i]
		}
		p := c.partsOf(name, &q, &given)
		g := gauges[q.Topic]
		g.lag, g.inflight, g.ready = g.lag+p.lag, g.inflight+p.inflight, g.ready+p.ready
		g.lagMillis, g.queueingMillis = max(g.lagMillis, p.lagMillis), max(g.queueingMillis, p.queueingMillis)
		gauges[q.Topic] = g
	}
	return gauges, nil
}

// partsOf says of one queue what of its lag is in flight and what is ready: of a group
// that pops the broker knows it by message, otherwise the difference to what was not
// given is in flight.
func (c *collection) partsOf(name string, q, given *protocol.GroupOffset) lagGauges {
	g := lagGauges{lag: q.Lag, lagMillis: q.LagMillis}
	if t, ok := c.broker.state.topics.Lookup(q.Topic); ok && q.Owner == "" {
		if _, pops := c.broker.state.pops.Progress(pop.Key{Group: name, Topic: t.ID, Queue: uint32(q.Queue)}); pops {
			c.popping[name] = true
			if g.inflight, g.ready = q.InFlight, q.Ready; g.ready > 0 {
				g.queueingMillis = q.LagMillis
			}
			return g
		}
	}
	g.ready = min(given.Lag-given.Retrying, q.Lag-q.Retrying) // more may have come since the first look
	g.inflight, g.queueingMillis = q.Lag-q.Retrying-g.ready, given.LagMillis
	return g
}

// readyOf is the lag in the same queues from where their holders were given them;
// nil when they were given nothing.
func (c *collection) readyOf(name string, queues []protocol.GroupOffset, budget *store.Budget) ([]protocol.GroupOffset, error) {
	s, r := c.broker.state, c.ready.reader(name)
	topics, ahead := map[uint64]bool{}, maps.Clone(r.progress)
	given := false
	for _, q := range queues {
		t, ok := s.topics.Lookup(q.Topic)
		if !ok {
			continue
		}
		topics[t.ID] = true
		key := store.QueueKey{Topic: t.ID, Queue: uint32(q.Queue)}
		p := r.of(key)
		if next, ok := s.meters.Reach(name, t.ID, q.Queue, p.Fence); ok && next > p.Committed {
			p.Committed, given = next, true
			ahead[key] = p
		}
	}
	if !given {
		return nil, nil
	}
	r.progress = ahead
	return c.ready.lagOf(r, topics, budget)
}
