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
	filters filters
	closing <-chan struct{} // ends the waiting when the broker closes
	turn    atomic.Uint64   // which queue of a request is read first
}

func (p *puller) register(m *transport.Mux) { transport.Handle(m, p.pullMessage) }

func (p *puller) pullMessage(ctx context.Context, r *protocol.PullRequest) (*protocol.PullResponse, error) {
	if err := p.checkGroup(r.Group); err != nil {
		return nil, err
	}
	s, err := p.newSieve(r)
	if err != nil {
		return nil, err
	}
	if r.WaitMillis == 0 {
		return p.read(r, s), nil
	}
	w := p.state.log.Wait(p.keys(r))
	defer w.Stop()
	wait := time.Duration(r.WaitMillis) * time.Millisecond
	deadline, timeout := time.Now().Add(wait), time.NewTimer(wait)
	defer timeout.Stop()
	resp := p.read(r, s)
	for len(resp.Queues) == 0 {
		select {
		case <-w.C:
			if err := p.checkGroup(r.Group); err != nil {
				return nil, err // consuming was switched off meanwhile
			}
			resp = p.read(r, s)
			if s.withhold(r, resp) {
				timeout.Reset(min(tellAfter, time.Until(deadline)))
			}
		case <-timeout.C:
			return s.complete(resp), nil
		case <-ctx.Done():
			return nil, protocol.Errorf(protocol.Unavailable, "the pull was ended: %v", ctx.Err())
		case <-p.closing:
			return nil, protocol.Errorf(protocol.Unavailable, "the broker is closing")
		}
	}
	return s.complete(resp), nil
}

func (p *puller) checkGroup(name string) error {
	if name == "" {
		return nil
	}
	_, err := p.state.consuming(name)
	return err
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

// read finds what there is now; it is copied when the answer is encoded: an equal
// share of the bytes for each queue, and what one leaves for the next. Requests
// begin at different queues, so that a busy one does not starve those behind it.
func (p *puller) read(r *protocol.PullRequest, s *sieve) *protocol.PullResponse {
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
		got := p.readQueue(r, at, max(left/(n-i), 1), n-i, s)
		if got.Err != nil || got.Size > 0 || got.Next > r.Queues[at].Offset {
			resp.Queues = append(resp.Queues, got)
			left -= got.Size
		}
	}
	return resp
}

// readQueue reads one queue, behind which so many are left, itself included.
func (p *puller) readQueue(r *protocol.PullRequest, at, maxBytes, left int, s *sieve) protocol.PulledQueue {
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
	reader := p.state.meters.Reader(r.Group, key.Topic)
	reader.Reached(q.Queue, q.Fence, q.Offset)
	found, err := s.find(p.state.log, key, q, maxBytes, int(r.MaxCount), left)
	got.Next, got.Min, got.End, got.Size = found.Next, found.Min, found.End, found.Size
	if err != nil {
		got.Err = protocol.AsError(refusal(err))
	}
	if asked := q; got.Size > 0 {
		got.Load = func(q *protocol.PulledQueue, dst []byte) ([]byte, error) {
			dst, err := found.Append(dst)
			if err != nil {
				q.Next, q.Min, err = found.Next, found.Min, refusal(err)
				return dst, err
			}
			reader.Given(found.Messages, found.Size)
			reader.Reached(asked.Queue, asked.Fence, found.Next)
			return dst, nil
		}
	}
	return got
}
