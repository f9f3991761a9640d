package producer

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestFlowControl_IsRetriedMoreOftenThanFailures(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	b.setScript(firstN(6, &protocol.Error{Code: protocol.FlowControl, RetryAfterMillis: 1}))
	if r, err := p.Send(t.Context(), msg("x")); err != nil || r.Offset != 0 {
		t.Errorf("got %+v, %v; want it to be stored at last", r, err)
	}
	if got := b.batches(); got != 7 {
		t.Errorf("got %d tries, want 7", got)
	}
}

// A quota keeps one queue waiting for as long as the broker says, no longer than
// the messages have time, and neither the broker's other queues nor other brokers.
func TestFlowControl_HoldsOneQueue(t *testing.T) {
	s := startSite(t)
	a, b := s.broker("a", 2), s.broker("b", 2)
	p := newProducer(t, s, nil)
	refused := make(chan struct{}, 100)
	a.setScript(func(_ int, h batch.Header) *protocol.Error {
		if h.Queue == 1 {
			return nil
		}
		refused <- struct{}{}
		return &protocol.Error{Code: protocol.FlowControl, Remark: "1000 messages a second", RetryAfterMillis: 3_600_000}
	})
	if _, err := p.Send(t.Context(), msg("first"), ToQueue(message.Queue{Broker: "a", ID: 1})); err != nil {
		t.Fatal(err)
	}
	var limited *queue
	for _, q := range p.topics.get("t").fan.Load().queues {
		if q.Broker == "a" && q.ID == 0 {
			limited = q
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	free := make(chan error, 1)
	e := entry{m: msg("free"), done: func(_ Receipt, err error) { free <- err }}
	if _, err := p.take(ctx, e, nil, limited); err != nil { // any queue: this one is as good
		t.Fatal(err)
	}
	<-refused
	for range 4 {
		if r, err := p.Send(t.Context(), msg("other"), ToQueue(message.Queue{Broker: "a", ID: 1})); err != nil || r.Queue.ID != 1 {
			t.Errorf("the other queue: got %v, %v", r.Queue, err)
		}
	}
	err := <-free
	var known *Error
	if !errors.Is(err, ErrFlowControl) || !errors.As(err, &known) || known.Code != protocol.FlowControl || !known.Retryable ||
		errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want flow control, not sent", err)
	}
	if len(refused) != 0 || p.outboxOf("a").health.grade(p.clock()) != healthy {
		t.Errorf("got %d tries more before the hour was over, broker grade %d", len(refused), p.outboxOf("a").health.grade(p.clock()))
	}
	if n := len(b.bodies(-1)); n != 0 {
		t.Errorf("got %d messages at the other broker, want none to have moved", n)
	}
}

func TestFlowControl_WithoutRetries(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, func(c *Config) { c.Retries = -1 })
	b.setScript(firstN(1, &protocol.Error{Code: protocol.FlowControl, RetryAfterMillis: 1}))
	if _, err := p.Send(t.Context(), msg("x")); !errors.Is(err, ErrFlowControl) || b.batches() != 1 {
		t.Errorf("got %v after %d tries, want flow control after one", err, b.batches())
	}
}
