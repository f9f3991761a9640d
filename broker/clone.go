package broker

import (
	"cmp"
	"context"
	"slices"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// cloneOffsets sets one group to where another is. The group that is set has no
// members, and no client can take up a queue of it meanwhile.
func (a *groupAdmin) cloneOffsets(ctx context.Context, r *protocol.CloneOffsetsRequest) (*protocol.CloneOffsetsResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.checkClone(r); err != nil {
		return nil, err
	}
	a.clients.leasing.Lock()
	defer a.clients.leasing.Unlock()
	if err := a.offline(r.To); err != nil {
		return nil, err
	}
	resp, rows, err := a.planClone(r)
	if err != nil || r.DryRun {
		return resp, err
	}
	return resp, a.set(ctx, r.To, rows)
}

func (a *groupAdmin) checkClone(r *protocol.CloneOffsetsRequest) error {
	if err := message.CheckGroup(r.To); err != nil {
		return protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	if r.From == r.To {
		return protocol.Errorf(protocol.InvalidArgument, "group %q cannot be cloned to itself", r.To)
	}
	if _, ok := a.state.groups.Config(r.From); !ok {
		return protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.From)
	}
	if r.Topic == "" {
		return nil
	}
	_, err := a.state.topic(r.Topic)
	return err
}

// offline returns a Conflict when a group has members, or clients that held queues
// of it before this broker restarted and may still be there.
func (a *groupAdmin) offline(groupName string) error {
	online := func(client string) error {
		return protocol.Errorf(protocol.Conflict, "group %q is online: client %q is in it", groupName, client)
	}
	for _, m := range a.clients.members(groupName) {
		return online(m.ClientID)
	}
	for _, p := range a.state.groups.Offsets(groupName) {
		if p.Client != "" && a.clients.alive(p.Client, groupName) {
			return online(p.Client)
		}
	}
	return nil
}

func (a *groupAdmin) planClone(r *protocol.CloneOffsetsRequest) (*protocol.CloneOffsetsResponse, []group.Offset, error) {
	resp := &protocol.CloneOffsetsResponse{}
	var rows []group.Offset
	for _, p := range a.state.groups.Offsets(r.From) {
		t, ok := a.state.topics.ByID(p.TopicID)
		if !ok || p.Committed < 0 || r.Topic != "" && t.Name != r.Topic || t.Name == message.RetryPrefix+r.From {
			continue
		}
		key := store.QueueKey{Topic: p.TopicID, Queue: uint32(p.Queue)}
		change, err := a.change(key, r.To, func() (int64, error) { return p.Committed, nil })
		if err != nil {
			return nil, nil, err
		}
		if change.Before >= 0 && change.Before != change.After && !r.Force {
			return nil, nil, protocol.Errorf(protocol.Conflict, "group %q has offsets of its own: %d in queue %d of topic %q, where group %q has %d",
				r.To, change.Before, p.Queue, t.Name, r.From, change.After)
		}
		resp.Queues = append(resp.Queues, protocol.ClonedOffset{Topic: t.Name, OffsetChange: change})
		rows = append(rows, group.Offset{TopicID: p.TopicID, Queue: p.Queue, Offset: change.After, Reset: true})
	}
	slices.SortFunc(resp.Queues, func(a, b protocol.ClonedOffset) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Queue, b.Queue))
	})
	return resp, rows, nil
}
