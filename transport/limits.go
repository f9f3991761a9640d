package transport

import (
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

// busyRetryMillis is the advice that goes with protocol.Busy.
const busyRetryMillis = 25

// Limits bound what a server works on at a time. A request beyond them is
// refused at once with protocol.Busy and a RetryAfterMillis. Zero: no limit.
//
// A caller, that is a connection, may have as much in flight as is left for all:
// one alone gets half of a limit, two get a third each, and so on. So a caller
// that sends faster than it is served never shuts out one that sends little.
type Limits struct {
	// Requests is how many requests may be unanswered.
	Requests int
	// Bytes is how many bytes the payloads of unanswered requests may have
	// together. A request is never too large when it is the only one.
	Bytes int64
}

// use is what is in flight.
type use struct {
	requests int
	bytes    int64
}

// admission counts the requests that are in flight and keeps them to limits.
type admission struct {
	limits Limits

	mu      sync.Mutex
	all     use
	callers map[string]use // those with something in flight
	closed  bool
	idle    chan struct{} // closed when it is closed and nothing is in flight
}

func newAdmission(l Limits) *admission {
	return &admission{limits: l, callers: map[string]use{}, idle: make(chan struct{})}
}

// enter admits a caller's request of so many bytes, which then must leave, or
// refuses it.
func (a *admission) enter(caller string, bytes int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	own := a.callers[caller]
	switch {
	case a.closed:
		return protocol.Errorf(protocol.Unavailable, "the server shuts down")
	case a.limits.Requests > 0 && own.requests >= a.limits.Requests-a.all.requests:
		return busy("%d requests are waiting, %d of this caller", a.all.requests, own.requests)
	case a.limits.Bytes > 0 && a.all.requests > 0 && own.bytes+bytes > a.limits.Bytes-a.all.bytes:
		return busy("%d bytes of requests are waiting, %d of this caller", a.all.bytes, own.bytes)
	}
	a.all.add(1, bytes)
	own.add(1, bytes)
	a.callers[caller] = own
	return nil
}

func (u *use) add(requests int, bytes int64) {
	u.requests += requests
	u.bytes += bytes
}

func (a *admission) leave(caller string, bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all.add(-1, -bytes)
	own := a.callers[caller]
	if own.add(-1, -bytes); own.requests == 0 {
		delete(a.callers, caller)
	} else {
		a.callers[caller] = own
	}
	if a.closed && a.all.requests == 0 {
		close(a.idle)
	}
}

// close admits nothing more; the channel is closed when nothing is in flight.
func (a *admission) close() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return a.idle
	}
	a.closed = true
	if a.all.requests == 0 {
		close(a.idle)
	}
	return a.idle
}

func (a *admission) inFlight() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.all.requests
}

func busy(format string, args ...any) error {
	err := protocol.Errorf(protocol.Busy, format, args...)
	err.RetryAfterMillis = busyRetryMillis
	return err
}
