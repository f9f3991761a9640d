package producer

import (
	"context"
	"errors"
	"testing"

	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func newNumberedQueue() *queue {
	q := newTestQueue()
	q.run = identity{3, 4}
	return q
}

// sent takes the next parcel and holds its sequence, also that in its bytes,
// against what is wanted.
func sent(t *testing.T, q *queue, now int64, want batch.Sequence) *parcel {
	t.Helper()
	p, _ := q.take(now)
	if p == nil {
		t.Fatal("no parcel")
	}
	want.Producer, want.Incarnation = q.run.producer, q.run.incarnation
	h, err := batch.Check(p.bytes)
	if err != nil || h.Sequence != want || p.sequence != want {
		t.Fatalf("got %+v and %+v, %v; want %+v", h.Sequence, p.sequence, err, want)
	}
	return p
}

var (
	unknown = verdict{err: protocol.UnknownOutcome, reached: true, counted: true, retries: 2}
	refused = verdict{err: protocol.Busy, retries: 2}
)

func TestQueue_NumbersMessages(t *testing.T) {
	q := newNumberedQueue()
	put(q, "0", free, 99)
	put(q, "1", free, 99)
	sent(t, q, 0, batch.Sequence{Begin: true})
	put(q, "2", free, 99)
	q.stored()
	sent(t, q, 0, batch.Sequence{First: 2, Begin: true})
	q.stored()
	put(q, "3", free, 99)
	sent(t, q, 0, batch.Sequence{First: 3, Begin: true})
}

// Numbers of what is certainly not stored are used again, for other messages.
func TestQueue_NumbersOfRefusedParcelsAreUsedAgain(t *testing.T) {
	q := newNumberedQueue()
	put(q, "0", grouped, 10)
	put(q, "1", grouped, 99)
	sent(t, q, 0, batch.Sequence{Begin: true})
	v := refused
	v.now = 10
	q.failed(v)
	if got := bodies(t, sent(t, q, 10, batch.Sequence{Begin: true})); got != "1" {
		t.Errorf("got %q", got)
	}
	put(q, "2", grouped, 99)
	q.stored()
	sent(t, q, 10, batch.Sequence{First: 1, Begin: true})
}

// A number that somebody was told may be stored is never another message's.
func TestQueue_NumbersInDoubtAreNotUsedAgain(t *testing.T) {
	q := newNumberedQueue()
	put(q, "0", grouped, 10)
	put(q, "1", grouped, 99)
	sent(t, q, 5, batch.Sequence{Begin: true})
	failures, _ := q.expire(10)
	if got := failures[0].number; got != (number{true, 0, 5}) || len(failures) != 1 || !failures[0].sent {
		t.Fatalf("got %+v", failures)
	}
	q.failed(refused)
	sent(t, q, 11, batch.Sequence{First: 2, Begin: true})
}

// A parcel that may be stored stays as it is, whoever of it has given up.
func TestQueue_ParcelInDoubtStaysWhole(t *testing.T) {
	q := newNumberedQueue()
	for i, body := range []string{"0", "1", "2"} {
		put(q, body, free, int64(10+10*i))
	}
	sent(t, q, 0, batch.Sequence{Begin: true})
	v := unknown
	v.elsewhere, v.retries, v.now = true, 0, 5
	for range 5 {
		put(q, "behind", free, 9)
		failures, leaving, _ := q.failed(v)
		if len(failures) != 0 || len(leaving) != 1 || string(leaving[0].m.Body) != "behind" {
			t.Fatalf("got %v and %v; want what waits behind to leave", failures, leaving)
		}
		if got := bodies(t, sent(t, q, 5, batch.Sequence{Begin: true})); got != "0 1 2" {
			t.Fatalf("got %q", got)
		}
	}
	q.failed(verdict{err: protocol.Busy, elsewhere: true, retries: 2, now: 5}) // which does not say what became of the tries before
	failures, next := q.expire(10)
	if failed(failures) != "0" || !errors.Is(failures[0].err, ErrUnknownOutcome) || failures[0].number.value != 0 || next != 20 {
		t.Fatalf("got %v, next %d", failures, next)
	}
	if got := bodies(t, sent(t, q, 10, batch.Sequence{Begin: true})); got != "0 1 2" {
		t.Fatalf("got %q", got)
	}
	v.now = 20
	put(q, "next", free, 99)
	v.elsewhere = false
	if failures, _, _ := q.failed(v); failed(failures) != "1" || failures[0].number.value != 1 {
		t.Fatalf("got %v", failures)
	}
	if failures, _ := q.expire(30); failed(failures) != "2" {
		t.Fatalf("got %v", failures)
	}
	// Nobody waits for it: it is dropped, and its numbers with it.
	if got := bodies(t, sent(t, q, 30, batch.Sequence{First: 3, Begin: true})); got != "next" {
		t.Errorf("got %q", got)
	}
}

func TestQueue_NoFurtherTryOfWhatIsInDoubt(t *testing.T) {
	for name, v := range map[string]verdict{
		"fatal":              {err: protocol.SequenceLost, fatal: true, retries: 2},
		"gone":               {err: protocol.QueueNotFound, gone: true, retries: 2},
		"nothing is retried": {err: protocol.Unreachable, reached: true, retries: -1},
	} {
		q := newNumberedQueue()
		put(q, "0", free, 99)
		sent(t, q, 0, batch.Sequence{Begin: true})
		first := unknown
		if !v.reached {
			q.failed(first)
			sent(t, q, 0, batch.Sequence{Begin: true})
		}
		put(q, "1", grouped, 99)
		failures, _, _ := q.failed(v)
		if failed(failures) != "0" || !errors.Is(failures[0].err, ErrUnknownOutcome) || !errors.Is(failures[0].err, v.err) || !failures[0].number.known {
			t.Errorf("%s: got %v", name, failures)
		}
	}
}

// A broker may begin to count with a batch only as long as it cannot have
// forgotten it.
func TestQueue_BeginEndsInTime(t *testing.T) {
	q := newNumberedQueue()
	put(q, "0", grouped, 1<<60)
	sent(t, q, 7, batch.Sequence{Begin: true})
	for now, begin := range []bool{true, false, false} {
		q.failed(unknown)
		sent(t, q, 7+int64(now)*beginFor, batch.Sequence{Begin: begin})
	}
	// What is sent for the first time may begin whenever that is.
	q.stored()
	put(q, "1", grouped, 1<<60)
	sent(t, q, 100*beginFor, batch.Sequence{First: 1, Begin: true})
}

func TestQueue_AgainIsAlone(t *testing.T) {
	for _, late := range []bool{false, true} {
		q := newNumberedQueue()
		q.next = 50
		put(q, "before", grouped, 99)
		e := &entry{m: msg("x"), deadline: 99, bound: pinned, alone: true, sent: true, number: number{true, 7, 1}}
		q.add(e)
		put(q, "after", grouped, 99)
		now, begin := int64(2), true
		if late {
			now, begin = 1+beginFor, false
		}
		sent(t, q, now, batch.Sequence{First: 50, Begin: true})
		q.stored()
		sent(t, q, now, batch.Sequence{First: 7, Again: true, Begin: begin})
		q.failed(refused) // which tells nothing of the tries before
		sent(t, q, now, batch.Sequence{First: 7, Again: true, Begin: begin})
		q.stored()
		sent(t, q, now, batch.Sequence{First: 51, Begin: true})
	}
}

func TestQueue_TakesNothingOfAnAbandonedCall(t *testing.T) {
	q, c := newNumberedQueue(), newCall(1)
	c.abandoned.Store(true)
	e := &entry{m: msg("x"), deadline: 9, call: c}
	if ready, ok := q.add(e); ready || ok || len(q.waiting) != 0 {
		t.Errorf("got %v, %v; want it to be refused", ready, ok)
	}
	if err := e.refusedError(); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	e.sent = true
	if err := e.refusedError(); !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("sent before: got %v", err)
	}
}

// While it waits its outcome is as unknown as it was.
func TestQueue_AgainThatIsNotSent(t *testing.T) {
	q := newNumberedQueue()
	q.add(&entry{m: msg("x"), deadline: 9, bound: pinned, alone: true, sent: true, number: number{true, 7, 1}})
	failures, _ := q.expire(9)
	if len(failures) != 1 || !errors.Is(failures[0].err, ErrUnknownOutcome) || failures[0].number != (number{true, 7, 1}) {
		t.Errorf("got %+v", failures)
	}
	put(q, "next", free, 99)
	sent(t, q, 9, batch.Sequence{Begin: true})
}
