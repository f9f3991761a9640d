package broker

import (
	"slices"
	"strings"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// reader is a group that is asked what it has to consume.
type reader struct {
	group        string
	starts       starts
	subscription group.Subscription
	progress     map[store.QueueKey]group.Progress
}

func (a *groupAdmin) reader(groupName string) *reader {
	r := &reader{group: groupName, progress: map[store.QueueKey]group.Progress{}}
	for _, p := range a.state.groups.Offsets(groupName) {
		r.progress[store.QueueKey{Topic: p.TopicID, Queue: uint32(p.Queue)}] = p
	}
	r.starts, r.subscription = a.clients.starts(groupName), a.clients.subscription(groupName)
	return r
}

// of is the group's progress in a queue.
func (r *reader) of(key store.QueueKey) group.Progress {
	if p, ok := r.progress[key]; ok {
		return p
	}
	return group.Progress{Committed: -1}
}

// lag is what a group has to consume in topics, queue by queue. Offsets are looked
// at before the queues' ends: these only grow, so that no offset is above its end.
// The budget is for filters.
func (a *groupAdmin) lag(groupName string, topics map[uint64]bool, budget *store.Budget) ([]protocol.GroupOffset, error) {
	return a.lagOf(a.reader(groupName), topics, budget)
}

func (a *groupAdmin) lagOf(r *reader, topics map[uint64]bool, budget *store.Budget) ([]protocol.GroupOffset, error) {
	var read []topic.Topic
	for id := range topics {
		if t, ok := a.state.topics.ByID(id); ok {
			read = append(read, t)
		}
	}
	slices.SortFunc(read, func(a, b topic.Topic) int { return strings.Compare(a.Name, b.Name) })
	left := 0
	for _, t := range read {
		left += t.ReadQueues
	}
	var queues []protocol.GroupOffset
	for _, t := range read {
		for q := range t.ReadQueues {
			var o protocol.GroupOffset
			var err error
			budget.Spend(left, func(part *store.Budget) { o, err = a.queueLag(r, t, q, part) })
			if err != nil {
				return queues, err
			}
			queues = append(queues, o)
			left--
		}
	}
	return queues, nil
}

// reading is the lag of groups in topics that they may never have consumed here.
func (a *groupAdmin) reading(wanted []protocol.GroupTopics) (*protocol.ListGroupsResponse, error) {
	resp, budget := &protocol.ListGroupsResponse{}, lagBudget()
	for i, w := range wanted {
		topics := map[uint64]bool{}
		for _, name := range w.Topics {
			if t, ok := a.state.topics.Lookup(name); ok {
				topics[t.ID] = true
			}
		}
		var queues []protocol.GroupOffset
		var err error
		budget.Spend(len(wanted)-i, func(part *store.Budget) { queues, err = a.lag(w.Group, topics, part) })
		if err != nil {
			return nil, err
		}
		resp.Groups = append(resp.Groups, protocol.GroupStatus{GroupConfig: group.Default(w.Group), Queues: queues})
	}
	return resp, nil
}

// queueLag is what a group has to consume in one queue. What waits for its retry is
// looked at before the queue's end: what is shown meanwhile may be counted twice, and
// is never missed.
func (a *groupAdmin) queueLag(r *reader, t topic.Topic, queue int, budget *store.Budget) (protocol.GroupOffset, error) {
	key := store.QueueKey{Topic: t.ID, Queue: uint32(queue)}
	p := r.of(key)
	o := protocol.GroupOffset{Topic: t.Name, Queue: queue, Committed: p.Committed, Owner: p.Client}
	if queue == 0 && t.Name == message.RetryTopic(r.group) {
		o.Retrying = int64(a.state.timers.LenOf(t.ID))
	}
	f, known := a.filterOf(r, t.Name)
	o.Filtered, o.FilterUnknown = f != nil, !known
	err := a.state.within(key, func(first, end int64) error {
		next, err := a.state.next(key, p, r.starts)
		if err != nil {
			return err
		}
		popped, pops := a.state.pops.Counts(pop.Key{Group: r.group, Topic: t.ID, Queue: key.Queue}, a.now().UnixMilli(), first)
		if pops = pops && p.Client == ""; pops { // who has the lease reads from the offset
			next = popped.Next
			_, end = a.state.log.Bounds(key)
		}
		o.Min, o.End = first, end
		next = min(max(next, first), end)
		w := waiting{n: end - next, oldest: next, exact: true}
		if f != nil && w.n > 0 {
			w, err = a.backlogs.of(backlogKey{r.group, key}).count(a.state.log, f, next, end, budget)
		}
		if pops {
			o.InFlight, o.Ready = popped.InFlight, popped.Ready+w.n
			w = w.behind(popped)
		}
		o.Lag, o.LagMillis, o.AtLeast = o.Retrying+w.n, 0, !w.exact
		if err != nil || w.oldest >= end || w.exact && w.n == 0 {
			return err
		}
		stored, err := a.state.log.StoredAt(key, w.oldest)
		o.LagMillis = max(a.now().UnixMilli()-stored, 0)
		return err
	})
	return o, err
}

// behind is what waits, together with what is unfinished before it.
func (w waiting) behind(popped pop.Counts) waiting {
	if popped.Unfinished > 0 {
		w.n, w.oldest = w.n+popped.Unfinished, popped.Oldest
	}
	return w
}

// filterOf is the filter with which a group reads a topic, nil for none. It is not
// known when no member ever said so, or when what one said is no filter.
func (a *groupAdmin) filterOf(r *reader, topicName string) (f *messageFilter, known bool) {
	if strings.HasPrefix(topicName, message.RetryPrefix) {
		return nil, true
	}
	said, filtered := r.subscription.Filter(topicName)
	if !filtered {
		return nil, r.subscription.Has(topicName)
	}
	f, err := a.backlogs.filters.of(said)
	if err != nil || f.all() {
		return nil, err == nil
	}
	return f, true
}

// next is the offset that a group reads next in a queue; it may be out of the
// queue's bounds.
func (s *state) next(key store.QueueKey, p group.Progress, starts starts) (int64, error) {
	if p.Committed >= 0 {
		return p.Committed, nil
	}
	candidates := starts.of(p.Client)
	if t, ok := s.topics.ByID(key.Topic); ok && strings.HasPrefix(t.Name, message.RetryPrefix) {
		return 0, nil // wherever members begin, what failed is not processed
	}
	if len(candidates) == 0 {
		return 0, nil // nobody has said where the group begins: it may be at the beginning
	}
	lowest := int64(-1)
	for _, c := range candidates {
		at, err := s.position(key, c.Target, c.Value)
		if err != nil {
			return 0, err
		}
		if lowest < 0 || at < lowest {
			lowest = at
		}
	}
	return lowest, nil
}

// position is the offset of a place in a queue, which group.CheckStart has accepted,
// within its bounds.
func (s *state) position(key store.QueueKey, target protocol.ResetTarget, value int64) (int64, error) {
	first, end := s.log.Bounds(key)
	switch target {
	case protocol.ResetToEarliest:
		return first, nil
	case protocol.ResetToOffset:
		return min(max(value, first), end), nil
	case protocol.ResetToTime:
		return s.log.OffsetAt(key, value)
	default:
		return end, nil
	}
}

// starts are where the members of a group begin, by client.
type starts map[string]protocol.Start

func (c *clients) starts(groupName string) starts {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sessions.Starts(groupName)
}

// of are the positions of which the owner of a queue, or while nobody owns it
// whoever will, begins at one: the lowest of each kind.
func (s starts) of(owner string) map[protocol.ResetTarget]protocol.Start {
	lowest := map[protocol.ResetTarget]protocol.Start{}
	if own, ok := s[owner]; ok {
		lowest[own.Target] = own
		return lowest
	}
	for _, start := range s {
		if known, ok := lowest[start.Target]; !ok || start.Value < known.Value {
			lowest[start.Target] = start
		}
	}
	return lowest
}
