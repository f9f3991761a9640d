package consumer

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

func (b *fakeBroker) servePops(control, pull, admin *transport.Mux) {
	transport.Handle(pull, func(ctx context.Context, r *protocol.PopRequest) (*protocol.PopResponse, error) { return b.pop(ctx, r) })
	transport.Handle(control, func(_ context.Context, r *protocol.AckRequest) (*protocol.AckResponse, error) {
		return b.settle(r, acknowledged)
	})
	transport.Handle(control, func(_ context.Context, r *protocol.ChangeInvisibleRequest) (*protocol.AckResponse, error) {
		return b.settle(&r.AckRequest, time.Duration(r.InvisibleMillis)*time.Millisecond)
	})
	transport.Handle(admin, func(_ context.Context, r *protocol.ListGroupsRequest) (*protocol.ListGroupsResponse, error) {
		s := protocol.GroupStatus{GroupConfig: protocol.GroupConfig{Name: r.Group, RetryPolicy: b.policy}}
		return &protocol.ListGroupsResponse{Groups: []protocol.GroupStatus{s}}, nil
	})
}

// simpleRig is a Simple and the broker that it asks, which answers what the test says.
type simpleRig struct {
	*testing.T
	*Simple
	broker *fakeBroker
	// answers are given to pops, one after another; one that finds none waits.
	answers chan *protocol.PopResponse

	mu    sync.Mutex
	told  []told // requests that were answered, in order
	reply func(told) (*protocol.AckResponse, error)
}

// told is one request of a settler.
type told struct {
	invisible time.Duration
	queues    []protocol.AckQueue
}

func (t told) offsets() (offsets []int64) {
	for _, q := range t.queues {
		offsets = append(offsets, q.Offsets...)
	}
	return offsets
}

func (t told) String() string { return fmt.Sprintf("%v%v", t.invisible, t.offsets()) }

func newSimpleRig(t *testing.T, change ...func(*SimpleConfig)) *simpleRig {
	t.Helper()
	r := &simpleRig{T: t, broker: startFake(t, 2), answers: make(chan *protocol.PopResponse, 100)}
	r.broker.pop, r.broker.settle = r.answer, r.settled
	cfg := SimpleConfig{
		NameServers: []string{r.broker.addr}, Group: "g", Subscriptions: []Subscription{{Topic: "t"}},
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if r.Simple, err = NewSimple(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

func (r *simpleRig) close() {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), patience)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		r.Error(err)
	}
}

// answer ends when the client has left, as a broker's does.
func (r *simpleRig) answer(ctx context.Context, q *protocol.PopRequest) (*protocol.PopResponse, error) {
	timer := time.NewTimer(time.Duration(q.WaitMillis) * time.Millisecond)
	defer timer.Stop()
	for {
		r.broker.mu.Lock()
		_, member := r.broker.sessions[q.ClientID]
		grown := r.broker.grown
		r.broker.mu.Unlock()
		if !member {
			return nil, protocol.Errorf(protocol.UnknownMember, "client %q is not there", q.ClientID)
		}
		select {
		case a := <-r.answers:
			return a, nil
		case <-grown:
		case <-timer.C:
			return &protocol.PopResponse{}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *simpleRig) settled(q *protocol.AckRequest, invisible time.Duration) (*protocol.AckResponse, error) {
	r.mu.Lock()
	one := told{invisible: invisible, queues: q.Queues}
	reply := r.reply
	r.told = append(r.told, one)
	r.mu.Unlock()
	if reply != nil {
		return reply(one)
	}
	return &protocol.AckResponse{Queues: make([]protocol.AckedQueue, len(q.Queues))}, nil
}

func (r *simpleRig) replies(f func(told) (*protocol.AckResponse, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.reply = f
}

// heard are the requests so far.
func (r *simpleRig) heard() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.told)
}

// hand answers a pop with messages of queue 0, beginning at an offset.
func (r *simpleRig) hand(first int64, n int, change ...func(*protocol.PoppedQueue)) {
	ms := make([]message.Message, n)
	for i := range ms {
		ms[i] = message.Message{Topic: "t", Body: fmt.Append(nil, first+int64(i))}
	}
	q := poppedOf(0, first, ms...)
	for _, f := range change {
		f(&q)
	}
	r.answers <- &protocol.PopResponse{Queues: []protocol.PoppedQueue{q}}
}

func poppedOf(queue int, first int64, ms ...message.Message) protocol.PoppedQueue {
	builder, ids := batch.NewBuilder("t", queue), message.NewIDSource()
	q := protocol.PoppedQueue{Queue: queue, Fence: uint64(first) + 1}
	for i := range ms {
		ms[i].ID, ms[i].BornTime = ids.Next(), time.Now()
		builder.Add(&ms[i])
		q.Messages = append(q.Messages, protocol.PoppedMessage{Offset: first + int64(i), Attempt: 1})
	}
	q.Batches = builder.Finish()
	batch.SetStored(q.Batches, 1, first, time.Now().UnixMilli(), 1)
	return q
}

// receive asks for messages, which must come.
func (r *simpleRig) receive(max int, invisible time.Duration) []*Popped {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), patience)
	defer cancel()
	ps, err := r.Receive(ctx, max, invisible)
	if err != nil {
		r.Fatal(err)
	}
	return ps
}

func offsetsOf(ps []*Popped) (offsets []int64) {
	for _, p := range ps {
		offsets = append(offsets, p.QueueOffset)
	}
	return offsets
}
