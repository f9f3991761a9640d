package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

// call is a request that waits for its answer.
type call struct {
	subject string
	done    func(payload []byte, err error)
	stop    func() bool // ends the watch on the caller's context; nil: no watch
}

// calls are the requests of a connection that wait for an answer. Whoever takes
// a call out of the table, and nobody else, calls its done.
type calls struct {
	watches sync.WaitGroup // one for each watch that was not stopped in time

	mu      sync.Mutex
	refuse  error // why no call can be made now; nil: it can
	closed  bool
	up      chan struct{} // closed while refuse is nil
	last    uint64        // the last id given
	waiting map[uint64]*call
}

func (t *calls) init(refuse error) {
	t.refuse = refuse
	t.up = make(chan struct{})
	t.waiting = make(map[uint64]*call)
}

// refusal is why no call can be made now; nil when it can.
func (t *calls) refusal() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.refuse
}

// standing is closed as long as calls can be made.
func (t *calls) standing() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.up
}

// open lets calls in, unless the table was closed.
func (t *calls) open() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.refuse == nil {
		return
	}
	t.refuse = nil
	close(t.up)
}

// interrupt fails all calls with err and refuses new ones with it until open.
func (t *calls) interrupt(err error) {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	failed := t.refuseWith(err)
	t.mu.Unlock()
	for _, c := range failed {
		c.finish(t, nil, err)
	}
}

// close is interrupt for ever.
func (t *calls) close(err error) {
	t.mu.Lock()
	t.closed = true
	failed := t.refuseWith(err)
	t.mu.Unlock()
	for _, c := range failed {
		c.finish(t, nil, err)
	}
}

// refuseWith empties the table and returns what was in it; mu is held.
func (t *calls) refuseWith(err error) map[uint64]*call {
	if t.refuse == nil {
		t.up = make(chan struct{})
	}
	t.refuse = err
	failed := t.waiting
	t.waiting = make(map[uint64]*call)
	return failed
}

// add gives a call an id and watches its context.
func (t *calls) add(ctx context.Context, subject string, done func([]byte, error)) (uint64, error) {
	if ctx.Err() != nil {
		return 0, contextError(ctx, subject)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refuse != nil {
		return 0, t.refuse
	}
	t.last++
	id := t.last
	c := &call{subject: subject, done: done}
	t.waiting[id] = c
	if ctx.Done() != nil {
		t.watches.Add(1)
		c.stop = context.AfterFunc(ctx, func() {
			defer t.watches.Done()
			t.expire(ctx, id)
		})
	}
	return id, nil
}

// finish ends the call with this id, if it still waits.
func (t *calls) finish(id uint64, payload []byte, err error) {
	if c := t.take(id); c != nil {
		c.finish(t, payload, err)
	}
}

// failSubject ends all calls to a subject.
func (t *calls) failSubject(subject string, err error) {
	var failed []*call
	t.mu.Lock()
	for id, c := range t.waiting {
		if c.subject == subject {
			failed = append(failed, c)
			delete(t.waiting, id)
		}
	}
	t.mu.Unlock()
	for _, c := range failed {
		c.finish(t, nil, err)
	}
}

// expire ends a call whose context ended.
func (t *calls) expire(ctx context.Context, id uint64) {
	if c := t.take(id); c != nil {
		c.done(nil, contextError(ctx, c.subject))
	}
}

func (t *calls) take(id uint64) *call {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.waiting[id]
	delete(t.waiting, id)
	return c
}

func (c *call) finish(t *calls, payload []byte, err error) {
	if c.stop != nil && c.stop() {
		t.watches.Done()
	}
	c.done(payload, err)
}

// contextError says what the end of ctx means for a call: after a deadline the
// outcome is unknown.
func contextError(ctx context.Context, subject string) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer from %s in time: %w", protocol.UnknownOutcome, subject, err)
	}
	return fmt.Errorf("call of %s: %w", subject, err)
}
