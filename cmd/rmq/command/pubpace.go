package command

import (
	"context"
	"time"
)

// pace spaces messages evenly: each has its time, whenever the one before was
// sent, so that a pause is made up for.
type pace struct {
	interval time.Duration // 0: no pace
	next     time.Time
	timer    *time.Timer
}

func newPace(rate float64) *pace {
	p := &pace{timer: time.NewTimer(0)}
	if rate > 0 {
		p.interval = time.Duration(float64(time.Second) / rate)
	}
	return p
}

// wait returns when the next message is due; false when ctx has ended before.
func (p *pace) wait(ctx context.Context) bool {
	left := p.take(time.Now())
	if left <= 0 {
		return true
	}
	p.timer.Reset(left)
	select {
	case <-p.timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// take gives the next message its time, and returns how far ahead that is.
func (p *pace) take(now time.Time) time.Duration {
	if p.interval == 0 {
		return 0
	}
	if p.next.IsZero() {
		p.next = now
	}
	left := p.next.Sub(now)
	p.next = p.next.Add(p.interval)
	return left
}

func (p *pace) stop() { p.timer.Stop() }
