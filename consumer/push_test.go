package consumer

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func newTestPush(t *testing.T, cfg Config, h Handler) *Push {
	t.Helper()
	c, err := NewPush(t.Context(), cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPanicOfTheHandlerIsAnErrorWithItsStack(t *testing.T) {
	c := newTestPush(t, validConfig(), func(context.Context, *Delivery) error { panic("boom") })
	err := c.call(t.Context(), &Delivery{})
	if err == nil || !strings.Contains(err.Error(), "boom") || !strings.Contains(err.Error(), "push_test.go") {
		t.Fatalf("got %v, want the panic and where it is", err)
	}
}

func TestConsumeTimeoutEndsTheHandlersContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := validConfig()
		cfg.ConsumeTimeout = time.Minute
		c := newTestPush(t, cfg, func(ctx context.Context, _ *Delivery) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		if err := c.call(t.Context(), &Delivery{}); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Fatalf("got %v after %v", err, time.Since(start))
		}
	})
}

// The handlers of one buffer: what failed is tried again after 1 s each time, and
// holds up its message group, not the others.
func TestHandlersRetryInPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		type call struct {
			offset int64
			at     time.Duration
		}
		calls := make(chan call, 10)
		c := newTestPush(t, validConfig(), func(_ context.Context, d *Delivery) error {
			calls <- call{d.QueueOffset, time.Since(start)}
			if d.QueueOffset == 0 && d.Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		b := newBuffer(t.Context(), orderGroups, bounds{count: 10, bytes: 1000})
		admitTo(b, holdIn(b, queueA, nil), 3, "g", "", "g")
		done := make(chan struct{})
		go func() { defer close(done); c.handle(t.Context(), &engine{buffer: b}) }()
		for _, want := range []call{{0, 0}, {1, 0}, {0, time.Second}, {0, 2 * time.Second}, {2, 2 * time.Second}} {
			if got := <-calls; got != want {
				t.Fatalf("got %v, want %v", got, want)
			}
		}
		synctest.Wait()
		if got := b.uncommitted(queueA); len(got) != 1 || got[0].offset != 3 {
			t.Fatalf("uncommitted: got %v, want 3", got)
		}
		b.close()
		<-done
	})
}
