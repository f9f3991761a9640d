package producer

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// newBandedFan has as many queues on broker a, b and so on as is said.
func newBandedFan(counts ...int) (*topic, *fan) {
	f, route := &fan{}, &client.Route{Topic: "t"}
	for i, n := range counts {
		out := &outbox{broker: string(rune('a' + i))}
		route.Brokers = append(route.Brokers, protocol.TopicRoute{Broker: out.broker, WriteQueues: n, Type: message.Priority})
		for id := range n {
			f.queues = append(f.queues, &queue{Queue: message.Queue{Topic: "t", Broker: out.broker, ID: id}, out: out})
			f.names = append(f.names, f.queues[len(f.queues)-1].Queue)
		}
	}
	f.route, f.bands = route, newBands(route, f.queues)
	return &topic{name: "t"}, f
}

func chosenFor(t *testing.T, tp *topic, f *fan, m *message.Message) *queue {
	t.Helper()
	q, bound, err := tp.choose(f, m, nil, 5)
	if err != nil || bound != free {
		t.Fatalf("got %v, %v", bound, err)
	}
	return q
}

func TestBands_OfPriorities(t *testing.T) {
	for n, want := range map[int]string{
		1: "[0 0 0 0 0 0 0 0 0 0]", 2: "[0 0 0 0 0 1 1 1 1 1]", 3: "[0 0 0 0 1 1 1 2 2 2]",
		10: "[0 1 2 3 4 5 6 7 8 9]", 20: "[0 2 4 6 8 10 12 14 16 18]",
	} {
		tp, f := newBandedFan(n)
		var got []int
		for p := range message.MaxPriority + 1 {
			got = append(got, chosenFor(t, tp, f, &message.Message{Topic: "t", Priority: p}).ID)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%d queues: got %v, want %s", n, got, want)
		}
	}
}

func TestBands_BrokersTakeTurnsAndFailingOnesAreAvoided(t *testing.T) {
	tp, f := newBandedFan(10, 5)
	seen := map[string]int{}
	for range 8 {
		q := chosenFor(t, tp, f, &message.Message{Topic: "t", Priority: 8})
		seen[fmt.Sprint(q.Broker, q.ID)]++
	}
	if got := fmt.Sprint(seen); got != "map[a8:4 b4:4]" {
		t.Errorf("got %s, want the band of each broker in turn", got)
	}
	f.bands[0][0].out.health.until.Store(6)
	for range 4 {
		if q := chosenFor(t, tp, f, &message.Message{Topic: "t", Priority: 8}); q != f.bands[1][4] {
			t.Errorf("got %v while broker a fails", q.Queue)
		}
	}
	f.bands[1][0].out.health.until.Store(6)
	if q := chosenFor(t, tp, f, &message.Message{Topic: "t"}); q.ID != 0 {
		t.Errorf("got %v when all fail, want some queue of the band", q.Queue)
	}
}

// A topic of another type is what it was.
func TestBands_OnlyOfPriorityTopics(t *testing.T) {
	tp, f := newBandedFan(4)
	for i := range f.route.Brokers {
		f.route.Brokers[i].Type = message.Mixed
	}
	f.bands = newBands(f.route, f.queues)
	seen := map[int]int{}
	for range 8 {
		seen[chosenFor(t, tp, f, &message.Message{Topic: "t", Priority: 9}).ID]++
	}
	if len(seen) != 4 {
		t.Errorf("got %v, want all queues in turn", seen)
	}
}

// A message of a batch goes where the one before went only if that is its band,
// and one that fails has no other queue on the same broker.
func TestBands_Stay(t *testing.T) {
	_, f := newBandedFan(10, 10)
	low, high, other := f.bands[0][1], f.bands[0][9], f.bands[1][9]
	if f.asGood(low, high, 5) || !f.asGood(other, high, 5) || !f.asGood(high, high, 5) {
		t.Error("a message goes to another band than its own")
	}
	if !f.elsewhere(high, 5, true) {
		t.Error("the band of another broker is not elsewhere")
	}
	other.out.health.until.Store(9)
	if f.elsewhere(high, 5, true) {
		t.Error("another band of the same broker is elsewhere")
	}
	if f.asGood(other, high, 5) {
		t.Error("a broker that fails is as good as another")
	}
}

// A higher priority never goes to a lower queue of the same broker.
func TestBands_AreInOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		_, f := newBandedFan(rapid.SliceOfN(rapid.IntRange(1, 40), 1, 4).Draw(t, "queues")...)
		turn := rapid.Uint64().Draw(t, "turn")
		var ids []int
		for p := range message.MaxPriority + 1 {
			ids = append(ids, f.bands.of(p, turn, nil, 0).ID)
		}
		if !slices.IsSorted(ids) {
			t.Fatalf("got %v", ids)
		}
		n := len(f.bands[turn%uint64(len(f.bands))])
		if distinct := len(slices.Compact(ids)); distinct != min(n, message.MaxPriority+1) {
			t.Fatalf("10 priorities use %d of %d queues", distinct, n)
		}
	})
}
