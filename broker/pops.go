package broker

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// pops hands messages out one by one, to any member of a group, and takes their
// acknowledgements. What is handed out, and until when, the view broker/pop says; pops
// has only what is under way. A pop that finds nothing waits on channels: for new
// messages, for the nearest deadline, and for what another pop or an acknowledgement
// leaves to be handed out; nothing is polled.
type pops struct {
	state   *state
	clients *clients
	backs   *sendBacks
	filters filters
	now     func() time.Time
	closing <-chan struct{} // ends the waiting when the broker closes
	turn    atomic.Uint64   // which queue of a request is looked at first

	mu sync.Mutex
	// claims are queues of groups of which messages are chosen, or of which the record
	// that hands them out is under way: two pops never choose the same ones.
	claims  map[pop.Key]*claim
	waiting map[string]map[*waiter]struct{} // by group
}

// claim is a queue that one pop is at.
type claim struct {
	key    pop.Key
	wanted bool // by another pop
	wrote  bool // a record, so that others may have to look again
}

// waiter is a pop that waits.
type waiter struct {
	freed chan struct{} // tells it to look again
	// next is when it looks by itself, in Unix milliseconds; math.MaxInt64 while it
	// looks, so that it is told of all that comes meanwhile.
	next int64
}

func newPops(s *state, c *clients, backs *sendBacks, now func() time.Time, closing <-chan struct{}) *pops {
	p := &pops{
		state: s, clients: c, backs: backs, now: now, closing: closing,
		claims: map[pop.Key]*claim{}, waiting: map[string]map[*waiter]struct{}{},
	}
	c.gone = func(group string) { p.wake(group, anyTime) } // a pop of who has left ends
	return p
}

func (p *pops) register(pull, client *transport.Mux) {
	transport.Handle(pull, p.popMessage)
	transport.Handle(client, p.ackMessage)
	transport.Handle(client, p.changeInvisible)
}

func (p *pops) popMessage(ctx context.Context, r *protocol.PopRequest) (*protocol.PopResponse, error) {
	o, err := p.open(r)
	if err != nil {
		return nil, err
	}
	resp := o.round(ctx)
	if len(resp.Queues) == 0 && p.state.pops.NextDue(o.keys) <= p.now().UnixMilli() {
		resp = o.round(ctx) // what waited for a message that became a dead letter, or was dropped
	}
	if r.WaitMillis == 0 || len(resp.Queues) > 0 {
		return o.complete(resp), nil
	}
	w := p.state.log.Wait(o.storeKeys())
	defer w.Stop()
	own := p.wait(r.Group)
	defer p.endWait(r.Group, own)
	over := time.NewTimer(time.Duration(r.WaitMillis) * time.Millisecond)
	defer over.Stop()
	due, tell := time.NewTimer(time.Hour), time.NewTimer(time.Hour)
	defer due.Stop()
	defer tell.Stop()
	for telling := false; ; {
		now := p.now()
		p.setNext(own, never)
		if o.config, err = p.admit(r); err != nil {
			return nil, err
		}
		if resp = o.round(ctx); len(resp.Queues) > 0 {
			return o.complete(resp), nil
		}
		next := p.state.pops.NextDueAfter(o.keys, now.UnixMilli())
		p.setNext(own, next)
		due.Reset(o.until(next))
		if o.untold && !telling {
			tell.Reset(tellAfter)
			telling = true
		}
		select {
		case <-w.C:
		case <-own.freed:
		case <-due.C:
		case <-tell.C:
			o.complete(resp)
			telling = false
		case <-over.C:
			return o.complete(resp), nil
		case <-ctx.Done():
			return nil, protocol.Errorf(protocol.Unavailable, "the pop was ended: %v", ctx.Err())
		case <-p.closing:
			return nil, protocol.Errorf(protocol.Unavailable, "the broker is closing")
		}
	}
}

// Times at which there is something to be handed out.
const (
	anyTime = math.MinInt64
	never   = math.MaxInt64
)

// wait begins to wait for what there is for a group.
func (p *pops) wait(group string) *waiter {
	w := &waiter{freed: make(chan struct{}, 1), next: never}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting[group] == nil {
		p.waiting[group] = map[*waiter]struct{}{}
	}
	p.waiting[group][w] = struct{}{}
	return w
}

func (p *pops) setNext(w *waiter, next int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.next = next
}

func (p *pops) endWait(group string, w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting[group], w)
	if len(p.waiting[group]) == 0 {
		delete(p.waiting, group)
	}
}

// wake has the waiting pops of a group look again that would do so by themselves only
// after a time, in Unix milliseconds.
func (p *pops) wake(group string, at int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := range p.waiting[group] {
		if w.next <= at {
			continue
		}
		select {
		case w.freed <- struct{}{}:
		default: // it has been told
		}
	}
}

// claim takes a queue for one pop; nil: another has it, and will wake those who wait
// if it leaves something.
func (p *pops) claim(k pop.Key) *claim {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, taken := p.claims[k]; taken {
		c.wanted = true
		return nil
	}
	c := &claim{key: k}
	p.claims[k] = c
	return c
}

// release gives a queue back. Of what it has from looked on, others that wanted it know
// nothing; and of deadlines, what a record has changed.
func (p *pops) release(c *claim, looked int64) {
	p.mu.Lock()
	delete(p.claims, c.key)
	wanted := c.wanted
	p.mu.Unlock()
	_, end := p.state.log.Bounds(store.QueueKey{Topic: c.key.Topic, Queue: c.key.Queue})
	due := p.state.pops.NextDue([]pop.Key{c.key})
	switch {
	case wanted && end > looked:
		p.wake(c.key.Group, anyTime)
	case c.wrote || due <= p.now().UnixMilli():
		p.wake(c.key.Group, due)
	}
}

// popping is one pop.
type popping struct {
	*pops
	request *protocol.PopRequest
	config  protocol.GroupConfig
	queues  []poppedQueue
	keys    []pop.Key
	refused []protocol.PoppedQueue // topics that cannot be popped
	budget  store.Budget           // of a round
	// What is left to be handed out.
	count, bytes int
	untold       bool // a queue has passed messages over
}

// poppedQueue is one queue of a pop.
type poppedQueue struct {
	topic  int // its place in the request
	store  store.QueueKey
	key    pop.Key
	filter *messageFilter // nil: none
	passed passed
}

// passed is what a pop has looked at for a filter, and has not told yet.
type passed struct {
	after uint64 // pop.Progress.Last of then
	next  int64
}

// admit is looked at again whenever a pop that waits goes on: nothing is handed out to
// who has left, or to a group that may not consume any more.
func (p *pops) admit(r *protocol.PopRequest) (protocol.GroupConfig, error) {
	cfg, err := p.state.consuming(r.Group)
	if err == nil && !p.clients.isMember(r.ClientID, r.Group) {
		err = protocol.Errorf(protocol.UnknownMember, "client %q is not in group %q", r.ClientID, r.Group)
	}
	return cfg, err
}

// open looks whether the request may be served, and of which queues.
func (p *pops) open(r *protocol.PopRequest) (*popping, error) {
	cfg, err := p.admit(r)
	if err != nil {
		return nil, err
	}
	chosen := make([]*messageFilter, len(r.Filters))
	for i, f := range r.Filters {
		if chosen[i], err = p.filters.of(f); err != nil {
			return nil, err
		}
	}
	o := &popping{pops: p, request: r, config: cfg}
	for i, t := range r.Topics {
		var f *messageFilter
		if t.Filter != 0 && !chosen[t.Filter-1].all() {
			f = chosen[t.Filter-1]
		}
		o.addTopic(i, t.Topic, f)
	}
	return o, nil
}

func (o *popping) addTopic(i int, name string, f *messageFilter) {
	if _, err := o.state.readable(name, 0); err != nil {
		o.refused = append(o.refused, protocol.PoppedQueue{Topic: i, Err: protocol.AsError(err)})
		return
	}
	t, _ := o.state.topics.Lookup(name)
	for q := range t.ReadQueues {
		key := pop.Key{Group: o.request.Group, Topic: t.ID, Queue: uint32(q)}
		o.queues = append(o.queues, poppedQueue{topic: i, store: store.QueueKey{Topic: t.ID, Queue: uint32(q)}, key: key, filter: f})
		o.keys = append(o.keys, key)
	}
}

func (o *popping) storeKeys() []store.QueueKey {
	keys := make([]store.QueueKey, len(o.queues))
	for i := range o.queues {
		keys[i] = o.queues[i].store
	}
	return keys
}

// until is how long it may wait for what is due at a time, in Unix milliseconds.
func (o *popping) until(next int64) time.Duration {
	if next == never {
		return time.Hour // others end the waiting
	}
	return max(time.UnixMilli(next).Sub(o.now()), 0)
}

// round takes what there is now. Requests begin at different queues, so that a busy
// one does not starve those behind it. The records of all queues are under way at
// once.
func (o *popping) round(ctx context.Context) *protocol.PopResponse {
	resp := &protocol.PopResponse{Queues: slices.Clone(o.refused)}
	o.budget, o.count, o.bytes = scanBudget(o.request.Filters), int(o.request.MaxCount), int(o.request.MaxBytes)
	n := len(o.queues)
	if n == 0 {
		return resp
	}
	var drafts []*draft
	first := int(o.turn.Add(1) % uint64(n))
	for i := 0; i < n && o.count > 0 && o.bytes > 0; i++ {
		q := &o.queues[(first+i)%n]
		if c := o.claim(q.key); c != nil {
			drafts = append(drafts, o.take(ctx, q, c, n-i))
		}
	}
	for _, f := range drafts {
		if got := o.land(f); got.Err != nil || len(got.Messages) > 0 {
			resp.Queues = append(resp.Queues, got)
		}
	}
	return resp
}
