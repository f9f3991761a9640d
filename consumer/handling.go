package consumer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// Run hands messages to a handler until ctx ends: Concurrency at once, and no message is
// fetched before there is a handler for it, so that none waits here while another member
// has nothing to do. The invisible time of a message is renewed as long as its handler
// runs and has not exceeded ConsumeTimeout, which Delivery.Extend moves.
//
// Nil acknowledges the message. With an error, or a panic, it is handed out again, to any
// member, when the group's policy says, or RetryAfter; with ErrReject it is a dead
// letter. The context of the handler ends with the ConsumeTimeout, with ErrHandleExpired
// when the message was lost to another member, because its broker could not be reached
// for too long, and with ErrShutdown.
//
// At the end running handlers may finish for up to ShutdownTimeout; then their contexts
// end. When Run returns none of its goroutines runs; a handler that does not return
// holds it up. The consumer is not closed. Run ends by itself with ErrRefused and
// ErrClosed, after which nothing can be acknowledged.
//
// Goroutines: one for each message in hand, and one that renews.
func (s *Simple) Run(ctx context.Context, handler Handler) error {
	if handler == nil {
		return fmt.Errorf("run consumer of group %q: %w: no handler", s.settings.group, ErrIllegalConfig)
	}
	h := &handling{
		simple: s, handler: handler, slots: make(chan struct{}, s.cfg.Concurrency), held: newRenewals(s.cfg.Invisible),
	}
	life, abandon := context.WithCancelCause(context.WithoutCancel(ctx))
	defer abandon(nil)
	renewing, stop := context.WithCancel(life)
	var renewer sync.WaitGroup
	renewer.Go(func() { h.renewAll(renewing) })
	err := h.receive(ctx, life)
	h.drain(abandon)
	stop()
	renewer.Wait()
	return err
}

// handling is one Run.
type handling struct {
	simple  *Simple
	handler Handler
	slots   chan struct{} // has a token for each handler that runs, or is to run
	held    *renewals
	running sync.WaitGroup
}

// receive hands out what comes. Handlers live for as long as life.
func (h *handling) receive(ctx, life context.Context) error {
	s := h.simple
	for {
		n := h.reserve(ctx)
		if n == 0 {
			return nil
		}
		ps, err := s.receive(ctx, n, s.cfg.Invisible)
		for _, p := range ps {
			h.running.Go(func() {
				defer h.free(1)
				h.process(life, p)
			})
		}
		h.free(n - len(ps))
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, ErrRefused), errors.Is(err, ErrClosed):
			return fmt.Errorf("consumer of group %q: %w", s.settings.group, err)
		case s.cfg.OnError != nil:
			s.cfg.OnError(err)
		}
	}
}

// reserve waits for a handler that is free and takes all that are, as many as may be
// received for; 0 when ctx has ended.
func (h *handling) reserve(ctx context.Context) (n int) {
	select {
	case <-ctx.Done():
		return 0
	case h.slots <- struct{}{}:
	}
	for n = 1; n < MaxReceive; n++ {
		select {
		case h.slots <- struct{}{}:
		default:
			return n
		}
	}
	return n
}

func (h *handling) free(n int) {
	for range n {
		<-h.slots
	}
}

func (h *handling) drain(abandon context.CancelCauseFunc) {
	s := h.simple
	timer := time.AfterFunc(s.cfg.ShutdownTimeout, func() {
		s.settings.log.Warn("handlers still run, their contexts end", "timeout", s.cfg.ShutdownTimeout)
		abandon(ErrShutdown)
	})
	h.running.Wait()
	timer.Stop()
}

// process handles a message and says what becomes of it.
func (h *handling) process(life context.Context, p *Popped) {
	ctx, lost := context.WithCancelCause(life)
	defer lost(nil)
	ctx, x := h.simple.settings.telemetry.Process(ctx, &p.Stored)
	in := &inHand{popped: p, lost: lost, over: func() bool { return false }}
	if timeout := h.simple.cfg.ConsumeTimeout; timeout > 0 {
		a := newAttempt(ctx, timeout)
		defer a.end()
		ctx, p.Delivery.attempt = a, a
		in.over = func() bool { return a.Err() != nil }
	}
	h.held.add(in)
	err := h.call(ctx, p)
	h.held.remove(in)
	if x != nil {
		x.End(failureOf(err))
	}
	if errors.Is(context.Cause(ctx), ErrHandleExpired) {
		h.simple.logHandled(p).Warn("message was handed out again while its handler ran", "error", err)
		return
	}
	h.settle(context.WithoutCancel(ctx), p, err)
}

// call runs the handler; a panic is an error.
func (h *handling) call(ctx context.Context, p *Popped) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &handlerPanic{value: v, stack: debug.Stack()}
		}
	}()
	return h.handler(ctx, &p.Delivery)
}

// settle says what becomes of a message, for as long as its broker may be asked.
func (h *handling) settle(ctx context.Context, p *Popped, err error) {
	log := h.simple.logHandled(p).With("attempt", p.Attempt)
	var refusal error
	switch {
	case err == nil:
		refusal = p.Ack(ctx)
	case errors.Is(err, ErrReject):
		log.Warn("handler rejects, the message is a dead letter", "error", err)
		refusal = p.Reject(ctx, err)
	default:
		after := h.retryAfter(ctx, p, err)
		log.Warn("handler failed, the message is handed out again", "error", err, "after", after)
		refusal = p.ChangeInvisible(ctx, after)
	}
	if refusal != nil {
		log.Warn("the broker was not told what became of a message, it is handed out again", "error", refusal)
	}
}

// retryAfter is when a message that failed is handed out again.
func (h *handling) retryAfter(ctx context.Context, p *Popped, err error) time.Duration {
	var after *retryAfter
	pause := time.Duration(0)
	if errors.As(err, &after) {
		pause = after.pause
	} else {
		pause = h.simple.retryDelay(ctx, p)
	}
	return min(max(pause, MinInvisible), MaxInvisible)
}

// renewAll renews what is due until ctx ends.
func (h *handling) renewAll(ctx context.Context) {
	for {
		due, next := h.held.take(time.Now())
		for _, in := range due {
			h.renew(in)
		}
		if await(ctx, h.held.wake, nil, next) != nil {
			return
		}
	}
}

// renew keeps a message; the settler puts those together that are due together.
func (h *handling) renew(in *inHand) {
	if in.over() {
		return
	}
	h.simple.settler.start(h.held.invisible, in.popped, func(err error) {
		switch {
		case err == nil:
			h.held.renewed(in, in.popped.InvisibleUntil().Add(-h.held.invisible/2))
		case errors.Is(err, ErrHandleExpired):
			in.lost(ErrHandleExpired)
		case protocol.CodeOf(err).Retryable():
			h.held.renewed(in, time.Now().Add(renewalRetry))
		}
	})
}
