package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// handle runs a consumer until stop, which returns what Run did.
func (r *simpleRig) handle(h Handler) (stop func() error) {
	ctx, cancel := context.WithCancel(r.Context())
	ran := make(chan error, 1)
	go func() { ran <- r.Simple.Run(ctx, h) }()
	r.Cleanup(cancel)
	return func() error {
		r.Helper()
		cancel()
		return receive(r.T, "the end of Run", ran)
	}
}

func (r *simpleRig) eventuallyHeard(want string) {
	r.Helper()
	eventually(r.T, want, func() bool { return fmt.Sprint(r.heard()) == want })
}

func TestRun_SaysWhatBecomesOfAMessage(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		policy protocol.RetryPolicy
		want   string
	}{
		"nil":          {nil, protocol.RetryPolicy{}, "[0s[0]]"},
		"table":        {errors.New("failed"), protocol.RetryPolicy{}, "[1m0s[0]]"}, // the third step
		"exponential":  {errors.New("failed"), protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 1000}, "[4s[0]]"},
		"too soon":     {errors.New("failed"), protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 1}, "[10ms[0]]"},
		"after":        {RetryAfter(7*time.Second, errors.New("failed")), protocol.RetryPolicy{}, "[7s[0]]"},
		"at once":      {fmt.Errorf("wrapped: %w", RetryAfter(0, nil)), protocol.RetryPolicy{}, "[10ms[0]]"},
		"in a year":    {RetryAfter(365*24*time.Hour, nil), protocol.RetryPolicy{}, "[12h0m0s[0]]"},
		"rejected":     {fmt.Errorf("wrapped: %w", ErrReject), protocol.RetryPolicy{}, "[30s[0] 0s[0]]"},
		"panic":        {nil, protocol.RetryPolicy{Kind: protocol.RetryExponential}, "[20s[0]]"},
		"expired then": {fmt.Errorf("some other: %w", ErrHandleExpired), protocol.RetryPolicy{}, "[1m0s[0]]"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSimpleRig(t)
			r.broker.policy = c.policy
			back := make(chan *protocol.SendBackRequest, 1)
			r.broker.takeBack = func(b *protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
				back <- b
				return &protocol.SendBackResponse{Dead: true}, nil
			}
			r.hand(0, 1, func(q *protocol.PoppedQueue) { q.Messages[0].Attempt = 3 })
			stop := r.handle(func(context.Context, *Delivery) error {
				if name == "panic" {
					panic("oh")
				}
				return c.err
			})
			r.eventuallyHeard(c.want)
			if err := stop(); err != nil {
				t.Error(err)
			}
			if name != "rejected" {
				return
			}
			b := receive(t, "the dead letter", back)
			if !b.Dead || b.Topic != "t" || b.Queue != 0 || b.Offset != 0 || b.Attempts != 3 || b.Fence != 0 || b.Error != c.err.Error() || b.ClientID != r.client.ID() {
				t.Errorf("got %+v", b)
			}
		})
	}
}

// Reject asks again for a dead letter that a broker could not make at once.
func TestPopped_RejectIsRepeated(t *testing.T) {
	r := newSimpleRig(t)
	var asked atomic.Int32
	r.broker.takeBack = func(b *protocol.SendBackRequest) (*protocol.SendBackResponse, error) {
		switch n := asked.Add(1); {
		case b.Offset == 1:
			return nil, protocol.Errorf(protocol.NotFound, "it is gone")
		case n < 3:
			return nil, protocol.Errorf(protocol.Unavailable, "away")
		}
		return &protocol.SendBackResponse{Dead: true}, nil
	}
	r.hand(0, 2)
	ps := r.receive(2, time.Minute)
	if err := ps[0].Reject(t.Context(), nil); err != nil || asked.Load() != 3 {
		t.Errorf("got %v after %d requests", err, asked.Load())
	}
	if err := ps[1].Reject(t.Context(), nil); !errors.Is(err, protocol.NotFound) {
		t.Errorf("got %v", err)
	}
	r.eventuallyHeard("[30s[0] 0s[0] 30s[1]]") // what is no dead letter is not acknowledged
}

// No more messages are asked for than there are handlers that are free.
func TestRun_Concurrency(t *testing.T) {
	const handlers, total = 3, 50
	r := newSimpleRig(t, func(c *SimpleConfig) { c.Concurrency = handlers })
	var given, finished atomic.Int64
	r.broker.pop = func(ctx context.Context, q *protocol.PopRequest) (*protocol.PopResponse, error) {
		done := finished.Load()
		first := given.Add(q.MaxCount) - q.MaxCount
		if first+q.MaxCount-done > handlers {
			t.Errorf("asked for %d with %d in hand", q.MaxCount, first-done)
		}
		if first >= total {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		ms := make([]message.Message, q.MaxCount)
		for i := range ms {
			ms[i].Topic = "t"
		}
		return &protocol.PopResponse{Queues: []protocol.PoppedQueue{poppedOf(0, first, ms...)}}, nil
	}
	stop := r.handle(func(context.Context, *Delivery) error { finished.Add(1); return nil })
	eventually(t, "all messages", func() bool { return finished.Load() >= total })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// shortly is an invisible time that is over soon, of which half is enough to hand a
// message to its handler.
const shortly = 400 * time.Millisecond

func TestRun_Renews(t *testing.T) {
	r := newSimpleRig(t, func(c *SimpleConfig) { c.Invisible = shortly })
	r.hand(0, 1)
	free := make(chan struct{})
	stop := r.handle(func(ctx context.Context, _ *Delivery) error {
		<-free
		return ctx.Err()
	})
	eventually(t, "it is renewed", func() bool { return len(r.heard()) >= 3 })
	close(free)
	if err := stop(); err != nil {
		t.Error(err)
	}
	r.heardOnce(acknowledged)
}

// heardOnce checks that the broker was told one last word, and renewals besides: one that
// was under way may come behind it.
func (r *simpleRig) heardOnce(last time.Duration) {
	r.Helper()
	words := 0
	for _, h := range r.heard() {
		switch h.invisible {
		case last:
			words++
		case shortly:
		default:
			r.Errorf("got %v", h)
		}
	}
	if words != 1 {
		r.Errorf("%v was said %d times, want once: %v", last, words, r.heard())
	}
}

// A broker that was away for longer than the invisible time is asked again; a message
// that was handed out again meanwhile is given up.
func TestRun_LosesAMessage(t *testing.T) {
	r := newSimpleRig(t, func(c *SimpleConfig) { c.Invisible = shortly })
	r.replies(func(q told) (*protocol.AckResponse, error) {
		if len(r.heard()) < 4 {
			return nil, protocol.Errorf(protocol.Unavailable, "away")
		}
		return &protocol.AckResponse{Queues: []protocol.AckedQueue{{Expired: q.offsets()}}}, nil
	})
	r.hand(0, 1)
	ended := make(chan error, 1)
	stop := r.handle(func(ctx context.Context, _ *Delivery) error {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return nil
	})
	if err := receive(t, "the end of the context", ended); !errors.Is(err, ErrHandleExpired) {
		t.Errorf("got %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if slices.ContainsFunc(r.heard(), func(h told) bool { return h.invisible == acknowledged }) {
		t.Error("what is another's is acknowledged")
	}
}

// When the time of a handler is over its context ends, and its message is not kept any
// more, unless the handler asks for more time.
func TestRun_ConsumeTimeout(t *testing.T) {
	r := newSimpleRig(t, func(c *SimpleConfig) { c.Invisible, c.ConsumeTimeout = shortly, time.Hour })
	r.hand(0, 1)
	renewed, free := make(chan struct{}, 1), make(chan struct{})
	stop := r.handle(func(ctx context.Context, d *Delivery) error {
		<-renewed
		if !d.Extend(time.Nanosecond) {
			t.Error("it cannot be extended")
		}
		<-ctx.Done()
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || d.Extend(time.Hour) {
			t.Errorf("got %v", ctx.Err())
		}
		<-free
		return RetryAfter(time.Hour, ctx.Err())
	})
	eventually(t, "it is renewed", func() bool { return len(r.heard()) > 1 })
	signal(renewed)
	eventually(t, "nothing is renewed any more", func() bool {
		n := len(r.heard())
		<-time.After(shortly) // renewals come each half of it
		return len(r.heard()) == n
	})
	close(free)
	if err := stop(); err != nil {
		t.Error(err)
	}
	r.heardOnce(time.Hour)
}

// At the end handlers may finish, and then their contexts end.
func TestRun_Drains(t *testing.T) {
	for name, timeout := range map[string]time.Duration{"in time": time.Hour, "too late": time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			r := newSimpleRig(t, func(c *SimpleConfig) { c.ShutdownTimeout = timeout })
			r.hand(0, 1)
			entered, free := make(chan struct{}), make(chan struct{})
			stop := r.handle(func(ctx context.Context, _ *Delivery) error {
				close(entered)
				select {
				case <-free:
					return nil
				case <-ctx.Done():
					return RetryAfter(time.Minute, context.Cause(ctx))
				}
			})
			receive(t, "a message", entered)
			want := "[1m0s[0]]"
			if timeout == time.Hour {
				want = "[0s[0]]"
				close(free)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			if got := fmt.Sprint(r.heard()); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
}

func TestRun_TellsOfFaults(t *testing.T) {
	faults := make(chan error, 1)
	r := newSimpleRig(t, func(c *SimpleConfig) { c.OnError = func(err error) { faults <- err } })
	r.answers <- &protocol.PopResponse{Queues: []protocol.PoppedQueue{{Err: protocol.Errorf(protocol.Conflict, "no")}}}
	stop := r.handle(func(context.Context, *Delivery) error { return nil })
	if err := receive(t, "the fault", faults); !errors.Is(err, protocol.Conflict) {
		t.Errorf("got %v", err)
	}
	r.hand(0, 1)
	r.eventuallyHeard("[0s[0]]")
	if err := stop(); err != nil {
		t.Error(err)
	}
}
