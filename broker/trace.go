package broker

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// Limits of a trace. The first two are of the search for a message that is nowhere
// but among those that wait for their time, which no index knows.
const (
	traceHeldRecords = 100_000
	traceHeldBytes   = 256 << 20
	traceBytes       = 256 << 20 // of the records that are looked into
	traceStep        = 4096      // records between two looks at the time
	tracePlaces      = 1024      // of a message in the log
	traceDamages     = 3         // errors that are told
)

// tracer tells the journey of a message from the log and the views. It keeps
// nothing.
type tracer struct{ state *state }

func (t *tracer) register(m *transport.Mux) { transport.Handle(m, t.traceMessage) }

func (t *tracer) traceMessage(ctx context.Context, r *protocol.TraceMessageRequest) (*protocol.TraceMessageResponse, error) {
	id, err := message.ParseID(r.ID)
	if err != nil {
		return nil, protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	if r.MaxRecords < 0 {
		return nil, protocol.Errorf(protocol.InvalidArgument, "a trace of %d records", r.MaxRecords)
	}
	if r.MaxRecords == 0 {
		r.MaxRecords = protocol.DefaultTraceRecords
	}
	// Time for the answer is left.
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)*3/4)
		defer cancel()
	}
	q := &quest{state: t.state, journey: newJourney(id), known: map[uint64]bool{}}
	q.find(ctx)
	q.follow(ctx, r.MaxRecords)
	if len(q.journey.events) == 0 && len(q.damage) == 0 {
		return nil, protocol.Errorf(protocol.NotFound, "the log has no message %s", id)
	}
	q.nameClients()
	return &protocol.TraceMessageResponse{
		Events: q.journey.events, States: q.states(), Until: q.until, Last: q.last, Damage: strings.Join(q.damage, "; "),
	}, nil
}

// quest is one trace.
type quest struct {
	state   *state
	journey *journey
	known   map[uint64]bool // records that have the message, as the indexes say
	first   uint64          // of the log, and the last one, when it began
	last    uint64
	from    uint64 // the first record to look at
	until   uint64 // the last one that was
	damage  []string
}

// failed notes what could not be searched. A record that retention drops meanwhile
// is no damage.
func (q *quest) failed(err error) {
	if err == nil || errors.Is(err, store.ErrOutOfRange) || slices.Contains(q.damage, err.Error()) {
		return
	}
	if len(q.damage) < traceDamages {
		q.damage = append(q.damage, err.Error())
	}
}

// find looks for the records that have the message, and where to begin.
func (q *quest) find(ctx context.Context) {
	status := q.state.log.Status()
	q.first, q.last, q.from = max(status.FirstIndex, 1), status.LastIndex, math.MaxUint64
	indexes, err := q.state.log.ByID(q.journey.id)
	q.failed(err)
	slices.Sort(indexes)
	indexes = indexes[:min(len(indexes), tracePlaces)]
	q.state.log.Records(indexes, func(r store.Committed, err error) bool {
		if q.failed(err); err == nil && r.Type == store.BatchRecord && slices.Contains(idsOf(r.Data), q.journey.id) {
			q.know(r.Index)
			q.begin(origin(r.Data))
		}
		return ctx.Err() == nil
	})
	if len(q.known) == 0 {
		q.findHeld(ctx)
	}
}

// origin is the record that a batch's messages were held back in; 0: none.
func origin(b []byte) uint64 {
	h, err := batch.ParseHeader(b)
	if err != nil {
		return 0
	}
	return h.Release.Origin
}

func (q *quest) know(index uint64) {
	q.known[index] = true
	q.begin(index)
}

// begin has the journey begin at a record or before it, if the log still has it.
func (q *quest) begin(index uint64) {
	if index >= q.first {
		q.from = min(q.from, index)
	}
}

// findHeld looks for a message that no queue has.
func (q *quest) findHeld(ctx context.Context) {
	id := q.journey.id
	half, _ := q.state.transactions.List(transaction.Key{}, 1, func(m *transaction.Message) bool { return m.ID == id })
	for _, m := range half {
		q.know(m.At)
	}
	if v, ok := q.state.transactions.DecidedID(id); ok {
		q.begin(max(v.Origin, q.first))
		q.expect(timer.Place{Origin: v.Origin, Position: v.Position}, v.TopicID, v.Queue, protocol.TracePrepared)
	}
	if at, topicID, index, ok := q.state.timers.RecalledID(id); ok {
		q.begin(at.Origin)
		q.begin(index)
		q.expect(at, topicID, 0, protocol.TraceDelayed)
	}
	if q.from == math.MaxUint64 {
		q.findDelayed(ctx)
	}
}

// expect tells the journey of a message that waited, whose record the log may have
// dropped.
func (q *quest) expect(at timer.Place, topicID uint64, queue int, kind protocol.TraceKind) {
	t, _ := q.state.topics.ByID(topicID)
	q.journey.waits[at] = &wait{key: store.QueueKey{Topic: topicID, Queue: uint32(queue)}, topic: t.Name, kind: kind}
}

// findDelayed looks into the records of messages that wait for their time.
func (q *quest) findDelayed(ctx context.Context) {
	records, size := 0, 0
	for from := uint64(1); ; {
		list := q.state.timers.Located(from, math.MaxUint64, carryRecords)
		if len(list) == 0 || len(q.known) > 0 {
			return
		}
		indexes := make([]uint64, len(list))
		for i, l := range list {
			indexes[i], size = l.At, size+int(l.Bytes)
		}
		q.state.log.Records(indexes, func(r store.Committed, err error) bool {
			ids, _, err := identities(r, err)
			if q.failed(err); slices.Contains(ids, q.journey.id) {
				q.know(r.Index)
			}
			return len(q.known) == 0 && ctx.Err() == nil
		})
		if records += len(list); records >= traceHeldRecords || size >= traceHeldBytes || ctx.Err() != nil {
			q.failed(protocol.Errorf(protocol.Busy, "of %d delayed messages some were not looked at", q.state.timers.Len()))
			return
		}
		from = indexes[len(indexes)-1] + 1
	}
}

// follow feeds the journey with the records from the first one on: at most so many,
// and then with those that have the message.
func (q *quest) follow(ctx context.Context, records int64) {
	q.until = q.last
	if q.from > q.last {
		return
	}
	size, next := 0, q.from
	end := q.last + 1
	if uint64(records) < end-next {
		end = next + uint64(records)
	}
	for next < end && ctx.Err() == nil && size < traceBytes && len(q.journey.events) < protocol.MaxTraceEvents {
		next = q.state.log.Pick(next, min(next+traceStep, end), q.wants, func(r store.Committed, err error) bool {
			size += len(r.Data)
			q.apply(r, err)
			return size < traceBytes && len(q.journey.events) < protocol.MaxTraceEvents
		})
	}
	q.until = next - 1
	var rest []uint64
	for index := range q.known {
		if index >= next {
			rest = append(rest, index)
		}
	}
	slices.Sort(rest)
	q.state.log.Records(rest, func(r store.Committed, err error) bool { q.apply(r, err); return true })
	q.journey.events = q.journey.events[:min(len(q.journey.events), protocol.MaxTraceEvents)]
}

func (q *quest) wants(r *store.Committed) bool { return concerns(r.Type) || q.known[r.Index] }

func (q *quest) apply(r store.Committed, err error) {
	if err == nil {
		err = q.journey.apply(r)
	}
	q.failed(err)
}

// nameClients says who had the leases that acknowledgements name: the fence of a lease
// is the log index of the record that gave it.
func (q *quest) nameClients() {
	clients := map[uint64]string{}
	for _, e := range q.journey.events {
		if e.Client == "" && e.Fence != 0 {
			clients[e.Fence] = ""
		}
	}
	fences := make([]uint64, 0, len(clients))
	for fence := range clients {
		fences = append(fences, fence)
	}
	slices.Sort(fences)
	q.state.log.Records(fences, func(r store.Committed, err error) bool {
		if err == nil && r.Type == store.LeasesRecord {
			if l, err := group.DecodeLeases(r.Data); err == nil {
				clients[r.Index] = l.Client
			}
		}
		return true
	})
	for i := range q.journey.events {
		if e := &q.journey.events[i]; e.Client == "" {
			e.Client = clients[e.Fence]
		}
	}
}

// states are how the message is now, by the views.
func (q *quest) states() (states []protocol.TraceState) {
	groups := q.state.groups.Groups()
	for _, s := range q.journey.stands {
		if dead, ok := strings.CutPrefix(s.topic, message.DLQPrefix); ok {
			states = append(states, s.state(protocol.TraceDead, dead, -1))
		}
		for _, name := range groups {
			if len(states) == protocol.MaxTraceEvents {
				return states
			}
			states = append(states, q.reading(s, name)...)
		}
	}
	return append(states, q.waiting()...)
}

func (s *stand) state(kind protocol.TraceKind, group string, committed int64) protocol.TraceState {
	return protocol.TraceState{State: kind, Topic: s.topic, Queue: int(s.key.Queue), Offset: s.offset, Group: group, Committed: committed}
}

// reading is how a group that reads the queue is with the message in it.
func (q *quest) reading(s *stand, name string) []protocol.TraceState {
	committed := q.state.groups.Committed(name, s.key.Topic, int(s.key.Queue))
	client, _, held := q.state.groups.Lease(name, s.key.Topic, int(s.key.Queue))
	if p := s.groups[name]; committed < 0 && !held || p != nil && p.back {
		return nil
	}
	state := s.state(protocol.TraceWaiting, name, committed)
	if state.Client = client; committed > s.offset {
		state.State = protocol.TraceAcked
	} else {
		q.popped(&state, s, name)
	}
	return []protocol.TraceState{state}
}

// popped is how a message is that was handed out, above what is finished as a whole.
func (q *quest) popped(state *protocol.TraceState, s *stand, name string) {
	p, key := s.groups[name], pop.Key{Group: name, Topic: s.key.Topic, Queue: s.key.Queue}
	if p == nil || p.fence == 0 {
		return
	}
	q.state.pops.Judge(key, p.fence, []int64{s.offset}, func(_ int64, v pop.Verdict) {
		if v == pop.Finished {
			state.State = protocol.TraceAcked
		}
	})
	now := q.state.now().UnixMilli()
	for _, m := range q.state.pops.HandedOut(key, p.fence, []int64{s.offset}) {
		if m.Deadline > now {
			state.State, state.DeliverAtMillis = protocol.TracePopped, m.Deadline
		}
	}
}

// waiting are the places where the message is held back.
func (q *quest) waiting() (states []protocol.TraceState) {
	for at, w := range q.journey.waits {
		state := protocol.TraceState{State: w.kind, Topic: w.topic, Queue: int(w.key.Queue), Offset: -1, Committed: -1}
		if w.kind == protocol.TracePrepared {
			m, open := q.state.transactions.Open(transaction.Key{Origin: at.Origin, Position: at.Position})
			if state.Group = m.Group; open {
				states = append(states, state)
			}
			continue
		}
		p, waits := q.state.timers.Lookup(at)
		if state.DeliverAtMillis = p.Millis; w.kind == protocol.TraceRetrying {
			state.Group = strings.TrimPrefix(w.topic, message.RetryPrefix)
		}
		if waits {
			states = append(states, state)
		}
	}
	slices.SortFunc(states, func(a, b protocol.TraceState) int { return int(a.DeliverAtMillis - b.DeliverAtMillis) })
	return states
}
