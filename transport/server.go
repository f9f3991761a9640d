package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/rmqio/rmq/transport/protocol"
)

// Server answers the requests on one subject.
type Server struct {
	conn     *Conn
	subject  string
	log      *slog.Logger
	handlers map[protocol.Code]handler

	ctx    context.Context // of the handlers
	cancel context.CancelFunc
	sub    *subscription

	admission *admission
	running   sync.WaitGroup // handlers with a goroutine
	bad       atomic.Uint64
}

// Serve answers the requests on a subject with the handlers of m, within the
// limits, until Drain or the connection is closed. Servers on different subjects
// do not wait for one another. Damaged frames whose header can be read are
// refused with protocol.IllegalMessage, others are counted and logged; a panic in
// a handler is logged and answered with protocol.SystemError. When Serve returns,
// calls over other connections find the subject served; without a connection to
// the NATS server Serve does not wait, and the subject is served once there is one.
func Serve(c *Conn, subject string, l Limits, m *Mux) (*Server, error) {
	s := &Server{
		conn: c, subject: subject, log: c.logger.With("subject", subject), handlers: maps.Clone(m.handlers),
		admission: newAdmission(l),
	}
	s.ctx, s.cancel = context.WithCancel(c.life)
	c.addServer(s)
	sub, err := c.subscribe(subject, serverMessages, serverBytes, s.receive)
	if err != nil {
		s.cancel()
		c.removeServer(s)
		return nil, err
	}
	s.sub = sub
	c.settle()
	return s, nil
}

// settle waits until the NATS server has taken the connection's subscriptions,
// so that who is told of a subject afterwards finds it served. It ends at once
// when the connection is cut, which is noticed of a silent server too: what is
// subscribed to is sent again with the next connection.
func (c *Conn) settle() {
	for c.nc.IsConnected() && errors.Is(c.nc.FlushTimeout(pingInterval), nats.ErrTimeout) {
	}
}

// addServer comes before any message, so that Close knows whom to wait for.
func (c *Conn) addServer(s *Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = append(c.servers, s)
}

func (c *Conn) removeServer(s *Server) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.servers = slices.DeleteFunc(c.servers, func(x *Server) bool { return x == s })
}

// BadFrames is how many frames arrived that were not a readable request.
func (s *Server) BadFrames() uint64 { return s.bad.Load() }

// InFlight is how many requests are unanswered.
func (s *Server) InFlight() int { return s.admission.inFlight() }

// Drain takes no more requests, refusing them with protocol.Unavailable, and
// waits until all are answered. When ctx ends first the handlers' contexts are
// cancelled and Drain returns an error when those with a goroutine have
// returned; requests of HandleAsync are then still their owner's to answer.
// After Drain nobody serves the subject.
func (s *Server) Drain(ctx context.Context) error {
	var err error
	select {
	case <-s.admission.close():
	case <-ctx.Done():
		err = fmt.Errorf("drain %s: %d requests are unanswered: %w", s.subject, s.admission.inFlight(), ctx.Err())
		s.cancel()
	}
	s.sub.drain(ctx)
	s.running.Wait()
	s.cancel()
	s.conn.removeServer(s)
	return err
}

// receive is called for one message at a time and never blocks.
func (s *Server) receive(m *nats.Msg) {
	arrival := time.Now()
	f, err := protocol.DecodeFrame(m.Data)
	if err == nil && f.Kind != protocol.KindRequest {
		err = fmt.Errorf("%w: kind %d where a request belongs", protocol.ErrBadFrame, f.Kind)
	}
	if err != nil {
		s.badFrame(m.Reply, f, err)
		return
	}
	h, ok := s.handlers[f.Code]
	if !ok {
		s.refuse(m.Reply, f.Code, f.ID, protocol.Errorf(protocol.UnknownRequest, "%s is not served at %s", f.Code, s.subject))
		return
	}
	if err := s.admission.enter(m.Reply, int64(len(f.Payload))); err != nil {
		s.refuse(m.Reply, f.Code, f.ID, err)
		return
	}
	r := &Request{Code: f.Code, Payload: f.Payload, server: s, reply: m.Reply, id: f.ID}
	if f.Timeout != 0 {
		r.Deadline = arrival.Add(f.Timeout)
	}
	s.dispatch(h, r)
}

func (s *Server) dispatch(h handler, r *Request) {
	if h.async != nil {
		defer s.recovered(r)
		h.async(r)
		return
	}
	s.running.Go(func() {
		defer s.recovered(r)
		ctx, cancel := s.ctx, context.CancelFunc(func() {})
		if !r.Deadline.IsZero() {
			ctx, cancel = context.WithDeadline(ctx, r.Deadline)
		}
		defer cancel()
		h.sync(ctx, r)
	})
}

// recovered is deferred around handlers.
func (s *Server) recovered(r *Request) {
	p := recover()
	if p == nil {
		return
	}
	s.log.Error("a handler panicked", "code", r.Code, "panic", p, "stack", string(debug.Stack()))
	if !r.answered.Load() {
		r.Fail(protocol.Errorf(protocol.SystemError, "the handler of %s panicked; see the server's log", r.Code))
	}
}

func (s *Server) badFrame(reply string, f protocol.Frame, err error) {
	if n := s.bad.Add(1); worthLogging(n) {
		s.log.Warn("a damaged frame arrived", "code", f.Code, "id", f.ID, "error", err, "count", n)
	}
	if f.Kind == protocol.KindRequest {
		s.refuse(reply, f.Code, f.ID, protocol.Errorf(protocol.IllegalMessage, "%v", err))
	}
}

// worthLogging thins out a line that strangers can cause: the 1st, 2nd, 4th ...
func worthLogging(n uint64) bool { return n&(n-1) == 0 }

// refuse answers with an error; a caller that wants no answer gets none.
func (s *Server) refuse(reply string, code protocol.Code, id uint64, refusal error) {
	if err := s.answer(protocol.KindError, reply, code, id, wireError(refusal)); err != nil {
		s.log.Error("a refusal could not be sent", "code", code, "refusal", refusal, "error", err)
	}
}

// answer sends an answer. An error means that it cannot be encoded; one that
// cannot be delivered is none.
func (s *Server) answer(kind protocol.Kind, reply string, code protocol.Code, id uint64, payload any) error {
	if reply == "" {
		return nil
	}
	err := s.conn.answer(reply, protocol.Frame{Kind: kind, Code: code, ID: id}, payload)
	if errors.Is(err, protocol.Unreachable) || errors.Is(err, protocol.Closed) {
		s.log.Debug("an answer was lost", "code", code, "error", err)
		return nil
	}
	return err
}
