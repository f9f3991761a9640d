package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// Transactions says when producers are asked for the outcome of half messages.
// Zero values mean the defaults, which are RocketMQ's.
type Transactions struct {
	// FirstCheck is when they are asked first, from the half message on, unless it
	// says otherwise; default 6 s.
	FirstCheck time.Duration
	// CheckInterval is when after that they are asked again; default 30 s.
	CheckInterval time.Duration
	// MaxChecks is how often they are asked before a copy of the message goes to
	// ParkedTopic for people to see; default 15.
	MaxChecks int
}

func (t Transactions) withDefaults() (Transactions, error) {
	t.FirstCheck = orDefault(t.FirstCheck, 6*time.Second)
	t.CheckInterval = orDefault(t.CheckInterval, 30*time.Second)
	t.MaxChecks = orDefault(t.MaxChecks, 15)
	if t.FirstCheck < time.Millisecond || t.CheckInterval < time.Millisecond || t.MaxChecks < 1 {
		return t, fmt.Errorf("transactions that are checked after %v and every %v, %d times; at least 1ms, 1ms and 1 are needed",
			t.FirstCheck, t.CheckInterval, t.MaxChecks)
	}
	return t, nil
}

func orDefault[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// maxPending bounds the half messages that are not decided, each of which costs
// memory until somebody decides.
const maxPending = 1_000_000

// pendingPause is what a producer is told to wait when there are too many.
const pendingPause = time.Second

// transactions holds half messages back, shows them or forgets them when their
// producer decides, and has producers asked that do not.
type transactions struct {
	state   *state
	conn    *transport.Conn
	clients *clients
	topics  *topicAdmin
	broker  string
	plan    transaction.Plan
	now     func() time.Time
	logger  *slog.Logger
	limit   int           // maxPending
	soon    chan struct{} // somebody new can be asked, or somebody wants it

	// mu is held while the schedule and the rulings are looked at, never while
	// anything is waited for. The view's lock may be taken within it.
	mu       sync.Mutex
	schedule *transaction.Schedule
	rulings  map[transaction.Key]*ruling
	lost     int // rulings that are
}

// ruling says that a record which decides on a message, or parks it, is under way:
// until it is applied, the view does not know. Whoever rules is alone in deciding.
type ruling struct {
	ended chan struct{} // closed when the outcome is known, or will not be told
	// lost says that it will not be told: the disk failed. The log finds out before
	// it takes another record.
	lost bool
}

// newTransactions takes up the half messages that were found in the log. It is
// called before anything more is appended.
func newTransactions(s *state, conn *transport.Conn, c *clients, topics *topicAdmin, cfg Config) *transactions {
	plan := transaction.Plan(cfg.Transactions)
	t := &transactions{
		state: s, conn: conn, clients: c, topics: topics, broker: cfg.Name, plan: plan, now: cfg.Now, logger: cfg.Logger,
		limit: maxPending, soon: make(chan struct{}, 1), schedule: transaction.NewSchedule(plan), rulings: map[transaction.Key]*ruling{},
	}
	s.transactions.Watch(t.follow)
	return t
}

// follow keeps the schedule up with the view.
func (t *transactions) follow(m transaction.Message, open bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if open {
		t.schedule.Put(t.now(), &m)
	} else {
		t.schedule.Remove(m.Key)
	}
}

// register puts the requests on the muxes of their classes.
func (t *transactions) register(client, admin *transport.Mux) {
	transport.Handle(client, t.end)
	transport.Handle(admin, t.check)
	transport.Handle(admin, t.list)
}

// hold stores a batch of half messages: nobody sees them before they are
// committed. With an error nothing was done.
func (t *transactions) hold(p *parcel) error {
	if err := t.mayHold(p); err != nil {
		return err
	}
	h := transaction.Half{Group: p.group, ImmunityMillis: make([]int64, p.Count), Batch: p.bytes}
	err := batch.EachExtra(p.bytes, func(i int, m *message.Message) { h.ImmunityMillis[i] = m.CheckImmunity.Milliseconds() })
	if err != nil {
		return protocol.Errorf(protocol.IllegalMessage, "%v", err)
	}
	r := store.Record{Type: store.HalfRecord, Queue: p.queue, Data: transaction.EncodeHalf(&h)}
	return refusal(t.state.log.Append(r, func(c store.Committed, err error) { p.done(heldBack(c, err)) }))
}

func (t *transactions) mayHold(p *parcel) error {
	uses := func(u batch.Use) bool { return p.Uses.Any&u != 0 }
	illegal := func(format string, args ...any) error {
		return protocol.Errorf(protocol.IllegalMessage, "a message of a transaction "+format, args...)
	}
	switch pending := t.state.transactions.Pending(); {
	case p.group == "":
		return illegal("needs a producer group: its members are asked for the outcome")
	case message.CheckGroup(p.group) != nil:
		return protocol.Errorf(protocol.InvalidArgument, "%v", message.CheckGroup(p.group))
	case uses(batch.UsesDelay):
		return illegal("cannot be delayed: its time is that of its commit")
	case uses(batch.UsesGroup):
		return illegal("cannot have a message group: it would not keep its place in the group")
	case uses(batch.UsesDedupKey):
		return illegal("cannot have a deduplication key: what is a duplicate of it is not known before its commit")
	case pending+p.Count > t.limit:
		busy := protocol.Errorf(protocol.Busy, "%d transactions are not decided; the limit is %d", pending, t.limit)
		busy.RetryAfterMillis = pendingPause.Milliseconds()
		return busy
	}
	return nil
}

// end decides on a half message, unless somebody has, or nobody is to.
func (t *transactions) end(ctx context.Context, r *protocol.EndTransactionRequest) (*protocol.EndTransactionResponse, error) {
	if r.Decision != protocol.Commit && r.Decision != protocol.Rollback && r.Decision != protocol.Unknown {
		return nil, protocol.Errorf(protocol.InvalidArgument, "decision %.100q", r.Decision)
	}
	k := transaction.Key{Origin: r.Origin, Position: r.Position}
	for {
		m, verdict, err := t.find(&r.Held)
		switch {
		case err != nil:
			return nil, err
		case verdict != nil:
			return answer(verdict, r)
		case r.Decision == protocol.Unknown:
			return &protocol.EndTransactionResponse{Queue: m.Queue, Offset: -1}, nil
		}
		if other := t.claim(k); other != nil {
			err = t.await(ctx, other)
		} else {
			err = t.decide(ctx, m, r.Decision)
		}
		if err != nil {
			return nil, err
		}
	}
}

// answer is what a request gets when the decision was made, by itself or before.
func answer(v *transaction.Verdict, r *protocol.EndTransactionRequest) (*protocol.EndTransactionResponse, error) {
	made := protocol.Rollback
	if v.Committed() {
		made = protocol.Commit
	}
	switch r.Decision {
	case made:
		return &protocol.EndTransactionResponse{Queue: v.Queue, Offset: v.Offset, StoreMillis: v.StoreMillis}, nil
	case protocol.Unknown:
		return &protocol.EndTransactionResponse{Queue: v.Queue, Offset: -1}, nil
	}
	return nil, protocol.Errorf(protocol.Conflict, "the decision on transaction %d of topic %q was %s, at %s: it cannot be %s any more",
		r.Origin, r.Topic, made, time.UnixMilli(v.StoreMillis).UTC().Format(time.RFC3339Nano), r.Decision)
}

// find looks a half message up, as open or decided. Whoever names one must know
// its id and topic.
func (t *transactions) find(h *protocol.Held) (m transaction.Message, v *transaction.Verdict, err error) {
	k := transaction.Key{Origin: h.Origin, Position: h.Position}
	unknown := protocol.Errorf(protocol.NotFound, "no transaction %d.%d of topic %.200q with message %.50q", h.Origin, h.Position, h.Topic, h.ID)
	id, topicID := message.ID{}, uint64(0)
	if open, ok := t.state.transactions.Open(k); ok {
		m, id, topicID = open, open.ID, open.TopicID
	} else if decided, ok := t.state.transactions.Decided(k); ok {
		v, id, topicID = &decided, decided.ID, decided.TopicID
	} else {
		return m, nil, unknown
	}
	if named, ok := t.state.topics.ByID(topicID); !ok || named.Name != h.Topic || id.String() != h.ID {
		return m, nil, unknown
	}
	return m, v, nil
}

// claim has the caller rule on a message, or returns who does already.
func (t *transactions) claim(k transaction.Key) (other *ruling) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if other, ok := t.rulings[k]; ok {
		return other
	}
	t.rulings[k] = &ruling{ended: make(chan struct{})}
	return nil
}

// unclaim follows up the record that was under way.
func (t *transactions) unclaim(k transaction.Key, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.rulings[k]
	if r.lost = err != nil && !errors.Is(err, store.ErrNoSpace) && !errors.Is(err, store.ErrClosed); r.lost {
		t.lost++
	} else {
		delete(t.rulings, k)
	}
	close(r.ended)
}

// await returns when the view knows what another ruling has led to.
func (t *transactions) await(ctx context.Context, other *ruling) error {
	select {
	case <-other.ended:
		return t.forgetLost()
	case <-ctx.Done():
		return protocol.Errorf(protocol.UnknownOutcome, "another decision is under way: %v", ctx.Err())
	}
}

// forgetLost ends the rulings whose outcome was not told, once the log is written
// again: what it has of their records is applied then. Until then nothing can be
// appended at all, and it returns why.
func (t *transactions) forgetLost() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.lost == 0 {
		return nil
	}
	if err := t.state.log.Status().Refusing; err != nil && !errors.Is(err, store.ErrDiskFull) {
		return refusal(err)
	}
	maps.DeleteFunc(t.rulings, func(_ transaction.Key, r *ruling) bool { return r.lost })
	t.lost = 0
	return nil
}

// decide appends what decides on a claimed message and waits until it is applied.
func (t *transactions) decide(ctx context.Context, m transaction.Message, d protocol.Decision) error {
	done := t.start(m.Key, func() (store.Record, error) {
		if d == protocol.Rollback {
			return store.Record{Type: store.DecisionRecord, Data: transaction.EncodeDecision(transaction.RolledBack, m.Key)}, nil
		}
		return t.shown(m)
	})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return protocol.Errorf(protocol.UnknownOutcome, "the disk has not answered: %v", ctx.Err())
	}
}

// start appends a record for a claimed message, and unclaims it when that is
// applied. Somebody else may have ruled before: a message that is not open
// any more is left as it is.
func (t *transactions) start(k transaction.Key, record func() (store.Record, error)) <-chan error {
	done := make(chan error, 1)
	appended, err := t.tryStart(k, record, done)
	if !appended {
		t.unclaim(k, nil)
		done <- err
	}
	return done
}

func (t *transactions) tryStart(k transaction.Key, record func() (store.Record, error), done chan<- error) (appended bool, err error) {
	if _, ok := t.state.transactions.Open(k); !ok {
		return false, nil
	}
	r, err := record()
	if err != nil {
		return false, err
	}
	err = t.state.log.Append(r, func(_ store.Committed, err error) {
		t.decided(k, err)
		t.unclaim(k, err)
		done <- refusal(err)
	})
	return err == nil, refusal(err)
}

// decided takes the decision that a record has made into the metrics; what parks a
// message makes none.
func (t *transactions) decided(k transaction.Key, err error) {
	if v, ok := t.state.transactions.Decided(k); ok && err == nil {
		t.state.meters.Decided(v.TopicID, v.Committed())
	}
}

// shown is the record that shows a half message and forgets it.
func (t *transactions) shown(m transaction.Message) (store.Record, error) {
	to, ok := t.state.topics.ByID(m.TopicID)
	if !ok {
		return store.Record{}, protocol.Errorf(protocol.NotFound, "the topic of transaction %d was deleted", m.Origin)
	}
	found, err := t.read(m)
	if err != nil {
		return store.Record{}, err
	}
	return releaseOf(m, to, m.Queue, found), nil
}

// releaseOf is the record that shows a half message in a queue of a topic.
func releaseOf(m transaction.Message, to topic.Topic, queue int, found *message.Message) store.Record {
	found.CheckImmunity = 0
	release := batch.Release{Origin: m.Origin, Positions: []int{m.Position}}
	return releases(to, queue, release, []*message.Message{found})[0]
}

// read reads a half message from the log. Its record may be carried on meanwhile.
func (t *transactions) read(m transaction.Message) (*message.Message, error) {
	for {
		r, err := t.state.log.Record(m.At)
		if err == nil {
			return halfMessage(r, m.Position)
		}
		now, ok := t.state.transactions.Open(m.Key)
		if !ok || now.At == m.At {
			return nil, refusal(err)
		}
		m = now
	}
}

// halfMessage takes one message out of a record of half messages.
func halfMessage(r store.Committed, position int) (*message.Message, error) {
	all, err := halfMessages(r)
	if err == nil && position >= len(all) {
		err = fmt.Errorf("%w: record %d has no message %d", store.ErrDamaged, r.Index, position)
	}
	if err != nil {
		return nil, refusal(err)
	}
	return &all[position].Message, nil
}

// halfMessages decodes a record of half messages. Bodies share its memory.
func halfMessages(r store.Committed) ([]message.Stored, error) {
	held, err := openHeld(r)
	if err != nil {
		return nil, err
	}
	h, err := transaction.DecodeHalf(held.Data)
	if err == nil {
		var all []message.Stored
		if all, _, err = batch.Decode(nil, h.Batch, ""); err == nil {
			return all, nil
		}
	}
	return nil, fmt.Errorf("%w: record %d: %w", store.ErrDamaged, r.Index, err)
}
