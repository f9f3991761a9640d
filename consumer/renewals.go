package consumer

import (
	"context"
	"sync"
	"time"
)

// renewalRetry is after which time a renewal that the broker did not answer in time is
// tried again.
const renewalRetry = time.Second

// renewals knows the messages in hand, and when the invisible time of each is to be
// renewed: when half of it is over. It is safe for concurrent use and has no goroutines.
type renewals struct {
	invisible time.Duration
	wake      chan struct{} // one is due earlier than all before; holds one

	mu    sync.Mutex
	first time.Time // no message is due earlier
	held  map[*inHand]struct{}
}

// inHand is a message whose handler runs.
type inHand struct {
	popped *Popped
	// over reports whether the handler's time is over: nothing is renewed then.
	over func() bool
	// lost ends the handler's context.
	lost context.CancelCauseFunc

	due time.Time // zero: it is being renewed
}

func newRenewals(invisible time.Duration) *renewals {
	return &renewals{invisible: invisible, wake: make(chan struct{}, 1), held: map[*inHand]struct{}{}}
}

// add takes a message in.
func (r *renewals) add(h *inHand) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[h] = struct{}{}
	r.scheduleLocked(h, h.popped.InvisibleUntil().Add(-r.invisible/2))
}

// remove forgets a message.
func (r *renewals) remove(h *inHand) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, h)
}

// renewed says when a message that is still held is due next.
func (r *renewals) renewed(h *inHand, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, held := r.held[h]; held {
		r.scheduleLocked(h, next)
	}
}

func (r *renewals) scheduleLocked(h *inHand, due time.Time) {
	h.due = due
	if r.first.IsZero() || due.Before(r.first) {
		r.first = due
		signal(r.wake)
	}
}

// take returns the messages that are due, and when the next one is; zero: when wake
// says so. There are as many as handlers run, so that a look at all of them, once in
// half an invisible time or so, costs little.
func (r *renewals) take(now time.Time) (due []*inHand, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.first = time.Time{}
	for h := range r.held {
		switch {
		case h.due.IsZero():
		case !h.due.After(now):
			h.due = time.Time{}
			due = append(due, h)
		case r.first.IsZero() || h.due.Before(r.first):
			r.first = h.due
		}
	}
	return due, r.first
}
