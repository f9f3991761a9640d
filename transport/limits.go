package transport

import (
	"sync"

	"github.com/rmqio/rmq/transport/protocol"
)

// busyRetryMillis is the advice that goes with protocol.Busy.
const busyRetryMillis = 25

// Limits bound what a server works on at a time. A request beyond them is
// refused at once with protocol.Busy and a RetryAfterMillis. Zero: no limit.
type Limits struct {
	// Requests is how many requests may be unanswered.
	Requests int
	// Bytes is how many bytes the payloads of unanswered requests may have
	// together. A request is never too large when it is the only one.
	Bytes int64
}

// admission counts the requests that are in flight and keeps them to limits.
type admission struct {
	limits Limits

	mu       sync.Mutex
	requests int
	bytes    int64
	closed   bool
	idle     chan struct{} // closed when it is closed and nothing is in flight
}

// enter admits a request of so many bytes, which then must leave, or refuses it.
func (a *admission) enter(bytes int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return protocol.Errorf(protocol.Unavailable, "the server shuts down")
	case a.limits.Requests > 0 && a.requests >= a.limits.Requests:
		return busy("%d requests are waiting", a.requests)
	case a.limits.Bytes > 0 && a.requests > 0 && a.bytes+bytes > a.limits.Bytes:
		return busy("%d bytes of requests are waiting", a.bytes)
	}
	a.requests++
	a.bytes += bytes
	return nil
}

func (a *admission) leave(bytes int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.requests--
	a.bytes -= bytes
	if a.closed && a.requests == 0 {
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
	if a.requests == 0 {
		close(a.idle)
	}
	return a.idle
}

func (a *admission) inFlight() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.requests
}

func busy(format string, args ...any) error {
	err := protocol.Errorf(protocol.Busy, format, args...)
	err.RetryAfterMillis = busyRetryMillis
	return err
}
