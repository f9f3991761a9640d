package consumer

import (
	"context"
	"sync"
	"time"
)

// attempt is the context of one call of a handler, which ends after a time that the
// handler may extend, when its queue is lost, and when the handler has returned. Most
// handlers are done before they look at it: what watches the time is made for who
// does.
//
// It has a channel of its own and the method AfterFunc, which package context looks
// for: contexts that are made of it end with its error.
type attempt struct {
	queue context.Context

	mu       sync.Mutex
	deadline time.Time
	done     chan struct{} // nil: nobody has looked yet
	err      error         // set: it has ended
	timer    *time.Timer
	unwatch  func() bool // of the queue
	after    map[*func()]struct{}
}

func newAttempt(queue context.Context, timeout time.Duration) *attempt {
	return &attempt{queue: queue, deadline: time.Now().Add(timeout)}
}

// watchLocked has the attempt end by itself from now on.
func (a *attempt) watchLocked() {
	if a.done != nil {
		return
	}
	a.done = make(chan struct{})
	switch {
	case a.err != nil:
		close(a.done)
	case a.queue.Err() != nil:
		a.endLocked(a.queue.Err())
	case !time.Now().Before(a.deadline):
		a.endLocked(context.DeadlineExceeded)
	default:
		a.timer = time.AfterFunc(time.Until(a.deadline), a.expire)
		a.unwatch = context.AfterFunc(a.queue, func() { a.finish(a.queue.Err()) })
	}
}

// expire ends the attempt unless it was extended.
func (a *attempt) expire() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if left := time.Until(a.deadline); left > 0 && a.err == nil {
		a.timer.Reset(left)
		return
	}
	a.endLocked(context.DeadlineExceeded)
}

// extend moves the end to a time from now, if it is not over.
func (a *attempt) extend(by time.Duration) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if a.err != nil || a.queue.Err() != nil || !now.Before(a.deadline) {
		return false
	}
	a.deadline = now.Add(by)
	if a.timer != nil {
		a.timer.Reset(by)
	}
	return true
}

// end is called when the handler has returned.
func (a *attempt) end() { a.finish(context.Canceled) }

func (a *attempt) finish(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.endLocked(err)
}

func (a *attempt) endLocked(err error) {
	if a.err != nil {
		return
	}
	a.err = err
	if a.done != nil {
		close(a.done)
	}
	if a.timer != nil {
		a.timer.Stop()
		a.unwatch()
	}
	for f := range a.after {
		time.AfterFunc(0, *f) // they may call back
	}
	a.after = nil
}

// AfterFunc calls f once the attempt has ended, in a goroutine of its own.
func (a *attempt) AfterFunc(f func()) (stop func() bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchLocked()
	if a.err != nil {
		return time.AfterFunc(0, f).Stop
	}
	if a.after == nil {
		a.after = map[*func()]struct{}{}
	}
	a.after[&f] = struct{}{}
	return func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		_, there := a.after[&f]
		delete(a.after, &f)
		return there
	}
}

func (a *attempt) Deadline() (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.deadline, true
}

func (a *attempt) Done() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchLocked()
	return a.done
}

func (a *attempt) Err() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.watchLocked()
	return a.err
}

// Value is the queue's: package context finds the cause there.
func (a *attempt) Value(key any) any { return a.queue.Value(key) }
