package broker

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
)

// popWitness feeds the view of what was popped with all records, and a journey with
// those from the message's on.
type popWitness struct {
	fataler
	view      *pop.View
	journey   *journey
	key       pop.Key
	index     uint64
	end       int64 // of the queue
	committed int64
	offset    int64  // of the message
	stored    uint64 // its record; 0: it is not sent yet
	handles   []pop.Set
}

func (w *popWitness) apply(t store.Type, data []byte) store.Committed {
	w.Helper()
	w.index++
	r := store.Committed{Record: store.Record{Type: t, Queue: store.QueueKey{Topic: w.key.Topic}, Data: data}, Index: w.index, StoreMillis: int64(w.index), BaseOffset: w.end}
	if w.stored != 0 {
		if err := w.journey.apply(r); err != nil {
			w.Fatalf("%v", err)
		}
	}
	return r
}

// send stores the message of the journey.
func (w *popWitness) send() {
	b := batch.NewBuilder("orders", 0)
	b.Add(&message.Message{Topic: "orders", ID: w.journey.id})
	w.stored, w.offset = w.index+1, w.end
	w.apply(store.BatchRecord, b.Finish())
	w.end++
}

// advance is what the group's offset does by itself.
func (w *popWitness) advance() {
	if p, ok := w.view.Progress(w.key); ok {
		w.committed = max(w.committed, p.Floor)
	}
}

// handOut pops as a broker does; late, as one that another pop overtook.
func (w *popWitness) handOut(t *rapid.T, late bool) {
	p, _ := w.view.Progress(w.key)
	from := max(p.Next, w.committed)
	h := &pop.Handout{Key: w.key, After: p.Last, Next: rapid.Int64Range(from, w.end).Draw(t, "next"), InvisibleMillis: rapid.Int64Range(0, 20).Draw(t, "invisible")}
	if late {
		h.After = p.Last + 1
	}
	for _, m := range w.view.Due(w.key, int64(w.index), math.MaxInt) {
		if rapid.Bool().Draw(t, "again") {
			h.Again = append(h.Again, m.Offset)
		}
	}
	slices.Sort(h.Again)
	busy := map[uint32]bool{}
	for o := from; o < h.Next; o++ {
		if !rapid.Bool().Draw(t, "matches") {
			continue
		}
		r := pop.Run{First: o, Count: 1, Lane: rapid.Uint32Range(0, 2).Draw(t, "lane")}
		if r.Lane != 0 {
			r.Waits = busy[r.Lane] || w.view.Busy(w.key, r.Lane)
			busy[r.Lane] = true
		}
		h.Fresh = append(h.Fresh, r)
	}
	r := w.apply(store.PopRecord, pop.EncodeHandout(h))
	if !w.view.ApplyHandout(r, h) {
		return
	}
	set := pop.Set{Fence: r.Index, Offsets: h.Again}
	for _, run := range h.Fresh {
		if !run.Waits {
			set.Offsets = append(set.Offsets, run.First)
		}
	}
	w.handles = append(w.handles, set)
	w.advance()
}

func (w *popWitness) step(t *rapid.T) {
	offset := group.Offset{TopicID: w.key.Topic, Offset: rapid.Int64Range(0, w.end).Draw(t, "offset")}
	switch rapid.SampledFrom([]string{"send", "pop", "pop", "late", "ack", "ack", "again", "commit", "reset"}).Draw(t, "what") {
	case "send":
		w.index++
		w.end++
	case "pop":
		w.handOut(t, false)
	case "late": // what is late of before the message does not reach it
		if len(w.journey.pops) > 0 {
			w.handOut(t, true)
		}
	case "ack":
		w.settle(t, pop.Ack{Key: w.key})
	case "again":
		w.settle(t, pop.Ack{Key: w.key, Again: true, InvisibleMillis: 5})
	case "commit":
		w.apply(store.OffsetsRecord, group.EncodeOffsets(w.key.Group, []group.Offset{offset}))
		w.committed = max(w.committed, offset.Offset)
		w.view.Finish(w.key, w.committed)
	case "reset":
		offset.Reset = true
		r := w.apply(store.OffsetsRecord, group.EncodeOffsets(w.key.Group, []group.Offset{offset}))
		w.committed = offset.Offset
		w.view.SetBack(r.Index, w.key, offset.Offset)
	}
}

// settle acknowledges, or postpones, what some handle was given for.
func (w *popWitness) settle(t *rapid.T, a pop.Ack) {
	if len(w.handles) == 0 {
		return
	}
	handle := rapid.SampledFrom(w.handles).Draw(t, "handle")
	set := pop.Set{Fence: handle.Fence}
	for _, o := range handle.Offsets {
		if rapid.Bool().Draw(t, "this") {
			set.Offsets = append(set.Offsets, o)
		}
	}
	a.Sets = []pop.Set{set}
	w.view.ApplyAck(w.apply(store.AckRecord, pop.EncodeAck(&a)), &a)
	w.advance()
}

// compare holds the journey to the view.
func (w *popWitness) compare() {
	got := w.journey.stands[0].of(w.key.Group)
	progress, known := w.view.Progress(w.key)
	counts, _ := w.view.Counts(w.key, 0, w.offset)
	unfinished := known && counts.Oldest == w.offset && w.offset < progress.Next
	finished := w.committed > w.offset || known && w.offset < progress.Next && !unfinished
	if got.passed != finished {
		w.Fatalf("the message at %d is finished: %v; the events say %v: %+v", w.offset, finished, got.passed, w.journey.events)
	}
	if !unfinished || got.fence == 0 {
		return
	}
	if m := w.view.HandedOut(w.key, got.fence, []int64{w.offset}); len(m) != 1 || m[0].Attempts != got.attempts {
		w.Fatalf("handed out as %+v; the events say %d times, with %d", m, got.attempts, got.fence)
	}
}

// However messages are popped, acknowledged and set back, the events of one say what
// the view does.
func TestJourney_AgainstTheViewOfPops(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &popWitness{fataler: t, view: pop.New(), journey: newJourney(message.MakeID(9, 9)), key: pop.Key{Group: "a", Topic: witnessTopic}}
		for range rapid.IntRange(0, 10).Draw(t, "before") {
			w.step(t)
		}
		w.send()
		for range rapid.IntRange(0, 30).Draw(t, "after") {
			w.step(t)
			w.compare()
		}
	})
}
