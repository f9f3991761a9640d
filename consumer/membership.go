package consumer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Timeouts of calls are short, so that a broker that hangs does not hold up what
// is to be done at the others.
const (
	membersTimeout = 2 * time.Second
	syncTimeout    = 3 * time.Second
)

// membership is the placer of a group's member: it computes which queues are
// this member's, takes up their leases, and gives back those that are not. Only
// a broker takes a queue away: while one is out of the routes or does not
// answer, its queues stay as they are, and go on when it is back.
type membership struct {
	engine *engine
	self   string // client id
	// draining are the queues that go to another member, with the time at which
	// they go whatever still runs.
	draining map[message.Queue]time.Time
	missing  map[string]bool // topics that do not exist, as logged
}

func newMembership(e *engine) *membership {
	return &membership{engine: e, self: e.client.ID(), draining: map[message.Queue]time.Time{}, missing: map[string]bool{}}
}

// place runs one round. Unchanged rounds change nothing at the brokers.
func (m *membership) place(ctx context.Context) bool {
	routes, complete := m.engine.findRoutes(ctx, m.missing)
	members, ok := m.findMembers(ctx, routes)
	complete = complete && ok
	plan, ok := m.plan(routes, members)
	complete = complete && ok
	m.giveUp(plan, time.Now())
	m.finishDrains(ctx, time.Now())
	complete = m.sync(ctx, plan) && complete
	return complete && len(m.draining) == 0
}

// findRoutes asks for the routes of all topics. A topic that does not exist is
// waited for, and logged once.
func (e *engine) findRoutes(ctx context.Context, missing map[string]bool) (routes []*client.Route, complete bool) {
	complete = true
	for _, topic := range e.topics {
		route, err := e.client.Route(ctx, topic)
		switch {
		case err == nil:
			e.starts.see(topic, route.ReadQueues())
			delete(missing, topic)
			routes = append(routes, route)
			continue
		case errors.Is(err, protocol.TopicNotFound):
			e.starts.see(topic, nil)
			if topic == e.retry {
				continue // nothing has failed yet
			}
			if !missing[topic] {
				e.log.Warn("topic does not exist, waiting for it", "topic", topic)
			}
			missing[topic] = true
		default:
			e.log.Debug("route is not known", "topic", topic, "error", err)
		}
		complete = false
	}
	return routes, complete
}

// findMembers asks every broker of the topics for the group's members; brokers
// that do not answer are missing from the result.
func (m *membership) findMembers(ctx context.Context, routes []*client.Route) (members map[string][]protocol.Member, complete bool) {
	brokers := map[string]struct{}{}
	for _, r := range routes {
		for _, b := range r.Brokers {
			brokers[b.Broker] = struct{}{}
		}
	}
	var mu sync.Mutex
	members, complete = map[string][]protocol.Member{}, true
	err := atBrokers(brokers, func(broker string, _ struct{}) error {
		ctx, cancel := context.WithTimeout(ctx, membersTimeout)
		defer cancel()
		req := &protocol.ListMembersRequest{Group: m.engine.group}
		resp, err := client.Call[protocol.ListMembersResponse](ctx, m.engine.client, broker, protocol.ClassClient, req)
		if err != nil {
			m.engine.roster.disturbed(broker, time.Now())
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		var certain bool
		members[broker], certain = m.engine.roster.told(broker, resp.Members, time.Now())
		complete = complete && certain
		return nil
	})
	if err != nil {
		m.engine.log.Debug("members are not known", "group", m.engine.group, "error", err)
	}
	return members, complete && err == nil
}

// share is what this member should own of one topic on one broker.
type share struct {
	topic  string
	queues []message.Queue
}

// plan computes the shares by broker. A topic whose members do not include this
// one yet is left out: there is no view to act on. So is a broker that does not
// answer. One that has the topic and no queue for this member has an empty share.
func (m *membership) plan(routes []*client.Route, members map[string][]protocol.Member) (plan map[string][]share, complete bool) {
	plan, complete = map[string][]share{}, true
	for _, r := range routes {
		ids := subscribers(r, members)
		if !slices.Contains(ids, m.self) {
			complete = false
			continue
		}
		mine := m.engine.strategy(r.ReadQueues(), ids, m.self)
		for _, b := range r.Brokers {
			if _, answered := members[b.Broker]; !answered {
				continue
			}
			s := share{topic: r.Topic}
			for _, q := range mine {
				if q.Broker == b.Broker {
					s.queues = append(s.queues, q)
				}
			}
			plan[b.Broker] = append(plan[b.Broker], s)
		}
	}
	return plan, complete
}

// subscribers are the ids of all members that read the topic, by the view of
// any of its brokers: one that has just started has not seen them all.
func subscribers(r *client.Route, members map[string][]protocol.Member) []string {
	var ids []string
	for _, b := range r.Brokers {
		for _, m := range members[b.Broker] {
			if slices.Contains(m.Topics, r.Topic) {
				ids = append(ids, m.ClientID)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// giveUp begins to drain the queues that are held and planned for others.
func (m *membership) giveUp(plan map[string][]share, now time.Time) {
	for _, q := range m.engine.buffer.held() {
		if _, already := m.draining[q]; already || !planned(plan, q) {
			continue
		}
		m.draining[q] = now.Add(m.engine.rebalanceTimeout)
		m.engine.buffer.drain(q)
	}
}

// planned reports whether the plan gives a queue to somebody else.
func planned(plan map[string][]share, q message.Queue) bool {
	for _, s := range plan[q.Broker] {
		if s.topic == q.Topic {
			return !slices.Contains(s.queues, q)
		}
	}
	return false
}

// finishDrains commits the drained queues and lets go of them, so that the next
// sync gives their leases back.
func (m *membership) finishDrains(ctx context.Context, now time.Time) {
	for q, until := range m.draining {
		overdue := now.After(until)
		if !overdue && !m.engine.buffer.idle(q) {
			continue
		}
		if err := m.engine.commit(ctx, m.engine.buffer.uncommitted(q)); err != nil && !overdue {
			continue
		}
		if held := m.engine.buffer.get(q); held != nil {
			m.engine.buffer.lose(held, ErrLeaseLost)
			m.engine.log.Info("queue given back", "topic", q.Topic, "broker", q.Broker, "queue", q.ID, "in_time", !overdue)
		}
		delete(m.draining, q)
	}
}

// granted is the answer of a broker to one sync.
type granted struct {
	share  share
	leases []protocol.Lease
}

// sync tells each broker which queues this member wants there and takes up what
// it gives.
func (m *membership) sync(ctx context.Context, plan map[string][]share) bool {
	var mu sync.Mutex
	answers := map[string][]granted{}
	err := atBrokers(plan, func(broker string, shares []share) error {
		for _, s := range shares {
			leases, err := m.syncOne(ctx, broker, s)
			m.engine.permitted(broker, err)
			if err != nil {
				return err
			}
			mu.Lock()
			answers[broker] = append(answers[broker], granted{share: s, leases: leases})
			mu.Unlock()
		}
		return nil
	})
	if err != nil {
		m.engine.log.Debug("leases are not settled", "error", err)
	}
	complete := err == nil
	for broker, list := range answers {
		complete = m.takeUp(ctx, broker, list) && complete
	}
	return complete
}

// syncOne is not cut short by the end of ctx: a sync that overtakes the leave
// after it would take up leases that nobody holds any more.
func (m *membership) syncOne(ctx context.Context, broker string, s share) ([]protocol.Lease, error) {
	req := &protocol.SyncLeasesRequest{ClientID: m.self, Group: m.engine.group, Topic: s.topic, Queues: []int{}, Incarnation: m.engine.client.Incarnation()}
	for _, q := range s.queues {
		req.Queues = append(req.Queues, q.ID)
	}
	for q := range m.draining {
		if q.Broker == broker && q.Topic == s.topic && !slices.Contains(req.Queues, q.ID) {
			req.Queues = append(req.Queues, q.ID)
		}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), syncTimeout)
	defer cancel()
	resp, err := client.Call[protocol.SyncLeasesResponse](ctx, m.engine.client, broker, protocol.ClassClient, req)
	if err != nil {
		return nil, err
	}
	return resp.Leases, nil
}

// takeUp makes the buffer agree with a broker's answers.
func (m *membership) takeUp(ctx context.Context, broker string, answers []granted) bool {
	fresh, complete := map[message.Queue]protocol.Lease{}, true
	for _, a := range answers {
		leases := map[message.Queue]protocol.Lease{}
		for _, l := range a.leases {
			leases[message.Queue{Topic: a.share.topic, Broker: broker, ID: l.Queue}] = l
		}
		m.dropStale(broker, a.share.topic, leases)
		for _, q := range a.share.queues {
			l, ok := leases[q]
			switch {
			case !ok:
				complete = false
			case m.engine.buffer.get(q) == nil:
				fresh[q] = l
			default:
				m.engine.buffer.confirm(q)
			}
		}
	}
	return m.open(ctx, broker, fresh) && complete
}

// dropStale loses the queues whose lease is gone or another one: it was reset,
// or somebody else had the queue meanwhile.
func (m *membership) dropStale(broker, topic string, leases map[message.Queue]protocol.Lease) {
	for _, q := range m.engine.buffer.held() {
		if q.Broker != broker || q.Topic != topic {
			continue
		}
		held := m.engine.buffer.get(q)
		if held == nil {
			continue
		}
		if l, ok := leases[q]; !ok || l.Fence != held.fence {
			m.engine.lose(held, protocol.Fenced)
			delete(m.draining, q)
		}
	}
}

// open begins to read queues, where the group has committed or else at the
// start position.
func (m *membership) open(ctx context.Context, broker string, leases map[message.Queue]protocol.Lease) bool {
	positions := map[message.Queue]StartPosition{}
	for q, l := range leases {
		if l.Committed < 0 {
			positions[q] = m.engine.starts.of(q)
		}
	}
	starts, err := m.engine.startsAt(ctx, broker, positions)
	if err != nil {
		m.engine.log.Warn("start position is not known yet", "error", err)
	}
	for q, l := range leases {
		start, known := l.Committed, l.Committed >= 0
		if !known {
			start, known = starts[q]
		}
		if known {
			m.engine.hold(ctx, q, l.Fence, start, l.Committed)
		}
	}
	return err == nil
}
