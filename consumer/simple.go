package consumer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message/compress"
	"github.com/rmqio/rmq/transport/protocol"
)

const (
	opReceive = "receive"

	// popsEnd is how long Close waits for what pops under way bring, which is given
	// back.
	popsEnd = time.Second
)

// Simple is a member of a group whose members share messages, not queues (RocketMQ's
// SimpleConsumer, and POP): any of them is handed any message, so that there may be more
// members at work than the topics have queues. A message is its own for an invisible
// time; what is not acknowledged by then is handed out again, to whoever asks. The
// messages of one message group are handed out one after another, in order, each when
// the one before it is finished. What was handed out as often as the group's RetryMax
// says is a dead letter.
//
// A group is consumed by members of this kind, or by Push and Pull, and not by both at a
// time.
//
// Make one with NewSimple and Close it. All methods are safe for concurrent use.
//
// Goroutines: one for each pop that is under way at a broker, and those of the settler.
// Close waits for all of them.
type Simple struct {
	cfg      SimpleConfig
	settings settings
	client   *client.Client
	shelf    *shelf
	settler  *settler
	replies  *replier
	policies *policies
	decoder  compress.Decoder

	life    context.Context // of pops; its cause is why the consumer has ended
	end     context.CancelCauseFunc
	running sync.WaitGroup // of pops; begun while the shelf is open
	closed  atomic.Bool
}

// NewSimple checks the configuration, every fault of it at once, and makes itself known
// to the brokers in the background, whether they can be reached or not. Nothing is asked
// for before Receive. Values of ctx are kept, its end is not.
func NewSimple(ctx context.Context, cfg SimpleConfig) (*Simple, error) {
	set, err := cfg.settings()
	if err != nil {
		return nil, fmt.Errorf("simple consumer of group %q: %w", cfg.Group, err)
	}
	cl, err := set.newClient(ctx)
	if err != nil {
		return nil, fmt.Errorf("simple consumer of group %q: %w", cfg.Group, err)
	}
	s := &Simple{cfg: cfg, settings: set, client: cl, shelf: newShelf(), policies: newPolicies(), replies: newReplier(cl)}
	s.life, s.end = context.WithCancelCause(context.WithoutCancel(ctx))
	s.settler = newSettler(context.WithoutCancel(ctx), set.group, cl.ID(), s.ack)
	cl.OnRefused(s.refused)
	start := newStarts(set.from, time.Now())
	cl.Announce(nil, []protocol.Subscription{{
		Group: set.group, Topics: set.topics, Filters: set.filters.announced(), Start: start.announced(),
	}})
	return s, nil
}

// refused ends a consumer that its group does not take, as engine.refused.
func (s *Simple) refused(r client.Refusal) {
	if !r.Final {
		s.settings.log.Warn("the group refuses this consumer for now, trying again", "group", s.settings.group, "error", r.Err)
		s.shelf.report(r.Err)
		return
	}
	s.settings.log.Error("the group refuses this consumer", "group", s.settings.group, "error", r.Err)
	cause := fmt.Errorf("%w: %w", ErrRefused, r.Err)
	s.giveBack(s.shelf.end(cause))
	s.end(cause)
}

// Receive waits until there is a message, and returns up to max of them, 1 to
// MaxReceive. They are the caller's for the invisible time, MinInvisible to
// MaxInvisible, and a little less when they were fetched by an earlier Receive that
// another broker had served already. A topic that does not exist is waited for, as is a
// broker that is away.
//
// Errors: ctx's; protocol.InvalidArgument; ErrClosed and ErrRefused, for good. Any other
// tells of a queue or a message that cannot be had as it should be, such as
// protocol.Conflict of a queue that the group consumes by Push or Pull, or
// ErrCompressed, once for each; the next Receive goes on.
func (s *Simple) Receive(ctx context.Context, max int, invisible time.Duration) ([]*Popped, error) {
	if err := checkReceive(max, invisible); err != nil {
		return nil, client.Wrap(opReceive, "", "", err)
	}
	x := s.settings.telemetry.Receive(ctx)
	ps, err := s.receive(ctx, max, invisible)
	received(ctx, x, deliveriesOf(x, ps), err)
	return ps, err
}

// receive is Receive of what is legal, unobserved.
func (s *Simple) receive(ctx context.Context, max int, invisible time.Duration) ([]*Popped, error) {
	s.shelf.count(invisible, 1)
	defer s.shelf.count(invisible, -1)
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		routes := s.client.RouteChanged() // taken first, so that no change is missed
		ps, late, changed, err := s.shelf.take(time.Now(), max, invisible)
		s.giveBack(late)
		if err != nil || len(ps) > 0 {
			s.open(ps)
			return ps, err
		}
		if err := await(ctx, changed, routes, s.popAll(ctx, max, invisible)); err != nil {
			return nil, err
		}
	}
}

// open makes messages ready for the program. A body is decompressed now and not before,
// so that what is kept takes the memory that it took on the wire.
func (s *Simple) open(ps []*Popped) {
	for _, p := range ps {
		err := s.decoder.Open(&p.Message)
		if err == nil {
			continue
		}
		err = sealedError(p.queue, p.offset, p.ID, err)
		s.settings.log.Error("body cannot be decompressed, the message is handed out as it came", "error", err)
		if p.Attempt == 1 {
			s.shelf.report(err)
		}
	}
}

// giveBack makes messages that nobody has asked for visible to others.
func (s *Simple) giveBack(ps []*Popped) {
	for _, p := range ps {
		s.settler.start(MinInvisible, p, func(err error) { s.logUnsettled("message is not given back, its invisible time has to end", p, err) })
	}
}

func (s *Simple) logUnsettled(what string, p *Popped, err error) {
	if err != nil {
		s.logHandled(p).Debug(what, "error", err)
	}
}

func (s *Simple) logHandled(p *Popped) *slog.Logger {
	return s.settings.log.With("topic", p.queue.Topic, "broker", p.queue.Broker, "queue", p.queue.ID, "offset", p.offset, "message_id", p.ID)
}

// Ack acknowledges messages that Receive returned, with one request to each broker. The
// error joins those of the messages that could not be; see Popped.Ack.
func (s *Simple) Ack(ctx context.Context, ps ...*Popped) error {
	for _, p := range ps {
		if p == nil || p.owner != s {
			return client.Wrap(opAck, "", "", errNotReceived)
		}
	}
	return s.observe(ctx, ackOperation, ps, func(ctx context.Context) error {
		return errors.Join(s.settler.settle(ctx, opAck, acknowledged, ps...)...)
	})
}

func (s *Simple) ack(ctx context.Context, broker string, req protocol.Request) (*protocol.AckResponse, error) {
	return client.Call[protocol.AckResponse](ctx, s.client, broker, protocol.ClassClient, req)
}

func (s *Simple) sendBack(ctx context.Context, broker string, req *protocol.SendBackRequest) error {
	ctx, cancel := context.WithTimeout(ctx, giveBackTimeout)
	defer cancel()
	_, err := client.Call[protocol.SendBackResponse](ctx, s.client, broker, protocol.ClassClient, req)
	return err
}

// Ended is closed when the consumer has ended: it was closed, or its group refuses it;
// then Receive returns ErrRefused.
func (s *Simple) Ended() <-chan struct{} { return s.life.Done() }

// Close ends every Receive, gives back what was fetched and not returned, leaves the
// group, and waits for what brokers are being told, for as long as ctx allows, and for
// some seconds at most. Messages that were returned and not acknowledged are handed out
// again when their invisible time is over. The error is that of the leave. A second
// Close does nothing.
func (s *Simple) Close(ctx context.Context) error {
	if s.closed.Swap(true) {
		return nil
	}
	s.giveBack(s.shelf.end(ErrClosed))
	left := s.client.Leave(ctx, s.settings.group) // brokers answer the pops of who is no member
	defer time.AfterFunc(popsEnd, func() { s.end(ErrClosed) }).Stop()
	s.running.Wait()
	s.end(ErrClosed)
	telling, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	s.settler.close(telling)
	s.client.Close()
	return left
}
