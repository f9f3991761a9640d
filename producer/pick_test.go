package producer

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rmqio/rmq/message"
)

// newTestFan has two queues on each broker.
func newTestFan(brokers ...string) (*topic, *fan, map[string]*outbox) {
	f, outs := &fan{}, map[string]*outbox{}
	for _, b := range brokers {
		outs[b] = &outbox{broker: b}
		for id := range 2 {
			name := message.Queue{Topic: "t", Broker: b, ID: id}
			f.queues = append(f.queues, &queue{Queue: name, out: outs[b]})
			f.names = append(f.names, name)
		}
	}
	return &topic{name: "t"}, f, outs
}

func TestChoose_RoundRobinOverHealthyBrokers(t *testing.T) {
	tp, f, outs := newTestFan("a", "b")
	count := func() map[string]int {
		seen := map[string]int{}
		for range 8 {
			q, bound, err := tp.choose(f, &message.Message{Topic: "t"}, nil, 5)
			if err != nil || bound != free {
				t.Fatalf("got %v, %v", bound, err)
			}
			seen[fmt.Sprint(q.Broker, q.ID)]++
		}
		return seen
	}
	if got := fmt.Sprint(count()); got != "map[a0:2 a1:2 b0:2 b1:2]" {
		t.Errorf("got %s, want each in turn", got)
	}
	outs["a"].health.until.Store(6)
	if got := count(); got["b0"]+got["b1"] != 8 {
		t.Errorf("got %v, want broker b alone while a fails", got)
	}
	outs["b"].health.until.Store(6)
	if got := count(); len(got) == 0 {
		t.Errorf("got %v, want some queue when all fail", got)
	}
}

func TestChoose_GroupsStay(t *testing.T) {
	tp, f, outs := newTestFan("a", "b", "c")
	used := map[int]bool{}
	for i := range 50 {
		m := &message.Message{Topic: "t", Group: fmt.Sprint("group", i)}
		first, bound, _ := tp.choose(f, m, nil, 0)
		outs["a"].health.until.Store(int64(i % 2))
		again, _, _ := tp.choose(f, m, nil, 0)
		if first != again || bound != grouped {
			t.Errorf("%s: got %v, then %v", m.Group, first.Queue, again.Queue)
		}
		used[first.ID] = true
	}
	if len(used) < 2 {
		t.Error("all groups go to one queue")
	}
	// FNV-1a 64 of "a" is 0xaf63dc4c8601ec8c: part of the contract, since other
	// producers must choose the same queue.
	if q := f.ofGroup("a"); q != f.queues[uint64(0xaf63dc4c8601ec8c)%6] {
		t.Errorf("group a goes to %v", q.Queue)
	}
}

func TestChoose_Options(t *testing.T) {
	tp, f, _ := newTestFan("a", "b")
	m := &message.Message{Topic: "t", Group: "g"}
	at := func(i int) SendOption {
		return WithSelector(func(qs []message.Queue, got *message.Message) int {
			if got != m || len(qs) != 4 {
				t.Errorf("got %v and %d queues", got, len(qs))
			}
			return i
		})
	}
	for _, tc := range []struct {
		opt  SendOption
		want int
		err  error
	}{
		{ToQueue(message.Queue{Topic: "t", Broker: "b", ID: 1}), 3, nil},
		{ToQueue(message.Queue{Broker: "a", ID: 1}), 1, nil},
		{ToQueue(message.Queue{Topic: "t", Broker: "b", ID: 2}), 0, ErrQueueNotFound},
		{ToQueue(message.Queue{Topic: "u", Broker: "b", ID: 1}), 0, ErrQueueNotFound},
		{at(2), 2, nil},
		{at(4), 0, ErrInvalidArgument},
		{at(-1), 0, ErrQueueNotFound},
	} {
		q, bound, err := tp.choose(f, m, []SendOption{{}, tc.opt}, 0)
		if tc.err != nil {
			if !errors.Is(err, tc.err) {
				t.Errorf("got %v, want %v", err, tc.err)
			}
			continue
		}
		if err != nil || q != f.queues[tc.want] || bound != pinned {
			t.Errorf("got %v, %v; want queue %d", q, err, tc.want)
		}
	}
}

func TestElsewhere(t *testing.T) {
	_, f, outs := newTestFan("a", "b")
	q := f.queues[0]
	if !f.elsewhere(q, 5, false) {
		t.Error("another healthy broker is not elsewhere")
	}
	if got := f.inTurn(0, q, 5); got.Broker != "b" {
		t.Errorf("got %v, want another broker", got.Queue)
	}
	outs["b"].health.until.Store(9)
	if f.elsewhere(q, 5, false) {
		t.Error("the same broker, or one that fails, is elsewhere")
	}
	if !f.elsewhere(q, 5, true) || f.inTurn(0, q, 5) != f.queues[1] {
		t.Error("another queue of the same broker is not elsewhere when the broker is not to blame")
	}
}
