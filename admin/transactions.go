package admin

import (
	"context"
	"iter"
	"time"

	"github.com/rmqio/rmq/internal/client"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Transaction is one that nobody has decided yet.
type Transaction struct {
	// Handle is what ResolveTransaction and CheckTransaction take.
	Handle    string
	MessageID message.ID
	Queue     message.Queue
	Group     string // of its producers
	StoreTime time.Time
	// Checks is how often producers were asked for the outcome.
	Checks int
	// NextCheck is when they are asked next; zero: they were asked as often as is
	// allowed, and a person must decide.
	NextCheck time.Time
}

func newTransaction(broker string, s *protocol.TransactionStatus) Transaction {
	id, _ := message.ParseID(s.ID) // zero without one
	x := Transaction{
		Handle: client.Handle{Broker: broker, Held: s.Held}.String(), MessageID: id,
		Queue: message.Queue{Topic: s.Topic, Broker: broker, ID: s.Queue},
		Group: s.Group, StoreTime: time.UnixMilli(s.StoreMillis), Checks: s.Checks,
	}
	if s.NextCheckMillis != 0 {
		x.NextCheck = time.UnixMilli(s.NextCheckMillis)
	}
	return x
}

// Transactions yields the transactions that are not decided, of a topic and a
// producer group or, with "", of all, the oldest first; see Delayed.
func (a *Admin) Transactions(ctx context.Context, topic, group string, t Target) iter.Seq2[Transaction, error] {
	byAge := func(a, b *Transaction) int { return a.StoreTime.Compare(b.StoreTime) }
	return listed(ctx, a, topic, t, byAge, func(broker string) pages[Transaction] {
		req := &protocol.ListTransactionsRequest{Topic: topic, Group: group, Max: queryPage}
		return func() (page []Transaction, more bool, err error) {
			resp, err := client.Call[protocol.ListTransactionsResponse](ctx, a.client, broker, protocol.ClassAdmin, req)
			if err != nil {
				return nil, false, client.Wrap("list transactions of", topic, broker, err)
			}
			for i := range resp.Transactions {
				s := &resp.Transactions[i]
				page = append(page, newTransaction(broker, s))
				req.AfterOrigin, req.AfterPosition = s.Origin, s.Position
			}
			return page, resp.More, nil
		}
	})
}

// Checked counts the transactions that producers are asked for now, and those of
// groups of which no producer that can be asked is there.
type Checked struct {
	Asked    int
	NobodyOf int
}

// CheckTransactions has the producers of all transactions of a topic, or with ""
// of all topics, asked now. TopicNotFound when no broker of the target has it.
func (a *Admin) CheckTransactions(ctx context.Context, topic string, t Target) (Checked, error) {
	brokers, err := a.masters(ctx, t)
	if err != nil {
		return Checked{}, err
	}
	req := &protocol.CheckTransactionsRequest{Held: protocol.Held{Topic: topic}}
	answers, err := without(request[protocol.CheckTransactionsResponse](ctx, a, brokers, req), protocol.TopicNotFound)
	if len(answers) == 0 {
		return Checked{}, err
	}
	var sum Checked
	for _, x := range answers {
		if x.err == nil {
			sum.Asked += x.value.Asked
			sum.NobodyOf += x.value.NobodyOf
		}
	}
	return sum, outcome("check transactions", answers)
}

// CheckTransaction has a producer of one transaction asked now. It reports false
// when none is there. Errors: ErrBadHandle, ErrBrokerNotFound, protocol.NotFound,
// and protocol.Conflict when it is decided.
func (a *Admin) CheckTransaction(ctx context.Context, handle string) (asked bool, err error) {
	h, err := a.handle(ctx, handle)
	if err != nil {
		return false, err
	}
	req := &protocol.CheckTransactionsRequest{Held: h.Held}
	resp, err := client.Call[protocol.CheckTransactionsResponse](ctx, a.client, h.Broker, protocol.ClassAdmin, req)
	if err != nil {
		return false, client.Wrap("check transaction of", h.Topic, h.Broker, err)
	}
	return resp.Asked > 0, nil
}

// Resolved is what became of a transaction: the place of its message when it was
// committed, and an Offset of -1 when it was rolled back.
type Resolved struct {
	Queue     message.Queue
	Offset    int64
	StoreTime time.Time
}

// ResolveTransaction decides on a transaction in place of its producer: commit or
// rollback. The same decision again is answered as the first was. Errors:
// ErrBadHandle, ErrBrokerNotFound, protocol.NotFound, protocol.Conflict when it
// was decided the other way.
func (a *Admin) ResolveTransaction(ctx context.Context, handle string, d protocol.Decision) (Resolved, error) {
	if d != protocol.Commit && d != protocol.Rollback {
		return Resolved{}, protocol.Errorf(protocol.InvalidArgument, "decision %q; %q and %q are allowed", d, protocol.Commit, protocol.Rollback)
	}
	h, err := a.handle(ctx, handle)
	if err != nil {
		return Resolved{}, err
	}
	req := &protocol.EndTransactionRequest{Held: h.Held, Decision: d}
	resp, err := client.Call[protocol.EndTransactionResponse](ctx, a.client, h.Broker, protocol.ClassClient, req)
	if err != nil {
		return Resolved{}, client.Wrap("resolve transaction of", h.Topic, h.Broker, err)
	}
	return Resolved{
		Queue:  message.Queue{Topic: h.Topic, Broker: h.Broker, ID: resp.Queue},
		Offset: resp.Offset, StoreTime: time.UnixMilli(resp.StoreMillis),
	}, nil
}
