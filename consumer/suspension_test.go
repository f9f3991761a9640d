package consumer

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/message"
)

// said is one thing that was said of queues; the model asks the newest that is of one.
type said struct {
	suspended bool
	of        func(message.Queue) bool
}

func TestSuspension_WhatWasSaidLastHolds(t *testing.T) {
	topics, ids := []string{"a", "b"}, []int{0, 1}
	rapid.Check(t, func(t *rapid.T) {
		s := newSuspension()
		var history []said
		for range rapid.IntRange(0, 8).Draw(t, "changes") {
			suspended := rapid.Bool().Draw(t, "suspended")
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				s.set(suspended, nil)
				history = append(history, said{suspended, func(message.Queue) bool { return true }})
			case 1:
				topic := rapid.SampledFrom(topics).Draw(t, "topic")
				s.set(suspended, []string{topic})
				history = append(history, said{suspended, func(q message.Queue) bool { return q.Topic == topic }})
			default:
				queue := message.Queue{Topic: rapid.SampledFrom(topics).Draw(t, "topic"), ID: rapid.SampledFrom(ids).Draw(t, "id")}
				s.setQueues(suspended, []message.Queue{queue})
				history = append(history, said{suspended, func(q message.Queue) bool { return q == queue }})
			}
		}
		for _, topic := range topics {
			for _, id := range ids {
				q, want := message.Queue{Topic: topic, ID: id}, false
				for _, h := range slices.Backward(history) {
					if h.of(q) {
						want = h.suspended
						break
					}
				}
				if want && !s.some() {
					t.Fatalf("queue %v is suspended, and nothing is", q)
				}
				if got := s.clone().of(q); got != want {
					t.Fatalf("queue %v: got suspended %v, want %v", q, got, want)
				}
			}
		}
	})
}

func TestSuspension_IsOver(t *testing.T) {
	s := newSuspension()
	s.set(true, []string{"a"})
	s.setQueues(true, []message.Queue{queueA})
	s.set(false, []string{"a"})
	if s.setQueues(false, []message.Queue{queueA}); s.some() {
		t.Errorf("all is resumed, and something is suspended: %+v", s)
	}
}

func TestBufferSuspends(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	wake := make(chan struct{}, 1)
	admitTo(b, holdIn(b, queueA, wake), 2)
	s := newSuspension()
	s.set(true, nil)
	b.suspend(s.clone())
	admitTo(b, holdIn(b, queueB, nil), 1)
	if it, _, _, err := b.tryTake(nil); it != nil || err != nil {
		t.Fatalf("suspended: got %v, %v", it, err)
	}
	if d, _ := b.draft(queueA.Broker, queueTestTime); len(d.queues) != 0 {
		t.Fatalf("suspended queues are pulled: %v", d.queues)
	}
	s.setQueues(false, []message.Queue{queueA})
	receive(t, "the pull when it was held", wake)
	b.suspend(s.clone())
	receive(t, "a pull", wake)
	if it := mustTake(t, b); it.queue.queue != queueA {
		t.Fatalf("got a message of %v", it.queue.queue)
	}
	if suspended, _ := b.throttled(); !suspended {
		t.Error("it is said not to be suspended")
	}
	b.restart(queueA, 0)
	b.restart(queueB, 0)
	if b.get(queueA).paused || !b.get(queueB).paused {
		t.Error("a queue that is read anew is not as it was")
	}
}

// A queue that drains for another member is suspended: what waits is dropped, and the
// drain is over.
func TestBufferSuspendsADrainingQueue(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	admitTo(b, holdIn(b, queueA, nil), 3, "a", "a", "b")
	running := []*item{mustTake(t, b), mustTake(t, b)} // and not the one between them
	b.drain(queueA)
	s := newSuspension()
	s.set(true, []string{queueA.Topic})
	b.suspend(s)
	b.finish(running...)
	receive(t, "the end of the drain", b.idled)
	if !b.idle(queueA) {
		t.Error("something waits still")
	}
}
