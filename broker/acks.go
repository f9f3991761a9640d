package broker

import (
	"cmp"
	"context"
	"slices"

	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport/protocol"
)

func (p *pops) ackMessage(ctx context.Context, r *protocol.AckRequest) (*protocol.AckResponse, error) {
	return p.settle(ctx, r, pop.Ack{})
}

func (p *pops) changeInvisible(ctx context.Context, r *protocol.ChangeInvisibleRequest) (*protocol.AckResponse, error) {
	return p.settle(ctx, &r.AckRequest, pop.Ack{Again: true, InvisibleMillis: r.InvisibleMillis})
}

// settle applies what is asked to all handles that count still: one record a queue,
// all under way at once. The view then says which did not count any more.
func (p *pops) settle(ctx context.Context, r *protocol.AckRequest, what pop.Ack) (*protocol.AckResponse, error) {
	if _, ok := p.state.groups.Config(r.Group); !ok {
		return nil, protocol.Errorf(protocol.GroupNotFound, "group %q is not known", r.Group)
	}
	resp := &protocol.AckResponse{Queues: make([]protocol.AckedQueue, len(r.Queues))}
	keys := make([]pop.Key, len(r.Queues))
	records := map[pop.Key]*pop.Ack{}
	for i := range r.Queues {
		key, live, err := p.live(r.Group, &r.Queues[i])
		if err != nil {
			resp.Queues[i].Err = protocol.AsError(err)
			continue
		}
		keys[i] = key
		if len(live) == 0 {
			continue
		}
		if records[key] == nil {
			a := what
			a.Key, records[key] = key, &a
		}
		records[key].Sets = append(records[key].Sets, pop.Set{Fence: r.Queues[i].Fence, Offsets: live})
	}
	if err := p.write(ctx, r.Group, records); err != nil {
		return nil, err
	}
	for i := range r.Queues {
		if resp.Queues[i].Err == nil {
			resp.Queues[i].Expired = p.expired(keys[i], &r.Queues[i])
		}
	}
	return resp, nil
}

// live finds the queue of some handles and the offsets of those that count, ascending.
func (p *pops) live(groupName string, q *protocol.AckQueue) (key pop.Key, live []int64, err error) {
	t, err := p.state.topic(q.Topic)
	if err != nil {
		return key, nil, err
	}
	key = pop.Key{Group: groupName, Topic: t.ID, Queue: uint32(q.Queue)}
	p.state.pops.Judge(key, q.Fence, q.Offsets, func(offset int64, verdict pop.Verdict) {
		switch verdict {
		case pop.Live:
			live = append(live, offset)
		case pop.Unknown:
			err = protocol.Errorf(protocol.NotFound, "the message at offset %d of queue %d of topic %q was not handed out with fence %d",
				offset, q.Queue, q.Topic, q.Fence)
		}
	})
	slices.Sort(live)
	return key, slices.Compact(live), err
}

func (p *pops) expired(key pop.Key, q *protocol.AckQueue) (expired []int64) {
	p.state.pops.Judge(key, q.Fence, q.Offsets, func(offset int64, verdict pop.Verdict) {
		if verdict == pop.Expired || verdict == pop.Unknown {
			expired = append(expired, offset)
		}
	})
	return expired
}

// write appends records and waits until they are applied. Pops that wait are told
// when something can be handed out earlier than they know.
func (p *pops) write(ctx context.Context, groupName string, records map[pop.Key]*pop.Ack) (err error) {
	if len(records) == 0 {
		return nil
	}
	keys := make([]pop.Key, 0, len(records))
	for key := range records {
		keys = append(keys, key)
	}
	started := 0
	done := make(chan error, len(records))
	for _, a := range records {
		r := store.Record{Type: store.AckRecord, Data: pop.EncodeAck(a)}
		if err = refusal(p.state.log.Append(r, func(_ store.Committed, err error) { done <- outcome(err) })); err != nil {
			break
		}
		started++
	}
	for range started {
		select {
		case failed := <-done:
			err = cmp.Or(err, failed)
		case <-ctx.Done():
			return protocol.Errorf(protocol.UnknownOutcome, "the disk has not answered: %v", ctx.Err())
		}
	}
	p.wake(groupName, p.state.pops.NextDue(keys))
	return err
}
