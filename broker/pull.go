package broker

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// puller gives messages out. A pull that finds none waits on a channel that the
// log's applier writes to; nothing is polled.
type puller struct {
	state   *state
	closing <-chan struct{} // ends the waiting when the broker closes
	turn    atomic.Uint64   // which queue of a request is read first
}

func (p *puller) register(m *transport.Mux) { transport.Handle(m, p.pullMessage) }

func (p *puller) pullMessage(ctx context.Context, r *protocol.PullRequest) (*protocol.PullResponse, error) {
	if err := p.checkGroup(r.Group); err != nil {
		return nil, err
	}
	if r.WaitMillis == 0 {
		return p.read(r), nil
	}
	w := p.state.log.Wait(p.keys(r))
	defer w.Stop()
	timeout := time.NewTimer(time.Duration(r.WaitMillis) * time.Millisecond)
	defer timeout.Stop()
	for {
		if resp := p.read(r); len(resp.Queues) > 0 {
			return resp, nil
		}
		select {
		case <-w.C:
		case <-timeout.C:
			return &protocol.PullResponse{}, nil
		case <-ctx.Done():
			return nil, protocol.Errorf(protocol.Unavailable, "the pull was ended: %v", ctx.Err())
		case <-p.closing:
			return nil, protocol.Errorf(protocol.Unavailable, "the broker is closing")
		}
	}
}

func (p *puller) checkGroup(name string) error {
	if name == "" {
		return nil
	}
	g, ok := p.state.groups.Config(name)
	if !ok {
		return protocol.Errorf(protocol.GroupNotFound, "group %q is not known", name)
	}
	if !g.ConsumeEnabled {
		return protocol.Errorf(protocol.NoPermission, "consuming is switched off for group %q", name)
	}
	return nil
}

// keys are the queues to wait for; those that cannot be read answer the pull at
// once and need no waiting.
func (p *puller) keys(r *protocol.PullRequest) []store.QueueKey {
	keys := make([]store.QueueKey, 0, len(r.Queues))
	for _, q := range r.Queues {
		if key, err := p.state.readable(q.Topic, q.Queue); err == nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// read takes what there is now: an equal share of the bytes for each queue, and
// what one leaves for the next. Requests begin at different queues, so that a
// busy one does not starve those behind it.
func (p *puller) read(r *protocol.PullRequest) *protocol.PullResponse {
	resp := &protocol.PullResponse{}
	n := len(r.Queues)
	if n == 0 {
		return resp
	}
	left, first := int(r.MaxBytes), int(p.turn.Add(1)%uint64(n))
	for i := range n {
		if left <= 0 {
			break
		}
		at := (first + i) % n
		got := p.readQueue(r, at, max(left/(n-i), 1))
		if got.Err != nil || len(got.Batches) > 0 {
			resp.Queues = append(resp.Queues, got)
			left -= len(got.Batches)
		}
	}
	return resp
}

func (p *puller) readQueue(r *protocol.PullRequest, at, maxBytes int) protocol.PulledQueue {
	q := &r.Queues[at]
	got := protocol.PulledQueue{Index: at, Next: q.Offset}
	key, err := p.state.readable(q.Topic, q.Queue)
	if err == nil && r.Group != "" {
		err = p.state.groups.Check(r.Group, key.Topic, q.Queue, r.ClientID, q.Fence)
	}
	if err != nil {
		got.Err = protocol.AsError(err)
		return got
	}
	b, err := p.state.log.Read(key, q.Offset, maxBytes, int(r.MaxCount))
	got.Next, got.Min, got.End, got.Batches = b.Next, b.Min, b.End, b.Data
	if err != nil {
		got.Err = protocol.AsError(refusal(err))
	}
	return got
}
