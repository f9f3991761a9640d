package producer

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func chooseWith(t *testing.T, tp *topic, f *fan, o SendOption) *queue {
	t.Helper()
	q, bound, err := tp.choose(f, &message.Message{Topic: "t", Group: "g"}, []SendOption{{}, o}, 5)
	if err != nil || bound != pinned {
		t.Fatalf("got %v, bound %v; want a queue that stays", err, bound)
	}
	return q
}

func TestSelectByHash(t *testing.T) {
	tp, f, outs := newTestFan("a", "b", "c")
	outs["a"].health.until.Store(9)
	used := map[*queue]bool{}
	for i := range 60 {
		key := fmt.Sprint("key", i)
		q := chooseWith(t, tp, f, SelectByHash(key))
		if q != f.ofGroup(key) || q != chooseWith(t, tp, f, SelectByHash(key)) {
			t.Errorf("%s goes to %v, want the queue of that group", key, q.Queue)
		}
		used[q] = true
	}
	if len(used) != len(f.queues) {
		t.Errorf("60 keys go to %d of %d queues", len(used), len(f.queues))
	}
}

func TestSelectRandom(t *testing.T) {
	tp, f, _ := newTestFan("a", "b")
	used := map[*queue]int{}
	for range 400 {
		used[chooseWith(t, tp, f, SelectRandom())]++
	}
	for _, q := range f.queues {
		if used[q] < 40 {
			t.Errorf("%v is chosen %d times of 400, want about 100", q.Queue, used[q])
		}
	}
}

func TestSelectRoundRobin_TakesEachInTurn(t *testing.T) {
	tp, f, outs := newTestFan("a", "b")
	outs["a"].health.until.Store(9)
	first := chooseWith(t, tp, f, SelectRoundRobin())
	used := map[*queue]int{first: 1}
	for range 7 {
		used[chooseWith(t, tp, f, SelectRoundRobin())]++
	}
	for _, q := range f.queues {
		if used[q] != 2 {
			t.Errorf("%v is chosen %d times of 8, want 2", q.Queue, used[q])
		}
	}
}

func TestSelectByMachineRoom(t *testing.T) {
	tp, f, outs := newTestFan("a", "b", "c")
	used := map[*queue]int{}
	for range 8 {
		used[chooseWith(t, tp, f, SelectByMachineRoom("a", "c", "elsewhere"))]++
	}
	for _, q := range f.queues {
		want := 2
		if q.Broker == "b" {
			want = 0
		}
		if used[q] != want {
			t.Errorf("%v is chosen %d times of 8, want %d", q.Queue, used[q], want)
		}
	}
	outs["a"].health.failed(0, protocol.Errorf(protocol.Unreachable, "x"), 0)
	for range 4 {
		if q := chooseWith(t, tp, f, SelectByMachineRoom("a", "c")); q.Broker != "c" {
			t.Errorf("got %v while a fails, want c", q.Queue)
		}
	}
	_, _, err := tp.choose(f, &message.Message{Topic: "t"}, []SendOption{SelectByMachineRoom("elsewhere")}, 5)
	if !errors.Is(err, ErrInvalidArgument) {
		t.Errorf("got %v for a room without a queue, want %v", err, ErrInvalidArgument)
	}
}

// Every mode takes options.
func TestOptions_InEveryMode(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	p := newProducer(t, s, nil)
	to := ToQueue(message.Queue{Broker: "a", ID: 2})
	if _, err := p.Send(t.Context(), msg("sync"), to); err != nil {
		t.Fatal(err)
	}
	p.SendAsync(t.Context(), msg("async"), nil, to)
	if err := p.SendOneway(t.Context(), msg("oneway"), to); err != nil {
		t.Fatal(err)
	}
	if _, err := p.SendBatch(t.Context(), []*message.Message{msg("batch"), msg("batch")}, to); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(b.bodies(2)); got != "[sync async oneway batch batch]" {
		t.Errorf("got %s in the chosen queue", got)
	}
}
