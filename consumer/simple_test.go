package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestNewSimple_NamesEveryFault(t *testing.T) {
	_, err := NewSimple(t.Context(), SimpleConfig{
		NameServers: []string{"127.0.0.1:1"}, Group: "%", Concurrency: -1, Invisible: time.Millisecond, ShutdownTimeout: -1,
	})
	for _, want := range []string{"group", "no subscription", "concurrency -1", "invisible time of 1ms", "shutdown timeout"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// What is not allowed is refused before anything is sent.
func TestSimple_IllegalArguments(t *testing.T) {
	r := newSimpleRig(t)
	r.broker.pop = func(context.Context, *protocol.PopRequest) (*protocol.PopResponse, error) {
		t.Error("a pop was sent")
		return nil, errors.New("no")
	}
	for _, c := range []struct {
		max       int
		invisible time.Duration
	}{
		{0, time.Second}, {-1, time.Second}, {MaxReceive + 1, time.Second}, {1 << 31, time.Second},
		{1, 0}, {1, MinInvisible - 1}, {1, MaxInvisible + 1}, {1, 365 * 24 * time.Hour}, {1, -time.Second},
	} {
		if _, err := r.Receive(t.Context(), c.max, c.invisible); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("%d for %v: got %v", c.max, c.invisible, err)
		}
	}
	var made Popped
	if err := made.Ack(t.Context()); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("ack of what was not received: got %v", err)
	}
	if err := made.Reject(t.Context(), nil); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("reject of what was not received: got %v", err)
	}
	if err := r.Ack(t.Context(), nil); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("ack of nil: got %v", err)
	}
	foreign := &Popped{owner: &Simple{}}
	if err := r.Ack(t.Context(), foreign); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("ack of a foreign message: got %v", err)
	}
	own := &Popped{owner: r.Simple, queue: message.Queue{Broker: fakeName}}
	for _, d := range []time.Duration{0, MaxInvisible + 1} {
		if err := own.ChangeInvisible(t.Context(), d); !errors.Is(err, protocol.InvalidArgument) {
			t.Errorf("change to %v: got %v", d, err)
		}
	}
	if heard := r.heard(); len(heard) != 0 {
		t.Errorf("the broker was told %v", heard)
	}
	if err := r.Simple.Run(t.Context(), nil); !errors.Is(err, ErrIllegalConfig) {
		t.Errorf("run without a handler: got %v", err)
	}
}

func TestSimple_Receive(t *testing.T) {
	r := newSimpleRig(t)
	before := time.Now()
	r.hand(5, 2, func(q *protocol.PoppedQueue) { q.Messages[1].Attempt = 3 })
	ps := r.receive(10, time.Minute)
	if len(ps) != 2 || string(ps[0].Body) != "5" || ps[0].Attempt != 1 || ps[1].Attempt != 3 || ps[1].QueueOffset != 6 {
		t.Fatalf("got %+v", ps)
	}
	if u := ps[0].InvisibleUntil(); u.Before(before.Add(time.Minute)) || u.After(time.Now().Add(time.Minute)) {
		t.Errorf("invisible until %v", u)
	}
	if err := ps[0].Ack(t.Context()); err != nil {
		t.Error(err)
	}
	if err := ps[1].ChangeInvisible(t.Context(), time.Hour); err != nil {
		t.Error(err)
	}
	if left := time.Until(ps[1].InvisibleUntil()); left < 59*time.Minute || left > time.Hour {
		t.Errorf("invisible for %v more", left)
	}
	if got := fmt.Sprint(r.heard()); got != "[0s[5] 1h0m0s[6]]" {
		t.Errorf("the broker was told %v", got)
	}
	if f := r.heard()[0].queues[0]; f.Fence != 6 || f.Topic != "t" || f.Queue != 0 {
		t.Errorf("the handle is %+v", f)
	}
}

func TestSimple_EndsWithItsContextAndWithClose(t *testing.T) {
	r := newSimpleRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Receive(ctx, 1, time.Second); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	got := make(chan error, 1)
	go func() {
		_, err := r.Receive(t.Context(), 1, time.Second)
		got <- err
	}()
	eventually(t, "one waits", func() bool { r.shelf.mu.Lock(); defer r.shelf.mu.Unlock(); return len(r.shelf.waiting) == 1 })
	r.close()
	if err := receive(t, "the end", got); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	receive(t, "the end", r.Ended())
	if err := r.Simple.Run(t.Context(), func(context.Context, *Delivery) error { return nil }); !errors.Is(err, ErrClosed) {
		t.Errorf("run: got %v", err)
	}
}

func TestSimple_EndsWhenTheGroupRefusesIt(t *testing.T) {
	r := newSimpleRig(t)
	conflict := protocol.Errorf(protocol.Conflict, "others subscribe otherwise")
	r.refused(client.Refusal{Err: conflict})
	if _, err := r.Receive(t.Context(), 1, time.Minute); !errors.Is(err, protocol.Conflict) || errors.Is(err, ErrRefused) {
		t.Errorf("for now: got %v", err)
	}
	r.hand(0, 2)
	r.receive(1, time.Minute)
	r.refused(client.Refusal{Err: conflict, Final: true})
	receive(t, "the end", r.Ended())
	if _, err := r.Receive(t.Context(), 1, time.Minute); !errors.Is(err, ErrRefused) || !errors.Is(err, protocol.Conflict) {
		t.Errorf("for good: got %v", err)
	}
	if err := r.Simple.Run(t.Context(), func(context.Context, *Delivery) error { return nil }); !errors.Is(err, ErrRefused) {
		t.Errorf("run: got %v", err)
	}
	r.eventuallyHeard("[10ms[1]]") // what was kept is others'
}

// What came and was not asked for goes to others at once.
func TestSimple_CloseGivesBack(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 3)
	if ps := r.receive(1, time.Minute); len(ps) != 1 {
		t.Fatalf("got %d", len(ps))
	}
	r.close()
	if got := fmt.Sprint(r.heard()); got != "[10ms[1 2]]" && got != "[10ms[1] 10ms[2]]" { // in one request, unless the first is on its way
		t.Errorf("the broker was told %v", got)
	}
	r.broker.nobody()
}

// What is kept is returned by the next Receive, unless half of its time is over: then
// it goes to others.
func TestSimple_KeepsWhatIsFresh(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 3)
	first := r.receive(1, time.Hour)[0]
	if got := offsetsOf(r.receive(1, time.Hour)); !slices.Equal(got, []int64{1}) {
		t.Errorf("got %v", got)
	}
	r.shelf.mu.Lock()
	r.shelf.kept[0].hide(first.InvisibleUntil().Add(-31 * time.Minute))
	r.shelf.mu.Unlock()
	r.hand(5, 1)
	if got := offsetsOf(r.receive(1, time.Hour)); !slices.Equal(got, []int64{5}) {
		t.Errorf("got %v", got)
	}
	r.eventuallyHeard("[10ms[2]]")
}

// An answer that comes while the consumer closes is given back.
func TestSimple_CloseGivesBackWhatComesLate(t *testing.T) {
	r := newSimpleRig(t)
	asked, closing := make(chan struct{}), make(chan struct{})
	q := poppedOf(0, 7, message.Message{Topic: "t"})
	r.broker.pop = func(context.Context, *protocol.PopRequest) (*protocol.PopResponse, error) {
		close(asked)
		<-closing
		return &protocol.PopResponse{Queues: []protocol.PoppedQueue{q}}, nil
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := r.Receive(ctx, 1, time.Minute)
		gone <- err
	}()
	receive(t, "the pop", asked)
	cancel()
	receive(t, "the end of receive", gone)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		r.close()
	}()
	eventually(t, "it closes", r.closed.Load)
	close(closing)
	receive(t, "the end", closed)
	if got := fmt.Sprint(r.heard()); got != "[10ms[7]]" {
		t.Errorf("the broker was told %v", got)
	}
}

func TestSimple_HandleExpired(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 4)
	ps := r.receive(4, time.Minute)
	r.replies(func(told) (*protocol.AckResponse, error) {
		return &protocol.AckResponse{Queues: []protocol.AckedQueue{{Expired: []int64{1, 2}}}}, nil
	})
	if err := ps[0].Ack(t.Context()); err != nil {
		t.Error(err)
	}
	err := ps[1].Ack(t.Context())
	var known *Error
	if !errors.Is(err, ErrHandleExpired) || !errors.As(err, &known) || known.Topic != "t" || known.Broker != fakeName || known.Retryable {
		t.Errorf("got %v", err)
	}
	if err := ps[2].Reject(t.Context(), nil); !errors.Is(err, ErrHandleExpired) {
		t.Errorf("reject: got %v", err) // and nothing became a dead letter
	}
	if err := r.Ack(t.Context(), ps...); !errors.Is(err, ErrHandleExpired) || strings.Count(err.Error(), "handed out again") != 2 {
		t.Errorf("all: got %v", err)
	}
}

func TestSimple_RefusalOfAQueue(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 1)
	p := r.receive(1, time.Minute)[0]
	r.replies(func(told) (*protocol.AckResponse, error) {
		return &protocol.AckResponse{Queues: []protocol.AckedQueue{{Err: protocol.Errorf(protocol.NotFound, "forged")}}}, nil
	})
	if err := p.Ack(t.Context()); !errors.Is(err, protocol.NotFound) {
		t.Errorf("got %v", err)
	}
}

// A broker that is away is asked again, as long as that makes sense.
func TestSimple_AcksAreRepeated(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 2)
	ps := r.receive(2, time.Minute)
	r.replies(func(told) (*protocol.AckResponse, error) {
		if len(r.heard()) < 3 {
			return nil, protocol.Errorf(protocol.Unavailable, "away")
		}
		return &protocol.AckResponse{Queues: make([]protocol.AckedQueue, 1)}, nil
	})
	if err := ps[0].Ack(t.Context()); err != nil {
		t.Error(err)
	}
	if n := len(r.heard()); n != 3 {
		t.Errorf("it was asked %d times", n)
	}
	ps[1].hide(time.Now())
	r.replies(func(told) (*protocol.AckResponse, error) { return nil, protocol.Errorf(protocol.Unavailable, "away") })
	if err := ps[1].Ack(t.Context()); !errors.Is(err, protocol.Unavailable) {
		t.Errorf("after the invisible time: got %v", err)
	}
	if n := len(r.heard()); n != 4 {
		t.Errorf("it was asked %d times", n)
	}
}

// Acks that come while one is under way go together, each kind on its own.
func TestSimple_AcksGather(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 10)
	ps := r.receive(10, time.Minute)
	first, rest := make(chan struct{}), make(chan struct{})
	r.replies(func(q told) (*protocol.AckResponse, error) {
		if slices.Equal(q.offsets(), []int64{0}) {
			close(first)
			<-rest
		}
		return &protocol.AckResponse{Queues: make([]protocol.AckedQueue, len(q.queues))}, nil
	})
	acked := make(chan error, len(ps)+1)
	ack := func(p *Popped) { go func() { acked <- p.Ack(t.Context()) }() }
	ack(ps[0])
	receive(t, "the first ack", first)
	for _, p := range ps[1:] {
		ack(p)
	}
	ack(ps[9]) // twice
	key := telling{broker: fakeName}
	eventually(t, "all wait", func() bool {
		r.settler.mu.Lock()
		defer r.settler.mu.Unlock()
		return len(r.settler.waiting[key]) == 10
	})
	close(rest)
	for range cap(acked) {
		if err := receive(t, "ack", acked); err != nil {
			t.Error(err)
		}
	}
	if got := fmt.Sprint(r.heard()); got != "[0s[0] 0s[1 2 3 4 5 6 7 8 9]]" {
		t.Errorf("the broker was told %v", got)
	}
}

func TestSimple_ContextOfAck(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 1)
	p := r.receive(1, time.Minute)[0]
	asked, rest := make(chan struct{}), make(chan struct{})
	r.replies(func(q told) (*protocol.AckResponse, error) {
		close(asked)
		<-rest
		return &protocol.AckResponse{Queues: make([]protocol.AckedQueue, len(q.queues))}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	acked := make(chan error, 1)
	go func() { acked <- p.Ack(ctx) }()
	receive(t, "the ack", asked)
	cancel()
	if err := receive(t, "its end", acked); !errors.Is(err, protocol.UnknownOutcome) || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	close(rest)
	r.close()
	if err := p.Ack(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after close: got %v", err)
	}
}

// A broker that is away does not hold up the end.
func TestSimple_CloseDoesNotWaitForEver(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 1)
	p := r.receive(1, time.Hour)[0]
	r.replies(func(told) (*protocol.AckResponse, error) { return nil, protocol.Errorf(protocol.Unavailable, "away") })
	acked := make(chan error, 1)
	go func() { acked <- p.Ack(t.Context()) }()
	eventually(t, "it was asked", func() bool { return len(r.heard()) > 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := receive(t, "the end of the ack", acked); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A queue that cannot be had is told of once, and the others go on.
func TestSimple_FaultOfAQueue(t *testing.T) {
	r := newSimpleRig(t)
	conflict := protocol.PoppedQueue{Queue: 1, Err: protocol.Errorf(protocol.Conflict, "another has it")}
	for range 3 {
		r.answers <- &protocol.PopResponse{Queues: []protocol.PoppedQueue{conflict}}
	}
	_, err := r.Receive(t.Context(), 1, time.Minute)
	var known *Error
	if !errors.Is(err, protocol.Conflict) || !errors.As(err, &known) || known.Op != opReceive || known.Topic != "t" {
		t.Fatalf("got %v", err)
	}
	r.hand(0, 1)
	if ps := r.receive(1, time.Minute); len(ps) != 1 {
		t.Fatalf("got %d messages", len(ps))
	}
	q := poppedOf(1, 0, message.Message{Topic: "t"})
	r.answers <- &protocol.PopResponse{Queues: []protocol.PoppedQueue{q}}
	r.receive(1, time.Minute)
	r.answers <- &protocol.PopResponse{Queues: []protocol.PoppedQueue{conflict}}
	if _, err := r.Receive(t.Context(), 1, time.Minute); !errors.Is(err, protocol.Conflict) {
		t.Errorf("when it is new again: got %v", err)
	}
}

func TestSimple_DamagedAnswers(t *testing.T) {
	for name, change := range map[string]func(*protocol.PoppedQueue){
		"missing": func(q *protocol.PoppedQueue) { q.Messages[1].Offset = 9 },
		"broken":  func(q *protocol.PoppedQueue) { q.Batches[len(q.Batches)-1] ^= 1 },
	} {
		t.Run(name, func(t *testing.T) {
			r := newSimpleRig(t)
			r.hand(0, 2, change)
			if _, err := r.Receive(t.Context(), 2, time.Minute); !errors.Is(err, protocol.Damaged) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The broker goes by the hash of a tag; what does not match exactly is finished.
func TestSimple_FiltersExactly(t *testing.T) {
	r := newSimpleRig(t, func(c *SimpleConfig) { c.Subscriptions[0].Tag = "a" })
	q := poppedOf(0, 0, message.Message{Topic: "t", Tag: "a"}, message.Message{Topic: "t", Tag: "b"}, message.Message{Topic: "t", Tag: "a"})
	asked := make(chan *protocol.PopRequest, 1)
	r.broker.pop = func(_ context.Context, p *protocol.PopRequest) (*protocol.PopResponse, error) {
		select {
		case asked <- p:
			return &protocol.PopResponse{Queues: []protocol.PoppedQueue{q}}, nil
		default:
			return nil, protocol.Errorf(protocol.Unavailable, "that was all")
		}
	}
	if got := offsetsOf(r.receive(3, time.Minute)); !slices.Equal(got, []int64{0, 2}) {
		t.Errorf("got %v", got)
	}
	eventually(t, "the other is finished", func() bool { return fmt.Sprint(r.heard()) == "[0s[1]]" })
	p := <-asked
	if len(p.Filters) != 1 || p.Filters[0] != (protocol.Filter{Kind: protocol.FilterTag, Text: "a"}) || p.Topics[0].Filter != 1 {
		t.Errorf("asked for %+v", p)
	}
}

// A batch may have messages that are not handed out.
func TestSimple_OnlyWhatWasHandedOut(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 5, func(q *protocol.PoppedQueue) { q.Messages = []protocol.PoppedMessage{q.Messages[1], q.Messages[3]} })
	if got := offsetsOf(r.receive(5, time.Minute)); !slices.Equal(got, []int64{1, 3}) {
		t.Errorf("got %v", got)
	}
}

func TestSimple_GoesOnAfterARestart(t *testing.T) {
	r := newSimpleRig(t)
	r.hand(0, 1)
	r.receive(1, time.Minute)
	r.broker.restart()
	r.hand(1, 1)
	if got := offsetsOf(r.receive(1, time.Minute)); !slices.Equal(got, []int64{1}) {
		t.Errorf("got %v", got)
	}
}

// The wait at the broker is no longer than somebody is there to take what comes.
func TestSimple_WaitOfAPop(t *testing.T) {
	r := newSimpleRig(t)
	waits := make(chan int64, 10)
	r.broker.pop = func(_ context.Context, p *protocol.PopRequest) (*protocol.PopResponse, error) {
		waits <- p.WaitMillis
		return nil, protocol.Errorf(protocol.Unavailable, "away")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	go func() { _, _ = r.Receive(ctx, 1, time.Minute) }()
	if w := receive(t, "a pop", waits); w > 5000 || w < 1 {
		t.Errorf("waits for %d ms", w)
	}
}

func TestSimple_Compressed(t *testing.T) {
	r := newSimpleRig(t)
	m := message.Message{Topic: "t", Body: []byte("not zlib"), Compression: message.Zlib, OriginalBytes: 100}
	r.answers <- &protocol.PopResponse{Queues: []protocol.PoppedQueue{poppedOf(0, 0, m)}}
	ps := r.receive(1, time.Minute)
	if len(ps) != 1 || ps[0].Compression != message.Zlib {
		t.Fatalf("got %+v", ps)
	}
	if _, err := r.Receive(t.Context(), 1, time.Minute); !errors.Is(err, ErrCompressed) {
		t.Errorf("got %v", err)
	}
}
