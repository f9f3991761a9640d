package command

import (
	"context"
	"sync"
	"time"
)

// benchSchedule says when the messages of one client are due. In a closed loop
// that is when the client asks. With a rate the times are fixed from the start,
// whether the client is ready or not: latency that counts from there has the
// waiting in it.
type benchSchedule struct {
	clock    func() time.Duration
	interval float64       // nanoseconds between two messages; 0: a closed loop
	warmup   time.Duration // what is taken before is not counted
	end      time.Duration // nothing is due after; 0: no end

	mu     sync.Mutex
	due    int64         // messages that were due so far
	left   int           // counted messages still to come; -1: any number
	behind time.Duration // how late the last message was taken
}

// turn is a message, or several that go together.
type turn struct {
	at      time.Duration // when it is due
	n       int
	counted bool
}

// next takes the next n messages, or what is left of them, and waits until the
// first is due. False: there are no more.
func (s *benchSchedule) next(ctx context.Context, n int) (turn, bool) {
	t, ok := s.take(n)
	if !ok {
		return t, false
	}
	if wait := t.at - s.clock(); s.interval > 0 && wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return t, false
		}
	}
	return t, ctx.Err() == nil
}

func (s *benchSchedule) take(n int) (turn, bool) {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	t := turn{at: now, n: n}
	if s.interval > 0 {
		t.at = time.Duration(float64(s.due) * s.interval)
	}
	if s.end > 0 && max(t.at, now) >= s.end || s.left == 0 {
		return t, false
	}
	t.counted = max(t.at, now) >= s.warmup
	if t.counted && s.left > 0 {
		t.n = min(n, s.left)
		s.left -= t.n
	}
	s.due += int64(t.n)
	s.behind = max(now-t.at, 0)
	return t, true
}

// lateness is how late the last message was taken.
func (s *benchSchedule) lateness() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.behind
}
