package producer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

func (b *budget) waiting() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.line)
}

func TestBudget_Fail(t *testing.T) {
	b := &budget{limit: 10}
	take := func(n int64) error { return b.acquire(t.Context(), nil, n, Fail, 0) }
	if err := take(25); err != nil {
		t.Errorf("larger than all with nothing in use: got %v", err)
	}
	if err := take(1); !errors.Is(err, ErrBufferFull) || !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want %v", err, ErrBufferFull)
	}
	b.release(25)
	if err := errors.Join(take(4), take(6)); err != nil {
		t.Errorf("got %v", err)
	}
	if err := take(1); !errors.Is(err, ErrBufferFull) {
		t.Errorf("got %v, want %v", err, ErrBufferFull)
	}
}

func TestBudget_BlockIsFair(t *testing.T) {
	b := &budget{limit: 10}
	if err := b.acquire(t.Context(), nil, 10, Block, 0); err != nil {
		t.Fatal(err)
	}
	granted := make(chan int64)
	var waiters sync.WaitGroup
	for i, n := range []int64{8, 1} {
		waiters.Go(func() {
			if err := b.acquire(t.Context(), nil, n, Block, time.Hour); err != nil {
				t.Errorf("got %v", err)
			}
			granted <- n
		})
		eventually(t, "the waiter is in line", func() bool { return b.waiting() == i+1 })
	}
	b.release(5) // enough for the second, who is not first
	if n := b.waiting(); n != 2 {
		t.Errorf("got %d in line, want 2", n)
	}
	b.release(5)
	if sum := <-granted + <-granted; sum != 9 {
		t.Errorf("got %d granted, want 9", sum)
	}
	waiters.Wait()
	if used := b.used.Load(); used != 9 {
		t.Errorf("got %d in use, want 9", used)
	}
}

func TestBudget_WaitEnds(t *testing.T) {
	b := &budget{limit: 10}
	b.used.Store(10)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	closing := make(chan struct{})
	close(closing)
	for _, tc := range []struct {
		ctx     context.Context
		closing chan struct{}
		timeout time.Duration
		want    error
	}{
		{t.Context(), nil, time.Millisecond, ErrBufferFull},
		{ended, nil, time.Hour, context.Canceled},
		{t.Context(), closing, time.Hour, ErrClosed},
	} {
		if err := b.acquire(tc.ctx, tc.closing, 1, Block, tc.timeout); !errors.Is(err, tc.want) {
			t.Errorf("got %v, want %v", err, tc.want)
		}
	}
	if b.waiting() != 0 || b.used.Load() != 10 {
		t.Errorf("got %d in line and %d in use, want 0 and 10", b.waiting(), b.used.Load())
	}
}

func TestBudget_NeverAboveLimit(t *testing.T) {
	b := &budget{limit: 100}
	var takers sync.WaitGroup
	for i := range 8 {
		takers.Go(func() {
			for range 2000 {
				if err := b.acquire(t.Context(), nil, int64(10+i), Block, time.Minute); err != nil {
					t.Errorf("got %v", err)
					return
				}
				if used := b.used.Load(); used > b.limit {
					t.Errorf("got %d in use", used)
				}
				b.release(int64(10 + i))
			}
		})
	}
	takers.Wait()
	if used := b.used.Load(); used != 0 {
		t.Errorf("got %d in use at the end", used)
	}
}

func TestEpochs_FlushWaitsForEarlierOnly(t *testing.T) {
	es := newEpochs()
	if err := es.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := es.enter()
	flushed := make(chan error, 1)
	go func() { flushed <- es.flush(t.Context()) }()
	eventually(t, "the flush has begun", func() bool { return es.current.Load() != first })
	second := es.enter()
	if first == second {
		t.Fatal("a send after the flush is in its epoch")
	}
	select {
	case <-flushed:
		t.Fatal("flushed with a send open")
	default:
	}
	first.leave(1)
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := es.flush(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	// The abandoned flush does not hide the send from the next one.
	if !slices.Contains(es.seal(), second) {
		t.Fatal("the next flush does not wait for the send")
	}
	go func() { flushed <- es.flush(t.Context()) }()
	second.leave(1)
	if err := <-flushed; err != nil {
		t.Fatal(err)
	}
}
