package consumer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rmqio/rmq/message"
)

var queueA, queueB = message.Queue{Topic: "t", Broker: "b", ID: 0}, message.Queue{Topic: "t", Broker: "b", ID: 1}

func newTestBuffer(t *testing.T, o order) *buffer {
	t.Helper()
	b := newBuffer(t.Context(), o, bounds{count: 10, bytes: 1 << 20})
	t.Cleanup(b.close)
	return b
}

// holdIn makes a buffer hold a queue that begins at 0.
func holdIn(b *buffer, q message.Queue, fetcher chan<- struct{}) *processQueue {
	pq := newProcessQueue(q, 1, 0, -1, b.order)
	b.hold(pq, fetcher)
	return pq
}

func admitTo(b *buffer, q *processQueue, n int, groups ...string) {
	b.admit(pulled{queue: q, items: stored(q.window.next, n, groups...), next: q.window.next + int64(n), bytes: 10})
}

func mustTake(t *testing.T, b *buffer) *item {
	t.Helper()
	it, _, _, err := b.tryTake(time.Now)
	if it == nil || err != nil {
		t.Fatalf("take: got %v, %v, want a message", it, err)
	}
	return it
}

func TestBufferQueuesTakeTurns(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	qa, qb := holdIn(b, queueA, nil), holdIn(b, queueB, nil)
	admitTo(b, qa, 3)
	admitTo(b, qb, 2)
	for i, want := range []message.Queue{queueA, queueB, queueA, queueB, queueA} {
		if it := mustTake(t, b); it.queue.queue != want {
			t.Fatalf("message %d: got one of %v, want %v", i, it.queue.queue, want)
		}
	}
}

func TestBufferPause(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	wake := make(chan struct{}, 1)
	admitTo(b, holdIn(b, queueA, wake), 1)
	if !b.pause(true, []message.Queue{queueA}) {
		t.Fatal("pause of a queue that is held: got false")
	}
	if it, _, _, _ := b.tryTake(time.Now); it != nil {
		t.Fatal("a paused queue hands a message out")
	}
	if d, _ := b.draft("b", time.Now()); len(d.queues) != 0 {
		t.Fatal("a paused queue is pulled")
	}
	<-wake // of hold
	b.pause(false, []message.Queue{queueA})
	<-wake
	mustTake(t, b)
	if b.pause(true, []message.Queue{queueB}) {
		t.Fatal("pause of a queue that is not held: got true")
	}
}

func TestBufferRetriesAfterThePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuffer(t.Context(), orderGroups, bounds{count: 10, bytes: 1000})
		admitTo(b, holdIn(b, queueA, nil), 1)
		start := time.Now()
		it, _, err := b.take(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if !b.fail(it, start.Add(3*time.Second)) {
			t.Fatal("fail: got dropped, want a retry")
		}
		again, _, err := b.take(t.Context())
		if err != nil || again != it || time.Since(start) != 3*time.Second {
			t.Fatalf("got %v, %v after %v; want the same message after 3s", again, err, time.Since(start))
		}
	})
}

// Two takers find nothing; before either waits, there is a message and a retry,
// and one token for both. The one that gets it takes the message and may be busy
// for long, so the other one must learn of the retry.
func TestBufferPassesTheTokenOn(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	q := holdIn(b, queueA, nil)
	admitTo(b, q, 1)
	failed := mustTake(t, b)
	<-b.ready // the token of admit
	for range 2 {
		if it, _, due, _ := b.tryTake(time.Now); it != nil || !due.IsZero() {
			t.Fatalf("got %v and a retry at %v, want nothing", it, due)
		}
	}
	admitTo(b, q, 1)
	b.fail(failed, time.Now().Add(time.Hour))
	if err := b.await(t.Context(), time.Time{}); err != nil { // the first taker
		t.Fatal(err)
	}
	mustTake(t, b)
	select {
	case <-b.ready: // the second one
	default:
		t.Fatal("nobody who waits knows of the retry")
	}
	if it, _, due, _ := b.tryTake(time.Now); it != nil || due.IsZero() {
		t.Fatalf("got %v and a retry at %v, want the time of the retry", it, due)
	}
}

func TestBufferCloseEndsEveryTake(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	var takers sync.WaitGroup
	for range 5 {
		takers.Go(func() {
			if _, _, err := b.take(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("take: got %v, want ErrClosed", err)
			}
		})
	}
	b.close()
	takers.Wait()
}

func TestBufferTakeEndsWithItsContext(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := b.take(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("take: got %v, want context.Canceled", err)
	}
}

func TestBufferLoseEndsHandlersAndIgnoresThem(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	q := holdIn(b, queueA, nil)
	admitTo(b, q, 2)
	it, life, _, _ := b.tryTake(time.Now)
	if !b.lose(q, ErrLeaseLost) || b.lose(q, ErrLeaseLost) {
		t.Fatal("lose: want true once")
	}
	if life.Err() == nil || !errors.Is(context.Cause(life), ErrLeaseLost) {
		t.Fatalf("handler's context: got %v, want ErrLeaseLost", context.Cause(life))
	}
	fresh := holdIn(b, queueA, nil)
	if b.lose(q, ErrLeaseLost) || b.get(queueA) != fresh {
		t.Fatal("what was lost before is lost again, with its successor")
	}
	b.finish(it)
	if b.fail(it, time.Now()) {
		t.Fatal("a message of a lost queue is tried again")
	}
	if got := b.uncommitted(queueA); len(got) != 1 || got[0].queue != fresh || got[0].offset != 0 {
		t.Fatalf("uncommitted: got %v, want offset 0 of the new holding", got)
	}
	if b.admit(pulled{queue: q, items: stored(2, 1), next: 3}); fresh.waiting != 0 {
		t.Fatal("an answer for the lost queue reaches the new holding")
	}
}

func TestBufferTellsWhenADrainIsOver(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	admitTo(b, holdIn(b, queueA, nil), 3)
	it := mustTake(t, b)
	b.drain(queueA)
	select {
	case <-b.idled:
		t.Fatal("told before the running message is finished")
	default:
	}
	b.finish(it)
	<-b.idled
	if !b.idle(queueA) {
		t.Fatal("the queue is not idle")
	}
	if got := b.uncommitted(queueA); len(got) != 1 || got[0].offset != 1 {
		t.Fatalf("uncommitted: got %v, want offset 1", got)
	}
}

func TestBufferUncommittedUntilConfirmed(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	q := holdIn(b, queueA, nil)
	list := b.uncommitted(queueA, queueB)
	if len(list) != 1 || list[0].offset != 0 {
		t.Fatalf("a queue that the group never committed: got %v, want its start to be committed", list)
	}
	b.markCommitted(list[0])
	if list := b.uncommitted(queueA); len(list) != 0 {
		t.Fatalf("after the commit: got %v, want nothing", list)
	}
	admitTo(b, q, 1)
	if list := b.uncommitted(queueA); len(list) != 0 {
		t.Fatalf("with a message that waits: got %v, want nothing", list)
	}
	b.finish(mustTake(t, b))
	if list := b.uncommitted(queueA); len(list) != 1 || list[0].offset != 1 {
		t.Fatalf("after it is finished: got %v, want offset 1", list)
	}
}

func TestBufferRestart(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	q := holdIn(b, queueA, nil)
	admitTo(b, q, 3)
	mustTake(t, b)
	if !b.restart(queueA, 2) || b.restart(queueB, 2) {
		t.Fatal("restart: want true for the queue that is held only")
	}
	if at, held := b.position(queueA); !held || at != 2 {
		t.Fatalf("position: got %d, %v, want 2", at, held)
	}
	d, _ := b.draft("b", time.Now())
	if len(d.request.Queues) != 1 || d.request.Queues[0].Offset != 2 {
		t.Fatalf("next pull: got %v, want offset 2", d.request.Queues)
	}
}

func TestBufferKeepsTheNewestFaults(t *testing.T) {
	b := newTestBuffer(t, orderFree)
	var last error
	for range maxFaults + 10 {
		last = errors.New("fault")
		b.report(last)
	}
	n := 0
	for err := b.fault(); err != nil; err = b.fault() {
		n++
		if n == maxFaults && err != last {
			t.Fatal("the newest fault is not the last one")
		}
	}
	if n != maxFaults {
		t.Fatalf("got %d faults, want %d", n, maxFaults)
	}
}
