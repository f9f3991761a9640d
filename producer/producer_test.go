package producer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

func msg(body string) *message.Message { return &message.Message{Topic: "t", Body: []byte(body)} }

func msgOf(group, body string) *message.Message {
	return &message.Message{Topic: "t", Group: group, Body: []byte(body)}
}

func TestNew_NamesEveryFault(t *testing.T) {
	_, err := New(t.Context(), Config{
		LookupEnv: func(string) (string, bool) { return "", false }, Group: "a b", SendTimeout: -1,
		MaxBatchBytes: 5 << 20, MaxBufferedBytes: 1, OnFull: 7,
	})
	if !errors.Is(err, ErrNoNameServer) || !errors.Is(err, message.ErrIllegalName) {
		t.Errorf("got %v, want no name server and an illegal name", err)
	}
	for _, part := range []string{"timeout", "batches", "buffer of", "policy"} {
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("got %v, want it to name %q", err, part)
		}
	}
}

func TestSend_RefusesBeforeSending(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	for _, tc := range []struct {
		name string
		m    *message.Message
		want []error
	}{
		{"nil", nil, []error{ErrIllegalMessage}},
		{"no topic", &message.Message{}, []error{ErrInvalidArgument, message.ErrIllegalName}},
		{"bad topic", &message.Message{Topic: "a.b"}, []error{ErrInvalidArgument, message.ErrIllegalName}},
		{"reserved topic", &message.Message{Topic: "%DLQ%x"}, []error{ErrInvalidArgument, message.ErrIllegalName}},
		{"body", &message.Message{Topic: "t", Body: make([]byte, message.MaxBodyBytes+1)}, []error{ErrIllegalMessage, message.ErrBodyTooLarge}},
		{"properties", &message.Message{Topic: "t", Tag: strings.Repeat("x", message.MaxPropertiesBytes+1)}, []error{ErrIllegalMessage, message.ErrPropertiesTooLarge}},
		{"key", &message.Message{Topic: "t", Keys: []string{"a b"}}, []error{ErrIllegalMessage, message.ErrIllegalMessage}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			check := func(err error) {
				t.Helper()
				var e *Error
				for _, want := range tc.want {
					if !errors.Is(err, want) || !errors.As(err, &e) || e.Retryable {
						t.Errorf("got %v, want %v, not retryable", err, want)
					}
				}
			}
			_, err := p.Send(t.Context(), tc.m)
			check(err)
			calls := 0
			p.SendAsync(t.Context(), tc.m, func(_ Receipt, err error) { calls++; check(err) })
			if calls != 1 {
				t.Errorf("got %d callbacks, want 1 before SendAsync returns", calls)
			}
			check(p.SendOneway(t.Context(), tc.m))
			_, err = p.SendBatch(t.Context(), []*message.Message{msg("good"), tc.m})
			check(err)
		})
	}
	if n := len(b.bodies(-1)); n != 0 {
		t.Errorf("got %d messages at the broker, want none", n)
	}
}

func TestSend_Receipt(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	before := time.Now().Truncate(time.Millisecond)
	m := &message.Message{Topic: "t", Tag: "paid", Keys: []string{"42"}, Group: "g", Properties: map[string]string{"k": "v"}, Body: []byte("x")}
	for i := range 3 {
		r, err := p.Send(t.Context(), m)
		want := Receipt{MessageID: r.MessageID, Queue: message.Queue{Topic: "t", Broker: "a"}, Offset: int64(i), StoreTime: r.StoreTime}
		if err != nil || r != want || r.MessageID.IsZero() || r.StoreTime.Before(before) {
			t.Fatalf("got %v, %v; want %v", r, err, want)
		}
		if got := b.in(0)[i]; got.ID != r.MessageID || got.BornTime.Before(before) || got.Tag != "paid" || got.Group != "g" ||
			!slices.Equal(got.Keys, m.Keys) || got.Properties["k"] != "v" {
			t.Fatalf("got %+v", got)
		}
	}
	if !m.ID.IsZero() || !m.BornTime.IsZero() {
		t.Error("the caller's message was changed")
	}
	own := &message.Message{Topic: "t", ID: message.MakeID(7, 8), BornTime: time.UnixMilli(9)}
	if r, err := p.Send(t.Context(), own); err != nil || r.MessageID != own.ID || !b.in(0)[3].BornTime.Equal(own.BornTime) {
		t.Fatalf("got %v, %v; want the caller's own id and time", r, err)
	}
}

func TestSend_RetriesKeepTheOrder(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 2)
	p := newProducer(t, s, nil)
	codes := []protocol.ErrorCode{protocol.SystemError, protocol.Busy, protocol.Unavailable, protocol.SystemError, protocol.SystemError, protocol.SystemError}
	b.setScript(func(n int, _ batch.Header) *protocol.Error {
		if n%2 == 0 || n/2 >= len(codes) {
			return nil
		}
		return &protocol.Error{Code: codes[n/2], Remark: "scripted", RetryAfterMillis: 1}
	})
	const n = 300
	for i := range n {
		p.SendAsync(t.Context(), msgOf("g", fmt.Sprint(i)), func(_ Receipt, err error) {
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
		})
		if i%30 == 0 {
			if err := p.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := p.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, body := range b.bodies(-1) {
		if body != fmt.Sprint(i) {
			t.Fatalf("got message %s at place %d", body, i)
		}
	}
}

func TestSend_FreeMessageGoesToAnotherBroker(t *testing.T) {
	for _, code := range []protocol.ErrorCode{protocol.SystemError, protocol.Busy, protocol.Unavailable, protocol.QueueNotFound, protocol.NoPermission} {
		s := startSite(t)
		a, b := s.broker("a", 2), s.broker("b", 2)
		p := newProducer(t, s, nil)
		a.setScript(firstN(1<<30, protocol.Errorf(code, "scripted")))
		for range 8 {
			r, err := p.Send(t.Context(), msg("x"))
			if err != nil || r.Queue.Broker != "b" {
				t.Fatalf("%v: got %v, %v; want broker b", code, r.Queue, err)
			}
		}
		if len(b.bodies(-1)) != 8 {
			t.Errorf("%v: got %d at b, want 8", code, len(b.bodies(-1)))
		}
	}
}

func TestSend_RetriesAreCounted(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 3)
	for _, tc := range []struct {
		retries, want int
		m             *message.Message
	}{
		{0, 3, msg("x")}, {1, 2, msg("x")}, {-1, 1, msg("x")},
	} {
		p := newProducer(t, s, func(c *Config) { c.Retries = tc.retries })
		b.setScript(firstN(1<<30, protocol.Errorf(protocol.SystemError, "scripted")))
		_, err := p.Send(t.Context(), tc.m)
		var e *Error
		if !errors.Is(err, protocol.SystemError) || !errors.As(err, &e) || e.Broker != "a" || e.Topic != "t" || !e.Retryable {
			t.Errorf("retries %d: got %v", tc.retries, err)
		}
		if got := b.batches(); got != tc.want {
			t.Errorf("retries %d: got %d tries, want %d", tc.retries, got, tc.want)
		}
	}
	// What did nothing does not count.
	p := newProducer(t, s, nil)
	b.setScript(firstN(6, &protocol.Error{Code: protocol.Busy, RetryAfterMillis: 1}))
	if _, err := p.Send(t.Context(), msg("x")); err != nil {
		t.Errorf("after six times busy: got %v", err)
	}
	// What must keep its place is sent until its time is over.
	b.setScript(firstN(6, protocol.Errorf(protocol.SystemError, "scripted")))
	if _, err := p.Send(t.Context(), msgOf("g", "x")); err != nil {
		t.Errorf("a message of a group after six failures: got %v", err)
	}
}

func TestSend_FatalRefusalIsNotRepeated(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 3)
	p := newProducer(t, s, nil)
	b.setScript(firstN(1<<30, protocol.Errorf(protocol.IllegalMessage, "scripted")))
	if _, err := p.Send(t.Context(), msgOf("g", "x")); !errors.Is(err, ErrIllegalMessage) || b.batches() != 1 {
		t.Errorf("got %v after %d tries", err, b.batches())
	}
}

func TestSend_NoAnswerIsUnknownOutcome(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b.setScript(firstN(1, errLost))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	lost, behind := make(chan error, 1), make(chan error, 1)
	p.SendAsync(ctx, msgOf("g", "lost"), func(_ Receipt, err error) { lost <- err })
	eventually(t, "the batch is there", func() bool { return len(b.bodies(0)) == 2 })
	// Waits behind the lost one, with the same deadline: never sent.
	p.SendAsync(ctx, msgOf("g", "behind"), func(_ Receipt, err error) { behind <- err })
	// Waits behind both, with time: stored.
	later := make(chan error, 1)
	p.SendAsync(t.Context(), msgOf("g", "later"), func(_ Receipt, err error) { later <- err })
	if err := <-lost; !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lost: got %v, want unknown outcome", err)
	}
	if err := <-behind; !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("behind: got %v, want not sent", err)
	}
	if err := <-later; err != nil {
		t.Errorf("later: got %v", err)
	}
	if got := b.bodies(0); !slices.Equal(got, []string{"first", "lost", "later"}) {
		t.Errorf("got %v", got)
	}
}

func TestSend_CancelledUnderWay(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b.setScript(firstN(1, errLost))
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 1)
	go func() { _, err := p.Send(ctx, msg("x")); errs <- err }()
	eventually(t, "the batch is there", func() bool { return len(b.bodies(0)) == 2 })
	cancel()
	if err := <-errs; !errors.Is(err, ErrUnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want unknown outcome", err)
	}
	if _, err := p.Send(ctx, msg("y")); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended ctx: got %v, want not sent", err)
	}
}

func TestSend_TopicNotFound(t *testing.T) {
	s := startSite(t)
	s.broker("a", 1)
	for _, leaveAlone := range []bool{true, false} {
		p := newProducer(t, s, func(c *Config) { c.NoAutoCreate = leaveAlone })
		if _, err := p.Send(t.Context(), &message.Message{Topic: "other"}); !errors.Is(err, ErrTopicNotFound) {
			t.Errorf("got %v, want %v", err, ErrTopicNotFound)
		}
	}
}

func TestSend_FollowsRoute(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	to := func(id int) SendOption { return ToQueue(message.Queue{Broker: "a", ID: id}) }
	if _, err := p.Send(t.Context(), msg("x"), to(0)); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Send(t.Context(), msg("x"), to(1)); !errors.Is(err, ErrQueueNotFound) {
		t.Fatalf("got %v, want %v", err, ErrQueueNotFound)
	}
	b.register(3)
	if r, err := p.Send(t.Context(), msg("x"), to(2)); err != nil || r.Queue.ID != 2 {
		t.Fatalf("got %v, %v; want queue 2", r.Queue, err)
	}
	// A message of a group whose queue is taken away moves; an explicit queue fails.
	group := ""
	for i := 0; group == ""; i++ {
		if f := p.topics.get("t").fan.Load(); f.ofGroup(fmt.Sprint(i)).ID == 2 {
			group = fmt.Sprint(i)
		}
	}
	b.register(1)
	if r, err := p.Send(t.Context(), msgOf(group, "moved")); err != nil || r.Queue.ID != 0 {
		t.Fatalf("got %v, %v; want queue 0", r.Queue, err)
	}
	if _, err := p.Send(t.Context(), msg("x"), to(2)); !errors.Is(err, ErrQueueNotFound) {
		t.Fatalf("got %v, want %v", err, ErrQueueNotFound)
	}
	b.register(0)
	eventually(t, "the topic is gone", func() bool {
		_, err := p.Send(t.Context(), msg("x"))
		return errors.Is(err, ErrTopicNotFound)
	})
	b.register(1)
	if _, err := p.Send(t.Context(), msg("back")); err != nil {
		t.Fatal(err)
	}
}

func TestSendBatch(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	p := newProducer(t, s, nil)
	var ms []*message.Message
	for i := range 3000 {
		ms = append(ms, msg(fmt.Sprintf("%01000d", i)))
	}
	rs, err := p.SendBatch(t.Context(), ms)
	if err != nil || len(rs) != len(ms) {
		t.Fatalf("got %d receipts, %v", len(rs), err)
	}
	for i, r := range rs {
		if r.Queue != rs[0].Queue || r.Offset != int64(i) || r.MessageID.IsZero() {
			t.Fatalf("message %d: got %v", i, r)
		}
	}
	if len(b.bodies(rs[0].Queue.ID)) != len(ms) {
		t.Error("the batch is not in one queue")
	}
	for _, bad := range [][]*message.Message{nil, {msg("x"), {Topic: "u"}}} {
		if _, err := p.SendBatch(t.Context(), bad); !errors.Is(err, ErrInvalidArgument) {
			t.Errorf("got %v, want %v", err, ErrInvalidArgument)
		}
	}
}

func TestSendBatch_SaysWhatIsStored(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	p := newProducer(t, s, func(c *Config) { c.Retries = -1 })
	if _, err := p.Send(t.Context(), msgOf("one", "x")); err != nil {
		t.Fatal(err)
	}
	f := p.topics.get("t").fan.Load()
	b.setScript(func(_ int, h batch.Header) *protocol.Error {
		if h.Queue == f.ofGroup("one").ID {
			return protocol.Errorf(protocol.InvalidArgument, "scripted")
		}
		return nil
	})
	two := ""
	for i := 0; two == "" || f.ofGroup(two) == f.ofGroup("one"); i++ {
		two = fmt.Sprint(i)
	}
	rs, err := p.SendBatch(t.Context(), []*message.Message{msgOf(two, "x"), msgOf("one", "y"), msgOf(two, "z")})
	if !errors.Is(err, ErrInvalidArgument) || len(rs) != 3 || rs[0].StoreTime.IsZero() || !rs[1].StoreTime.IsZero() ||
		rs[1].MessageID.IsZero() || rs[2].StoreTime.IsZero() {
		t.Fatalf("got %v, %v", rs, err)
	}
}

func TestBuffer_IsBounded(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	for _, policy := range []OnFull{Fail, Block} {
		b.setScript(nil)
		p := newProducer(t, s, func(c *Config) {
			c.MaxBufferedBytes, c.OnFull, c.SendTimeout = 10_000, policy, 2*time.Second
		})
		if _, err := p.Send(t.Context(), msg("first")); err != nil {
			t.Fatal(err)
		}
		b.setScript(firstN(1<<30, errSilence))
		results := make(chan error, 100)
		accepted, full := 0, 0
		for range 12 {
			p.SendAsync(t.Context(), msg(strings.Repeat("x", 1000)), func(_ Receipt, err error) { results <- err })
		}
		for range 12 {
			if err := <-results; errors.Is(err, ErrBufferFull) {
				full++
			} else if err != nil {
				accepted++
			}
		}
		if policy == Fail && (accepted != 8 || full != 4) {
			t.Errorf("fail: got %d accepted and %d refused, want 8 and 4", accepted, full)
		}
		if used := p.budget.used.Load(); used != 0 {
			t.Errorf("policy %d: got %d bytes in use at the end", policy, used)
		}
	}
}

func TestClose_Flushes(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	p := newProducer(t, s, nil)
	var calls sync.WaitGroup
	const n = 5000
	calls.Add(n)
	for i := range n {
		p.SendAsync(t.Context(), msg(fmt.Sprint(i)), func(_ Receipt, err error) {
			if err != nil {
				t.Errorf("message %d: %v", i, err)
			}
			calls.Done()
		})
	}
	if err := p.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	calls.Wait()
	if got := len(b.bodies(-1)); got != n {
		t.Errorf("got %d messages, want %d", got, n)
	}
	if _, err := p.Send(t.Context(), msg("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
	if err := p.SendOneway(t.Context(), msg("x")); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v, want %v", err, ErrClosed)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("second close: %v", err)
	}
}

func TestClose_FailsWhatIsLeft(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 1)
	p := newProducer(t, s, nil)
	if _, err := p.Send(t.Context(), msg("first")); err != nil {
		t.Fatal(err)
	}
	b.setScript(firstN(1<<30, errSilence))
	results := make(chan error, 2)
	p.SendAsync(t.Context(), msg("under way"), func(_ Receipt, err error) { results <- err })
	eventually(t, "the batch is there", func() bool { return b.batches() == 1 })
	p.SendAsync(t.Context(), msg("waits"), func(_ Receipt, err error) { results <- err })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	if err := <-results; !errors.Is(err, ErrClosed) || !errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("under way: got %v, want closed with an unknown outcome", err)
	}
	if err := <-results; !errors.Is(err, ErrClosed) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("waiting: got %v, want closed", err)
	}
	if used := p.budget.used.Load(); used != 0 {
		t.Errorf("got %d bytes in use at the end", used)
	}
}

// Every callback is called once, whatever happens at the same time.
func TestClose_DuringSends(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 4)
	b.setScript(func(n int, _ batch.Header) *protocol.Error {
		if n%5 == 4 {
			return &protocol.Error{Code: protocol.Busy, RetryAfterMillis: 1}
		}
		return nil
	})
	for _, hurry := range []bool{false, true} {
		p := newProducer(t, s, func(c *Config) { c.MaxBufferedBytes = 20_000 })
		var mu sync.Mutex
		calls := map[int]int{}
		begun := make(chan struct{})
		var senders sync.WaitGroup
		for g := range 4 {
			senders.Go(func() {
				for i := range 3000 {
					if i == 500 && g == 0 {
						close(begun)
					}
					p.SendAsync(t.Context(), msg("x"), func(_ Receipt, err error) {
						mu.Lock()
						defer mu.Unlock()
						calls[g*3000+i]++
						if err != nil && !errors.Is(err, ErrClosed) {
							t.Errorf("got %v", err)
						}
					})
				}
			})
		}
		<-begun
		ctx, cancel := context.WithCancel(t.Context())
		if hurry {
			cancel()
		}
		if err := p.Close(ctx); err != nil && !hurry {
			t.Error(err)
		}
		cancel()
		senders.Wait()
		if len(calls) != 12000 {
			t.Errorf("got %d callbacks, want 12000", len(calls))
		}
		for i, n := range calls {
			if n != 1 {
				t.Fatalf("message %d: got %d callbacks", i, n)
			}
		}
		if used := p.budget.used.Load(); used != 0 {
			t.Errorf("got %d bytes in use at the end", used)
		}
	}
}

func TestCallback_MaySend(t *testing.T) {
	s := startSite(t)
	b := s.broker("a", 2)
	p := newProducer(t, s, func(c *Config) { c.MaxBufferedBytes = 2000 })
	done := make(chan struct{})
	var again func(n int) func(Receipt, error)
	again = func(n int) func(Receipt, error) {
		return func(_ Receipt, err error) {
			if err != nil || n == 0 {
				if err != nil {
					t.Error(err)
				}
				close(done)
				return
			}
			if _, err := p.Send(t.Context(), msg("sync")); err != nil {
				t.Error(err)
			}
			p.SendAsync(t.Context(), msg("async"), again(n-1))
		}
	}
	p.SendAsync(t.Context(), msg("first"), again(20))
	<-done
	if got := len(b.bodies(-1)); got != 41 {
		t.Errorf("got %d messages, want 41", got)
	}
}

func TestSend_NoServerAtAll(t *testing.T) {
	s := startSite(t)
	p := newProducer(t, s, func(c *Config) {
		c.NameServers, c.SendTimeout = []string{"127.0.0.1:1"}, 100*time.Millisecond
	})
	_, err := p.Send(t.Context(), msg("x"))
	if !errors.Is(err, ErrUnreachable) || !errors.Is(err, ErrNotSent) || errors.Is(err, ErrUnknownOutcome) {
		t.Errorf("got %v, want unreachable and not sent", err)
	}
}
