package producer

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Decision is what becomes of a transaction's message.
type Decision int

// The decisions.
const (
	// Unknown leaves the message hidden; the broker asks Config.Checker later.
	Unknown Decision = iota
	// Commit shows the message to consumers.
	Commit
	// Rollback drops the message.
	Rollback
)

func (d Decision) String() string {
	switch d {
	case Commit:
		return "commit"
	case Rollback:
		return "rollback"
	}
	return "unknown"
}

// Checker says what became of a transaction whose outcome a broker does not
// know, be it one of this producer, of an earlier run of it, or of another
// producer of its group: it looks into what the local transaction has written.
// The message belongs to the checker. A panic is Unknown. ctx ends with the
// producer.
type Checker func(ctx context.Context, m *message.Stored) Decision

// TransactionReceipt says what became of a transaction.
type TransactionReceipt struct {
	// Receipt has the message's place when it was committed; otherwise Offset is -1.
	Receipt
	// State is what the broker has confirmed. Unknown: it asks the Checker later.
	State Decision
}

// Transaction is a half message: on the broker's disk, and hidden from consumers
// until it is committed. Its methods are safe for concurrent use. When none is
// called, because the producer dies for example, the broker asks the Checker of
// a producer of the same group.
type Transaction struct {
	p       *Producer
	receipt Receipt // of the half message
	handle  client.Handle
}

// SendInTransaction sends a half message, runs local when it is on the broker's
// disk, and tells the broker what local has decided. Without the half message
// local is not run.
//
// An error of local is part of the error returned. With one, Commit counts as
// Unknown: "return producer.Commit, tx.Commit()" commits nothing that was not
// written. A panic of local is logged, is an error, and means Unknown.
//
// With an error the receipt still says what is certain: State is Unknown when
// the broker could not be told before ctx's deadline (SendTimeout for each of the
// two parts, when ctx has none), and then the broker asks the Checker.
func (p *Producer) SendInTransaction(ctx context.Context, m *message.Message, local func(ctx context.Context) (Decision, error), opts ...SendOption) (TransactionReceipt, error) {
	tx, err := p.SendHalf(ctx, m, opts...)
	if err != nil {
		return TransactionReceipt{}, err
	}
	r := TransactionReceipt{Receipt: tx.receipt}
	decision, localErr := p.runLocal(ctx, m.Topic, local)
	switch decision {
	case Commit:
		var committed Receipt
		if committed, err = tx.Commit(ctx); err == nil {
			r = TransactionReceipt{Receipt: committed, State: Commit}
		}
	case Rollback:
		if err = tx.Rollback(ctx); err == nil {
			r.State = Rollback
		}
	}
	return r, errors.Join(localErr, err)
}

// runLocal runs a local transaction.
func (p *Producer) runLocal(ctx context.Context, topic string, local func(context.Context) (Decision, error)) (d Decision, err error) {
	defer func() {
		if v := recover(); v != nil {
			p.cfg.Logger.Error("a local transaction panics", "topic", topic, "panic", v, "stack", string(debug.Stack()))
			d, err = Unknown, fmt.Errorf("local transaction panics: %v", v)
		}
	}()
	d, err = local(ctx)
	if err == nil {
		return d, nil
	}
	if d == Commit {
		d = Unknown
	}
	return d, fmt.Errorf("local transaction: %w", err)
}

// SendHalf sends a half message and waits until it is on the broker's disk. What
// SendInTransaction does in one call can so be done in three. The message can
// neither be delayed nor have a group or a deduplication key: ErrIllegalMessage. ErrNoChecker without
// Config.Checker; ErrInvalidArgument for a topic that is not one of
// Config.TransactionTopics. Other errors are those of Send.
func (p *Producer) SendHalf(ctx context.Context, m *message.Message, opts ...SendOption) (*Transaction, error) {
	if err := p.checkTransaction(m); err != nil {
		return nil, err
	}
	c := newCall(1)
	if _, err := p.accept(ctx, entry{m: m, call: c, purpose: batch.ToTransaction}, opts, nil); err != nil {
		return nil, err
	}
	p.await(ctx, c, m.Topic)
	if c.errs[0] != nil {
		return nil, c.errs[0]
	}
	return p.newTransaction(c.receipts[0])
}

// newTransaction finds in a receipt what names the half message.
func (p *Producer) newTransaction(r Receipt) (*Transaction, error) {
	h, err := client.ParseHandle(r.RecallHandle)
	if err != nil {
		return nil, sendError(r.Queue.Topic, r.Queue.Broker, protocol.Errorf(protocol.SystemError,
			"the broker did not say where it holds the half message %s", r.MessageID))
	}
	r.RecallHandle = "" // a transaction is ended, not recalled
	return &Transaction{p: p, receipt: r, handle: h}, nil
}

func (p *Producer) checkTransaction(m *message.Message) error {
	if err := check(m, false); err != nil {
		return err
	}
	refuse := func(code protocol.ErrorCode, err error) error { return sendError(m.Topic, "", coded(code, err)) }
	switch {
	case p.cfg.Checker == nil:
		return refuse(protocol.InvalidArgument, fmt.Errorf("%w, which says what became of it when the decision is lost", ErrNoChecker))
	case !slices.Contains(p.cfg.TransactionTopics, m.Topic):
		return refuse(protocol.InvalidArgument, fmt.Errorf(
			"topic %q is not one of Config.TransactionTopics: a producer that is restarted would not be asked for the outcome", m.Topic))
	case m.IsDelayed():
		return refuse(protocol.IllegalMessage, fmt.Errorf(
			"%w: a message in a transaction cannot be delayed: its time is that of the commit", message.ErrIllegalMessage))
	case m.Group != "":
		return refuse(protocol.IllegalMessage, fmt.Errorf(
			"%w: a message in a transaction cannot have a group, %q: it would not keep its place in the group", message.ErrIllegalMessage, m.Group))
	case m.DedupKey != "":
		return refuse(protocol.IllegalMessage, fmt.Errorf(
			"%w: a message in a transaction cannot have a deduplication key: what is a duplicate of it is not known before the commit", message.ErrIllegalMessage))
	}
	return nil
}

// MessageID is the message's id, for what the Checker will look for. Keys and
// properties of the message do as well.
func (t *Transaction) MessageID() message.ID { return t.receipt.MessageID }

// Handle names the transaction for operators.
func (t *Transaction) Handle() string { return t.handle.String() }

// Commit shows the message to consumers and says where it is. It is repeated
// until ctx's deadline, or SendTimeout, while the broker cannot be reached, and a
// second Commit says the same as the first. Errors are *Error: ErrConflict when
// it was rolled back before, ErrNotFound when the broker has forgotten it.
func (t *Transaction) Commit(ctx context.Context) (Receipt, error) {
	resp, err := t.p.end(ctx, t.handle, Commit)
	if err != nil {
		return Receipt{MessageID: t.receipt.MessageID}, err
	}
	return t.receipt.shown(resp), nil
}

// Rollback drops the message; see Commit.
func (t *Transaction) Rollback(ctx context.Context) error {
	_, err := t.p.end(ctx, t.handle, Rollback)
	return err
}
