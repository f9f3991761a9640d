package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// quick is a producer that gives up on an answer after a second.
func quick(c *Config) { c.SendTimeout = 3 * time.Second }

func TestSend_LostAnswerIsAskedForAgain(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, quick)
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b.setScript(firstN(1, errLost))
	lost := make(chan Receipt, 1)
	p.SendAsync(t.Context(), msg("lost"), func(r Receipt, err error) {
		if err != nil {
			t.Error(err)
		}
		lost <- r
	})
	eventually(t, "the batch is there", func() bool { return b.batches() == 1 })
	next, err := p.Send(t.Context(), msg("next"))
	if r := <-lost; !r.Duplicate || r.Offset != 1 || r.Queue.Broker != "a" || err != nil || next.Duplicate || next.Offset != 2 {
		t.Errorf("got %+v, then %+v, %v", r, next, err)
	}
	if got := b.bodies(0); !slices.Equal(got, []string{"first", "lost", "next"}) {
		t.Errorf("got %q", got)
	}
	seen := b.sequences(0)
	if len(seen) != 4 || seen[1] != seen[2] || seen[2].First != 1 || seen[3].First != 2 || !seen[0].Begin {
		t.Errorf("got sequences %+v", seen)
	}
}

func TestSend_WithoutIdempotence(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, func(c *Config) { c.NoIdempotence = true })
	b.setScript(firstN(1, protocol.Errorf(protocol.UnknownOutcome, "scripted")))
	if _, err := p.Send(t.Context(), msg("x")); err != nil {
		t.Fatal(err)
	}
	for _, seen := range b.sequences(0) {
		if seen != (batch.Sequence{}) {
			t.Errorf("got sequence %+v", seen)
		}
	}
}

// What a broker may have goes to no other, and what waits behind it may.
func TestSend_WhatMayBeStoredStays(t *testing.T) {
	s := startSite(t)
	a := s.broker("a", 1)
	p := newProducer(t, s, quick)
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b := s.broker("b", 1)
	eventually(t, "the route has both", func() bool { return len(p.topics.get("t").fan.Load().queues) == 2 })
	a.setScript(func(n int, _ batch.Header) *protocol.Error {
		return []*protocol.Error{protocol.Errorf(protocol.UnknownOutcome, "scripted"), protocol.Errorf(protocol.SystemError, "scripted"),
			{Code: protocol.Busy, RetryAfterMillis: 1}, nil}[min(n, 3)]
	})
	done := make(chan Receipt, 1)
	p.SendAsync(t.Context(), msg("stays"), func(r Receipt, err error) {
		if err != nil {
			t.Error(err)
		}
		done <- r
	}, func() SendOption {
		return WithSelector(func(queues []message.Queue, _ *message.Message) int {
			return slices.IndexFunc(queues, func(q message.Queue) bool { return q.Broker == "a" })
		})
	}())
	if r := <-done; r.Queue.Broker != "a" || a.batches() != 4 {
		t.Errorf("got %+v after %d tries", r, a.batches())
	}
	a.setScript(firstN(1<<30, protocol.Errorf(protocol.UnknownOutcome, "scripted")))
	for i := range 4 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		r, err := p.Send(ctx, msg(fmt.Sprint("free ", i)))
		cancel()
		if err == nil && r.Queue.Broker != "b" || err != nil && (!errors.Is(err, ErrUnknownOutcome) || r.Queue.Broker != "a") {
			t.Errorf("got %+v, %v", r, err)
		}
	}
	for _, body := range b.bodies(-1) {
		if a.batches() == 0 || body == "stays" {
			t.Errorf("%q is at b", body)
		}
	}
}

// failUnknown sends a message whose outcome stays unknown.
func failUnknown(t *testing.T, p *Producer, b *standIn, why *protocol.Error, m *message.Message) Receipt {
	t.Helper()
	b.setScript(firstN(1<<30, why))
	ctx, cancel := context.WithCancel(t.Context())
	var r Receipt
	var err error
	sent := make(chan struct{})
	go func() { defer close(sent); r, err = p.Send(ctx, m) }()
	eventually(t, "the batch is there", func() bool { return b.batches() >= 1 })
	cancel()
	<-sent
	if !errors.Is(err, ErrUnknownOutcome) || r.MessageID.IsZero() || r.Queue.Broker != "a" || r.Queue.Topic != "t" {
		t.Fatalf("got %+v, %v; want an unknown outcome with id and queue", r, err)
	}
	b.setScript(nil)
	return r
}

func TestSend_AgainWithTheSameID(t *testing.T) {
	for _, tc := range []struct {
		name      string
		why       *protocol.Error
		between   bool // other messages are sent meanwhile
		duplicate bool
	}{
		{"it was stored", errLost, false, true},
		{"it was stored, others since", errLost, true, true},
		{"it was not stored", errSilence, false, false},
		{"it was not stored, others since", errSilence, true, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := startSite(t)
			b := s.broker("a", 3)
			p := newProducer(t, s, quick)
			failed := failUnknown(t, p, b, tc.why, msg("x"))
			if tc.between {
				for range 6 {
					if _, err := p.Send(t.Context(), msg("other")); err != nil {
						t.Fatal(err)
					}
				}
			}
			again := msg("x")
			again.ID = failed.MessageID
			r, err := p.Send(t.Context(), again)
			if err != nil || r.Duplicate != tc.duplicate || r.Queue != failed.Queue || r.MessageID != failed.MessageID {
				t.Errorf("got %+v, %v", r, err)
			}
			n := 0
			for _, body := range b.bodies(-1) {
				if body == "x" {
					n++
				}
			}
			if in := b.in(r.Queue.ID); n != 1 || r.Offset >= int64(len(in)) || in[r.Offset].ID != failed.MessageID {
				t.Errorf("it is stored %d times, or not at %d", n, r.Offset)
			}
			if p.doubts.count.Load() != 0 {
				t.Error("what is settled is still in doubt")
			}
		})
	}
}

// A message that is sent again goes alone, and stays in doubt until it is
// answered.
func TestSend_AgainUntilItIsKnown(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, quick)
	m := msg("x")
	m.ID = failUnknown(t, p, b, errSilence, m).MessageID
	for _, why := range []*protocol.Error{errSilence, protocol.Errorf(protocol.UnknownOutcome, "scripted"), {Code: protocol.Busy, RetryAfterMillis: 1}, protocol.Errorf(protocol.IllegalMessage, "scripted")} {
		if r := failUnknown(t, p, b, why, m); r.MessageID != m.ID {
			t.Fatalf("got id %v, want %v", r.MessageID, m.ID)
		}
	}
	n := len(b.sequences(0))
	b.setScript(firstN(1, errSilence)) // so that others gather behind it
	results := make(chan error, 3)
	for _, m := range []*message.Message{msgOf("g", "before"), m, msgOf("g", "after")} {
		p.SendAsync(t.Context(), m, func(_ Receipt, err error) { results <- err })
	}
	for range 3 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	again := 0
	for _, seen := range b.sequences(n) {
		if seen.Again {
			again++
			if seen.First != 0 {
				t.Errorf("got %+v, want the number of the first time", seen)
			}
		}
	}
	if again == 0 || !slices.Equal(b.bodies(0), []string{"before", "x", "after"}) {
		t.Errorf("%d again, got %q", again, b.bodies(0))
	}
}

func TestSend_ForgottenByTheBroker(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	b.setScript(func(n int, _ batch.Header) *protocol.Error {
		return []*protocol.Error{protocol.Errorf(protocol.UnknownOutcome, "scripted"), protocol.Errorf(protocol.SequenceLost, "scripted"), nil}[min(n, 2)]
	})
	r, err := p.Send(t.Context(), msg("x"))
	var e *Error
	if !errors.Is(err, ErrSequenceLost) || !errors.Is(err, ErrUnknownOutcome) || !errors.As(err, &e) || e.Retryable || r.Queue.Broker != "a" {
		t.Errorf("got %+v, %v", r, err)
	}
	// What was never in doubt begins anew.
	if r, err := p.Send(t.Context(), msg("y")); err != nil || r.Offset != 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	b.mu.Lock()
	b.numbers.DropTopic(0)
	b.mu.Unlock()
	if r, err := p.Send(t.Context(), msg("z")); err != nil || r.Offset != 1 {
		t.Errorf("got %+v, %v", r, err)
	}
}

func TestSend_ALaterRunTakesOver(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	named := func(c *Config) { c.ProducerID = "billing-7" }
	first := newProducer(t, s, named)
	send := func(p *Producer, want error) {
		t.Helper()
		r, err := p.Send(t.Context(), msg("x"))
		var e *Error
		if want == nil && err != nil || want != nil && (!errors.Is(err, want) || errors.Is(err, ErrUnknownOutcome) || !errors.As(err, &e) || e.Retryable || r.Queue != (message.Queue{})) {
			t.Errorf("got %+v, %v; want %v", r, err, want)
		}
	}
	send(first, nil)
	second := newProducer(t, s, named)
	send(second, nil)
	send(first, ErrFenced)
	send(second, nil)
	send(newProducer(t, s, func(c *Config) { c.ProducerID = "billing-8" }), nil)
	send(newProducer(t, s, nil), nil)
	send(second, nil)
	if len(b.bodies(0)) != 6 {
		t.Errorf("got %d messages, want 6", len(b.bodies(0)))
	}
	seen := b.sequences(0)
	if seen[0].Producer != seen[1].Producer || seen[0].Incarnation == seen[1].Incarnation || seen[4].Producer == seen[0].Producer || seen[5].Producer != seen[5].Incarnation {
		t.Errorf("got %+v", seen)
	}
}

func TestSend_KeyedMessages(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	other := s.broker("b", 4)
	p := newProducer(t, s, nil)
	where := map[string]message.Queue{}
	for i := range 60 {
		m := msg("x")
		m.DedupKey = fmt.Sprint("k", i%6)
		p.SendAsync(t.Context(), m, func(r Receipt, err error) {
			if q, ok := where[m.DedupKey]; err != nil || ok && q != r.Queue {
				t.Errorf("key %s: got %v, %v; want %v", m.DedupKey, r.Queue, err, q)
			}
			where[m.DedupKey] = r.Queue
		})
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := b.batches() + other.batches(); n != 60 {
		t.Errorf("got %d batches for 60 messages with keys", n)
	}
	grouped := msgOf("g", "x")
	grouped.DedupKey = "k0"
	if r, err := p.Send(t.Context(), grouped); err != nil || r.Queue != p.topics.get("t").fan.Load().ofGroup("g").Queue {
		t.Errorf("got %+v, %v; want the group's queue", r, err)
	}
	delayed := msg("x")
	delayed.DedupKey, delayed.Delay = "k", time.Hour
	if _, err := p.Send(t.Context(), delayed); !errors.Is(err, ErrIllegalMessage) || !strings.Contains(err.Error(), "deduplication key") {
		t.Errorf("delayed: got %v", err)
	}
}

// A sender that waits no more has nothing sent any more; of what is on its way
// the outcome is unknown, and it may be sent again.
func TestSend_Cancelled(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, quick)
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b.setScript(firstN(1, errLost))
	type result struct {
		r   Receipt
		err error
	}
	results := make(chan result, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { r, err := p.Send(ctx, msg("sent")); results <- result{r, err} }()
	eventually(t, "the batch is there", func() bool { return b.batches() == 1 })
	waits := make(chan error, 1)
	go func() {
		rs, err := p.SendBatch(ctx, []*message.Message{msg("waits"), msg("waits too")})
		if len(rs) != 2 || rs[0].MessageID.IsZero() || rs[1].Queue != (message.Queue{}) {
			t.Errorf("got %+v", rs)
		}
		waits <- err
	}()
	q := p.topics.get("t").fan.Load().queues[0]
	eventually(t, "the others wait", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return len(q.waiting) == 1 && len(q.waiting[0].entries) == 2
	})
	cancel()
	sent := <-results
	if !errors.Is(sent.err, ErrUnknownOutcome) || !errors.Is(sent.err, context.Canceled) || sent.r.MessageID.IsZero() || sent.r.Queue.Broker != "a" {
		t.Errorf("on its way: got %+v, %v", sent.r, sent.err)
	}
	if err := <-waits; !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("waiting: got %v", err)
	}
	again := msg("sent")
	again.ID = sent.r.MessageID
	if r, err := p.Send(t.Context(), again); err != nil || !r.Duplicate || r.Offset != 1 {
		t.Errorf("again: got %+v, %v", r, err)
	}
	if got := b.bodies(0); !slices.Equal(got, []string{"first", "sent"}) {
		t.Errorf("got %q", got)
	}
	if err := p.Flush(t.Context()); err != nil { // the last answer may come before its bytes are free
		t.Error(err)
	}
	if used := p.budget.used.Load(); used != 0 {
		t.Errorf("got %d bytes in use at the end", used)
	}
}

func TestDoubts_TheOldestIsForgotten(t *testing.T) {
	var ds doubts
	id := func(i int) message.ID { return message.MakeID(1, uint64(i)) }
	q := newTestQueue()
	for i := range maxDoubts {
		ds.enter(id(i), doubt{q, number{known: true, value: uint64(i)}})
	}
	ds.enter(id(0), doubt{q, number{known: true}}) // is the newest now
	ds.enter(id(maxDoubts), doubt{q, number{known: true}})
	for i, want := range map[int]bool{0: true, 1: false, 2: true, maxDoubts: true} {
		if _, ok := ds.find(id(i)); ok != want {
			t.Errorf("message %d: got %v, want %v", i, ok, want)
		}
	}
	if len(ds.known) != maxDoubts || ds.order.Len() != maxDoubts {
		t.Errorf("got %d and %d", len(ds.known), ds.order.Len())
	}
	for i := range maxDoubts + 1 {
		ds.settle(id(i))
	}
	if _, ok := ds.find(id(5)); ok || ds.count.Load() != 0 || ds.order.Len() != 0 {
		t.Error("what is settled is remembered")
	}
}
