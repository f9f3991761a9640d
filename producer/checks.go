package producer

import (
	"context"
	"errors"
	"runtime/debug"
	"sync"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Bounds of the transactions that the Checker is to be asked for. What comes
// beyond them is dropped: the broker asks again.
const (
	// DefaultCheckConcurrency and MaxPendingChecks are RocketMQ's
	// checkThreadPoolMaxSize and checkRequestHoldMax.
	DefaultCheckConcurrency = 1
	MaxPendingChecks        = 2000
	maxPendingCheckBytes    = 64 << 20
)

// checks are the transactions that wait for the Checker, each once.
type checks struct {
	pending chan protocol.CheckTransactionEvent // holds as many as there may be

	mu    sync.Mutex
	known map[checkKey]struct{} // pending or with the Checker
	bytes int                   // of their batches
}

type checkKey struct {
	broker   string
	origin   uint64
	position int
}

func newChecks() *checks {
	return &checks{pending: make(chan protocol.CheckTransactionEvent, MaxPendingChecks), known: map[checkKey]struct{}{}}
}

func keyOf(e *protocol.CheckTransactionEvent) checkKey {
	return checkKey{e.Broker, e.Held.Origin, e.Held.Position}
}

// add takes a question in, unless there are too many, or it is there already. It
// does not block.
func (c *checks) add(e protocol.CheckTransactionEvent) (taken bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, twice := c.known[keyOf(&e)]; twice || len(c.known) == MaxPendingChecks || c.bytes+len(e.Batch) > maxPendingCheckBytes {
		return false
	}
	c.known[keyOf(&e)] = struct{}{}
	c.bytes += len(e.Batch)
	c.pending <- e // has room: it holds no more than are known
	return true
}

func (c *checks) finish(e *protocol.CheckTransactionEvent) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.known, keyOf(e))
	c.bytes -= len(e.Batch)
}

// serveChecks has brokers ask this producer, from now on and before it sends
// anything.
func (p *Producer) serveChecks() {
	if p.cfg.Checker == nil {
		return
	}
	p.checks = newChecks()
	client.OnEvent(p.client, protocol.CheckTransaction, p.checkLater)
	for range p.cfg.CheckConcurrency {
		p.running.Go(func() { p.runChecks(p.ctx) })
	}
	p.client.Check(p.cfg.Group, p.cfg.TransactionTopics)
}

func (p *Producer) checkLater(e protocol.CheckTransactionEvent) {
	if e.Group == p.cfg.Group && !p.checks.add(e) {
		p.cfg.Logger.Debug("too many transactions to check, or this one waits already", "broker", e.Broker, "message_id", e.Held.ID)
	}
}

func (p *Producer) runChecks(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-p.checks.pending:
			p.checkNow(ctx, &e)
			p.checks.finish(&e)
		}
	}
}

// checkNow asks the Checker for one transaction and tells the broker. A failure
// is no loss: the broker asks again.
func (p *Producer) checkNow(ctx context.Context, e *protocol.CheckTransactionEvent) {
	log := p.cfg.Logger.With("topic", e.Held.Topic, "broker", e.Broker, "message_id", e.Held.ID, "check", e.Check)
	m, err := halfMessage(e)
	if err == nil {
		err = p.codec.decoder.Open(&m.Message)
	}
	if err != nil {
		log.Error("a broker asks for a transaction with a message that cannot be read", "error", err)
		return
	}
	decision := p.callChecker(ctx, m)
	log.Debug("transaction checked", "decision", decision.String())
	if decision == Unknown {
		return
	}
	_, err = p.end(ctx, client.Handle{Broker: e.Broker, Held: e.Held}, decision)
	if err != nil && ctx.Err() == nil {
		log.Warn("the broker was not told what the checker said of a transaction", "decision", decision.String(), "error", err)
	}
}

// halfMessage is the message that a broker asks about; it has no offset yet.
func halfMessage(e *protocol.CheckTransactionEvent) (*message.Stored, error) {
	ms, rest, err := batch.Decode(nil, e.Batch, e.Broker)
	switch {
	case err != nil:
		return nil, err
	case len(ms) != 1 || len(rest) != 0 || ms[0].ID.String() != e.Held.ID:
		return nil, errors.New("it is not the one that is asked for")
	}
	ms[0].QueueOffset = -1
	return &ms[0], nil
}

func (p *Producer) callChecker(ctx context.Context, m *message.Stored) (d Decision) {
	defer func() {
		if v := recover(); v != nil {
			p.cfg.Logger.Error("the checker panics", "topic", m.Topic, "message_id", m.ID, "panic", v, "stack", string(debug.Stack()))
			d = Unknown
		}
	}()
	return p.cfg.Checker(ctx, m)
}

// end tells the broker a decision.
func (p *Producer) end(ctx context.Context, h client.Handle, d Decision) (*protocol.EndTransactionResponse, error) {
	ctx, cancel := p.bound(ctx)
	defer cancel()
	req := &protocol.EndTransactionRequest{Held: h.Held, Decision: protocol.Decision(d.String())}
	resp, err := ask[protocol.EndTransactionResponse](ctx, p, h.Broker, req)
	return resp, client.Wrap(d.String()+" transaction of", h.Topic, h.Broker, err)
}

// shown is the receipt of a half message that is in its queue now.
func (r Receipt) shown(at *protocol.EndTransactionResponse) Receipt {
	r.Queue.ID, r.Offset, r.StoreTime = at.Queue, at.Offset, time.UnixMilli(at.StoreMillis)
	return r
}
