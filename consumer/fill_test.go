package consumer

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func encoded(t *testing.T, q message.Queue, base int64, bodies ...string) []byte {
	t.Helper()
	b := batch.NewBuilder(q.Topic, q.ID)
	ids := message.NewIDSource()
	for _, body := range bodies {
		b.Add(&message.Message{Topic: q.Topic, Body: []byte(body), ID: ids.Next(), BornTime: time.Now()})
	}
	raw := b.Finish()
	batch.SetStored(raw, 1, base, time.Now().UnixMilli(), 1)
	return raw
}

func TestDraftTakesEveryQueueOnce(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	holdIn(b, queueA, nil)
	holdIn(b, queueB, nil)
	holdIn(b, message.Queue{Topic: "t", Broker: "other"}, nil)
	d, _ := b.draft("b", time.Now())
	if len(d.queues) != 2 || len(d.request.Queues) != 2 {
		t.Fatalf("got %d queues, want the 2 of the broker", len(d.queues))
	}
	if again, _ := b.draft("b", time.Now()); len(again.queues) != 0 {
		t.Fatalf("a second pull beside the first one has %d of its queues", len(again.queues))
	}
	b.landed(d)
	if again, _ := b.draft("b", time.Now()); len(again.queues) != 2 {
		t.Fatalf("after the answer: got %d queues, want 2", len(again.queues))
	}
}

func TestDraftLeavesFullQueuesOut(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	wake := make(chan struct{}, 1)
	full := holdIn(b, queueA, wake)
	holdIn(b, queueB, nil)
	admitTo(b, full, 6)
	d, _ := b.draft("b", time.Now())
	if len(d.queues) != 1 || d.queues[0].queue != queueB {
		t.Fatalf("got %v, want the queue that has room only", d.request.Queues)
	}
	<-wake // of hold
	b.finish(mustTake(t, b))
	<-wake // there is room again
	if d, _ := b.draft("b", time.Now()); len(d.queues) != 1 || d.queues[0].queue != queueA || d.request.Queues[0].Offset != 6 {
		t.Fatalf("got %v, want the queue that got room, at 6", d.request.Queues)
	}
}

// What is held and what is asked for never exceeds the bounds together.
func TestDraftAsksForNoMoreThanThereIsRoomFor(t *testing.T) {
	b := newBuffer(t.Context(), orderGroups, bounds{count: 10, bytes: 1000})
	t.Cleanup(b.close)
	holdIn(b, queueA, nil)
	holdIn(b, queueB, nil)
	d, _ := b.draft("b", time.Now())
	if d.request.MaxBytes != 500 || d.request.MaxCount != 5 {
		t.Fatalf("got %d bytes and %d messages, want 500 and 5: half of the bounds", d.request.MaxBytes, d.request.MaxCount)
	}
	b.landed(d)
	b.admit(pulled{queue: d.queues[0], items: stored(0, 1), next: 1, bytes: 251})
	if d, _ := b.draft("b", time.Now()); len(d.queues) != 1 {
		t.Fatalf("got %d queues, want 1: the other has more than half of its share", len(d.queues))
	}
}

func TestDraftAfterAFailureWaits(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	wake := make(chan struct{}, 1)
	q := holdIn(b, queueA, wake)
	<-wake
	now := time.Now()
	if n := b.leaveAlone(q, now); n != 1 {
		t.Fatalf("failures: got %d, want 1", n)
	}
	d, next := b.draft("b", now)
	if len(d.queues) != 0 || !next.Equal(now.Add(queueRetryFirst)) {
		t.Fatalf("got %d queues and next %v, want none until %v", len(d.queues), next.Sub(now), queueRetryFirst)
	}
	if d, _ := b.draft("b", next); len(d.queues) != 1 {
		t.Fatal("the queue is not pulled when its pause is over")
	}
	b.leaveAlone(q, now)
	b.confirm(queueA)
	<-wake
}

func TestDecode(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	qa, qb := holdIn(b, queueA, nil), holdIn(b, queueB, nil)
	d := draft{queues: []*processQueue{qa, qb}}
	damaged := encoded(t, queueB, 0, "x")
	damaged[len(damaged)-1] ^= 1
	list := d.decode(&protocol.PullResponse{Queues: []protocol.PulledQueue{
		{Index: 0, Next: 13, Batches: append(encoded(t, queueA, 10, "a", "b"), encoded(t, queueA, 12, "c")...)},
		{Index: 1, Next: 1, Batches: damaged},
		{Index: 2, Next: 1},
	}}, "b")
	if len(list) != 2 {
		t.Fatalf("got %d queues, want 2: the third was not asked for", len(list))
	}
	if got := list[0]; got.err != nil || len(got.items) != 3 || got.items[2].QueueOffset != 12 || got.items[2].Queue != queueA {
		t.Fatalf("good queue: got %d messages, %v", len(got.items), got.err)
	}
	if !errors.Is(list[1].err, protocol.Damaged) || !errors.Is(list[1].err, batch.ErrCorrupt) {
		t.Fatalf("damaged queue: got %v, want Damaged", list[1].err)
	}
}

func TestJump(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	q := holdIn(b, queueA, nil)
	admitTo(b, q, 2)
	if from, to, ok := b.jump(pulled{queue: q, min: 50, end: 90}); from != 2 || to != 50 || !ok {
		t.Fatalf("below the first offset: got %d to %d, %v; want 2 to 50", from, to, ok)
	}
	if got := b.uncommitted(queueA); len(got) != 1 || got[0].offset != 0 {
		t.Fatalf("what was prefetched: got commit %v, want 0 until it is finished", got)
	}
	if _, _, ok := b.jump(pulled{queue: q, min: 0, end: 90}); ok {
		t.Fatal("an offset in the range: got a jump")
	}
	if from, to, ok := b.jump(pulled{queue: q, min: 0, end: 7}); from != 50 || to != 7 || !ok {
		t.Fatalf("above the end: got %d to %d, %v; want 50 to 7", from, to, ok)
	}
	if at, _ := b.position(queueA); at != 7 {
		t.Fatalf("position: got %d, want 7", at)
	}
}

func TestAdmitWithoutProgress(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	q := holdIn(b, queueA, nil)
	if b.admit(pulled{queue: q, next: 0}) {
		t.Fatal("an answer that brings nothing and goes nowhere: got progress")
	}
	if !b.admit(pulled{queue: q, next: 3}) {
		t.Fatal("an answer that moves on without messages: got no progress")
	}
}

// Queues with a backlog are spread over pulls; those without wait in one.
func TestDraftSpreadsABacklog(t *testing.T) {
	b := newBuffer(t.Context(), orderFree, bounds{count: 100, bytes: 1 << 20})
	t.Cleanup(b.close)
	const queues = 2*pullsAtOnce + 4
	for i := range queues {
		holdIn(b, message.Queue{Topic: "t", Broker: "b", ID: i}, nil)
	}
	first, _ := b.draft("b", time.Now())
	if len(first.queues) != queues {
		t.Fatalf("before anything is known: got %d queues, want all %d", len(first.queues), queues)
	}
	b.landed(first)
	for i, q := range first.queues {
		p := pulled{queue: q, items: stored(0, 1), next: 1, end: 1, bytes: 1}
		if i >= 4 {
			p.end = 2 // there is more
		}
		b.admit(p)
	}
	var sizes []int
	var drafts []draft
	for d, _ := b.draft("b", time.Now()); len(d.queues) > 0; d, _ = b.draft("b", time.Now()) {
		sizes, drafts = append(sizes, len(d.queues)), append(drafts, d)
	}
	if want := []int{3, 3, 3, 3, 3, 1, 4}; !slices.Equal(sizes, want) {
		t.Fatalf("got pulls of %v queues, want %v: a part of all each, then those without more", sizes, want)
	}
	// Queues that get room one by one never make more pulls than there may be.
	for _, d := range drafts {
		b.landed(d)
	}
	for _, q := range first.queues {
		q.paused = true
	}
	pulls := 0
	for _, q := range first.queues[4:] {
		q.paused = false
		if d, _ := b.draft("b", time.Now()); len(d.queues) > 0 {
			pulls++
		}
	}
	if pulls != pullsAtOnce {
		t.Fatalf("got %d pulls at once, want %d", pulls, pullsAtOnce)
	}
}

// A reader that asks for many gets runs, so that a queue is emptied, and pulled,
// while another one's messages are read.
func TestTakeReadyTakesRuns(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	admitTo(b, holdIn(b, queueA, nil), 3)
	admitTo(b, holdIn(b, queueB, nil), 3)
	items, err := b.takeReady(4)
	if err != nil || len(items) != 4 {
		t.Fatalf("got %d messages, %v, want 4", len(items), err)
	}
	for i, want := range []message.Queue{queueA, queueA, queueA, queueB} {
		if items[i].queue.queue != want {
			t.Fatalf("message %d: got one of %v, want %v", i, items[i].queue.queue, want)
		}
	}
	if items, _ := b.takeReady(4); len(items) != 2 {
		t.Fatalf("then: got %d messages, want 2", len(items))
	}
	b.close()
	if _, err := b.takeReady(4); !errors.Is(err, ErrClosed) {
		t.Fatalf("closed: got %v", err)
	}
}
