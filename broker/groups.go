package broker

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// groupAdmin creates, changes, deletes, lists and resets groups.
type groupAdmin struct {
	state   *state
	clients *clients
	topics  *topicAdmin
	now     func() time.Time

	backlogs backlogs

	mu sync.Mutex // one change at a time, from the look at the view to the record applied
}

func newGroupAdmin(b *Broker) *groupAdmin {
	return &groupAdmin{state: b.state, clients: b.clients, topics: b.topics, now: b.cfg.Now}
}

func (a *groupAdmin) register(m *transport.Mux) {
	transport.Handle(m, a.putGroup)
	transport.Handle(m, a.deleteGroup)
	transport.Handle(m, a.listGroups)
	transport.Handle(m, a.resetOffsets)
	transport.Handle(m, a.cloneOffsets)
}

func (a *groupAdmin) putGroup(ctx context.Context, r *protocol.PutGroupRequest) (*protocol.Empty, error) {
	if err := group.Validate(r.Group); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	_, exists := a.state.groups.Config(r.Group.Name)
	cfg := r.Group
	switch {
	case r.Mode == protocol.PutCreate && exists:
		return nil, protocol.Errorf(protocol.Conflict, "group %q exists", cfg.Name)
	case r.Mode == protocol.PutAlter && !exists:
		return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", cfg.Name)
	case r.Mode == protocol.PutAuto && exists:
		return &protocol.Empty{}, nil
	case r.Mode == protocol.PutAuto:
		cfg = group.Default(cfg.Name)
	case r.Mode != protocol.PutCreate && r.Mode != protocol.PutAlter:
		return nil, protocol.Errorf(protocol.InvalidArgument, "mode %q of a put", r.Mode)
	}
	if err := a.state.append(ctx, store.Record{Type: store.GroupRecord, Data: group.EncodePut(cfg)}); err != nil {
		return nil, err
	}
	a.clients.notify(cfg.Name) // so that members see whether they may consume
	return &protocol.Empty{}, nil
}

// deleteGroup deletes the topics that belong to the group first: who asks again after
// a failure finds the group, and what is left of it.
func (a *groupAdmin) deleteGroup(ctx context.Context, r *protocol.DeleteGroupRequest) (*protocol.DeleteGroupResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.state.groups.Config(r.Group); !ok {
		return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
	}
	if n := len(a.clients.members(r.Group)); n > 0 {
		return nil, protocol.Errorf(protocol.Conflict, "group %q has %d members", r.Group, n)
	}
	resp, topics := a.belongings(r)
	if r.DryRun {
		return resp, nil
	}
	for _, name := range topics {
		_, err := a.topics.deleteTopic(ctx, &protocol.DeleteTopicRequest{Topic: name})
		if err != nil && !errors.Is(err, protocol.TopicNotFound) {
			return nil, err
		}
	}
	return resp, a.state.append(ctx, store.Record{Type: store.GroupDeleteRecord, Data: group.EncodeDelete(r.Group)})
}

// belongings counts what a group has in topics of its own, and names those that go
// with it: the retry topic with all that waits to be shown there, and that of the
// dead letters when it is empty or they are to go.
func (a *groupAdmin) belongings(r *protocol.DeleteGroupRequest) (*protocol.DeleteGroupResponse, []string) {
	resp := &protocol.DeleteGroupResponse{}
	var topics []string
	if t, ok := a.state.topics.Lookup(message.RetryTopic(r.Group)); ok {
		first, end := a.state.log.Bounds(store.QueueKey{Topic: t.ID})
		resp.Retries = end - max(first, a.state.groups.Committed(r.Group, t.ID, 0)) + int64(a.state.timers.LenOf(t.ID))
		topics = append(topics, t.Name)
	}
	if t, ok := a.state.topics.Lookup(message.DLQTopic(r.Group)); ok {
		first, end := a.state.log.Bounds(store.QueueKey{Topic: t.ID})
		if resp.DeadLetters = end - first; r.WithDeadLetters || resp.DeadLetters == 0 {
			topics = append(topics, t.Name)
		}
	}
	return resp, topics
}

func (a *groupAdmin) listGroups(_ context.Context, r *protocol.ListGroupsRequest) (*protocol.ListGroupsResponse, error) {
	if len(r.Reading) > 0 {
		return a.reading(r.Reading)
	}
	names := a.names()
	if r.Group != "" {
		if !slices.Contains(names, r.Group) {
			return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
		}
		names = []string{r.Group}
	}
	resp := &protocol.ListGroupsResponse{Groups: make([]protocol.GroupStatus, len(names))}
	budget := lagBudget()
	for i, name := range names {
		var err error
		budget.Spend(len(names)-i, func(part *store.Budget) { resp.Groups[i], err = a.groupStatus(name, part) })
		if err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// names are all groups, sorted: those that are known, and those that have members.
func (a *groupAdmin) names() []string {
	names := append(a.state.groups.Groups(), a.clients.groups()...)
	slices.Sort(names)
	return slices.Compact(names)
}

func (a *groupAdmin) groupStatus(name string, budget *store.Budget) (protocol.GroupStatus, error) {
	cfg, ok := a.state.groups.Config(name)
	if !ok {
		cfg = group.Default(name)
	}
	s := protocol.GroupStatus{GroupConfig: cfg, Members: a.clients.members(name)}
	topics := map[uint64]bool{}
	for _, p := range a.state.groups.Offsets(name) {
		topics[p.TopicID] = true
	}
	for _, m := range s.Members {
		if m.Broadcast {
			continue // how far it is, it alone knows
		}
		for _, name := range m.Topics {
			if t, ok := a.state.topics.Lookup(name); ok {
				topics[t.ID] = true
			}
		}
	}
	if t, ok := a.state.topics.Lookup(message.RetryTopic(name)); ok {
		topics[t.ID] = true
	}
	var err error
	s.Queues, err = a.lag(name, topics, budget)
	return s, err
}
