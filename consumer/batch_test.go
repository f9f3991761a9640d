package consumer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rmqio/rmq/message"
)

func TestSplit(t *testing.T) {
	fault := errors.New("no funds")
	for name, c := range map[string]struct {
		err  error
		want int
		rest error
	}{
		"all":                {nil, 3, nil},
		"none":               {fault, 0, fault},
		"the first two":      {fmt.Errorf("x: %w", Processed(2, fault)), 2, fault},
		"none, said so":      {Processed(0, fault), 0, fault},
		"less than none":     {Processed(-1, fault), 0, fault},
		"all, with an error": {Processed(3, fault), 3, nil},
		"more than all":      {Processed(100, fault), 3, nil},
		"rejected":           {Processed(1, ErrReject), 1, ErrReject},
	} {
		n, rest := split(c.err, 3)
		if n != c.want || !errors.Is(rest, c.rest) || (rest == nil) != (c.rest == nil) {
			t.Errorf("%s: got %d and %v, want %d and %v", name, n, rest, c.want, c.rest)
		}
	}
	if text := Processed(2, nil).Error(); !strings.Contains(text, "2 messages") {
		t.Errorf("without an error: got %q", text)
	}
}

// batches runs a handler on what is in a buffer; what it was given comes out as text.
type batches struct {
	buffer *buffer
	calls  chan string
	end    func()
}

func runBatches(t *testing.T, cfg Config, handle func(ds []*Delivery) error) *batches {
	t.Helper()
	r := &batches{calls: make(chan string, 100)}
	c, err := NewPushBatch(t.Context(), cfg, func(_ context.Context, ds []*Delivery) error {
		var text []string
		for _, d := range ds {
			text = append(text, fmt.Sprintf("%d.%d", d.QueueOffset, d.Attempt))
		}
		r.calls <- strings.Join(text, " ")
		return handle(ds)
	})
	if err != nil {
		t.Fatal(err)
	}
	r.buffer = newBuffer(t.Context(), c.settings.order, bounds{count: 10, bytes: 1000})
	done := make(chan struct{})
	go func() { defer close(done); c.work(t.Context(), &engine{buffer: r.buffer, settings: c.settings}) }()
	r.end = func() { r.buffer.close(); <-done }
	return r
}

func (r *batches) want(t *testing.T, calls ...string) {
	t.Helper()
	for _, want := range calls {
		if got := <-r.calls; got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	}
}

func orderedConfig() Config {
	cfg := validConfig()
	cfg.Ordered, cfg.BatchSize = true, 4
	return cfg
}

// A message in the middle fails until it is alone: order holds, and only it has more
// attempts.
func TestBatch_OrderedFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		r := runBatches(t, orderedConfig(), func(ds []*Delivery) error {
			for i, d := range ds {
				if d.QueueOffset == 2 && d.Attempt < 3 {
					return Processed(i, errors.New("not yet"))
				}
			}
			return nil
		})
		admitTo(r.buffer, holdIn(r.buffer, queueA, nil), 6)
		r.want(t, "0.1 1.1 2.1 3.1", "2.2", "2.3", "3.1 4.1 5.1")
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("it took %v, want two pauses of 1s", took)
		}
		synctest.Wait()
		if got := r.buffer.uncommitted(queueA); len(got) != 1 || got[0].offset != 6 {
			t.Errorf("finished: got %v, want 6", got)
		}
		r.end()
	})
}

// A handler that does not say how far it came: the first is tried alone.
func TestBatch_PanicOfAHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := false
		r := runBatches(t, orderedConfig(), func([]*Delivery) error {
			if !failed {
				failed = true
				panic("boom")
			}
			return nil
		})
		admitTo(r.buffer, holdIn(r.buffer, queueA, nil), 3)
		r.want(t, "0.1 1.1 2.1", "0.2", "1.1 2.1")
		r.end()
	})
}

// ConsumeTimeout and Extend are the batch's.
func TestBatch_Timeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := orderedConfig()
		cfg.ConsumeTimeout = time.Minute
		start := time.Now()
		c, err := NewPushBatch(t.Context(), cfg, func(ctx context.Context, ds []*Delivery) error {
			if !ds[1].Extend(2 * time.Minute) {
				t.Error("not extended")
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := c.callBatch(t.Context(), []*Delivery{{}, {}}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 2*time.Minute {
			t.Errorf("got %v after %v, want the end of its time after 2m", err, time.Since(start))
		}
	})
}

func TestNewPushBatch_Faults(t *testing.T) {
	cfg := validConfig()
	for _, n := range []int{-1, MaxBatchSize + 1, 1 << 31} {
		cfg.BatchSize = n
		if _, err := NewPushBatch(t.Context(), cfg, nil); !errors.Is(err, ErrIllegalConfig) || !strings.Contains(err.Error(), "batch size") || !strings.Contains(err.Error(), "no handler") {
			t.Errorf("batch size %d: got %v, want it and the handler to be named", n, err)
		}
	}
}

// The batch is held back as single messages are.
func TestBatch_Rate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := runBatches(t, orderedConfig(), func([]*Delivery) error { return nil })
		r.buffer.setPace(2, 2)
		start := time.Now()
		admitTo(r.buffer, holdIn(r.buffer, queueA, nil), 5)
		r.want(t, "0.1 1.1", "2.1", "3.1", "4.1")
		if took := time.Since(start); took != 1500*time.Millisecond {
			t.Errorf("it took %v, want 1.5s", took)
		}
		r.end()
	})
}

// A batch has messages of one queue and of one priority or above, whose replies go
// where those of single ones do; who takes it wakes the next.
func TestBufferTakeBatch(t *testing.T) {
	b := newTestBuffer(t, orderGroups)
	b.replies = &replier{}
	for _, queue := range []message.Queue{queueA, queueB} {
		items := stored(0, 4)
		for i := range items {
			items[i].Priority = []int{3, 5, 1, 1}[i]
		}
		b.admit(pulled{queue: holdIn(b, queue, nil), items: items, next: 4, bytes: 10})
	}
	var got []string
	for range 4 {
		receive(t, "the token", b.ready)
		items, _, _, err := b.tryBatch(10, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			if it.queue != items[0].queue || it.replies != b.replies {
				t.Fatalf("a message of %v with replies by %v, in a batch of %v", it.queue.queue, it.replies, items[0].queue.queue)
			}
		}
		got = append(got, fmt.Sprint(items[0].queue.queue.ID, offsets(items)))
	}
	if want := []string{"0 [0 1]", "1 [0 1]", "0 [2 3]", "1 [2 3]"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if len(b.ready) != 0 {
		t.Error("somebody is woken for nothing")
	}
}
