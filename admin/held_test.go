package admin_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// newSender is a producer whose transactions in topic t are decided by asked; nil:
// it has none.
func newSender(t *testing.T, c *harness.Cluster, asked producer.Checker) *producer.Producer {
	t.Helper()
	cfg := producer.Config{NameServers: c.NameServers, Group: "shop", Checker: asked}
	if asked != nil {
		cfg.TransactionTopics = []string{"t"}
	}
	p, err := producer.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), harness.Timeout)
		defer cancel()
		if err := p.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return p
}

// twoBrokers have topic t with one queue each; only broker-a has topic a.
func twoBrokers(t *testing.T) (*harness.Cluster, *admin.Admin) {
	t.Helper()
	c := harness.Start(t, func(cfg *broker.Config) {
		cfg.Transactions = broker.Transactions{FirstCheck: time.Hour, CheckInterval: time.Hour}
	})
	addBroker(t, c, "broker-b")
	a := open(t, c.NameServers...)
	_, err := a.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: 1, WriteQueues: 1}, admin.Target{})
	if err == nil {
		_, err = a.CreateTopic(t.Context(), admin.TopicSpec{Name: "a", ReadQueues: 1, WriteQueues: 1}, admin.Target{Brokers: []string{"broker-a"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return c, a
}

func on(i int) producer.SendOption {
	return producer.ToQueue(message.Queue{Broker: []string{"broker-a", "broker-b"}[i%2]})
}

func all[T any](t *testing.T, seq iter.Seq2[T, error]) (list []T) {
	t.Helper()
	for v, err := range seq {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
	}
	return list
}

func firstErr[T any](seq iter.Seq2[T, error]) error {
	for _, err := range seq {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestDelayed_ListsInTheOrderOfTimes(t *testing.T) {
	c, a := twoBrokers(t)
	p := newSender(t, c, nil)
	ctx := t.Context()
	const n = 140 // more than two pages on each broker
	base := time.Now().Add(time.Hour).Truncate(time.Millisecond)
	want := map[string]producer.Receipt{}
	for i := range n {
		at := base.Add(time.Duration(i*37%n) * time.Second)
		r, err := p.Send(ctx, &message.Message{Topic: "t", DeliverAt: at}, on(i))
		if err != nil {
			t.Fatal(err)
		}
		want[r.RecallHandle] = r
	}
	if _, err := p.Send(ctx, &message.Message{Topic: "a", DeliverAt: base}); err != nil {
		t.Fatal(err)
	}
	got := all(t, a.Delayed(ctx, "t", admin.Target{}))
	if len(got) != n {
		t.Fatalf("got %d messages, want %d", len(got), n)
	}
	for i, d := range got {
		r, ok := want[d.Handle]
		if !ok || d.MessageID != r.MessageID || d.Queue != r.Queue || !d.DeliverAt.Equal(base.Add(time.Duration(i)*time.Second)) || d.StoreTime.IsZero() {
			t.Fatalf("message %d is %+v, with the receipt %+v", i, d, r)
		}
	}
	if everything := all(t, a.Delayed(ctx, "", admin.Target{})); len(everything) != n+1 || everything[0].Queue.Topic == everything[1].Queue.Topic {
		t.Errorf("of all topics: %d messages, first %v and %v", len(everything), everything[0].Queue, everything[1].Queue)
	}
	if some := all(t, a.Delayed(ctx, "t", admin.Target{Brokers: []string{"broker-b"}})); len(some) != n/2 || some[0].Queue.Broker != "broker-b" {
		t.Errorf("of broker-b: %d messages", len(some))
	}
	for topic, count := range map[string]int{"": n + 1, "t": n, "a": 1} {
		if got, err := a.PendingDelayed(ctx, topic, admin.Target{}); got != count || err != nil {
			t.Errorf("%d pending of topic %q, %v; want %d", got, topic, err, count)
		}
	}
	recall(t, a, got)
}

// recall takes back what is listed.
func recall(t *testing.T, a *admin.Admin, listed []admin.Delayed) {
	t.Helper()
	ctx := t.Context()
	for range 2 {
		if recalled, err := a.Recall(ctx, listed[0].Handle); !recalled || err != nil {
			t.Fatalf("recall: %v, %v", recalled, err)
		}
	}
	left := all(t, a.Delayed(ctx, "t", admin.Target{}))
	if len(left) != len(listed)-1 || left[0].Handle != listed[1].Handle {
		t.Errorf("%d messages are left, the first is %+v", len(left), left[0])
	}
}

func TestDelayed_Errors(t *testing.T) {
	_, a := twoBrokers(t)
	ctx := t.Context()
	if err := firstErr(a.Delayed(ctx, "nowhere", admin.Target{})); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("an unknown topic: %v", err)
	}
	if err := firstErr(a.Delayed(ctx, "a", admin.Target{})); err != nil {
		t.Errorf("a topic that one broker has: %v", err)
	}
	if err := firstErr(a.Delayed(ctx, "a.b", admin.Target{})); !errors.Is(err, message.ErrIllegalName) {
		t.Errorf("an illegal topic: %v", err)
	}
	if err := firstErr(a.Delayed(ctx, "", admin.Target{Brokers: []string{"none"}})); !errors.Is(err, admin.ErrBrokerNotFound) {
		t.Errorf("an unknown broker: %v", err)
	}
	if _, err := a.PendingDelayed(ctx, "nowhere", admin.Target{}); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("count of an unknown topic: %v", err)
	}
}

// begin sends half messages to both brokers and returns their bodies' handles.
func begin(t *testing.T, p *producer.Producer, n int) (handles []string) {
	t.Helper()
	for i := range n {
		tx, err := p.SendHalf(t.Context(), &message.Message{Topic: "t", Body: fmt.Append(nil, i)}, on(i))
		if err != nil {
			t.Fatal(err)
		}
		handles = append(handles, tx.Handle())
	}
	return handles
}

func handlesOf(list []admin.Transaction) (handles []string) {
	for _, x := range list {
		handles = append(handles, x.Handle)
	}
	return handles
}

func TestTransactions_AreListedAndResolved(t *testing.T) {
	c, a := twoBrokers(t)
	p := newSender(t, c, func(context.Context, *message.Stored) producer.Decision { return producer.Unknown })
	ctx := t.Context()
	handles := begin(t, p, 140)
	got := all(t, a.Transactions(ctx, "t", "shop", admin.Target{}))
	listed := handlesOf(got)
	slices.Sort(listed)
	if want := slices.Sorted(slices.Values(handles)); !slices.Equal(listed, want) {
		t.Fatalf("got %d transactions, want %d", len(listed), len(want))
	}
	if !slices.IsSortedFunc(got, func(a, b admin.Transaction) int { return a.StoreTime.Compare(b.StoreTime) }) {
		t.Error("the oldest are not first")
	}
	if x := got[0]; x.Group != "shop" || x.Queue.Topic != "t" || x.MessageID.IsZero() || x.Checks != 0 || x.NextCheck.Before(time.Now()) {
		t.Errorf("got %+v", x)
	}
	if none := all(t, a.Transactions(ctx, "t", "others", admin.Target{})); len(none) != 0 {
		t.Errorf("%d of another group", len(none))
	}
	r, err := a.ResolveTransaction(ctx, handles[1], protocol.Commit)
	if err != nil || r.Offset != 0 || r.Queue != (message.Queue{Topic: "t", Broker: "broker-b"}) || r.StoreTime.IsZero() {
		t.Errorf("commit: %+v, %v", r, err)
	}
	if m, err := a.MessageAt(ctx, r.Queue, r.Offset); err != nil || string(m.Body) != "1" {
		t.Errorf("the committed message: %s, %v", m.Body, err)
	}
	if _, err := a.ResolveTransaction(ctx, handles[1], protocol.Rollback); !errors.Is(err, protocol.Conflict) {
		t.Errorf("rollback after commit: %v", err)
	}
	if r, err := a.ResolveTransaction(ctx, handles[2], protocol.Rollback); err != nil || r.Offset != -1 {
		t.Errorf("rollback: %+v, %v", r, err)
	}
	if left := handlesOf(all(t, a.Transactions(ctx, "", "", admin.Target{}))); len(left) != len(handles)-2 || slices.Contains(left, handles[1]) || slices.Contains(left, handles[2]) {
		t.Errorf("%d transactions are left", len(left))
	}
}

func TestTransactions_AreCheckedAtOnce(t *testing.T) {
	c, a := twoBrokers(t)
	ctx := t.Context()
	first := newSender(t, c, func(context.Context, *message.Stored) producer.Decision { return producer.Unknown })
	handles := begin(t, first, 4)
	if err := first.Close(ctx); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, "nobody is there", func() bool {
		sum, err := a.CheckTransactions(ctx, "t", admin.Target{})
		return err == nil && sum == admin.Checked{NobodyOf: 4}
	})
	if asked, err := a.CheckTransaction(ctx, handles[0]); asked || err != nil {
		t.Errorf("nobody is there: %v, %v", asked, err)
	}
	newSender(t, c, func(context.Context, *message.Stored) producer.Decision { return producer.Commit })
	harness.Eventually(t, "a producer can be asked", func() bool {
		asked, err := a.CheckTransaction(ctx, handles[0])
		return asked || errors.Is(err, protocol.Conflict)
	})
	open := func() []string { return handlesOf(all(t, a.Transactions(ctx, "t", "", admin.Target{}))) }
	harness.Eventually(t, "the one that was asked for is decided", func() bool { return !slices.Contains(open(), handles[0]) })
	if _, err := a.CheckTransaction(ctx, handles[0]); !errors.Is(err, protocol.Conflict) {
		t.Errorf("check of what is decided: %v", err)
	}
	harness.Eventually(t, "all are decided", func() bool {
		if _, err := a.CheckTransactions(ctx, "", admin.Target{}); err != nil {
			t.Error(err)
		}
		return len(open()) == 0
	})
	if _, err := a.CheckTransactions(ctx, "a", admin.Target{}); err != nil {
		t.Errorf("a topic that one broker has: %v", err)
	}
	if _, err := a.CheckTransactions(ctx, "nowhere", admin.Target{}); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("an unknown topic: %v", err)
	}
}

func TestHandles_AreRefused(t *testing.T) {
	c, a := twoBrokers(t)
	p := newSender(t, c, func(context.Context, *message.Stored) producer.Decision { return producer.Unknown })
	tx := begin(t, p, 1)[0]
	other := harness.Start(t, func(cfg *broker.Config) { cfg.Name = "elsewhere" })
	elsewhere := open(t, other.NameServers...)
	for name, ask := range map[string]func(*admin.Admin, string) error{
		"recall": func(a *admin.Admin, h string) error { _, err := a.Recall(t.Context(), h); return err },
		"check":  func(a *admin.Admin, h string) error { _, err := a.CheckTransaction(t.Context(), h); return err },
		"resolve": func(a *admin.Admin, h string) error {
			_, err := a.ResolveTransaction(t.Context(), h, protocol.Commit)
			return err
		},
	} {
		if err := ask(a, tx[1:]); !errors.Is(err, admin.ErrBadHandle) {
			t.Errorf("%s of a cut handle: %v", name, err)
		}
		if err := ask(elsewhere, tx); !errors.Is(err, admin.ErrBrokerNotFound) {
			t.Errorf("%s at another cluster: %v", name, err)
		}
	}
	if _, err := a.Recall(t.Context(), tx); !errors.Is(err, protocol.NotFound) {
		t.Errorf("recall of a transaction: %v", err)
	}
	if _, err := a.ResolveTransaction(t.Context(), tx, protocol.Unknown); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("a decision that is none: %v", err)
	}
}
