package broker

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestRecall(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	h.topic("bills", 1)
	held := h.hold(orders, 0, in(time.Minute), in(time.Hour), in(time.Second))
	h.pass(time.Second)
	h.settle()
	for _, of := range held[:2] { // one that waits, or was recalled, and one that waits
		foreign := func(change func(*protocol.Held)) protocol.Held {
			other := of
			change(&other)
			return other
		}
		for name, other := range map[string]protocol.Held{
			"another id":                           foreign(func(o *protocol.Held) { o.ID = h.ids.Next().String() }),
			"another topic":                        foreign(func(o *protocol.Held) { o.Topic = "bills" }),
			"no topic":                             foreign(func(o *protocol.Held) { o.Topic = "none" }),
			"another position":                     foreign(func(o *protocol.Held) { o.Position = 1 - of.Position }),
			"no position":                          foreign(func(o *protocol.Held) { o.Position = 3 }),
			"below positions":                      foreign(func(o *protocol.Held) { o.Position = -1 }),
			"above positions":                      foreign(func(o *protocol.Held) { o.Position = 1 << 40 }),
			"another origin":                       foreign(func(o *protocol.Held) { o.Origin++ }),
			"far origin":                           foreign(func(o *protocol.Held) { o.Origin = 1 << 60 }),
			"a topic's origin":                     foreign(func(o *protocol.Held) { o.Origin = 1 }),
			"delivered, but with another topic":    {Origin: held[2].Origin, Position: 2, ID: held[2].ID, Topic: "bills"},
			"delivered, but with another origin":   {Origin: 1, Position: 2, ID: held[2].ID, Topic: "orders"},
			"delivered, but with another position": {Origin: held[2].Origin, Position: 3, ID: held[2].ID, Topic: "orders"},
		} {
			if got, err := h.recall(other); got || protocol.CodeOf(err) != protocol.NotFound {
				t.Errorf("%s: got %v, %v", name, got, err)
			}
		}
		h.wantRecall(foreign(func(o *protocol.Held) { o.ID = "no id" }), false, protocol.InvalidArgument)
		for range 2 {
			h.wantRecall(held[0], true, 0)
		}
		h.wantRecall(held[2], false, 0)
		h.restart()
	}
	h.pass(time.Hour)
	h.settle()
	got := h.wantDelivered(orders, 0, 2)
	if got[0].ID.String() != held[2].ID || got[1].ID.String() != held[1].ID {
		t.Errorf("got %v, %v", got[0].ID, got[1].ID)
	}
}

// TestRecall_RacesWithDelivery recalls messages while they become due, and reads
// the history: what was answered as recalled was not delivered, and everything
// else was, once.
func TestRecall_RacesWithDelivery(t *testing.T) {
	const n, callers = 2000, 4
	h := newHolding(t)
	orders := h.topic("orders", 2)
	var all []protocol.Held
	for len(all) < n {
		var messages []*message.Message
		for range 1 + rand.IntN(4) {
			messages = append(messages, in(time.Duration(1+rand.IntN(1000))*time.Millisecond))
		}
		all = append(all, h.hold(orders, rand.IntN(2), messages...)...)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	answers := make([]bool, len(all))
	var calls sync.WaitGroup
	var next atomic.Int64
	for range callers {
		calls.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(all)); i = next.Add(1) - 1 {
				if rand.IntN(2) == 0 {
					h.pass(time.Millisecond)
				}
				recalled, err := h.recall(all[i])
				if err != nil {
					t.Error(err)
				}
				answers[i] = recalled
			}
		})
	}
	calls.Wait()
	h.pass(time.Hour)
	h.settle()
	delivered := map[string]int{}
	for q := range 2 {
		for _, m := range h.delivered(orders, q) {
			delivered[m.ID.String()]++
		}
	}
	recalls := 0
	for i, held := range all {
		want := 1
		if answers[i] {
			want = 0
			recalls++
		}
		if delivered[held.ID] != want {
			t.Fatalf("recalled: %v, delivered %d times", answers[i], delivered[held.ID])
		}
	}
	if recalls == 0 || recalls == len(all) {
		t.Errorf("%d of %d were recalled: there was no race", recalls, len(all))
	}
	h.kill()
	for i, held := range all {
		h.wantRecall(held, answers[i], 0)
	}
}

// TestRecall_WaitsForARelease that is under way.
func TestRecall_WaitsForARelease(t *testing.T) {
	h := newHolding(t)
	h.quiet()
	orders := h.topic("orders", 1)
	held := h.hold(orders, 0, in(time.Second))[0]
	h.pass(time.Second)
	due := h.timers.pick()
	answered := make(chan bool)
	go func() {
		recalled, _ := h.recall(held)
		answered <- recalled
	}()
	h.timers.read(due)
	select {
	case <-answered:
		t.Error("a recall was answered while a release was under way")
	default:
	}
	h.check(h.timers.release(due))
	if <-answered {
		t.Error("a message that was delivered was recalled")
	}
	h.wantDelivered(orders, 0, 1)
}

func (h *holding) list(r protocol.ListDelayedRequest) *protocol.ListDelayedResponse {
	h.Helper()
	resp, err := h.timers.listDelayed(h.Context(), &r)
	h.check(err)
	return resp
}

func TestListDelayed(t *testing.T) {
	h := newHolding(t)
	orders, bills := h.topic("orders", 4), h.topic("bills", 1)
	const n = listScan + 100 // more than is looked at in one piece
	var want []protocol.DelayedMessage
	for len(want) < n {
		var messages []*message.Message
		for range 700 {
			messages = append(messages, in(time.Duration(1000+rand.IntN(5000))*time.Millisecond))
		}
		queue, stored := rand.IntN(4), h.millis()
		for i, held := range h.hold(orders, queue, messages...) {
			want = append(want, protocol.DelayedMessage{Held: held, Queue: queue, StoreMillis: stored, DeliverAtMillis: stored + messages[i].Delay.Milliseconds()})
		}
		h.hold(bills, 0, in(time.Minute)) // behind all others
		h.clock.Add(1e6)
	}
	slices.SortFunc(want, func(a, b protocol.DelayedMessage) int { return key(a).Compare(key(b)) })
	var got []protocol.DelayedMessage
	for r := (protocol.ListDelayedRequest{Topic: "orders", Max: 999}); ; {
		resp := h.list(r)
		if resp.Pending != len(want) || len(resp.Messages) > r.Max {
			t.Fatalf("%d messages of %d, want %d of %d", len(resp.Messages), resp.Pending, r.Max, len(want))
		}
		got = append(got, resp.Messages...)
		if !resp.More {
			break
		}
		r.After = &got[len(got)-1]
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %d messages, want %d, in the order of their times", len(got), len(want))
	}
	for _, c := range []struct {
		topic      string
		n, pending int
	}{{"bills", len(want) / 700, len(want) / 700}, {"", protocol.MaxQueryMessages, len(want) + len(want)/700}} {
		if r := h.list(protocol.ListDelayedRequest{Topic: c.topic, Max: protocol.MaxQueryMessages}); len(r.Messages) != c.n || r.Pending != c.pending || r.More != (c.n < c.pending) {
			t.Errorf("topic %q: got %d of %d, more: %v", c.topic, len(r.Messages), r.Pending, r.More)
		}
	}
	for _, c := range []struct {
		r    protocol.ListDelayedRequest
		code protocol.ErrorCode
	}{
		{protocol.ListDelayedRequest{}, protocol.InvalidArgument},
		{protocol.ListDelayedRequest{Max: protocol.MaxQueryMessages + 1}, protocol.InvalidArgument},
		{protocol.ListDelayedRequest{Max: 1, Topic: "none"}, protocol.TopicNotFound},
		{protocol.ListDelayedRequest{Max: 1, After: &protocol.DelayedMessage{Held: protocol.Held{Position: -1}}}, protocol.InvalidArgument},
		{protocol.ListDelayedRequest{Max: 1, After: &protocol.DelayedMessage{Held: protocol.Held{Position: batch.MaxCount}}}, protocol.InvalidArgument},
	} {
		if _, err := h.timers.listDelayed(t.Context(), &c.r); protocol.CodeOf(err) != c.code {
			t.Errorf("%+v: got %v", c.r, err)
		}
	}
}

func key(m protocol.DelayedMessage) timer.Key {
	return timer.Key{Millis: m.DeliverAtMillis, Origin: m.Origin, Position: int32(m.Position)}
}

func TestShows(t *testing.T) {
	h := &holding{T: t}
	id := message.MakeID(1, 7)
	b := batch.NewBuilder("", 0)
	b.Begin(&batch.Lead{Topic: "t", Release: batch.Release{Origin: 9, Positions: []int{2, 5}}})
	b.Add(&message.Message{ID: message.MakeID(1, 6), BornTime: time.UnixMilli(0)})
	b.Add(&message.Message{ID: id, BornTime: time.UnixMilli(0)})
	data := b.Finish()
	for at, want := range map[timer.Place]bool{{Origin: 9, Position: 5}: true, {Origin: 9, Position: 2}: false, {Origin: 9, Position: 1}: false, {Origin: 8, Position: 5}: false} {
		if got := shows(data, at, id); got != want {
			h.Errorf("%v: got %v", at, got)
		}
	}
	if shows([]byte("no batch"), timer.Place{}, id) {
		t.Error("what is no batch shows a message")
	}
}

var _ held = (*timer.View)(nil)
