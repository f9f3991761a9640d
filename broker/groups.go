package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// groupAdmin creates, changes, deletes, lists and resets groups.
type groupAdmin struct {
	state   *state
	clients *clients
	now     func() time.Time

	mu sync.Mutex // one change at a time, from the look at the view to the record applied
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
	return &protocol.Empty{}, a.state.append(ctx, store.Record{Type: store.GroupRecord, Data: group.EncodePut(cfg)})
}

func (a *groupAdmin) deleteGroup(ctx context.Context, r *protocol.DeleteGroupRequest) (*protocol.Empty, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.state.groups.Config(r.Group); !ok {
		return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
	}
	if n := len(a.clients.members(r.Group)); n > 0 {
		return nil, protocol.Errorf(protocol.Conflict, "group %q has %d members", r.Group, n)
	}
	return &protocol.Empty{}, a.state.append(ctx, store.Record{Type: store.GroupDeleteRecord, Data: group.EncodeDelete(r.Group)})
}

func (a *groupAdmin) listGroups(_ context.Context, r *protocol.ListGroupsRequest) (*protocol.ListGroupsResponse, error) {
	if len(r.Reading) > 0 {
		return a.reading(r.Reading)
	}
	names := append(a.state.groups.Groups(), a.clients.groups()...)
	slices.Sort(names)
	names = slices.Compact(names)
	if r.Group != "" {
		if !slices.Contains(names, r.Group) {
			return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
		}
		names = []string{r.Group}
	}
	resp := &protocol.ListGroupsResponse{Groups: make([]protocol.GroupStatus, len(names))}
	for i, name := range names {
		s, err := a.groupStatus(name)
		if err != nil {
			return nil, err
		}
		resp.Groups[i] = s
	}
	return resp, nil
}

func (a *groupAdmin) groupStatus(name string) (protocol.GroupStatus, error) {
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
		for _, name := range m.Topics {
			if t, ok := a.state.topics.Lookup(name); ok {
				topics[t.ID] = true
			}
		}
	}
	var err error
	s.Queues, err = a.lag(name, topics)
	return s, err
}
