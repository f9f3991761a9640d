package broker

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rmqio/rmq/broker/dedup"
	"github.com/rmqio/rmq/broker/sequence"
	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// fataler is a test, or a random run of one.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// bench is a log of one queue that commits when the test says so.
type bench struct {
	fataler
	state     *state
	clock     int64
	early     bool // answers before it commits
	refuses   bool
	pending   []appended
	committed int
	stored    []store.Committed
	end       int64
}

type appended struct {
	record store.Committed
	done   func(protocol.SendResult)
	result protocol.SendResult
}

func newBench(t fataler, cfg Idempotence) *bench {
	t.Helper()
	cfg, err := cfg.withDefaults()
	if err != nil {
		t.Fatalf("%v", err)
	}
	b := &bench{fataler: t, clock: 1000}
	sequences := sequence.New(sequence.Config{Expiry: cfg.ProducerExpiry, Limit: cfg.MaxProducers})
	keys := dedup.New(dedup.Config{Window: cfg.DedupWindow, Limit: cfg.MaxDedupKeys})
	b.state = &state{sequences: sequences, keys: keys}
	b.state.once = newOnce(sequences, keys, func() time.Time { return time.UnixMilli(b.clock) })
	return b
}

// answers of a batch; none: it waits.
type answers []protocol.SendResult

func (a answers) String() string {
	if len(a) == 0 {
		return "waits"
	}
	text := ""
	for _, r := range a {
		switch {
		case r.Err != nil:
			text += " " + r.Err.Code.String()
		case r.Duplicate:
			text += fmt.Sprintf(" again %d/%d", r.Queue, r.BaseOffset)
		default:
			text += fmt.Sprint(" at ", r.BaseOffset)
		}
	}
	return text[1:]
}

// send sends a batch of count messages; flags are those of the sequence, run 0:
// it has none. A key goes to a queue of its own.
func (b *bench) send(run uint64, first, count int, flags, key string) *answers {
	b.Helper()
	lead := batch.Lead{Topic: "t", Queue: len(key)}
	if run != 0 {
		lead.Sequence = batch.Sequence{Producer: 5, Incarnation: run, First: uint64(first), Begin: slices.Contains([]byte(flags), 'b'), Again: slices.Contains([]byte(flags), 'a')}
	}
	builder := batch.NewBuilder("t", 0)
	builder.Begin(&lead)
	for i := range count {
		builder.Add(&message.Message{ID: message.MakeID(run, uint64(first+i)), BornTime: time.UnixMilli(1), DedupKey: key})
	}
	h, err := batch.Check(builder.Finish())
	if err != nil {
		b.Fatalf("%v", err)
	}
	got := &answers{}
	bytes := slices.Clone(builder.Finish())
	p := &parcel{Header: h, bytes: bytes, queue: store.QueueKey{Topic: 1, Queue: uint32(h.Queue)}, done: func(r protocol.SendResult) { *got = append(*got, r) }}
	if err := b.state.once.take(p, b.put); err != nil {
		p.done(protocol.SendResult{Err: protocol.AsError(err)})
	}
	return got
}

func (b *bench) put(p *parcel) error {
	if b.refuses {
		return protocol.Errorf(protocol.Unavailable, "the disk is gone")
	}
	r := store.Committed{
		Record: store.Record{Queue: p.queue, Data: p.bytes, Count: uint32(p.Count)}, Index: uint64(1 + b.committed + len(b.pending)),
		BaseOffset: b.end, StoreMillis: b.clock,
	}
	b.end += int64(p.Count)
	a := appended{r, p.done, protocol.SendResult{BaseOffset: r.BaseOffset, StoreMillis: r.StoreMillis}}
	b.pending = append(b.pending, a)
	if b.early {
		a.done(a.result)
	}
	return nil
}

// commit commits all that is pending.
func (b *bench) commit() { b.Helper(); b.commitFirst(len(b.pending)) }

// commitFirst commits the first n of what is pending.
func (b *bench) commitFirst(n int) {
	b.Helper()
	list, rest := b.pending[:n], b.pending[n:]
	for _, a := range list {
		b.apply(a.record)
	}
	b.pending = rest
	for _, a := range list {
		if !b.early {
			a.done(a.result)
		}
	}
}

func (b *bench) apply(r store.Committed) {
	b.Helper()
	if err := b.state.applySent(r); err != nil {
		b.Fatalf("%v", err)
	}
	b.stored = append(b.stored, r)
	b.committed++
}

func (b *bench) take() []appended {
	list := b.pending
	b.pending = nil
	return list
}

// fail fails all that is pending; the first n records turn up again when the disk
// is back.
func (b *bench) fail(back int) {
	b.Helper()
	b.state.once.drop()
	list := b.take()
	for _, a := range list {
		if !b.early {
			a.done(protocol.SendResult{Err: protocol.Errorf(protocol.UnknownOutcome, "disk")})
		}
	}
	for _, a := range list[:back] {
		b.apply(a.record)
	}
	b.end = 0
	for _, r := range b.stored {
		b.end = max(b.end, r.BaseOffset+int64(r.Count))
	}
}

func (b *bench) want(name string, got *answers, want string) {
	b.Helper()
	if got.String() != want {
		b.Fatalf("%s: got %q, want %q", name, got, want)
	}
}

// empty checks that nothing is remembered of what is over.
func (b *bench) empty() {
	b.Helper()
	if o := b.state.once; o.first != nil || o.last != nil || len(o.lines) != 0 || len(o.keyed) != 0 {
		b.Fatalf("left over: %v, %v, %d lines, %d keys", o.first, o.last, len(o.lines), len(o.keyed))
	}
}

func TestOnce_DuplicateWaitsForTheFirst(t *testing.T) {
	for _, fails := range []bool{false, true} {
		b := newBench(t, Idempotence{})
		b.send(1, 0, 2, "b", "")
		b.commit()
		first := b.send(1, 2, 4, "b", "")
		whole := b.send(1, 2, 4, "b", "")
		part := b.send(1, 4, 1, "a", "")
		next := b.send(1, 6, 1, "b", "")
		late := b.send(1, 5, 2, "", "")
		for _, got := range []*answers{first, whole, part, next} {
			b.want("before the commit", got, "waits")
		}
		b.want("what overlaps", late, "MESSAGE_ILLEGAL")
		if fails {
			b.fail(0)
			for _, got := range []*answers{first, whole, part, next} {
				b.want("after the failure", got, "UNKNOWN_OUTCOME")
			}
			b.empty()
			got := b.send(1, 2, 4, "", "")
			b.commit()
			b.want("the first again", got, "at 2")
			continue
		}
		b.commit()
		b.want("the first", first, "at 2")
		b.want("the same", whole, "again 0/2")
		b.want("a part of it", part, "again 0/4")
		b.want("the next", next, "at 6")
		b.want("the same after the commit", b.send(1, 2, 4, "b", ""), "again 0/2")
		b.empty()
		if len(b.stored) != 3 {
			t.Errorf("got %d records, want 3", len(b.stored))
		}
	}
}

// What is pending counts for the judgement on what comes after it.
func TestOnce_JudgesByWhatIsPending(t *testing.T) {
	b := newBench(t, Idempotence{})
	b.send(1, 0, 1, "b", "")
	b.send(1, 5, 1, "", "")
	b.want("late", b.send(1, 3, 1, "b", ""), "FENCED")
	b.want("on purpose", b.send(1, 3, 1, "a", ""), "waits")
	b.want("another run", b.send(2, 0, 1, "b", ""), "waits")
	b.want("the first run", b.send(1, 6, 1, "b", ""), "FENCED")
	b.fail(0)
	b.want("the first run once the other is lost", b.send(1, 6, 1, "b", ""), "waits")
	b.commit()
	b.empty()
}

// What is committed is known while others of the same producer are on their way.
func TestOnce_CommittedBesideWhatIsPending(t *testing.T) {
	b := newBench(t, Idempotence{})
	b.send(1, 0, 2, "b", "")
	b.send(1, 2, 2, "b", "")
	b.want("late", b.send(1, 1, 2, "b", ""), "MESSAGE_ILLEGAL")
	b.commitFirst(1)
	b.want("the committed one", b.send(1, 0, 2, "b", ""), "again 0/0")
	b.want("a part of it", b.send(1, 1, 1, "a", ""), "again 0/1")
	b.commit()
	b.empty()
}

func TestOnce_WhatTurnsUpAgainIsKnown(t *testing.T) {
	b := newBench(t, Idempotence{})
	b.send(1, 0, 1, "b", "")
	lost := b.send(1, 1, 1, "", "")
	b.fail(1)
	b.want("lost", lost, "UNKNOWN_OUTCOME")
	b.want("the one that turned up", b.send(1, 0, 1, "b", ""), "again 0/0")
	b.want("the other", b.send(1, 1, 1, "b", ""), "waits")
	b.commit()
}

func TestOnce_RefusedAppendIsForgotten(t *testing.T) {
	b := newBench(t, Idempotence{})
	b.refuses = true
	b.want("refused", b.send(1, 0, 1, "b", ""), "SERVICE_NOT_AVAILABLE")
	b.want("refused with a key", b.send(0, 0, 1, "", "k"), "SERVICE_NOT_AVAILABLE")
	b.empty()
	b.refuses = false
	b.want("again", b.send(1, 0, 1, "b", ""), "waits")
	b.want("with a key", b.send(0, 0, 1, "", "k"), "waits")
	b.commit()
	b.empty()
}

// A log that answers early is asked before it has committed, and may lose what it
// has answered.
func TestOnce_EarlyAnswers(t *testing.T) {
	b := newBench(t, Idempotence{})
	b.early = true
	b.want("first", b.send(1, 0, 2, "b", ""), "at 0")
	b.want("again at once", b.send(1, 0, 2, "b", ""), "again 0/0")
	b.want("key", b.send(0, 0, 1, "", "k"), "at 2")
	b.want("key at once", b.send(0, 0, 1, "", "k"), "again 1/2")
	b.commit()
	b.empty()
	b.want("again", b.send(1, 0, 2, "b", ""), "again 0/0")
	b.send(1, 2, 1, "", "")
	b.send(0, 0, 1, "", "kk")
	b.fail(0)
	b.empty()
	b.want("what was lost", b.send(1, 2, 1, "", ""), "at 3")
	b.want("the key that was lost", b.send(0, 0, 1, "", "kk"), "at 4")
}

// What is not applied though a later record is was lost, also when nobody said so.
func TestOnce_ALaterRecordTellsOfLostOnes(t *testing.T) {
	b := newBench(t, Idempotence{})
	b.early = true
	b.send(1, 0, 1, "b", "")
	b.send(0, 0, 1, "", "k")
	b.take()
	b.send(1, 1, 1, "b", "")
	b.commit()
	b.empty()
	b.want("the lost key", b.send(0, 0, 1, "", "k"), "at 3")
}

func TestOnce_Keys(t *testing.T) {
	b := newBench(t, Idempotence{DedupWindow: time.Minute, MaxDedupKeys: 2})
	first := b.send(1, 0, 1, "b", "a")
	again := b.send(1, 1, 1, "b", "a") // another message with the same key
	b.want("before the commit", again, "waits")
	b.commit()
	b.want("first", first, "at 0")
	b.want("again", again, "again 1/0")
	b.want("from a producer without numbers", b.send(0, 0, 1, "", "a"), "again 1/0")
	b.want("another key", b.send(0, 0, 1, "", "bb"), "waits")
	b.want("one more than there is room for, with one on its way", b.send(0, 0, 1, "", "ccc"), "FLOW_CONTROL")
	b.commit()
	b.want("one more than there is room for", b.send(0, 0, 1, "", "ccc"), "FLOW_CONTROL")
	b.want("a known one though there is no room", b.send(0, 0, 1, "", "a"), "again 1/0")
	b.want("two in a batch", b.send(0, 0, 2, "", "ccc"), "MESSAGE_ILLEGAL")
	b.clock += time.Minute.Milliseconds()
	b.want("after the window", b.send(0, 0, 1, "", "a"), "waits")
	b.commit()
	b.want("after the second", b.send(0, 0, 1, "", "a"), "again 1/2")
	// Its number is known for longer than its key.
	b.want("the numbered one again", b.send(1, 0, 1, "b", "a"), "again 1/2")
	b.clock += time.Minute.Milliseconds()
	b.want("the numbered one after the window", b.send(1, 0, 1, "b", "a"), "again 1/0")
	b.empty()
}

func TestOnce_HeldBackHasNoKey(t *testing.T) {
	for _, purpose := range []batch.Purpose{batch.ToTimer, batch.ToTransaction} {
		builder := batch.NewBuilder("t", 0)
		builder.Begin(&batch.Lead{Topic: "t", Purpose: purpose})
		builder.Add(&message.Message{ID: message.MakeID(1, 1), BornTime: time.UnixMilli(1), DedupKey: "k", DeliverAt: time.UnixMilli(5)})
		h, err := batch.Check(builder.Finish())
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, Idempotence{})
		if err := b.state.once.take(&parcel{Header: h, bytes: builder.Finish()}, b.put); !errors.Is(err, protocol.IllegalMessage) || len(b.pending) != 0 {
			t.Errorf("purpose %d: got %v, %d records", purpose, err, len(b.pending))
		}
	}
}

func TestOnce_AdmitsNoMoreProducersThanItMayRemember(t *testing.T) {
	b := newBench(t, Idempotence{MaxProducers: 2})
	b.send(1, 0, 1, "b", "")
	b.send(1, 0, 1, "b", "k") // another queue
	b.want("one more", b.send(1, 0, 1, "b", "kk"), "SYSTEM_BUSY")
	b.commit()
	b.want("one more after the commit", b.send(1, 0, 1, "b", "kk"), "SYSTEM_BUSY")
	b.want("a known one", b.send(1, 1, 1, "b", ""), "waits")
	b.clock += sequence.Grace.Milliseconds()
	b.want("when the others are idle", b.send(1, 0, 1, "b", "kk"), "waits")
}

// TestOnce_AgainstTheLog sends, repeats, commits and fails at random. Whatever
// happens, no number and no key is in the log twice, and every answer says where
// the messages are.
func TestOnce_AgainstTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := newBench(t, Idempotence{})
		b.early = rapid.Bool().Draw(t, "early")
		type sent struct {
			first, count int
			key          string
			got          *answers
		}
		var all []sent
		next := 0
		send := func(s sent, flags string) {
			s.got = b.send(1, s.first, s.count, flags, s.key)
			all = append(all, s)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 7).Draw(t, "what") {
			case 0, 1:
				s := sent{first: next, count: rapid.IntRange(1, 3).Draw(t, "count")}
				next += s.count + rapid.IntRange(0, 1).Draw(t, "gap")
				send(s, "b")
			case 2:
				send(sent{first: next, count: 1, key: rapid.SampledFrom([]string{"k", "l"}).Draw(t, "key")}, "b")
				next++
			case 3, 4:
				if len(all) > 0 {
					send(rapid.SampledFrom(all).Draw(t, "batch"), rapid.SampledFrom([]string{"b", "a", ""}).Draw(t, "flags"))
				}
			case 5:
				b.commit()
			case 6:
				b.commitFirst(rapid.IntRange(0, len(b.pending)).Draw(t, "first"))
			case 7:
				b.fail(rapid.IntRange(0, len(b.pending)).Draw(t, "back"))
			}
		}
		b.commit()
		b.empty()
		where := map[string]int64{} // offset of each number in each queue, and of each key
		for _, r := range b.stored {
			h, err := batch.ParseHeader(r.Data)
			if err != nil {
				t.Fatal(err)
			}
			for i := range h.Count {
				name := fmt.Sprint(h.Queue, "/", h.Sequence.First+uint64(i))
				if at, twice := where[name]; twice {
					t.Fatalf("number %s is at %d and %d", name, at, r.BaseOffset+int64(i))
				}
				where[name] = r.BaseOffset + int64(i)
			}
			if batch.HasDedupKey(r.Data) {
				k, _ := dedupKey(1, r.Data)
				if at, twice := where[k.Text]; twice {
					t.Fatalf("key %s is at %d and %d", k.Text, at, r.BaseOffset)
				}
				where[k.Text] = r.BaseOffset
			}
		}
		for _, s := range all {
			if len(*s.got) != 1 {
				t.Fatalf("%+v has %d answers", s, len(*s.got))
			}
			r := (*s.got)[0]
			if r.Err != nil || b.early {
				continue // what was answered early may be lost
			}
			at, ok := where[fmt.Sprint(len(s.key), "/", s.first)]
			if s.key != "" {
				at, ok = where[s.key]
			}
			if !ok || at != r.BaseOffset {
				t.Fatalf("%+v: got %s, it is at %d", s, s.got, at)
			}
		}
	})
}
