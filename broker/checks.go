package broker

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// ParkedTopic has a copy of each half message whose producers were asked in vain,
// as in RocketMQ. Clients read it, and cannot write to it.
const ParkedTopic = "TRANS_CHECK_MAX_TIME_TOPIC"

// Properties of the copies in ParkedTopic.
const (
	ParkedFromTopic = "rmq.topic"
	ParkedFromQueue = "rmq.queue"
	ParkedFromGroup = "rmq.group"    // the producer group
	ParkedOrigin    = "rmq.origin"   // with the position: what names the transaction
	ParkedPosition  = "rmq.position" // within what was sent together
	ParkedChecks    = "rmq.checks"   // how often its producers were asked
)

// Limits of a pass, so that producers are not flooded when much is due at once.
const (
	maxPass      = time.Second // between two passes
	askedAtOnce  = 1024        // messages of a group
	askedBytes   = 16 << 20    // of a group, and at least one message
	askedRecord  = 4096        // messages in one decision record
	parkedAtOnce = 256
)

// run has producers asked and messages parked until ctx ends. It looks several
// times in the shortest time that it counts.
func (t *transactions) run(ctx context.Context) {
	every := min(t.plan.FirstCheck, t.plan.CheckInterval) / 8
	tick := time.NewTicker(min(max(every, time.Millisecond), maxPass))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-t.soon:
		}
		t.pass(ctx)
	}
}

// wake has run look soon.
func (t *transactions) wake() {
	select {
	case t.soon <- struct{}{}:
	default:
	}
}

// pass does what is due. What fails is due again after CheckInterval, except for
// what only somebody else has in hand now.
func (t *transactions) pass(ctx context.Context) {
	if t.forgetLost() != nil {
		return // the log cannot be written, and says so itself
	}
	t.park(ctx)
	t.ask(ctx)
}

func (t *transactions) log(ctx context.Context, what string, err error) {
	if ctx.Err() == nil {
		t.logger.Error("transactions", "doing", what, "err", err)
	}
}

// ask has producers asked for what is due, and counts that they were.
func (t *transactions) ask(ctx context.Context) {
	var asked []transaction.Key
	for _, g := range t.dueGroups() {
		if inboxes := t.clients.checkers(g); len(inboxes) > 0 {
			asked = append(asked, t.askGroup(g, inboxes)...)
		}
		if len(asked) >= askedRecord {
			t.count(ctx, asked)
			asked = nil
		}
	}
	if len(asked) > 0 {
		t.count(ctx, asked)
	}
}

func (t *transactions) dueGroups() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.schedule.DueGroups(t.now())
}

// count has it on disk that producers were asked. The message itself stays as it
// is in the log.
func (t *transactions) count(ctx context.Context, asked []transaction.Key) {
	data := transaction.EncodeDecision(transaction.Asked, asked...)
	if err := t.state.append(ctx, store.Record{Type: store.DecisionRecord, Data: data}); err != nil {
		t.log(ctx, "count checks", err)
		t.postpone(asked...)
	}
}

func (t *transactions) postpone(keys ...transaction.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, k := range keys {
		t.schedule.Postpone(t.now(), k)
	}
}

// askGroup asks the producers of a group, who are there, for what is due, and
// returns what they were asked for.
func (t *transactions) askGroup(group string, inboxes []string) (asked []transaction.Key) {
	due := t.due(group)
	t.state.log.Records(slices.Sorted(maps.Keys(due)), func(r store.Committed, err error) bool {
		var all []message.Stored
		if err == nil {
			all, err = halfMessages(r)
		}
		for _, m := range due[r.Index] {
			if err := t.askFor(m, all, err, inboxes); err == nil {
				asked = append(asked, m.Key)
			} else if now, ok := t.state.transactions.Open(m.Key); ok && now.At == m.At {
				t.logger.Error("ask for a transaction", "origin", m.Origin, "position", m.Position, "group", group, "err", err)
				t.postpone(m.Key)
			}
		}
		return true
	})
	return asked
}

// due is what producers of a group are to be asked for now, by where it stands.
func (t *transactions) due(group string) map[uint64][]transaction.Message {
	t.mu.Lock()
	defer t.mu.Unlock()
	due := map[uint64][]transaction.Message{}
	bytes := 0
	for _, k := range t.schedule.Due(t.now(), group, askedAtOnce) {
		m, ok := t.state.transactions.Open(k)
		if !ok {
			continue // the schedule is about to hear of it
		}
		if _, read := due[m.At]; !read {
			bytes += m.Bytes
		}
		if bytes > askedBytes && len(due) > 0 {
			break
		}
		due[m.At] = append(due[m.At], m)
	}
	return due
}

// askFor asks one of the producers for the outcome of a message, which is one of
// those of its record, unless that could not be read.
func (t *transactions) askFor(m transaction.Message, all []message.Stored, err error, inboxes []string) error {
	switch {
	case err != nil:
		return err
	case m.Position >= len(all):
		return fmt.Errorf("%w: record %d has no message %d", store.ErrDamaged, m.At, m.Position)
	}
	found := &all[m.Position].Message
	b := batch.NewBuilder(found.Topic, m.Queue)
	b.Add(found)
	single := b.Finish()
	batch.SetStored(single, m.Origin, -1, m.StoreMillis, 1)
	event := protocol.CheckTransactionEvent{
		Broker: t.broker, Group: m.Group, Check: m.Checks + 1, Batch: single,
		Held: protocol.Held{Origin: m.Origin, Position: m.Position, ID: m.ID.String(), Topic: found.Topic},
	}
	return t.conn.Publish(inboxes[transaction.Turn(&m, len(inboxes))], protocol.CheckTransaction, &event)
}

// park puts copies of the messages whose producers were asked in vain into
// ParkedTopic, and waits until they are there.
func (t *transactions) park(ctx context.Context) {
	t.mu.Lock()
	keys := t.schedule.DueParking(t.now(), parkedAtOnce)
	t.mu.Unlock()
	if len(keys) == 0 {
		return
	}
	side, err := t.topics.system(ctx, protocol.TopicConfig{Name: ParkedTopic, ReadQueues: 1, WriteQueues: 1, Perm: message.PermRead})
	if err != nil {
		t.log(ctx, "create "+ParkedTopic, err)
		t.postpone(keys...)
		return
	}
	parking := map[transaction.Key]<-chan error{}
	for _, k := range keys {
		if m, ok := t.state.transactions.Open(k); ok && t.claim(k) == nil {
			parking[k] = t.start(k, func() (store.Record, error) { return t.parked(m, side) })
		}
	}
	for k, done := range parking {
		if err := <-done; err != nil {
			t.log(ctx, fmt.Sprintf("park %d.%d", k.Origin, k.Position), err)
			t.postpone(k)
		}
	}
}

// parked is the record that parks a message.
func (t *transactions) parked(m transaction.Message, side topic.Topic) (store.Record, error) {
	found, err := t.read(m)
	if err != nil {
		return store.Record{}, err
	}
	if found.Properties == nil {
		found.Properties = map[string]string{}
	}
	maps.Copy(found.Properties, map[string]string{
		ParkedFromTopic: found.Topic, ParkedFromQueue: strconv.Itoa(m.Queue), ParkedFromGroup: m.Group,
		ParkedOrigin: strconv.FormatUint(m.Origin, 10), ParkedPosition: strconv.Itoa(m.Position), ParkedChecks: strconv.Itoa(m.Checks),
	})
	return releaseOf(m, side, 0, found), nil
}

// check has producers asked now.
func (t *transactions) check(ctx context.Context, r *protocol.CheckTransactionsRequest) (*protocol.CheckTransactionsResponse, error) {
	resp := &protocol.CheckTransactionsResponse{}
	there := map[string]bool{}
	err := t.eachWanted(ctx, &r.Held, func(m *transaction.Message) {
		if _, known := there[m.Group]; !known {
			there[m.Group] = len(t.clients.checkers(m.Group)) > 0
		}
		switch {
		case !there[m.Group]:
			resp.NobodyOf++
		case t.hasten(m):
			resp.Asked++
		}
	})
	t.wake()
	return resp, err
}

// eachWanted visits the transactions that a request to check names.
func (t *transactions) eachWanted(ctx context.Context, h *protocol.Held, visit func(*transaction.Message)) error {
	if h.Origin != 0 {
		m, verdict, err := t.find(h)
		switch {
		case err != nil:
			return err
		case verdict != nil:
			return protocol.Errorf(protocol.Conflict, "transaction %d.%d is decided", h.Origin, h.Position)
		}
		visit(&m)
		return nil
	}
	want, err := t.filter(h.Topic, "")
	if err != nil {
		return err
	}
	var page []transaction.Message
	for more, after := true, (transaction.Key{}); more && ctx.Err() == nil; {
		page, more = t.state.transactions.List(after, protocol.MaxQueryMessages, want)
		for i := range page {
			visit(&page[i])
			after = page[i].Key
		}
	}
	return ctx.Err()
}

// hasten has a message's producers asked by the next pass, if it is still open.
func (t *transactions) hasten(m *transaction.Message) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, open := t.state.transactions.Open(m.Key)
	if open {
		t.schedule.Hasten(t.now(), m)
	}
	return open
}

// filter wants the transactions of a topic and of a group; empty: of all.
func (t *transactions) filter(topicName, group string) (func(*transaction.Message) bool, error) {
	if topicName == "" {
		return func(m *transaction.Message) bool { return group == "" || m.Group == group }, nil
	}
	found, err := t.state.topic(topicName)
	if err != nil {
		return nil, err
	}
	return func(m *transaction.Message) bool {
		return m.TopicID == found.ID && (group == "" || m.Group == group)
	}, nil
}

// list answers a page of the transactions that are not decided.
func (t *transactions) list(_ context.Context, r *protocol.ListTransactionsRequest) (*protocol.ListTransactionsResponse, error) {
	if r.Max < 1 || r.Max > protocol.MaxQueryMessages {
		return nil, protocol.Errorf(protocol.InvalidArgument, "list of %d transactions; 1 to %d are allowed", r.Max, protocol.MaxQueryMessages)
	}
	want, err := t.filter(r.Topic, r.Group)
	if err != nil {
		return nil, err
	}
	after := transaction.Key{Origin: r.AfterOrigin, Position: r.AfterPosition}
	page, more := t.state.transactions.List(after, r.Max, want)
	resp := &protocol.ListTransactionsResponse{Pending: t.state.transactions.Pending(), More: more}
	for i := range page {
		resp.Transactions = append(resp.Transactions, t.status(&page[i]))
	}
	return resp, nil
}

func (t *transactions) status(m *transaction.Message) protocol.TransactionStatus {
	topic, _ := t.state.topics.ByID(m.TopicID) // without a name when it was deleted just now
	return protocol.TransactionStatus{
		Held:  protocol.Held{Origin: m.Origin, Position: m.Position, ID: m.ID.String(), Topic: topic.Name},
		Queue: m.Queue, Group: m.Group, StoreMillis: m.StoreMillis, Checks: m.Checks, NextCheckMillis: t.plan.Next(m),
	}
}
