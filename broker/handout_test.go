package broker

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/group"
	"github.com/rmqio/rmq/broker/pop"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// handing is group "g", whose member "c" pops queue 3 of topic "orders".
type handing struct {
	*failing
	clients *clients
	pops    *pops
}

func newHanding(t *testing.T) *handing {
	t.Helper()
	h := &handing{failing: newFailing(t)}
	h.configure(protocol.GroupConfig{RetryMax: 2})
	h.begin()
	return h
}

// begin begins as the broker does that has opened its state.
func (h *handing) begin() {
	h.Helper()
	h.clients = newClients(h.state, nil, Config{Now: h.state.now, SessionTimeout: 1000 * time.Hour})
	_, err := h.clients.sessions.Heartbeat(h.state.now(), &protocol.HeartbeatRequest{
		ClientID: "c", Inbox: "inbox", Consumers: []protocol.Subscription{{Group: "g", Topics: []string{"orders"}}},
	})
	h.check(err)
	h.pops = newPops(h.state, h.clients, h.backs(), h.state.now, nil)
}

func (h *handing) key() pop.Key { return pop.Key{Group: "g", Topic: h.orders.ID, Queue: 3} }

func (h *handing) pop(max int) []protocol.PoppedQueue {
	h.Helper()
	resp, err := h.pops.popMessage(h.Context(), &protocol.PopRequest{
		Group: "g", ClientID: "c", MaxCount: int64(max), MaxBytes: 1 << 20, InvisibleMillis: 60_000, Topics: []protocol.PopTopic{{Topic: "orders"}},
	})
	h.check(err)
	return resp.Queues
}

func (h *handing) put(r store.Record) {
	h.Helper()
	h.check(h.state.append(h.Context(), r))
}

// handOut appends the record that a pop decided on.
func (h *handing) handOut(change func(*pop.Handout)) {
	h.Helper()
	record := &pop.Handout{Key: h.key(), Committed: h.state.groups.Committed("g", h.orders.ID, 3), InvisibleMillis: 60_000, Next: 1, Fresh: []pop.Run{{Count: 1}}}
	if p, ok := h.state.pops.Progress(h.key()); ok {
		record.After, record.Next, record.Fresh = p.Last, p.Next+1, []pop.Run{{First: p.Next, Count: 1}}
	}
	change(record)
	h.put(store.Record{Type: store.PopRecord, Data: pop.EncodeHandout(record)})
}

func (h *handing) grant(client string) {
	h.Helper()
	h.put(store.Record{Type: store.LeasesRecord, Data: group.EncodeLeases("g", h.orders.ID, client, []int{2, 3})})
}

func (h *handing) reset(offset int64) {
	h.Helper()
	rows := []group.Offset{{TopicID: h.orders.ID, Queue: 3, Offset: offset, Reset: true}}
	h.put(store.Record{Type: store.OffsetsRecord, Data: group.EncodeOffsets("g", rows)})
}

// What was decided before something else happened does not count after it.
func TestHandout_ComesTooLate(t *testing.T) {
	for name, c := range map[string]struct {
		before, between func(h *handing)
		unfinished      int
	}{
		"nothing":              {func(*handing) {}, func(*handing) {}, 1},
		"another first":        {func(*handing) {}, func(h *handing) { h.pop(1) }, 1},
		"another":              {func(h *handing) { h.pop(1) }, func(h *handing) { h.pop(1) }, 2},
		"first, reset":         {func(*handing) {}, func(h *handing) { h.reset(2) }, 0},
		"reset":                {func(h *handing) { h.pop(1) }, func(h *handing) { h.reset(0) }, 0},
		"first, lease":         {func(*handing) {}, func(h *handing) { h.grant("owner") }, 0},
		"lease":                {func(h *handing) { h.pop(1); h.pass(time.Hour) }, func(h *handing) { h.grant("owner") }, 0},
		"group deleted":        {func(*handing) {}, func(h *handing) { h.put(store.Record{Type: store.GroupDeleteRecord, Data: group.EncodeDelete("g")}) }, 0},
		"first, topic deleted": {func(*handing) {}, func(h *handing) { h.deleteTopic(h.orders) }, 0},
		"topic deleted":        {func(h *handing) { h.pop(1) }, func(h *handing) { h.deleteTopic(h.orders) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHanding(t)
			for range 4 {
				h.send(&message.Message{})
			}
			c.before(h)
			h.handOut(func(r *pop.Handout) {
				c.between(h)
			})
			if got := h.state.pops.Len(); got != c.unfinished {
				t.Errorf("%d messages are unfinished, want %d", got, c.unfinished)
			}
			_, there := h.state.groups.Config("g")
			if there == (name == "group deleted") {
				t.Errorf("the group is there: %v", there)
			}
			if offsets := h.state.groups.Offsets("g"); strings.HasSuffix(name, "topic deleted") && len(offsets) > 0 {
				t.Errorf("offsets %+v", offsets)
			}
		})
	}
}

// A lease that was decided on before a message was handed out is not granted; the one
// of another queue is.
func TestHandout_IsBeforeALeaseThatComesTooLate(t *testing.T) {
	h := newHanding(t)
	h.send(&message.Message{})
	got := h.pop(1)[0]
	holder := func(queue int) string {
		client, _, _ := h.state.groups.Lease("g", h.orders.ID, queue)
		return client
	}
	h.grant("owner")
	if holder(2) != "owner" || holder(3) != "" {
		t.Errorf("leases of %q, %q", holder(2), holder(3))
	}
	h.pass(time.Minute)
	h.grant("owner")
	if holder(3) != "owner" || h.state.pops.Len() != 0 {
		t.Errorf("lease of %q, %d are unfinished", holder(3), h.state.pops.Len())
	}
	h.state.pops.Judge(h.key(), got.Fence, []int64{0}, func(_ int64, v pop.Verdict) {
		if v != pop.Expired {
			t.Errorf("the handle is worth %d", v)
		}
	})
}

// Whoever has a lease and is gone loses it.
func TestPops_TakesTheQueueOfWhoIsGone(t *testing.T) {
	h := newHanding(t)
	h.send(&message.Message{})
	h.grant("gone")
	if got := h.pop(1); len(got) != 1 || got[0].Err != nil || len(got[0].Messages) != 1 {
		t.Errorf("got %+v", got)
	}
}

// A broker that dies after it made a dead letter, and before it finished the message,
// makes no second one.
func TestPops_OneDeadLetter(t *testing.T) {
	h := newHanding(t)
	m := h.send(&message.Message{Body: []byte("x")})
	var last protocol.PoppedQueue
	for attempt := 1; attempt <= 3; attempt++ {
		last = h.pop(1)[0]
		h.pass(time.Minute)
	}
	r := &protocol.SendBackRequest{Group: "g", ClientID: "c", Topic: "orders", Queue: 3, Fence: last.Fence, Attempts: 3}
	if _, err := h.backs().bury(t.Context(), r, &m.Message); err != nil {
		t.Fatal(err)
	}
	h.kill()
	h.begin()
	if got := h.pop(1); len(got) != 0 {
		t.Errorf("got %+v", got)
	}
	if got := h.copies(message.DLQTopic("g")); len(got) != 1 || h.state.pops.Len() != 0 {
		t.Errorf("%d dead letters, %d are unfinished", len(got), h.state.pops.Len())
	}
}

// A message that cannot be read is handed to nobody, and holds up no other one: neither
// while it may be handed out, nor when it is to be a dead letter.
func TestPops_ADamagedMessageHoldsUpNoOther(t *testing.T) {
	held := newHolding(t, tinySegments)
	h := &handing{failing: &failing{held, held.topic("orders", 4)}}
	h.configure(protocol.GroupConfig{RetryMax: 1})
	h.begin()
	h.send(&message.Message{Body: bytes.Repeat([]byte("damage me "), 10)})
	h.send(&message.Message{})
	h.send(&message.Message{})
	h.pop(9)
	h.fill(h.topic("other", 1), 3*tinySegment, 4000)
	h.pass(2 * time.Hour)
	h.spares(1) // it is sealed
	h.close()
	path := filepath.Join(h.cfg.DataDir, LogDir, "00000000000000000001.seg")
	file, err := os.ReadFile(path)
	h.check(err)
	file[bytes.Index(file, []byte("damage me damage"))] ^= 1
	h.check(os.WriteFile(path, file, 0o600))
	h.open()
	h.begin()
	if got := h.pop(9); len(got) != 1 || got[0].Err != nil || len(got[0].Messages) != 2 {
		t.Fatalf("got %+v", got)
	}
	h.pass(time.Minute)
	h.configure(protocol.GroupConfig{RetryMax: protocol.NoRetry})
	for range 2 { // the others are dead letters now
		if got := h.pop(9); len(got) != 1 || !errors.Is(got[0].Err, protocol.Damaged) {
			t.Errorf("got %+v", got)
		}
	}
	if got := h.copies(message.DLQTopic("g")); len(got) != 2 || h.state.pops.Len() != 1 {
		t.Errorf("%d dead letters, %d are unfinished", len(got), h.state.pops.Len())
	}
	b := batch.NewBuilder("orders", 3)
	b.Add(&message.Message{ID: h.ids.Next(), BornTime: time.UnixMilli(1)})
	h.put(store.Record{Type: store.BatchRecord, Queue: store.QueueKey{Topic: h.orders.ID, Queue: 3}, Count: 1, Data: b.Finish()})
	if got := h.pop(9); len(got) != 1 || len(got[0].Messages) != 1 {
		t.Errorf("got %+v", got)
	}
}

// waited is what came of a pop that waited.
type waited struct {
	queues []protocol.PoppedQueue
	err    error
}

// wants wants one message, at an offset.
func (w waited) wants(t *testing.T, what string, offset int64) {
	t.Helper()
	if w.err != nil || len(w.queues) != 1 || len(w.queues[0].Messages) != 1 || w.queues[0].Messages[0].Offset != offset {
		t.Errorf("%s: got %+v, want offset %d", what, w, offset)
	}
}

// wait begins a pop that waits.
func (h *handing) wait() (ended chan waited) {
	h.Helper()
	ended = make(chan waited, 1)
	go func() {
		resp, err := h.pops.popMessage(h.Context(), &protocol.PopRequest{
			Group: "g", ClientID: "c", MaxCount: 9, MaxBytes: 1 << 20, InvisibleMillis: 60_000, WaitMillis: 30_000, Topics: []protocol.PopTopic{{Topic: "orders"}},
		})
		w := waited{err: err}
		if err == nil {
			w.queues = resp.Queues
		}
		ended <- w
	}()
	h.eventually("the pop waits", func() bool {
		h.pops.mu.Lock()
		defer h.pops.mu.Unlock()
		return len(h.pops.waiting["g"]) == 1
	})
	return ended
}

// hasLooked waits until the pop that waits has looked, and waits for a deadline.
func (h *handing) hasLooked() {
	h.Helper()
	h.eventually("the pop has looked", func() bool {
		h.pops.mu.Lock()
		defer h.pops.mu.Unlock()
		for w := range h.pops.waiting["g"] {
			return w.next != never && len(w.freed) == 0
		}
		return false
	})
}

func (h *handing) want(c *claim, wanted bool) {
	h.pops.mu.Lock()
	defer h.pops.mu.Unlock()
	c.wanted = wanted
}

// A pop that waits ends when its client leaves, when its group may not consume any
// more, and when the broker closes.
func TestPops_WaitOnlyAsLongAsTheyMay(t *testing.T) {
	h := newHanding(t)
	ended := h.wait()
	if _, err := h.clients.leaveGroup(t.Context(), &protocol.LeaveGroupRequest{ClientID: "c"}); err != nil {
		t.Fatal(err)
	}
	if w := <-ended; !errors.Is(w.err, protocol.UnknownMember) {
		t.Errorf("who has left: %v", w)
	}
	h.begin()
	ended = h.wait()
	h.put(store.Record{Type: store.GroupRecord, Data: group.EncodePut(protocol.GroupConfig{Name: "g"})})
	h.send(&message.Message{})
	if w := <-ended; !errors.Is(w.err, protocol.NoPermission) {
		t.Errorf("a group that may not consume: %v", w)
	}
	h.configure(protocol.GroupConfig{})
	h.pop(1)
	closing := make(chan struct{})
	h.pops.closing = closing
	ended = h.wait()
	close(closing)
	if w := <-ended; !errors.Is(w.err, protocol.Unavailable) {
		t.Errorf("a broker that closes: %v", w)
	}
	if len(h.pops.waiting)+len(h.pops.claims) != 0 {
		t.Errorf("left behind: %v, %v", h.pops.waiting, h.pops.claims)
	}
}

// A pop that waits is told of all that can be handed out: when another pop leaves
// something of a queue that it was at, when a message is due again, and when one that
// waited for its message group may go.
func TestPops_WaitForWhatOthersLeave(t *testing.T) {
	h := newHanding(t)
	h.send(&message.Message{})
	h.pop(1) // it is in flight all the time
	claim := h.pops.claim(h.key())
	ended := h.wait()
	h.hasLooked()
	h.want(claim, false)
	h.send(&message.Message{})
	h.eventually("the pop wants the queue", func() bool {
		h.pops.mu.Lock()
		defer h.pops.mu.Unlock()
		return claim.wanted
	})
	if got := h.pop(1); len(got) != 0 {
		t.Errorf("two at one queue: %+v", got)
	}
	h.hasLooked()
	h.pops.release(claim, 1)
	(<-ended).wants(t, "left by another", 1)

	claim = h.pops.claim(h.key())
	h.send(&message.Message{})
	ended = h.wait()
	h.hasLooked()
	h.want(claim, false)
	h.handOut(func(r *pop.Handout) { r.Fresh[0].Lane, r.Fresh[0].Waits = 7, true })
	h.pops.release(claim, 3)
	left := <-ended
	left.wants(t, "its message group went on meanwhile", 2)

	ended = h.wait()
	h.hasLooked()
	handles := protocol.AckRequest{Group: "g", Queues: []protocol.AckQueue{{Topic: "orders", Queue: 3, Fence: left.queues[0].Fence, Offsets: []int64{2}}}}
	_, err := h.pops.changeInvisible(t.Context(), &protocol.ChangeInvisibleRequest{AckRequest: handles, InvisibleMillis: 20})
	h.check(err)
	h.pass(20 * time.Millisecond)
	(<-ended).wants(t, "due", 2)

	claim = h.pops.claim(h.key())
	h.send(&message.Message{})
	ended = h.wait()
	h.hasLooked()
	h.handOut(func(r *pop.Handout) { r.InvisibleMillis = 20 })
	claim.wrote = true
	h.pops.release(claim, 4)
	h.pass(20 * time.Millisecond)
	(<-ended).wants(t, "another's time is over", 3)

	h.send(&message.Message{Group: "a"})
	h.send(&message.Message{Group: "a"})
	handles.Queues[0].Fence, handles.Queues[0].Offsets = h.pop(9)[0].Fence, []int64{4}
	ended = h.wait()
	h.hasLooked()
	_, err = h.pops.ackMessage(t.Context(), &handles)
	h.check(err)
	(<-ended).wants(t, "its message group goes on", 5)
}

// Pops and acknowledgements over brokers that are killed: what each handle is worth,
// and where the group is, is after a kill what it was before.
func TestPops_OutliveKills(t *testing.T) {
	h := newHanding(t)
	h.configure(protocol.GroupConfig{RetryMax: 1000})
	random := rand.New(rand.NewPCG(1, 2))
	var given []protocol.PoppedQueue
	for round := range 6 {
		for range 30 {
			m := &message.Message{}
			if n := random.IntN(6); n < 4 {
				m.Group = fmt.Sprint("group", n)
			}
			h.send(m)
			given = append(given, h.pop(1+random.IntN(4))...)
			h.ackSome(random, given)
			h.pass(time.Duration(random.IntN(20)) * time.Second)
		}
		before := h.worth(given)
		h.kill()
		h.begin()
		if after := h.worth(given); after != before {
			t.Fatalf("round %d: got\n%s\nwant\n%s", round, after, before)
		}
	}
}

func (h *handing) ackSome(random *rand.Rand, given []protocol.PoppedQueue) {
	h.Helper()
	if len(given) == 0 {
		return
	}
	q := given[max(0, len(given)-1-random.IntN(10))]
	r := &protocol.AckRequest{Group: "g", Queues: []protocol.AckQueue{{Topic: "orders", Queue: 3, Fence: q.Fence}}}
	for _, m := range q.Messages {
		if random.IntN(2) == 0 {
			r.Queues[0].Offsets = append(r.Queues[0].Offsets, m.Offset)
		}
	}
	_, err := h.pops.ackMessage(h.Context(), r)
	h.check(err)
}

// worth is all that is known of what was given, as text.
func (h *handing) worth(given []protocol.PoppedQueue) string {
	p, _ := h.state.pops.Progress(h.key())
	text := fmt.Sprintf("%+v committed %d", p, h.state.groups.Committed("g", h.orders.ID, 3))
	for _, q := range given {
		for _, m := range q.Messages {
			h.state.pops.Judge(h.key(), q.Fence, []int64{m.Offset}, func(_ int64, v pop.Verdict) {
				text += fmt.Sprintf(" %d@%d:%d", m.Offset, q.Fence, v)
			})
		}
	}
	return text
}
