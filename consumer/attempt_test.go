package consumer

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAttempt_EndsWithItsQueueAndKeepsTheCause(t *testing.T) {
	for _, look := range []struct {
		name  string
		early bool
	}{{"before", true}, {"after", false}} {
		t.Run(look.name, func(t *testing.T) {
			queue, lose := context.WithCancelCause(t.Context())
			a := newAttempt(queue, time.Hour)
			if look.early && a.Err() != nil {
				t.Fatalf("got %v, want none", a.Err())
			}
			lose(ErrLeaseLost)
			<-a.Done()
			if !errors.Is(a.Err(), context.Canceled) || !errors.Is(context.Cause(a), ErrLeaseLost) {
				t.Fatalf("got %v because of %v, want cancelled because of the lease", a.Err(), context.Cause(a))
			}
		})
	}
}

func TestAttempt_EndsWhenTheHandlerHasReturned(t *testing.T) {
	for _, early := range []bool{true, false} {
		a := newAttempt(t.Context(), time.Hour)
		if early {
			_ = a.Done()
		}
		a.end()
		<-a.Done()
		if !errors.Is(a.Err(), context.Canceled) {
			t.Fatalf("looked at before: %v: got %v, want cancelled", early, a.Err())
		}
	}
}

func TestAttempt_CountsFromTheStartWheneverItIsLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, start := newAttempt(t.Context(), time.Minute), time.Now()
		defer a.end()
		if at, ok := a.Deadline(); !ok || at.Sub(start) != time.Minute {
			t.Fatalf("deadline: got %v, %v, want in a minute", at, ok)
		}
		<-time.After(40 * time.Second)
		child, cancel := context.WithCancel(a)
		defer cancel()
		<-child.Done()
		if !errors.Is(child.Err(), context.DeadlineExceeded) || time.Since(start) != time.Minute {
			t.Fatalf("got %v after %v", child.Err(), time.Since(start))
		}
	})
}
