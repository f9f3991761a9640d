package producer

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func newTestQueue() *queue {
	return &queue{
		Queue: message.Queue{Topic: "t", Broker: "a", ID: 1}, limit: 1 << 10,
		parcels: &sync.Pool{New: func() any { return &parcel{} }},
	}
}

var counter uint64

// put adds a message with the body; it gives what add says.
func put(q *queue, body string, bound binding, deadline int64) bool {
	counter++
	m := &message.Message{Topic: "t", Body: []byte(body)}
	e := &entry{m: m, id: message.MakeID(1, counter), deadline: deadline, bound: bound, size: len(body) + entryOverhead}
	ready, _ := q.add(e)
	return ready
}

// bodies decodes a parcel.
func bodies(t *testing.T, p *parcel) string {
	t.Helper()
	if p == nil {
		return "none"
	}
	ms, rest, err := batch.Decode(nil, p.bytes, "a")
	if err != nil || len(rest) != 0 || len(ms) != len(p.entries) {
		t.Fatalf("parcel of %d: %d messages, %d bytes left, %v", len(p.entries), len(ms), len(rest), err)
	}
	var all []string
	for i, m := range ms {
		if m.ID != p.entries[i].id || m.Queue != (message.Queue{Topic: "t", Broker: "a", ID: 1}) {
			t.Fatalf("got %v of %v, want id %v", m.ID, m.Queue, p.entries[i].id)
		}
		all = append(all, string(m.Body))
	}
	return strings.Join(all, " ")
}

func texts[T any](list []T, body func(T) []byte) string {
	var all []string
	for _, x := range list {
		all = append(all, string(body(x)))
	}
	return strings.Join(all, " ")
}

func failed(list []outcome) string {
	return texts(list, func(o outcome) []byte { return o.m.Body })
}

func TestQueue_OneParcelInFlight(t *testing.T) {
	q := newTestQueue()
	if !put(q, "1", free, 9) {
		t.Error("an idle queue is not ready with its first message")
	}
	if put(q, "2", free, 9) {
		t.Error("a listed queue is ready again")
	}
	p, _ := q.take(0)
	if got := bodies(t, p); got != "1 2" {
		t.Errorf("got %q, want 1 2", got)
	}
	if put(q, "3", free, 9) {
		t.Error("a queue with a parcel in flight is ready")
	}
	put(q, "4", free, 9)
	if !q.stored() {
		t.Error("a queue is not ready when its parcel is stored and others wait")
	}
	p, _ = q.take(0)
	if got := bodies(t, p); got != "3 4" {
		t.Errorf("got %q, want 3 4", got)
	}
	if q.stored() {
		t.Error("an empty queue is ready")
	}
}

func TestQueue_ParcelsAreBounded(t *testing.T) {
	q := newTestQueue()
	big := strings.Repeat("x", 400)
	for range 5 {
		put(q, big, free, 9)
	}
	put(q, strings.Repeat("y", 5000), free, 9)
	put(q, "z", free, 9)
	var counts []int
	for range 4 {
		p, _ := q.take(0)
		if len(p.bytes) > q.limit && len(p.entries) > 1 {
			t.Errorf("got %d bytes of %d messages, the limit is %d", len(p.bytes), len(p.entries), q.limit)
		}
		counts = append(counts, len(p.entries))
		q.stored()
	}
	if got := fmt.Sprint(counts); got != "[1 1 1 1]" && got != "[2 2 1 1]" {
		t.Errorf("got parcels of %s messages", got)
	}
}

func TestQueue_RetryGoesFirst(t *testing.T) {
	q := newTestQueue()
	put(q, "1", grouped, 9)
	q.take(0)
	put(q, "2", grouped, 9)
	failures, leaving, ready := q.failed(verdict{err: protocol.SystemError, counted: true, retries: 2, notBefore: 5})
	if len(failures) != 0 || len(leaving) != 0 || !ready {
		t.Fatalf("got %d failures, %d leaving, ready %v", len(failures), len(leaving), ready)
	}
	if p, due := q.take(4); p != nil || due != 5 {
		t.Fatalf("before the time: got %v, due %d; want none, due 5", p, due)
	}
	for _, want := range []string{"1", "2"} {
		p, _ := q.take(5)
		if got := bodies(t, p); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
		q.stored()
	}
}

func TestQueue_FailedDecidesOnEachMessage(t *testing.T) {
	const now = 10
	system := verdict{err: protocol.SystemError, now: now, counted: true, reached: true, retries: 2}
	with := func(v verdict, change func(*verdict)) verdict { change(&v); return v }
	for _, tc := range []struct {
		name    string
		v       verdict
		tries   int
		failed  string
		leaving string
		stays   string // all parcels, with | between
	}{
		{"nothing special", system, 0, "late waiting-late", "", "free group pin|waiting-free waiting-group waiting-pin"},
		{"last try of a free one", system, 2, "free late waiting-late", "", "group pin|waiting-free waiting-group waiting-pin"},
		{"no retries", with(system, func(v *verdict) { v.retries = -1 }), 0, "free late waiting-late", "", "group pin|waiting-free waiting-group waiting-pin"},
		{"better elsewhere", with(system, func(v *verdict) { v.elsewhere = true }), 0, "late waiting-late", "free waiting-free", "group pin|waiting-group waiting-pin"},
		{"queue is gone", with(system, func(v *verdict) { v.gone = true }), 0, "pin late waiting-pin waiting-late", "free group waiting-free waiting-group", ""},
		{"fatal", with(system, func(v *verdict) { v.fatal = true }), 0, "free group pin late waiting-late", "", "waiting-free waiting-group waiting-pin"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			q := newTestQueue()
			fill := func(prefix string) {
				put(q, prefix+"free", free, 99)
				put(q, prefix+"group", grouped, 99)
				put(q, prefix+"pin", pinned, 99)
				put(q, prefix+"late", grouped, now)
			}
			fill("")
			p, _ := q.take(0)
			for i := range p.entries {
				p.entries[i].tries = tc.tries
			}
			fill("waiting-")
			failures, leaving, _ := q.failed(tc.v)
			if got := failed(failures); got != tc.failed {
				t.Errorf("failed: got %q, want %q", got, tc.failed)
			}
			if got := texts(leaving, func(e entry) []byte { return e.m.Body }); got != tc.leaving {
				t.Errorf("leaving: got %q, want %q", got, tc.leaving)
			}
			var stays []string
			for {
				p, _ := q.take(now)
				if p == nil {
					break
				}
				stays = append(stays, bodies(t, p))
				q.stored()
			}
			if got := strings.Join(stays, "|"); got != tc.stays {
				t.Errorf("stays: got %q, want %q", got, tc.stays)
			}
		})
	}
}

func TestQueue_ExpireKnowsWhatWasSent(t *testing.T) {
	q := newTestQueue()
	put(q, "flying", grouped, 10)
	put(q, "flying-on", grouped, 20)
	p, _ := q.take(0)
	put(q, "waiting", grouped, 10)
	put(q, "waiting-on", grouped, 30)
	if failures, next := q.expire(9); len(failures) != 0 || next != 10 {
		t.Fatalf("got %d failures, next %d; want none, next 10", len(failures), next)
	}
	failures, next := q.expire(10)
	if got := failed(failures); got != "flying waiting" || next != 20 {
		t.Fatalf("got %q, next %d; want flying waiting, next 20", got, next)
	}
	if err := failures[0].err; !errors.Is(err, ErrUnknownOutcome) || errors.Is(err, ErrNotSent) {
		t.Errorf("in flight: got %v, want unknown outcome", err)
	}
	if err := failures[1].err; !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("waiting: got %v, want not sent", err)
	}
	if !p.entries[0].finished || p.entries[1].finished {
		t.Error("the wrong message in flight is finished")
	}
	q.stored()
	p, _ = q.take(10)
	if got := bodies(t, p); got != "waiting-on" {
		t.Errorf("got %q, want waiting-on", got)
	}
	if failures, next := q.expire(99); failed(failures) != "waiting-on" || next != math.MaxInt64 {
		t.Errorf("got %q, next %d", failed(failures), next)
	}
}

// After a try that reached the broker, a message that expires while it waits
// has an unknown outcome; after one that did not, it is known to be unsent.
func TestQueue_ExpireBetweenTries(t *testing.T) {
	for _, reached := range []bool{true, false} {
		q := newTestQueue()
		put(q, "1", grouped, 10)
		q.take(0)
		q.failed(verdict{err: protocol.Unreachable, reached: reached, retries: 2, notBefore: 50})
		failures, _ := q.expire(10)
		if len(failures) != 1 || errors.Is(failures[0].err, ErrUnknownOutcome) != reached || errors.Is(failures[0].err, ErrNotSent) == reached {
			t.Errorf("reached %v: got %v", reached, failures)
		}
		if !reached && !errors.Is(failures[0].err, ErrUnreachable) {
			t.Errorf("got %v, want the reason in it", failures[0].err)
		}
	}
}

// An expired parcel at the head does not change the order of what follows.
func TestQueue_OrderBehindExpiredHead(t *testing.T) {
	q := newTestQueue()
	put(q, "1", grouped, 10)
	q.take(0)
	put(q, "2", grouped, 99)
	q.expire(10)
	put(q, "3", grouped, 99)
	if p, _ := q.take(10); p != nil {
		t.Fatal("a second parcel takes off while the expired one is in flight")
	}
	q.failed(verdict{err: protocol.UnknownOutcome, now: 10, counted: true, reached: true, retries: 2})
	p, _ := q.take(10)
	if got := bodies(t, p); got != "2 3" {
		t.Errorf("got %q, want 2 3", got)
	}
}

func TestQueue_Close(t *testing.T) {
	q := newTestQueue()
	put(q, "1", grouped, 10)
	q.take(0)
	put(q, "2", grouped, 10)
	failures := q.close()
	if got := failed(failures); got != "1 2" {
		t.Fatalf("got %q, want 1 2", got)
	}
	for i, unknown := range []bool{true, false} {
		if err := failures[i].err; !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknownOutcome) != unknown {
			t.Errorf("message %d: got %v", i, err)
		}
	}
	if _, ok := q.add(&entry{}); ok {
		t.Error("a closed queue takes a message")
	}
	if again := q.close(); len(again) != 0 {
		t.Errorf("got %d failures again", len(again))
	}
	f, l, ready := q.failed(verdict{err: protocol.Closed, fatal: true})
	if len(f)+len(l) != 0 || ready {
		t.Error("what is finished is answered twice")
	}
}

func TestCollect_SharesFramesUpToTheLimit(t *testing.T) {
	var ready []*queue
	for range 10 {
		q := newTestQueue()
		q.limit = 256 << 10
		put(q, strings.Repeat("x", 250<<10), free, int64(len(ready)))
		ready = append(ready, q)
	}
	later := newTestQueue()
	put(later, "x", free, 99)
	later.notBefore = 7
	ready = append(ready, later)
	var sizes []int
	var due int64
	for {
		var f *frame
		if f, ready, due = collect(ready, 5); f == nil {
			break
		}
		sizes = append(sizes, len(f.parcels))
	}
	if !slices.Equal(sizes, []int{5, 5}) || due != 7 || !slices.Equal(ready, []*queue{later}) {
		t.Errorf("got frames of %v parcels, due %d with %d queues left; want 5 and 5, due 7 with 1", sizes, due, len(ready))
	}
}
