package broker

import (
	"context"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// offsets commits and answers consumer offsets.
type offsets struct{ state *state }

func (o *offsets) register(m *transport.Mux) {
	transport.Handle(m, o.commitOffsets)
	transport.Handle(m, o.queryOffsets)
}

// commitOffsets writes the offsets that pass as one record, and tells of the
// others.
func (o *offsets) commitOffsets(ctx context.Context, r *protocol.CommitOffsetsRequest) (*protocol.CommitOffsetsResponse, error) {
	if err := message.CheckGroup(r.Group); err != nil {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	resp := &protocol.CommitOffsetsResponse{}
	var rows []group.Offset
	for _, c := range r.Offsets {
		row, err := o.check(r, c)
		if err != nil {
			resp.Refused = append(resp.Refused, protocol.RefusedOffset{Topic: c.Topic, Queue: c.Queue, Err: protocol.AsError(err)})
			continue
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return resp, nil
	}
	err := o.state.append(ctx, store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets(r.Group, rows)})
	return resp, err
}

func (o *offsets) check(r *protocol.CommitOffsetsRequest, c protocol.CommitOffset) (group.Offset, error) {
	key, err := o.state.readable(c.Topic, c.Queue)
	if err != nil {
		return group.Offset{}, err
	}
	if _, end := o.state.log.Bounds(key); c.Offset < 0 || c.Offset > end {
		return group.Offset{}, protocol.Errorf(protocol.OffsetOutOfRange, "offset %d is not within 0 to %d", c.Offset, end)
	}
	if c.Fence != 0 {
		err = o.state.groups.Check(r.Group, key.Topic, c.Queue, r.ClientID, c.Fence)
	} else if owner, _, held := o.state.groups.Lease(r.Group, key.Topic, c.Queue); held {
		err = protocol.Errorf(protocol.Fenced, "client %q holds the lease of the queue", owner)
	} else if o.state.pops.InFlight(pop.Key{Group: r.Group, Topic: key.Topic, Queue: key.Queue}, o.state.now().UnixMilli()) {
		err = protocol.Errorf(protocol.Fenced, "group %q has popped messages of the queue that are not acknowledged", r.Group)
	}
	return group.Offset{TopicID: key.Topic, Queue: c.Queue, Offset: c.Offset, Fence: c.Fence}, err
}

func (o *offsets) queryOffsets(_ context.Context, r *protocol.QueryOffsetsRequest) (*protocol.QueryOffsetsResponse, error) {
	resp := &protocol.QueryOffsetsResponse{Queues: make([]protocol.QueueOffsets, len(r.Queues))}
	for i, q := range r.Queues {
		answer, err := o.query(r.Group, q)
		if err != nil {
			answer.Err = protocol.AsError(err)
		}
		resp.Queues[i] = answer
	}
	return resp, nil
}

func (o *offsets) query(groupName string, q protocol.QueryOffset) (protocol.QueueOffsets, error) {
	a := protocol.QueueOffsets{Committed: -1}
	key, err := o.state.readable(q.Topic, q.Queue)
	if err != nil {
		return a, err
	}
	a.Min, a.End = o.state.log.Bounds(key)
	a.At = a.End
	if groupName != "" {
		a.Committed = o.state.groups.Committed(groupName, key.Topic, q.Queue)
	}
	if q.AtMillis != 0 {
		a.At, err = o.state.log.OffsetAt(key, q.AtMillis)
	}
	return a, refusal(err)
}
