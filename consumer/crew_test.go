package consumer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
)

func TestCrew_IsAsLargeAsItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c crew
		c.resize(3)
		at := make(chan int, 100)
		working := 0
		ctx, cancel := context.WithCancel(t.Context())
		c.begin(ctx, func(ctx context.Context) {
			at <- 1
			<-ctx.Done()
			at <- -1
		})
		for _, want := range []int{3, 5, 1, 4} {
			c.resize(want)
			synctest.Wait()
			for len(at) > 0 {
				working += <-at
			}
			if working != want {
				t.Fatalf("got %d at work, want %d", working, want)
			}
		}
		cancel()
		c.end()
		for len(at) > 0 {
			working += <-at
		}
		c.resize(9)
		synctest.Wait()
		if working != 0 || len(at) != 0 {
			t.Fatalf("after the end %d are at work, and %d begin", working, len(at)/2)
		}
	})
}

// A handler too many ends with its message, which counts; the others go on.
func TestSetConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, leave := make(chan int64, 100), make(chan struct{})
		cfg := validConfig()
		cfg.Concurrency = 2
		c := newTestPush(t, cfg, func(_ context.Context, d *Delivery) error {
			running <- d.QueueOffset
			<-leave
			return nil
		})
		b := newBuffer(t.Context(), orderGroups, bounds{count: 10, bytes: 1000})
		e := &engine{buffer: b}
		admitTo(b, holdIn(b, queueA, nil), 10)
		c.crew.begin(t.Context(), func(ctx context.Context) { c.work(ctx, e) })
		for i, step := range []struct{ size, begun int }{{2, 2}, {4, 2}, {1, 0}} {
			if err := c.SetConcurrency(step.size); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if len(running) != step.begun {
				t.Fatalf("step %d: %d handlers began, want %d", i, len(running), step.begun)
			}
			for len(running) > 0 {
				<-running
			}
		}
		for range 4 {
			leave <- struct{}{}
		}
		synctest.Wait()
		if len(running) != 1 {
			t.Fatalf("%d handlers began after three were dismissed, want 1", len(running))
		}
		if got := b.uncommitted(queueA); len(got) != 1 || got[0].offset != 4 {
			t.Fatalf("finished: got %v, want 4", got)
		}
		b.close()
		close(leave)
		c.crew.end()
		for _, n := range []int{0, -1, MaxConcurrency + 1} {
			if err := c.SetConcurrency(n); !errors.Is(err, ErrIllegalConfig) {
				t.Errorf("concurrency %d: got %v, want ErrIllegalConfig", n, err)
			}
		}
	})
}

// Those who know when a failed message is due leave before: another hands it out.
func TestHandlers_LeaveNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		attempts := make(chan int, 10)
		c := newTestPush(t, validConfig(), func(_ context.Context, d *Delivery) error {
			if attempts <- d.Attempt; d.Attempt == 1 {
				return errors.New("not yet")
			}
			return nil
		})
		b := newBuffer(t.Context(), orderGroups, bounds{count: 10, bytes: 1000})
		var leave []context.CancelFunc
		var crew sync.WaitGroup
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			leave = append(leave, cancel)
			crew.Go(func() { c.work(ctx, &engine{buffer: b}) })
			synctest.Wait() // they wait in this order
		}
		admitTo(b, holdIn(b, queueA, nil), 1, "g")
		synctest.Wait() // the first has failed it, and the second was told
		leave[0]()
		leave[1]()
		for want := range 2 {
			if got := <-attempts; got != want+1 {
				t.Fatalf("got attempt %d, want %d", got, want+1)
			}
		}
		b.close()
		crew.Wait()
		leave[2]()
	})
}
