package broker

import (
	"context"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// resetOffsets sets offsets by records that also end the queues' leases: the
// owners see that they are fenced, and begin anew at the offsets set.
func (a *groupAdmin) resetOffsets(ctx context.Context, r *protocol.ResetOffsetsRequest) (*protocol.ResetOffsetsResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, err := a.checkReset(r)
	if err != nil {
		return nil, err
	}
	resp, rows, err := a.planReset(t, r)
	if err != nil || r.DryRun {
		return resp, err
	}
	return resp, a.set(ctx, r.Group, rows)
}

func (a *groupAdmin) checkReset(r *protocol.ResetOffsetsRequest) (topic.Topic, error) {
	if err := message.CheckGroup(r.Group); err != nil {
		return topic.Topic{}, protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	if err := group.CheckStart(&protocol.Start{Target: r.Target, Value: r.Value}); err != nil {
		return topic.Topic{}, err
	}
	if _, ok := a.state.groups.Config(r.Group); !ok && !r.CreateGroup {
		return topic.Topic{}, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
	}
	t, err := a.state.topic(r.Topic)
	if err == nil && r.Queue != -1 {
		_, err = queueOf(t, r.Queue, t.ReadQueues)
	}
	return t, err
}

// set writes rows that set offsets and tells the group's members.
func (a *groupAdmin) set(ctx context.Context, groupName string, rows []group.Offset) error {
	if len(rows) == 0 {
		return nil
	}
	record := store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets(groupName, rows)}
	if err := a.state.append(ctx, record); err != nil {
		return err
	}
	a.clients.notify(groupName)
	return nil
}

func (a *groupAdmin) planReset(t topic.Topic, r *protocol.ResetOffsetsRequest) (*protocol.ResetOffsetsResponse, []group.Offset, error) {
	resp := &protocol.ResetOffsetsResponse{}
	var rows []group.Offset
	for q := range t.ReadQueues {
		if r.Queue != -1 && q != r.Queue {
			continue
		}
		key := store.QueueKey{Topic: t.ID, Queue: uint32(q)}
		change, err := a.change(key, r.Group, func() (int64, error) { return a.state.position(key, r.Target, r.Value) })
		if err != nil {
			return nil, nil, err
		}
		resp.Queues = append(resp.Queues, change)
		rows = append(rows, group.Offset{TopicID: t.ID, Queue: q, Offset: change.After, Reset: true})
	}
	return resp, rows, nil
}

// change is what becomes of a group's offset in a queue when it is set to what to
// says, or to the nearest offset that the queue has.
func (a *groupAdmin) change(key store.QueueKey, groupName string, to func() (int64, error)) (protocol.OffsetChange, error) {
	p := group.Progress{Committed: a.state.groups.Committed(groupName, key.Topic, int(key.Queue))}
	p.Client, _, _ = a.state.groups.Lease(groupName, key.Topic, int(key.Queue))
	c := protocol.OffsetChange{Queue: int(key.Queue), Before: p.Committed}
	starts := a.clients.starts(groupName)
	err := a.state.within(key, func(first, end int64) error {
		next, err := a.state.next(key, p, starts)
		if err != nil {
			return err
		}
		after, err := to()
		c.After = min(max(after, first), end)
		c.Skipped = c.After - min(max(next, first), end)
		return err
	})
	return c, err
}
