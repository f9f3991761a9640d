package broker

import (
	"strings"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// lag is what a group has to consume in topics, queue by queue. Offsets are looked
// at before the queues' ends: these only grow, so that no offset is above its end.
func (a *groupAdmin) lag(groupName string, topics map[uint64]bool) ([]protocol.GroupOffset, error) {
	progress := map[store.QueueKey]group.Progress{}
	for _, p := range a.state.groups.Offsets(groupName) {
		progress[store.QueueKey{Topic: p.TopicID, Queue: uint32(p.Queue)}] = p
	}
	starts := a.clients.starts(groupName)
	var queues []protocol.GroupOffset
	for _, t := range a.state.topics.List() {
		if !topics[t.ID] {
			continue
		}
		for q := range t.ReadQueues {
			key := store.QueueKey{Topic: t.ID, Queue: uint32(q)}
			p, ok := progress[key]
			if !ok {
				p = group.Progress{Committed: -1}
			}
			o, err := a.queueLag(key, p, starts)
			if err != nil {
				return queues, err
			}
			o.Topic = t.Name
			queues = append(queues, o)
		}
	}
	return queues, nil
}

// reading is the lag of groups in topics that they may never have consumed here.
func (a *groupAdmin) reading(wanted []protocol.GroupTopics) (*protocol.ListGroupsResponse, error) {
	resp := &protocol.ListGroupsResponse{}
	for _, w := range wanted {
		topics := map[uint64]bool{}
		for _, name := range w.Topics {
			if t, ok := a.state.topics.Lookup(name); ok {
				topics[t.ID] = true
			}
		}
		queues, err := a.lag(w.Group, topics)
		if err != nil {
			return nil, err
		}
		resp.Groups = append(resp.Groups, protocol.GroupStatus{GroupConfig: group.Default(w.Group), Queues: queues})
	}
	return resp, nil
}

func (a *groupAdmin) queueLag(key store.QueueKey, p group.Progress, starts starts) (protocol.GroupOffset, error) {
	o := protocol.GroupOffset{Queue: int(key.Queue), Committed: p.Committed, Owner: p.Client}
	err := a.state.within(key, func(first, end int64) error {
		o.Min, o.End = first, end
		next, err := a.state.next(key, p, starts)
		next = min(max(next, first), end)
		o.Lag, o.LagMillis = end-next, 0
		if err != nil || o.Lag == 0 {
			return err
		}
		stored, err := a.state.log.StoredAt(key, next)
		o.LagMillis = max(a.now().UnixMilli()-stored, 0)
		return err
	})
	return o, err
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
