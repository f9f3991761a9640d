package broker

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func (h *holding) trace(id string) *protocol.TraceMessageResponse {
	h.Helper()
	r, err := (&tracer{h.state}).traceMessage(h.Context(), &protocol.TraceMessageRequest{ID: id})
	h.check(err)
	return r
}

// What waits for longer than segments are kept is found where it was carried, and
// begins when it was stored first.
func TestTrace_OfWhatWasCarried(t *testing.T) {
	h := newHolding(t, tinySegments)
	orders := h.topic("orders", 1)
	stored := h.millis()
	held := h.hold(orders, 0, in(10*time.Hour), in(20*time.Hour))
	before := h.state.log.Status().LastIndex
	h.fill(orders, 3*tinySegment, 4000)
	h.pass(time.Hour + time.Minute)
	h.retain(before)
	for i, hours := range []int64{10, 20} {
		r := h.trace(held[i].ID)
		if len(r.Events) != 1 || r.Until != r.Last || r.Damage != "" {
			t.Fatalf("got %+v", r)
		}
		due := stored + hours*time.Hour.Milliseconds()
		if e := r.Events[0]; e.Kind != protocol.TraceDelayed || e.Millis != stored || e.LogIndex != held[i].Origin || e.DeliverAtMillis != due {
			t.Errorf("got %+v", e)
		}
		if s := r.States; len(s) != 1 || s[0].State != protocol.TraceDelayed || s[0].Topic != "orders" || s[0].Offset != -1 || s[0].DeliverAtMillis != due {
			t.Errorf("got %+v", s)
		}
	}
	h.wantRecall(held[1], true, 0)
	r := h.trace(held[1].ID)
	if last := r.Events[len(r.Events)-1]; last.Kind != protocol.TraceRecalled || last.Topic != "orders" || len(r.States) != 0 {
		t.Errorf("got %+v", r)
	}
	h.pass(10 * time.Hour)
	h.settle()
	r = h.trace(held[0].ID)
	if !slices.Equal(kinds(r.Events), []protocol.TraceKind{protocol.TraceDue}) || r.Events[0].Offset < 0 || len(r.States) != 0 {
		t.Errorf("got %+v", r)
	}
	r, err := (&tracer{h.state}).traceMessage(t.Context(), &protocol.TraceMessageRequest{ID: held[0].ID, MaxRecords: 1})
	if h.check(err); r.Until != r.Events[0].LogIndex {
		t.Errorf("what the log has dropped counts: got %+v", r)
	}
}

// A message that was rolled back is known by the decision, when its own record is
// dropped.
func TestTrace_OfADecisionAlone(t *testing.T) {
	h := newHolding(t, tinySegments)
	orders := h.topic("orders", 1)
	m := message.Message{Topic: "orders", ID: h.ids.Next(), BornTime: time.UnixMilli(1)}
	b := batch.NewBuilder("orders", 0)
	b.Add(&m)
	half := transaction.EncodeHalf(&transaction.Half{Group: "shop", ImmunityMillis: []int64{0}, Batch: b.Finish()})
	h.check(h.state.append(h.Context(), store.Record{Type: store.HalfRecord, Queue: store.QueueKey{Topic: orders.ID}, Count: 1, Data: half}))
	origin := h.state.log.Status().LastIndex
	h.fill(orders, 3*tinySegment, 4000)
	decision := transaction.EncodeDecision(transaction.RolledBack, transaction.Key{Origin: origin})
	h.check(h.state.append(h.Context(), store.Record{Type: store.DecisionRecord, Data: decision}))
	h.pass(time.Hour + time.Minute)
	h.retain(origin)
	r := h.trace(m.ID.String())
	if e := r.Events; len(e) != 1 || e[0].Kind != protocol.TraceRolledBack || e[0].Topic != "orders" || len(r.States) != 0 {
		t.Errorf("got %+v", r)
	}
}

// Damage hides what it hides, and is told.
func TestTrace_OfDamage(t *testing.T) {
	h := newHolding(t, tinySegments)
	orders := h.topic("orders", 1)
	send := func(body string) message.ID {
		m := message.Message{Topic: "orders", ID: h.ids.Next(), BornTime: time.UnixMilli(1), Body: []byte(body)}
		b := batch.NewBuilder("orders", 0)
		b.Add(&m)
		h.check(h.state.append(h.Context(), store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: orders.ID}, Count: 1, Data: b.Finish()}))
		return m.ID
	}
	bad, good := send("the bad one"), send("the good one")
	h.fill(orders, 3*tinySegment, 4000)
	h.eventually("the segment is sealed", func() bool { return h.state.log.Status().Segments > 2 })
	h.close()
	files, err := filepath.Glob(filepath.Join(h.cfg.DataDir, LogDir, "*.seg"))
	h.check(err)
	file, err := os.ReadFile(files[0])
	h.check(err)
	file[bytes.Index(file, []byte("the bad one"))] ^= 1
	h.check(os.WriteFile(files[0], file, 0o600))
	h.open()
	if r := h.trace(bad.String()); len(r.Events) != 0 || !strings.Contains(r.Damage, "damaged") {
		t.Errorf("got %+v", r)
	}
	if r := h.trace(good.String()); len(r.Events) != 1 || r.Damage != "" {
		t.Errorf("got %+v", r)
	}
}

func TestTrace_Refusals(t *testing.T) {
	h := newHolding(t)
	tr := &tracer{h.state}
	for name, c := range map[string]struct {
		r    protocol.TraceMessageRequest
		want protocol.ErrorCode
	}{
		"no id":      {protocol.TraceMessageRequest{}, protocol.InvalidArgument},
		"a half id":  {protocol.TraceMessageRequest{ID: "0011"}, protocol.InvalidArgument},
		"less":       {protocol.TraceMessageRequest{ID: message.MakeID(1, 1).String(), MaxRecords: -1}, protocol.InvalidArgument},
		"not stored": {protocol.TraceMessageRequest{ID: message.MakeID(1, 1).String()}, protocol.NotFound},
	} {
		if _, err := tr.traceMessage(t.Context(), &c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", name, err, c.want)
		}
	}
}

// When the time is over the answer has what is known, and says where it ended.
func TestTrace_OutOfTime(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	held := h.hold(orders, 0, in(time.Hour))
	h.fill(orders, 10, 1)
	id, err := message.ParseID(held[0].ID)
	h.check(err)
	q := &quest{state: h.state, journey: newJourney(id), known: map[uint64]bool{}}
	q.find(t.Context())
	over, cancel := context.WithCancel(t.Context())
	cancel()
	q.follow(over, 1000)
	if q.until != held[0].Origin-1 || q.last <= q.until || !slices.Equal(kinds(q.journey.events), []protocol.TraceKind{protocol.TraceDelayed}) {
		t.Errorf("until %d of %d: %+v", q.until, q.last, q.journey.events)
	}
}
