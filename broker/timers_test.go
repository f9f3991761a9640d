package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/timer"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// holding is the part of a broker that holds delayed messages back, on a real
// log, with a clock that tests move.
type holding struct {
	*testing.T
	cfg       Config
	clock     atomic.Int64 // Unix nanoseconds
	ids       *message.IDSource
	state     *state
	timers    *timers
	retention *retention
	stop      func()
}

const holdingStart = 1_700_000_000_000 // Unix milliseconds

func newHolding(t *testing.T, change ...func(*Config)) *holding {
	t.Helper()
	h := &holding{T: t, ids: message.NewIDSource(), cfg: Config{DataDir: t.TempDir()}}
	h.clock.Store(holdingStart * 1e6)
	h.cfg.Now = func() time.Time { return time.Unix(0, h.clock.Load()) }
	h.cfg.Store.FirstSegmentBytes = 1 << 20
	for _, f := range change {
		f(&h.cfg)
	}
	h.open()
	t.Cleanup(func() { h.close() })
	return h
}

func (h *holding) check(err error) {
	h.Helper()
	if err != nil {
		h.Fatal(err)
	}
}

func (h *holding) open() {
	h.Helper()
	h.openQuiet()
	ctx, cancel := context.WithCancel(context.WithoutCancel(h.Context()))
	var running sync.WaitGroup
	running.Go(func() { h.timers.run(ctx) })
	h.stop = func() { cancel(); running.Wait() }
}

// openQuiet opens everything, and nothing is released.
func (h *holding) openQuiet() {
	h.Helper()
	cfg, err := h.cfg.withDefaults()
	h.check(err)
	h.state, err = openState(filepath.Join(cfg.DataDir, LogDir), filepath.Join(cfg.DataDir, "views.db"), cfg)
	h.check(err)
	h.timers, h.retention = newTimers(h.state, cfg), newRetention(h.state, cfg)
	h.stop = func() {}
}

// quiet has nothing released any more but by the test.
func (h *holding) quiet() {
	h.stop()
	h.stop = func() {}
}

// close stops as a broker does; closing twice is fine.
func (h *holding) close() {
	h.Helper()
	if h.state == nil {
		return
	}
	h.stop()
	if err := h.state.close(); err != nil {
		h.Error(err)
	}
	h.state = nil
}

func (h *holding) restart() {
	h.Helper()
	h.close()
	h.open()
}

// kill goes on with the views that a broker leaves on disk that is killed: those
// which were written last, and not at the end. What a kill leaves of the log is
// for the tests of the store.
func (h *holding) kill() {
	h.Helper()
	h.stop()
	path := filepath.Join(h.cfg.DataDir, "views.db")
	h.state.mu.Lock() // nobody writes them
	left, err := os.ReadFile(path)
	h.state.mu.Unlock()
	h.check(err)
	h.close()
	h.check(os.WriteFile(path, left, 0o600))
	h.open()
}

func (h *holding) millis() int64 { return h.clock.Load() / 1e6 }

func (h *holding) pass(d time.Duration) { h.clock.Add(int64(d)) }

func (h *holding) eventually(what string, condition func() bool) {
	h.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline.C:
			h.Fatalf("not within 30 s: %s", what)
		case <-tick.C:
		}
	}
}

// settle waits until nothing that is due waits.
func (h *holding) settle() {
	h.Helper()
	h.eventually("nothing that is due waits", func() bool {
		next, ok := h.state.timers.Next()
		return !ok || next > h.millis()
	})
}

func (h *holding) topic(name string, queues int) topic.Topic {
	h.Helper()
	cfg := protocol.TopicConfig{Name: name, ReadQueues: queues, WriteQueues: queues, Perm: message.PermReadWrite, RetentionMillis: protocol.KeepByDefault}
	h.check(h.state.append(h.Context(), store.Record{Type: store.TopicRecord, Data: topic.EncodePut(cfg)}))
	t, err := h.state.topic(name)
	h.check(err)
	return t
}

func (h *holding) deleteTopic(t topic.Topic) {
	h.Helper()
	h.check(h.state.append(h.Context(), store.Record{Type: store.TopicDeleteRecord, Queue: store.QueueKey{Topic: t.ID}, Data: topic.EncodeDelete(t.Name)}))
}

// try sends messages of one queue as a batch for the timer; they get an id.
func (h *holding) try(t topic.Topic, queue int, messages ...*message.Message) protocol.SendResult {
	h.Helper()
	b := batch.NewBuilder("", 0)
	b.Begin(&batch.Lead{Topic: t.Name, Queue: queue, Purpose: batch.ToTimer})
	for _, m := range messages {
		m.Topic, m.ID, m.BornTime = t.Name, h.ids.Next(), time.UnixMilli(h.millis()-7)
		b.Add(m)
	}
	head, err := batch.Check(b.Finish())
	h.check(err)
	done := make(chan protocol.SendResult, 1)
	p := &parcel{Header: head, bytes: b.Finish(), topic: t, queue: store.QueueKey{Topic: t.ID, Queue: uint32(queue)}, done: func(r protocol.SendResult) { done <- r }}
	if err := h.timers.hold(p); err != nil {
		return protocol.SendResult{Err: protocol.AsError(err)}
	}
	return <-done
}

// hold is try for messages that are taken. It returns how they are named.
func (h *holding) hold(t topic.Topic, queue int, messages ...*message.Message) []protocol.Held {
	h.Helper()
	r := h.try(t, queue, messages...)
	if r.Err != nil {
		h.Fatal(r.Err)
	}
	if r.BaseOffset != -1 || r.Index == 0 || r.StoreMillis < holdingStart {
		h.Fatalf("a batch that is held back was answered with %+v", r)
	}
	held := make([]protocol.Held, len(messages))
	for i, m := range messages {
		held[i] = protocol.Held{Origin: r.Index, Position: i, ID: m.ID.String(), Topic: t.Name}
	}
	return held
}

func (h *holding) recall(held protocol.Held) (bool, error) {
	h.Helper()
	r, err := h.timers.recall(h.Context(), &protocol.RecallRequest{Held: held})
	if err != nil {
		return false, err
	}
	return r.Recalled, nil
}

func (h *holding) wantRecall(held protocol.Held, want bool, code protocol.ErrorCode) {
	h.Helper()
	got, err := h.recall(held)
	if got != want || protocol.CodeOf(err) != code {
		h.Errorf("recall of %+v: got %v, %v; want %v, code %d", held, got, err, want, code)
	}
}

// delivered reads all that a queue has.
func (h *holding) delivered(t topic.Topic, queue int) (all []message.Stored) {
	h.Helper()
	key := store.QueueKey{Topic: t.ID, Queue: uint32(queue)}
	first, end := h.state.log.Bounds(key)
	for at := first; at < end; {
		b, err := h.state.log.Read(key, at, 1<<20, 0)
		h.check(err)
		for rest := b.Data; len(rest) > 0; {
			all, rest, err = batch.Decode(all, rest, "")
			h.check(err)
		}
		at = b.Next
	}
	return all
}

func (h *holding) wantDelivered(t topic.Topic, queue, want int) []message.Stored {
	h.Helper()
	all := h.delivered(t, queue)
	if len(all) != want {
		h.Fatalf("queue %d of topic %q has %d messages, want %d", queue, t.Name, len(all), want)
	}
	return all
}

func in(d time.Duration) *message.Message { return &message.Message{Delay: d, Body: []byte("body")} }

func at(millis int64) *message.Message {
	return &message.Message{DeliverAt: time.UnixMilli(millis), Body: []byte("body")}
}

func TestTimers_DeliversAsItWasSent(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 4)
	m := &message.Message{
		Tag: "tag", Keys: []string{"a", "b"}, Properties: map[string]string{"k": "v"}, Body: []byte("body"), Priority: 3,
		DelayLevel: 3, CheckImmunity: time.Second, CorrelationID: "c", ReplyTo: "r",
	}
	h.hold(orders, 2, m, in(20*time.Second))
	h.pass(10*time.Second - 1)
	h.wantDelivered(orders, 2, 0)
	h.pass(1)
	h.settle()
	got := h.wantDelivered(orders, 2, 1)[0]
	if got.ID != m.ID || got.Tag != "tag" || len(got.Keys) != 2 || got.Properties["k"] != "v" || string(got.Body) != "body" || got.Priority != 3 || !got.BornTime.Equal(m.BornTime) || got.CorrelationID != "c" || got.ReplyTo != "r" {
		t.Errorf("got %+v, want %+v", got.Message, m)
	}
	if due := time.UnixMilli(holdingStart + 10_000); !got.DeliverAt.Equal(due) || got.Delay != 0 || got.DelayLevel != 0 || got.CheckImmunity != 0 || !got.StoreTime.Equal(due) {
		t.Errorf("delivered with time %v, delay %v, level %d, immunity %v, stored at %v", got.DeliverAt, got.Delay, got.DelayLevel, got.CheckImmunity, got.StoreTime)
	}
	if found, err := h.state.log.ByKey(orders.ID, "b", 0, 0); err != nil || len(found) != 1 {
		t.Errorf("a key of a message that was delivered is found %d times: %v", len(found), err)
	}
	h.pass(10 * time.Second)
	h.settle()
	if got := h.wantDelivered(orders, 2, 2)[1]; got.Delay != 0 || got.DeliverAt.UnixMilli() != holdingStart+20_000 {
		t.Errorf("delivered with time %v, delay %v", got.DeliverAt, got.Delay)
	}
}

func TestTimers_PastIsNow(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	h.hold(orders, 0, at(h.millis()-1000), at(0), at(h.millis()), in(time.Hour))
	h.settle()
	h.wantDelivered(orders, 0, 3)
}

// TestTimers_ClockSteps: a step forward is noticed though nobody says so, and one
// back only delays.
func TestTimers_ClockSteps(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	h.hold(orders, 0, in(time.Minute), in(time.Hour), in(2*time.Hour))
	h.pass(-24 * time.Hour)
	h.hold(orders, 0, in(time.Minute)) // by the clock as it is
	h.pass(time.Minute)
	h.settle()
	h.wantDelivered(orders, 0, 1)
	h.pass(24 * time.Hour) // again a minute after the start
	h.settle()
	h.wantDelivered(orders, 0, 2)
	h.pass(30 * 24 * time.Hour)
	h.settle()
	h.wantDelivered(orders, 0, 4)
}

// TestTimers_WakesWhenNothingWaited: whoever sleeps because nothing waits is woken.
func TestTimers_WakesWhenNothingWaited(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	for n := range 3 {
		h.hold(orders, 0, in(time.Millisecond))
		h.pass(time.Second)
		h.settle()
		h.wantDelivered(orders, 0, n+1)
	}
}

// manyDelayed is how many messages the test of restarts has.
const manyDelayed = 100_000

// TestTimers_ExactlyOnceAcrossRestarts holds messages with random times while the
// clock moves, the broker is restarted or killed, and its segments are dropped.
func TestTimers_ExactlyOnceAcrossRestarts(t *testing.T) {
	for _, flush := range []store.FlushMode{store.SyncFlush, store.AsyncFlush} {
		t.Run(string(flush), func(t *testing.T) {
			n := manyDelayed
			if flush == store.AsyncFlush {
				n /= 10
			}
			h := newHolding(t, func(c *Config) { c.Store.Flush = flush })
			orders := h.topic("orders", 4)
			sent := map[message.ID]int64{} // when each is due
			for round := range 8 {
				for len(sent) < n*(round+1)/8 {
					var messages []*message.Message
					for range 1 + rand.IntN(400) {
						messages = append(messages, in(time.Duration(1+rand.IntN(3600_000))*time.Millisecond))
					}
					h.hold(orders, rand.IntN(4), messages...)
					for _, m := range messages {
						sent[m.ID] = h.millis() + m.Delay.Milliseconds()
					}
					h.pass(time.Duration(rand.IntN(20_000)) * time.Millisecond)
				}
				switch round {
				case 1, 5:
					h.restart()
				case 3:
					h.kill()
				}
			}
			h.pass(time.Hour)
			h.settle()
			h.wantOnce(orders, sent)
		})
	}
}

// wantOnce checks that each message was delivered once, and not early.
func (h *holding) wantOnce(to topic.Topic, sent map[message.ID]int64) {
	h.Helper()
	seen := map[message.ID]bool{}
	for q := range to.WriteQueues {
		for _, m := range h.delivered(to, q) {
			due, ok := sent[m.ID]
			switch {
			case !ok || seen[m.ID]:
				h.Fatalf("message %v was delivered twice, or never sent", m.ID)
			case m.StoreTime.UnixMilli() < due || m.DeliverAt.UnixMilli() != due:
				h.Fatalf("message %v was due at %d, says %d, and was delivered at %d", m.ID, due, m.DeliverAt.UnixMilli(), m.StoreTime.UnixMilli())
			}
			seen[m.ID] = true
		}
	}
	if len(seen) != len(sent) || h.state.timers.Len() != 0 {
		h.Fatalf("%d of %d messages were delivered, %d wait", len(seen), len(sent), h.state.timers.Len())
	}
}

// TestTimers_KilledAfterRelease: a release is shown and forgotten by the same
// record, whatever else was written.
func TestTimers_KilledAfterRelease(t *testing.T) {
	const n = 8
	h := newHolding(t)
	orders := h.topic("orders", 1)
	sent := map[message.ID]int64{}
	for i := range n {
		m := in(time.Duration(i+1) * time.Millisecond)
		h.hold(orders, 0, m, in(time.Hour))
		sent[m.ID] = holdingStart + int64(i) + 1
	}
	h.restart() // the views have all of them on disk
	for i := range n {
		h.pass(time.Millisecond) // too little for the views to be written again
		h.settle()
		h.wantDelivered(orders, 0, i+1)
		h.kill()
		if wait := h.state.timers.Len(); wait != 2*n-1-i {
			t.Fatalf("after %d of %d messages were delivered %d wait", i+1, 2*n, wait)
		}
	}
	h.settle()
	for _, m := range h.wantDelivered(orders, 0, n) {
		if _, ok := sent[m.ID]; !ok {
			t.Errorf("message %v was delivered twice, or early", m.ID)
		}
		delete(sent, m.ID)
	}
}

// TestTimers_LargeBatches: what is due together does not make a batch too large,
// and more is due than one round takes.
func TestTimers_LargeBatches(t *testing.T) {
	h := newHolding(t)
	orders := h.topic("orders", 1)
	sent := map[message.ID]int64{}
	send := func(n, bytes int) {
		messages := make([]*message.Message, n)
		for i := range messages {
			messages[i] = in(time.Second)
			messages[i].Body = make([]byte, bytes)
		}
		h.hold(orders, 0, messages...)
		for _, m := range messages {
			sent[m.ID] = h.millis() + 1000
		}
	}
	for range 2 {
		send(1, message.MaxBodyBytes)
		send(1000, 4000)
	}
	send(batch.MaxCount, 0)
	send(16_000, 265) // with a time each, more than a batch may have
	h.pass(time.Second)
	h.settle()
	h.wantOnce(orders, sent)
}

func TestTimers_TopicChanges(t *testing.T) {
	h := newHolding(t)
	orders, bills := h.topic("orders", 4), h.topic("bills", 1)
	gone := h.hold(bills, 0, in(time.Second), in(time.Hour))
	h.hold(orders, 3, in(time.Second))
	fewer := orders.TopicConfig
	fewer.ReadQueues, fewer.WriteQueues = 2, 2
	h.check(h.state.append(h.Context(), store.Record{Type: store.TopicRecord, Data: topic.EncodePut(fewer)}))
	h.deleteTopic(bills)
	again := h.topic("bills", 1)
	if n := h.state.timers.Len(); n != 1 {
		t.Errorf("%d messages wait after a topic was deleted that had 2 of 3", n)
	}
	h.restart()
	h.pass(2 * time.Hour)
	h.settle()
	h.wantDelivered(orders, 1, 1)
	h.wantDelivered(bills, 0, 0)
	h.wantDelivered(again, 0, 0)
	h.wantRecall(gone[0], false, protocol.NotFound)
	// A batch that was under way when its topic was deleted waits for nothing.
	if r := h.try(bills, 0, in(time.Second)); r.Err != nil || h.state.timers.Len() != 0 {
		t.Errorf("a batch for a topic that was deleted: %v, %d messages wait", r.Err, h.state.timers.Len())
	}
}

// TestTimers_DoubtfulOutcome: a message whose release or recall failed on its way
// to the disk is left alone until the log says what became of it.
func TestTimers_DoubtfulOutcome(t *testing.T) {
	h := newHolding(t)
	h.quiet()
	orders := h.topic("orders", 1)
	held := h.hold(orders, 0, in(time.Second))[0]
	at := timer.Place{Origin: held.Origin}
	own, other := h.timers.claim(at)
	if own == nil || other != nil {
		t.Fatalf("claim of a message that waits: %v, %v", own, other)
	}
	if again, other := h.timers.claim(at); again != nil || other != own {
		t.Errorf("a message was claimed twice: %v, %v", again, other)
	}
	if own, other := h.timers.claim(timer.Place{Origin: held.Origin, Position: 1}); own != nil || other != nil {
		t.Errorf("claim of a message that is not there: %v, %v", own, other)
	}
	h.pass(time.Second)
	if due := h.timers.pick(); len(due) != 0 {
		t.Errorf("a message that is marked is due")
	}
	h.timers.finish(own, true)
	log := h.state.log
	h.check(log.Close())
	if h.timers.settled() || h.timers.round() {
		t.Error("a doubtful outcome is settled by a log that is closed")
	}
	h.check(h.state.close())
	h.state = nil
	h.openQuiet()
	h.timers.marks[at], h.timers.doubtful = own, []*mark{own}
	if !h.timers.settled() || len(h.timers.doubtful) != 0 {
		t.Error("a doubtful outcome is not settled by a log that is written")
	}
	<-own.known
	for h.timers.round() {
	}
	h.wantDelivered(orders, 0, 1)
}

// TestTimers_DiskFull: messages for the timer are messages.
func TestTimers_DiskFull(t *testing.T) {
	var used atomic.Int64
	h := newHolding(t, func(c *Config) {
		c.Store.DiskUse = func(string) (int, int64, error) { return int(used.Load()), 1 << 20, nil }
	})
	orders := h.topic("orders", 1)
	held := h.hold(orders, 0, in(time.Second), in(time.Minute))
	used.Store(95)
	h.retention.look(h.Context())
	if r := h.try(orders, 0, in(time.Second)); !errors.Is(r.Err, protocol.Unavailable) {
		t.Errorf("a full disk: got %+v", r)
	}
	h.wantRecall(held[1], true, 0)
	h.quiet()
	h.pass(time.Second)
	if h.timers.round() {
		t.Error("a round that was refused is followed by another at once")
	}
	h.wantDelivered(orders, 0, 0)
	used.Store(10)
	h.retention.look(h.Context())
	for h.timers.round() {
	}
	h.wantDelivered(orders, 0, 1)
}
