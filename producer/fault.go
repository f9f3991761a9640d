package producer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// Latency fault tolerance, with RocketMQ's numbers.
const (
	// exceptionLatency is what a failure counts as.
	exceptionLatency = 10 * time.Second
	// probeInterval is the time between two questions to an isolated broker, and
	// probeTimeout how long it has to answer one.
	probeInterval = 2 * time.Second
	probeTimeout  = 200 * time.Millisecond
)

// isolation is for how long a broker is left alone that took so long to answer.
func isolation(latency time.Duration) time.Duration {
	switch {
	case latency >= 15*time.Second:
		return 30 * time.Second
	case latency >= 5*time.Second:
		return 10 * time.Second
	case latency >= 3*time.Second:
		return 6 * time.Second
	case latency >= 1800*time.Millisecond:
		return 5 * time.Second
	case latency >= 550*time.Millisecond:
		return 2 * time.Second
	}
	return 0
}

// health is what a producer knows of one broker from its answers, and what
// follows. A broker that has just failed is paused: nothing is sent to it for a
// moment that grows with each failure in a row. One that failed or was slow is
// also isolated: messages that may go anywhere go elsewhere for longer.
//
// It has no clock: times are handed in, in nanoseconds, and do not go back much.
// It is safe for concurrent use; reading takes no lock.
type health struct {
	tolerant bool         // brokers are isolated
	until    atomic.Int64 // paused before; 0: it did not just fail
	isolated atomic.Int64 // isolated before
	lost     atomic.Bool  // it could not be reached, and has not answered since

	mu      sync.Mutex
	fails   int   // in a row
	probeAt int64 // not before
}

// grade says how good a broker is to send to.
type grade int

// The grades, the worst first.
const (
	unreachable grade = iota // it failed and did not answer
	busy                     // paused
	slow                     // isolated, but it answers
	healthy
)

func (h *health) paused(now int64) bool { return h.until.Load() > now }

func (h *health) grade(now int64) grade {
	paused, isolated := h.paused(now), h.isolated.Load() > now
	switch {
	case !paused && !isolated:
		return healthy
	case h.lost.Load():
		return unreachable
	case paused:
		return busy
	}
	return slow
}

// answered takes note of an answer that came after that time, and ends what
// earlier failures have brought about. It reports whether the broker is isolated
// for being slow.
func (h *health) answered(now int64, latency time.Duration) (isolated bool) {
	alone := h.aloneFor(latency)
	if alone == 0 && h.until.Load() == 0 && h.isolated.Load() == 0 && !h.lost.Load() {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails = 0
	h.until.Store(0)
	h.lost.Store(false)
	h.isolateLocked(now, alone)
	return alone > 0
}

func (h *health) aloneFor(latency time.Duration) time.Duration {
	if !h.tolerant {
		return 0
	}
	return isolation(latency)
}

func (h *health) isolateLocked(now int64, alone time.Duration) {
	if alone == 0 {
		h.isolated.Store(0)
		return
	}
	if h.isolated.Load() <= now {
		h.probeAt = now + int64(probeInterval)
	}
	h.isolated.Store(now + int64(alone))
}

// failed takes note that the broker as a whole refused or did not answer for that
// time. Frames that fail together count as one: for the later ones pause is 0.
func (h *health) failed(now int64, err error, took time.Duration) (pause time.Duration) {
	code := protocol.CodeOf(err)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost.Store(code == protocol.Unreachable || code == protocol.UnknownOutcome)
	if alone := h.aloneFor(counts(code, took)); alone > 0 {
		h.isolateLocked(now, alone)
	}
	if h.paused(now) {
		return 0
	}
	pause = max(backoff(h.fails), retryAfter(err))
	h.fails++
	h.until.Store(now + int64(pause))
	return pause
}

// counts is the latency that a failure counts as. A busy broker says by itself
// for how long; and a silence says nothing of the broker when it was the message
// that had little time.
func counts(code protocol.ErrorCode, took time.Duration) time.Duration {
	if code == protocol.Busy || code == protocol.UnknownOutcome && isolation(took) == 0 {
		return 0
	}
	return exceptionLatency
}

// next is when to probe the broker; 0: it is not isolated.
func (h *health) next(now int64) int64 {
	if h.isolated.Load() <= now {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return max(h.probeAt, 1)
}

// probe reports whether the broker is to be probed now, and counts that as done.
func (h *health) probe(now int64) bool {
	if h.isolated.Load() <= now {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.probeAt > now {
		return false
	}
	h.probeAt = now + int64(probeInterval)
	return true
}

// free ends the isolation of a broker that answers a probe.
func (h *health) free() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lost.Store(false)
	h.isolated.Store(0)
}

// note draws the conclusions from the answer to a frame for the broker.
func (o *outbox) note(results []protocol.SendResult, took time.Duration) {
	var refusal error
	answers := false
	for _, r := range results {
		if r.Err != nil && brokerWide(r.Err.Code) {
			refusal = r.Err
		} else {
			answers = true
		}
	}
	if answers && o.health.answered(o.p.clock(), took) {
		o.p.probeSoon()
	}
	if refusal != nil {
		o.suspend(refusal, took)
	}
}

// suspend draws them from a failure of the broker as a whole.
func (o *outbox) suspend(err error, took time.Duration) {
	pause := o.health.failed(o.p.clock(), err, took)
	o.p.probeSoon()
	if pause > 0 {
		o.p.cfg.Logger.Debug("broker fails, sends wait", "broker", o.broker, "wait", pause, "error", err)
	}
}

// probeSoon tells the prober that a broker may be isolated.
func (p *Producer) probeSoon() {
	select {
	case p.isolated <- struct{}{}:
	default:
	}
}

// runProber probes isolated brokers until ctx ends.
func (p *Producer) runProber(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var timed <-chan time.Time
		if next := p.probe(ctx, p.clock()); next > 0 {
			timer.Reset(time.Duration(next - p.clock()))
			timed = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-p.isolated:
		case <-timed:
		}
	}
}

// probe asks the isolated brokers that are due how they are, and returns when the
// next is; 0: none is isolated.
func (p *Producer) probe(ctx context.Context, now int64) (next int64) {
	for _, o := range p.allOutboxes() {
		if o.health.probe(now) {
			o.probe(ctx)
		}
		if at := o.health.next(now); at > 0 && (next == 0 || at < next) {
			next = at
		}
	}
	return next
}

// probe asks the broker for its status. One that takes no messages for now, such
// as one with a full disk, stays isolated.
func (o *outbox) probe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	o.p.client.Start(ctx, o.broker, protocol.ClassAdmin, &protocol.BrokerStatusRequest{}, func(payload []byte, err error) {
		cancel()
		var status protocol.BrokerStatusResponse
		if err == nil {
			err = protocol.Unmarshal(payload, &status)
		}
		if err == nil && status.Writable {
			o.health.free()
		}
		o.p.cfg.Logger.Debug("isolated broker probed", "broker", o.broker, "writable", status.Writable, "error", err)
	})
}

func (p *Producer) allOutboxes() []*outbox {
	p.topics.mu.Lock()
	defer p.topics.mu.Unlock()
	all := make([]*outbox, 0, len(p.outboxes))
	for _, o := range p.outboxes {
		all = append(all, o)
	}
	return all
}
