package producer

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// sweeper ends the sends whose time is over. It sleeps until the earliest
// deadline that it knows of; there is no timer for each message.
type sweeper struct {
	at   atomic.Int64  // when it wakes by itself
	wake chan struct{} // an earlier deadline came; holds one
}

// watch makes sure that the sweeper is awake at the deadline.
func (s *sweeper) watch(deadline int64) {
	if deadline >= s.at.Load() {
		return
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (p *Producer) runSweeper(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next := p.sweep()
		p.sweeper.at.Store(next)
		var timed <-chan time.Time
		if next != math.MaxInt64 {
			timer.Reset(time.Duration(next - p.clock()))
			timed = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-timed:
		case <-p.sweeper.wake:
		}
	}
}

// sweep fails what has expired and returns the next deadline. While it looks,
// every new deadline wakes it again.
func (p *Producer) sweep() (next int64) {
	p.sweeper.at.Store(math.MaxInt64)
	now := p.clock()
	next = math.MaxInt64
	for _, q := range p.topics.allQueues() {
		failures, at := q.expire(now)
		next = min(next, at)
		p.fail(q, failures)
	}
	return next
}
