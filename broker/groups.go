package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
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
	progress := map[store.QueueKey]group.Progress{}
	topics := map[uint64]bool{}
	for _, p := range a.state.groups.Offsets(name) {
		progress[store.QueueKey{Topic: p.TopicID, Queue: uint32(p.Queue)}] = p
		topics[p.TopicID] = true
	}
	for _, m := range s.Members {
		for _, name := range m.Topics {
			if t, ok := a.state.topics.Lookup(name); ok {
				topics[t.ID] = true
			}
		}
	}
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
			o, err := a.groupOffset(t.Name, key, p)
			if err != nil {
				return s, err
			}
			s.Queues = append(s.Queues, o)
		}
	}
	return s, nil
}

func (a *groupAdmin) groupOffset(topicName string, key store.QueueKey, p group.Progress) (protocol.GroupOffset, error) {
	o := protocol.GroupOffset{Topic: topicName, Queue: int(key.Queue), Committed: p.Committed, Owner: p.Client}
	var stored int64
	err := a.state.within(key, func(first, end int64) (err error) {
		o.Min, o.End = first, end
		if next := max(o.Committed, first); o.Committed >= 0 && next < end {
			stored, err = a.state.log.StoredAt(key, next)
			o.LagMillis = max(a.now().UnixMilli()-stored, 0)
		}
		return err
	})
	return o, err
}

// resetOffsets sets offsets by records that also end the queues' leases: the
// owners see that they are fenced, and begin anew at the offsets set.
func (a *groupAdmin) resetOffsets(ctx context.Context, r *protocol.ResetOffsetsRequest) (*protocol.ResetOffsetsResponse, error) {
	if _, ok := a.state.groups.Config(r.Group); !ok {
		return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
	}
	t, err := a.state.topic(r.Topic)
	if err != nil {
		return nil, err
	}
	if r.Queue != -1 {
		if _, err := queueOf(t, r.Queue, t.ReadQueues); err != nil {
			return nil, err
		}
	}
	resp, rows, err := a.plan(t, r)
	if err != nil || r.DryRun || len(rows) == 0 {
		return resp, err
	}
	if err := a.state.append(ctx, store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets(r.Group, rows)}); err != nil {
		return nil, err
	}
	a.clients.notify(r.Group)
	return resp, nil
}

func (a *groupAdmin) plan(t topic.Topic, r *protocol.ResetOffsetsRequest) (*protocol.ResetOffsetsResponse, []group.Offset, error) {
	resp := &protocol.ResetOffsetsResponse{}
	var rows []group.Offset
	for q := range t.ReadQueues {
		if r.Queue != -1 && q != r.Queue {
			continue
		}
		to, err := a.target(store.QueueKey{Topic: t.ID, Queue: uint32(q)}, r)
		if err != nil {
			return nil, nil, err
		}
		before := a.state.groups.Committed(r.Group, t.ID, q)
		resp.Queues = append(resp.Queues, protocol.OffsetChange{Queue: q, Before: before, After: to})
		rows = append(rows, group.Offset{TopicID: t.ID, Queue: q, Offset: to, Reset: true})
	}
	return resp, rows, nil
}

func (a *groupAdmin) target(key store.QueueKey, r *protocol.ResetOffsetsRequest) (int64, error) {
	first, end := a.state.log.Bounds(key)
	switch r.Target {
	case protocol.ResetToEarliest:
		return first, nil
	case protocol.ResetToLatest:
		return end, nil
	case protocol.ResetToOffset:
		if r.Value < 0 {
			return 0, protocol.Errorf(protocol.InvalidArgument, "offset %d is negative", r.Value)
		}
		return min(max(r.Value, first), end), nil
	case protocol.ResetToTime:
		to, err := a.state.log.OffsetAt(key, r.Value)
		return to, refusal(err)
	}
	return 0, protocol.Errorf(protocol.InvalidArgument, "target %q of a reset", r.Target)
}
