package broker

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/broker/topic"
	"github.com/rmqio/rmq/broker/transaction"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// ruled is transactions over a real log, without a server.
type ruled struct {
	*testing.T
	*transactions
	topic topic.Topic
	next  uint64
}

func newRuled(t *testing.T) *ruled {
	t.Helper()
	dir := t.TempDir()
	cfg, err := Config{DataDir: dir}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	s, err := openState(filepath.Join(dir, LogDir), filepath.Join(dir, "views.db"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	})
	r := &ruled{T: t, transactions: newTransactions(s, nil, newClients(s, nil, cfg), nil, cfg)}
	put := topic.EncodePut(protocol.TopicConfig{Name: "orders", ReadQueues: 1, WriteQueues: 1, Perm: message.PermReadWrite})
	r.append(store.Record{Type: store.TopicRecord, Data: put})
	r.topic, _ = s.topics.Lookup("orders")
	return r
}

func (r *ruled) append(record store.Record) {
	r.Helper()
	if err := r.state.append(r.Context(), record); err != nil {
		r.Fatal(err)
	}
}

// try holds n half messages with empty bodies in one batch.
func (r *ruled) try(n int) (protocol.SendResult, message.ID, error) {
	return r.tryWith(make([][]byte, n))
}

func (r *ruled) tryWith(bodies [][]byte) (protocol.SendResult, message.ID, error) {
	r.next++
	first := message.MakeID(1, r.next<<16)
	b := batch.NewBuilder("", 0)
	b.Begin(&batch.Lead{Topic: "orders", Purpose: batch.ToTransaction})
	for i, body := range bodies {
		b.Add(&message.Message{ID: message.MakeID(1, r.next<<16+uint64(i)), BornTime: time.UnixMilli(1), Body: body})
	}
	h, err := batch.Check(b.Finish())
	if err != nil {
		r.Fatal(err)
	}
	done := make(chan protocol.SendResult, 1)
	p := &parcel{
		Header: h, bytes: b.Finish(), topic: r.topic, queue: store.QueueKey{Topic: r.topic.ID}, group: "shop",
		done: func(s protocol.SendResult) { done <- s },
	}
	if err := r.hold(p); err != nil {
		return protocol.SendResult{}, first, err
	}
	return <-done, first, nil
}

func (r *ruled) half() (protocol.Held, transaction.Key) {
	r.Helper()
	s, id, err := r.try(1)
	if err != nil || s.Err != nil {
		r.Fatal(err, s.Err)
	}
	return protocol.Held{Origin: s.Index, ID: id.String(), Topic: "orders"}, transaction.Key{Origin: s.Index}
}

func (r *ruled) commit(h protocol.Held) error {
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	_, err := r.end(ctx, &protocol.EndTransactionRequest{Held: h, Decision: protocol.Commit})
	return err
}

func (r *ruled) visible() int64 {
	_, end := r.state.log.Bounds(store.QueueKey{Topic: r.topic.ID})
	return end
}

// TestRuling_Lost: the outcome of a decision was not told because the disk failed.
// What holds is what the log has.
func TestRuling_Lost(t *testing.T) {
	r := newRuled(t)
	h, k := r.half()
	r.claim(k)
	r.unclaim(k, store.ErrPoisoned) // it is not in the log
	if r.lost != 1 {
		t.Errorf("%d rulings are lost, want 1", r.lost)
	}
	if err := r.commit(h); err != nil {
		t.Errorf("commit after a decision that is not there: %v", err)
	}
	h, k = r.half()
	r.claim(k)
	r.append(store.Record{Type: store.DecisionRecord, Data: transaction.EncodeDecision(transaction.RolledBack, k)})
	r.unclaim(k, store.ErrPoisoned) // it is
	if err := r.commit(h); !errors.Is(err, protocol.Conflict) {
		t.Errorf("commit after a rollback that is there: %v", err)
	}
	if got := r.visible(); got != 1 {
		t.Errorf("%d messages are visible, want 1", got)
	}
	r.pass(t.Context())
	if len(r.rulings) != 0 || r.lost != 0 {
		t.Errorf("%d rulings are kept, %d of them lost", len(r.rulings), r.lost)
	}
}

// TestRuling_LostUntilTheLogIsWritten: as long as the log does not say what it
// has, nobody decides.
func TestRuling_LostUntilTheLogIsWritten(t *testing.T) {
	r := newRuled(t)
	h, k := r.half()
	r.claim(k)
	r.unclaim(k, store.ErrPoisoned)
	if err := r.state.log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := r.commit(h); !errors.Is(err, protocol.Unavailable) {
		t.Errorf("got %v, want Unavailable", err)
	}
	if r.lost != 1 || r.rulings[k] == nil {
		t.Error("the ruling is forgotten")
	}
}

func TestRuling_NothingWasDone(t *testing.T) {
	r := newRuled(t)
	_, k := r.half()
	for _, err := range []error{nil, store.ErrNoSpace, store.ErrClosed} {
		if r.claim(k) != nil {
			t.Fatalf("before %v somebody rules", err)
		}
		r.unclaim(k, err)
	}
	if r.lost != 0 {
		t.Errorf("%d rulings are lost", r.lost)
	}
}

// TestRuling_OneAtATime: who comes second waits for the first one's outcome.
func TestRuling_OneAtATime(t *testing.T) {
	r := newRuled(t)
	h, k := r.half()
	r.claim(k)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := r.end(ctx, &protocol.EndTransactionRequest{Held: h, Decision: protocol.Commit})
	if !errors.Is(err, protocol.UnknownOutcome) || r.visible() != 0 {
		t.Errorf("while another decides: got %v, %d are visible", err, r.visible())
	}
	decided := make(chan error, 1)
	go func() { decided <- r.commit(h) }()
	r.unclaim(k, nil)
	if err := <-decided; err != nil || r.visible() != 1 {
		t.Errorf("after the other gave up: got %v, %d are visible", err, r.visible())
	}
}

// TestRuling_TooLate: somebody decided between the look at a message and the
// claim on it.
func TestRuling_TooLate(t *testing.T) {
	r := newRuled(t)
	h, k := r.half()
	m, _, err := r.find(&h)
	if err != nil {
		t.Fatal(err)
	}
	r.append(store.Record{Type: store.DecisionRecord, Data: transaction.EncodeDecision(transaction.RolledBack, k)})
	r.claim(k)
	if err := r.decide(t.Context(), m, protocol.Commit); err != nil {
		t.Error(err)
	}
	if r.visible() != 0 {
		t.Error("what was rolled back is visible")
	}
}

func TestTransactions_TooManyPending(t *testing.T) {
	r := newRuled(t)
	r.limit = 3
	h, _ := r.half()
	if s, _, err := r.try(2); err != nil || s.Err != nil {
		t.Fatal(err, s.Err)
	}
	var refusal *protocol.Error
	if _, _, err := r.try(1); !errors.As(err, &refusal) || refusal.Code != protocol.Busy || refusal.RetryAfterMillis == 0 {
		t.Errorf("one too many: got %v", err)
	}
	if err := r.commit(h); err != nil {
		t.Fatal(err)
	}
	if _, _, err := r.try(1); err != nil {
		t.Errorf("after one was decided: %v", err)
	}
}

// TestTransactions_OfATopicThatIsDeleted: a half message may come behind the
// record that deletes its topic.
func TestTransactions_OfATopicThatIsDeleted(t *testing.T) {
	r := newRuled(t)
	r.half()
	r.append(store.Record{Type: store.TopicDeleteRecord, Queue: store.QueueKey{Topic: r.topic.ID}, Data: topic.EncodeDelete("orders")})
	r.half()
	if got := r.state.transactions.Pending(); got != 0 {
		t.Errorf("%d are pending, of a topic that is deleted", got)
	}
}

// TestTransactions_CarriedMeanwhile: a record is carried on between the look at
// where it stands and the reading.
func TestTransactions_CarriedMeanwhile(t *testing.T) {
	r := newRuled(t)
	_, k := r.half()
	m, _ := r.state.transactions.Open(k)
	m.At += 1000
	if found, err := r.read(m); err != nil || found.ID != m.ID {
		t.Errorf("got %v, %v", found, err)
	}
	m.Origin += 1000
	if _, err := r.read(m); !errors.Is(err, protocol.OffsetOutOfRange) {
		t.Errorf("of what is not there: got %v", err)
	}
}

// TestChecks_BoundedBytes: a pass reads a bounded number of bytes, and one message
// at least.
func TestChecks_BoundedBytes(t *testing.T) {
	r := newRuled(t)
	body := make([]byte, 3<<20)
	for range 7 {
		if s, _, err := r.tryWith([][]byte{body}); err != nil || s.Err != nil {
			t.Fatal(err, s.Err)
		}
	}
	r.now = func() time.Time { return time.Now().Add(time.Hour) }
	if due := r.due("shop"); len(due) != 5 {
		t.Errorf("%d records of 3 MiB are read at once, want 5", len(due))
	}
}

// TestChecks_AtOnce: a pass follows at once when somebody new can be asked, or
// somebody wants it.
func TestChecks_AtOnce(t *testing.T) {
	r := newRuled(t)
	r.clients.joined = r.wake
	woken := func(what string, want bool) {
		t.Helper()
		select {
		case <-r.soon:
			if !want {
				t.Errorf("%s: woken", what)
			}
		default:
			if want {
				t.Errorf("%s: not woken", what)
			}
		}
	}
	beat := &protocol.HeartbeatRequest{ClientID: "c", Inbox: "rmq.c.c", Producers: []string{"shop"}}
	heartbeat := func() {
		t.Helper()
		if _, err := r.clients.heartbeat(t.Context(), beat); err != nil {
			t.Fatal(err)
		}
	}
	heartbeat()
	woken("nobody to be asked", false)
	beat.Checkers = []string{"shop"}
	heartbeat()
	woken("somebody new", true)
	heartbeat()
	woken("the same", false)
	if _, err := r.check(t.Context(), &protocol.CheckTransactionsRequest{}); err != nil {
		t.Fatal(err)
	}
	woken("somebody wants it", true)
}
