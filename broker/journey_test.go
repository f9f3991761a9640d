package broker

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// witness feeds the view of groups with all records, and a journey with those from
// the message's on.
type witness struct {
	fataler
	groups  *group.View
	journey *journey
	index   uint64
	ends    [2]int64 // of the topic's queues
	offset  int64    // of the message in queue 0
	stored  uint64   // its record; 0: it is not sent yet
	told    int      // events that were looked at
	// ended are fences of each group's leases of queue 0 that ended since then: a
	// commit may still carry one.
	ended map[string][]uint64
	// passed is what the events say.
	passed map[string]bool
}

func newWitness(t fataler) *witness {
	return &witness{fataler: t, groups: group.New(), journey: newJourney(message.MakeID(9, 9)), passed: map[string]bool{}, ended: map[string][]uint64{}}
}

const witnessTopic = 7

func (w *witness) record(t store.Type, queue uint32, data []byte) store.Committed {
	w.index++
	return store.Committed{Record: store.Record{Type: t, Queue: store.QueueKey{Topic: witnessTopic, Queue: queue}, Data: data}, Index: w.index, StoreMillis: int64(w.index)}
}

func (w *witness) apply(t store.Type, data []byte) {
	w.Helper()
	r := w.record(t, 0, data)
	var err error
	switch t {
	case store.OffsetsRecord:
		err = w.groups.ApplyOffsets(r.Index, data)
	case store.LeasesRecord:
		err = w.groups.ApplyLeases(r.Index, data)
	case store.GroupDeleteRecord:
		err = w.groups.ApplyDelete(r.Index, data)
	}
	if err == nil && w.stored != 0 {
		err = w.journey.apply(r)
	}
	if err != nil {
		w.Fatalf("%v", err)
	}
	w.follow()
}

// send stores a message; that of the journey goes to queue 0.
func (w *witness) send(queue uint32, traced bool) {
	b := batch.NewBuilder("orders", int(queue))
	m := message.Message{Topic: "orders", ID: message.MakeID(1, w.index+1000)}
	if traced {
		m.ID = w.journey.id
	}
	b.Add(&m)
	r := w.record(store.BatchRecord, queue, b.Finish())
	r.BaseOffset = w.ends[queue]
	w.ends[queue]++
	if !traced {
		return
	}
	w.offset, w.stored = r.BaseOffset, r.Index
	if err := w.journey.apply(r); err != nil {
		w.Fatalf("%v", err)
	}
}

// follow turns new events into what they say.
func (w *witness) follow() {
	for _, e := range w.journey.events[w.told:] {
		switch e.Kind {
		case protocol.TraceAcked, protocol.TraceSkipped:
			if w.passed[e.Group] {
				w.Fatalf("%+v, and the group was behind the message", e)
			}
			w.passed[e.Group] = true
		case protocol.TraceReset, protocol.TraceGroupDeleted:
			w.passed[e.Group] = false
		}
		if e.Kind != protocol.TraceStored && e.Kind != protocol.TraceGroupDeleted && (e.Topic != "orders" || e.Queue != 0 || e.Offset != w.offset) {
			w.Fatalf("%+v is at another place", e)
		}
	}
	w.told = len(w.journey.events)
}

// compare holds the journey to the view.
func (w *witness) compare() {
	if w.stored == 0 {
		return
	}
	for _, g := range []string{"a", "b"} {
		if committed := w.groups.Committed(g, witnessTopic, 0); committed > w.offset != w.passed[g] {
			w.Fatalf("group %s is at %d, the message at %d; the events say passed: %v", g, committed, w.offset, w.passed[g])
		}
		client, fence, _ := w.groups.Lease(g, witnessTopic, 0)
		got, known := w.journey.leases[leased{g, store.QueueKey{Topic: witnessTopic}}]
		if known && got != (lease{client, fence}) {
			w.Fatalf("group %s: the lease is %q with %d, the journey has %+v", g, client, fence, got)
		}
	}
}

// step is one thing that happens; leases change as a broker changes them.
func (w *witness) step(t *rapid.T) {
	g := rapid.SampledFrom([]string{"a", "b"}).Draw(t, "group")
	queue := rapid.IntRange(0, 1).Draw(t, "queue")
	client, fence, held := w.groups.Lease(g, witnessTopic, queue)
	offset := group.Offset{TopicID: witnessTopic, Queue: queue, Offset: rapid.Int64Range(0, w.ends[queue]).Draw(t, "offset")}
	end := func() {
		if held && w.stored != 0 && queue == 0 {
			w.ended[g] = append(w.ended[g], fence)
		}
	}
	switch rapid.SampledFrom([]string{"send", "lease", "commit", "commit", "stale", "reset", "delete"}).Draw(t, "what") {
	case "send":
		w.send(uint32(queue), false)
	case "lease":
		switch by := rapid.SampledFrom([]string{"x", "y", ""}).Draw(t, "client"); {
		case !held && by != "":
			w.apply(store.LeasesRecord, group.EncodeLeases(g, witnessTopic, by, []int{queue}))
		case held && by == client, held && by == "":
			end()
			w.apply(store.LeasesRecord, group.EncodeRelease(g, witnessTopic, by, []int{queue}))
		default:
			w.inVain(g, by)
		}
	case "commit":
		offset.Fence = fence
		w.apply(store.OffsetsRecord, group.EncodeOffsets(g, []group.Offset{offset}))
	case "stale":
		if len(w.ended[g]) > 0 && queue == 0 {
			offset.Fence = rapid.SampledFrom(w.ended[g]).Draw(t, "fence")
			w.apply(store.OffsetsRecord, group.EncodeOffsets(g, []group.Offset{offset}))
		}
	case "reset":
		end()
		offset.Reset = true
		w.apply(store.OffsetsRecord, group.EncodeOffsets(g, []group.Offset{offset}))
	case "delete":
		end()
		w.apply(store.GroupDeleteRecord, group.EncodeDelete(g))
	}
}

// inVain gives queue 0 to a client though another has it, or takes it from one that
// has it not.
func (w *witness) inVain(g, by string) {
	now, known := w.journey.leases[leased{g, store.QueueKey{Topic: witnessTopic}}]
	switch {
	case !known || by == "":
	case now.client == "" || now.client == by:
		w.apply(store.LeasesRecord, group.EncodeRelease(g, witnessTopic, "z", []int{0}))
	default:
		w.apply(store.LeasesRecord, group.EncodeLeases(g, witnessTopic, by, []int{0}))
		w.apply(store.LeasesRecord, group.EncodeRelease(g, witnessTopic, by, []int{0}))
	}
}

// However groups come, go and are set, the events of a message say what the view of
// groups does, though the journey has seen nothing from before the message.
func TestJourney_AgainstTheViewOfGroups(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWitness(t)
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			w.step(t)
		}
		w.send(0, true)
		for range rapid.IntRange(0, 30).Draw(t, "after") {
			w.step(t)
			w.compare()
		}
	})
}

// kinds are those of events.
func kinds(events []protocol.TraceStep) (all []protocol.TraceKind) {
	for _, e := range events {
		all = append(all, e.Kind)
	}
	return all
}

// Of a batch of several messages the journey is that of one.
func TestJourney_IsOfOneMessageOfABatch(t *testing.T) {
	b := batch.NewBuilder("orders", 0)
	for counter := range uint64(3) {
		b.Add(&message.Message{Topic: "orders", ID: message.MakeID(9, counter), Body: []byte("body")})
	}
	j := newJourney(message.MakeID(9, 1))
	r := store.Committed{Record: store.Record{Type: store.BatchRecord, Data: b.Finish()}, Index: 5, BaseOffset: 10, StoreMillis: 7}
	if err := j.apply(r); err != nil {
		t.Fatal(err)
	}
	want := protocol.TraceStep{Kind: protocol.TraceStored, Millis: 7, LogIndex: 5, Topic: "orders", Offset: 11, Bytes: 4}
	if len(j.events) != 1 || j.events[0] != want {
		t.Errorf("got %+v, want %+v", j.events, want)
	}
}

// Leases are told of while the message is not acknowledged, with those who have them.
func TestJourney_TellsWhoHadTheQueue(t *testing.T) {
	w := newWitness(t)
	lease := func(by string, release bool) {
		if release {
			w.apply(store.LeasesRecord, group.EncodeRelease("a", witnessTopic, by, []int{0, 1}))
		} else {
			w.apply(store.LeasesRecord, group.EncodeLeases("a", witnessTopic, by, []int{0, 1}))
		}
	}
	lease("x", false)
	w.send(0, true)
	lease("x", true)
	lease("y", false)
	_, fence, _ := w.groups.Lease("a", witnessTopic, 0)
	w.apply(store.OffsetsRecord, group.EncodeOffsets("a", []group.Offset{{TopicID: witnessTopic, Offset: 1, Fence: fence}}))
	lease("y", true)
	got := w.journey.events
	if want := []protocol.TraceKind{protocol.TraceStored, protocol.TraceFreed, protocol.TraceLeased, protocol.TraceAcked}; !slices.Equal(kinds(got), want) {
		t.Fatalf("got %v, want %v", kinds(got), want)
	}
	if got[1].Client != "x" || got[2].Client != "y" || got[2].Fence != fence || got[3].Fence != fence || got[3].Group != "a" {
		t.Fatalf("got %+v", got[1:])
	}
}
