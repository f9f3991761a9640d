// Package producer is the SDK for sending messages. A Producer finds the
// brokers of a topic, chooses a queue for each message, gathers messages into
// batches while earlier ones are under way, and sends them until they are on a
// broker's disk or their time is over.
//
// What it promises: a receipt means that the message is on disk, once: messages
// are numbered, and a broker knows the number of one whose answer was lost;
// messages that one goroutine sends to one queue are stored in that order, also
// when sends are repeated; memory is bounded; every callback is called exactly
// once. When a send fails with ErrUnknownOutcome, the message is stored once or
// not at all; sending it again with the id that the receipt has is safe. With
// Config.NoIdempotence a message whose answer was lost may be stored twice.
//
// It owns its connections and goroutines, all joined by Close, and never
// imports the server side.
package producer

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/internal/telemetry"
	"github.com/rmqio/rmq/message"
)

// Producer sends messages. Make one with New, share it among goroutines, and
// Close it. Its goroutines: one for each broker (outbox), one for deadlines, one
// for routes, one for callbacks, those of the Checker, and one for each
// RequestAsync that waits.
type Producer struct {
	cfg       Config
	client    *client.Client
	ids       *message.IDSource
	start     time.Time // zero of the producer's clock
	topics    *topics
	budget    budget
	epochs    *epochs
	codec     *codec
	sweeper   sweeper
	answers   answers
	run       identity // zero with NoIdempotence
	doubts    doubts
	requests  *requests
	checks    *checks            // nil without a Checker
	parcels   sync.Pool          // of *parcel
	outboxes  map[string]*outbox // guarded by topics.mu
	telemetry *telemetry.Sends
	isolated  chan struct{} // a broker may be isolated now; holds one

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	closed    atomic.Bool
	closing   sync.Once
	closeErr  error
	running   sync.WaitGroup
	answering sync.WaitGroup
	stop      chan struct{} // of the callbacks' goroutine
}

// New checks the configuration, every fault of it at once, and returns a
// producer that is ready; it does not wait for a server. The end of ctx does
// not end the producer.
func New(ctx context.Context, cfg Config) (*Producer, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	requests, clientConfig := newRequests(), cfg.client()
	clientConfig.OnReply = requests.take
	c, err := client.New(ctx, clientConfig)
	if err != nil {
		return nil, fmt.Errorf("producer: %w", err)
	}
	p := &Producer{
		cfg: cfg, client: c, ids: message.NewIDSource(), start: time.Now(), epochs: newEpochs(),
		outboxes: map[string]*outbox{}, isolated: make(chan struct{}, 1), stop: make(chan struct{}), requests: requests,
	}
	if err := p.observe(); err != nil {
		c.Close()
		return nil, fmt.Errorf("producer: %w", err)
	}
	p.ctx, p.cancel = context.WithCancel(context.WithoutCancel(ctx))
	p.run = newIdentity(&cfg)
	p.topics = newTopics(p.newQueue)
	p.budget.limit = int64(cfg.MaxBufferedBytes)
	p.sweeper.wake, p.answers.wake = make(chan struct{}, 1), make(chan struct{}, 1)
	p.parcels.New = func() any { return &parcel{} }
	p.serveChecks()
	c.Announce([]string{cfg.Group}, nil)
	p.running.Go(func() { p.runSweeper(p.ctx) })
	p.running.Go(func() { p.followRoutes(p.ctx) })
	p.running.Go(func() { p.runProber(p.ctx) })
	p.answering.Go(func() { p.runAnswers(p.stop) })
	return p, nil
}

// newQueue makes a queue, and the outbox of its broker if it is the first
// there; topics.mu is held, and topics are not closed.
func (p *Producer) newQueue(name message.Queue) *queue {
	o := p.outboxes[name.Broker]
	if o == nil {
		o = &outbox{p: p, broker: name.Broker, wake: make(chan struct{}, 1)}
		o.health.tolerant = !p.cfg.NoLatencyFault
		p.outboxes[name.Broker] = o
		p.running.Go(func() { o.run(p.ctx) })
	}
	return &queue{Queue: name, out: o, limit: p.cfg.MaxBatchBytes, parcels: &p.parcels, run: p.run}
}

// newIdentity is who this run of the producer is to brokers.
func newIdentity(cfg *Config) identity {
	if cfg.NoIdempotence {
		return identity{}
	}
	run := identity{incarnation: max(rand.Uint64(), 1)}
	run.producer = run.incarnation
	if cfg.ProducerID != "" {
		run.producer = max(hash(cfg.ProducerID), 1)
	}
	return run
}

// clock is the time since New, in nanoseconds.
func (p *Producer) clock() int64 { return int64(time.Since(p.start)) }

// Flush waits until every message accepted before is answered, and its callback
// has returned; or until ctx ends.
func (p *Producer) Flush(ctx context.Context) error {
	if err := p.epochs.flush(ctx); err != nil {
		return fmt.Errorf("flush: %w", err)
	}
	return nil
}

// Close refuses new messages, flushes until ctx ends, fails what is left, and
// requests that wait for replies, with ErrClosed, and returns when everything of the producer has ended. The error is
// that of the flush. A second Close does nothing.
func (p *Producer) Close(ctx context.Context) error {
	p.closing.Do(func() { p.closeErr = p.close(ctx) })
	return p.closeErr
}

func (p *Producer) close(ctx context.Context) error {
	p.closed.Store(true)
	p.requests.close()
	err := p.Flush(ctx)
	for _, q := range p.topics.close() {
		p.fail(q, q.close())
	}
	p.cancel()
	p.running.Wait()
	p.requests.running.Wait()
	p.client.Close()
	close(p.stop)
	p.answering.Wait()
	return err
}
