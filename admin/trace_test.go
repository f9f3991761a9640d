package admin_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/producer"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

// traced is a cluster with topic t of one queue.
type traced struct {
	*testing.T
	cluster  *harness.Cluster
	admin    *admin.Admin
	producer *producer.Producer
}

func newTraced(t *testing.T, asked producer.Checker) *traced {
	t.Helper()
	c := harness.Start(t)
	x := &traced{t, c, open(t, c.NameServers...), newSender(t, c, asked)}
	_, err := x.admin.CreateTopic(t.Context(), admin.TopicSpec{Name: "t", ReadQueues: 1, WriteQueues: 1}, admin.Target{})
	x.must(err)
	return x
}

func (x *traced) must(err error) {
	x.Helper()
	if err != nil {
		x.Fatal(err)
	}
}

func (x *traced) send(m message.Message) producer.Receipt {
	x.Helper()
	m.Topic, m.Body = "t", []byte("body")
	r, err := x.producer.Send(x.Context(), &m)
	x.must(err)
	return r
}

// member is a consumer that commits when it is told to.
func (x *traced) member(group, client string) *consumer.Pull {
	x.Helper()
	p, err := consumer.NewPull(x.Context(), consumer.PullConfig{
		NameServers: x.cluster.NameServers, Group: group, ClientID: client, From: consumer.Earliest(), ManualCommit: true,
		Subscriptions: []consumer.Subscription{{Topic: "t"}},
	})
	x.must(err)
	<-p.Ready()
	return p
}

func (x *traced) poll(p *consumer.Pull) {
	x.Helper()
	ctx, cancel := context.WithTimeout(x.Context(), harness.Timeout)
	defer cancel()
	if ds, err := p.Poll(ctx, 1); err != nil || len(ds) != 1 {
		x.Fatalf("%d messages, %v", len(ds), err)
	}
}

func (x *traced) trace(id message.ID) *admin.Journey {
	x.Helper()
	j, err := x.admin.TraceMessage(x.Context(), id, 0, admin.Target{})
	x.must(err)
	if !j.Whole() || j.MessageID != id {
		x.Errorf("got %+v", j)
	}
	for i, e := range j.Events {
		if e.Broker != "broker-a" || e.Time.IsZero() || i > 0 && e.LogIndex < j.Events[i-1].LogIndex {
			x.Errorf("event %d: got %+v", i, e)
		}
	}
	return j
}

// want compares events and states, each as "kind group client place ×attempts error".
func (x *traced) want(j *admin.Journey, events string, states ...string) {
	x.Helper()
	var all []string
	for _, e := range j.Events {
		all = append(all, text(e.Kind, e.Group, e.Client, e.Topic, e.Queue, e.Offset, e.Attempt, e.Error))
	}
	if got := strings.Join(all, "\n"); got != strings.Trim(strings.ReplaceAll(events, "\t", ""), "\n") {
		x.Errorf("events: got\n%s\nwant%s", got, events)
	}
	var now []string
	for _, s := range j.States {
		now = append(now, text(s.State, s.Group, s.Client, s.Topic, s.Queue, s.Offset, 0, ""))
	}
	if slices.Sort(now); !slices.Equal(now, states) {
		x.Errorf("states: got %q, want %q", now, states)
	}
}

func text(kind protocol.TraceKind, group, client, topic string, queue int, offset int64, attempts int, err string) string {
	s := fmt.Sprintf("%s [%s %s] %s/%d@%d", kind, group, client, topic, queue, offset)
	if attempts > 0 {
		s += fmt.Sprintf(" ×%d %s", attempts, err)
	}
	return s
}

// only keeps the events of some kinds.
func only(j *admin.Journey, kinds ...protocol.TraceKind) *admin.Journey {
	j.Events = slices.DeleteFunc(j.Events, func(e admin.JourneyEvent) bool { return !slices.Contains(kinds, e.Kind) })
	return j
}

// Two groups read a message; the journey is the same after a restart.
func TestTraceMessage_OfTwoGroups(t *testing.T) {
	x := newTraced(t, nil)
	a, b := x.member("billing", "c1"), x.member("shipping", "c2")
	x.send(message.Message{})
	r := x.send(message.Message{})
	x.want(x.trace(r.MessageID), `
		stored [ ] t/0@1`, "waiting [billing c1] t/0@1", "waiting [shipping c2] t/0@1")
	for range 2 {
		x.poll(a)
	}
	x.must(a.Commit(t.Context()))
	x.poll(b)
	x.must(b.Commit(t.Context())) // the message before it
	journey, states := `
		stored [ ] t/0@1
		acked [billing c1] t/0@1`, []string{"acked [billing c1] t/0@1", "waiting [shipping c2] t/0@1"}
	j := x.trace(r.MessageID)
	x.want(j, journey, states...)
	if e := j.Events[0]; e.Bytes != 4 || e.LogIndex == 0 || j.Events[1].Fence == 0 || j.States[0].Committed+j.States[1].Committed != 3 {
		t.Errorf("got %+v", j)
	}
	leave(t, a)
	leave(t, b)
	x.cluster.Restart()
	harness.Eventually(t, "it is there again", func() bool { _, err := x.admin.Cluster(t.Context()); return err == nil })
	journey += `
		freed [shipping c2] t/0@1`
	states = []string{"acked [billing ] t/0@1", "waiting [shipping ] t/0@1"}
	x.want(x.trace(r.MessageID), journey, states...)

	_, err := x.admin.ResetOffsets(t.Context(), admin.Reset{Group: "billing", Topic: "t", To: protocol.ResetToEarliest}, admin.Target{})
	x.must(err)
	x.want(x.trace(r.MessageID), journey+`
		reset [billing ] t/0@1`, "waiting [billing ] t/0@1", "waiting [shipping ] t/0@1")
	_, err = x.admin.DeleteTopic(t.Context(), "t", admin.Target{})
	x.must(err)
	x.want(x.trace(r.MessageID), journey+`
		reset [billing ] t/0@1
		topicDeleted [ ] t/0@-1`)
}

// A queue changes its owner while the message is not acknowledged.
func TestTraceMessage_OverARebalance(t *testing.T) {
	x := newTraced(t, nil)
	a := x.member("billing", "c1")
	r := x.send(message.Message{})
	x.poll(a)
	leave(t, a)
	x.want(x.trace(r.MessageID), `
		stored [ ] t/0@0
		freed [billing c1] t/0@0`, "waiting [billing ] t/0@0")
	b := x.member("billing", "c2")
	defer leave(t, b)
	x.poll(b)
	x.must(b.Commit(t.Context()))
	x.want(x.trace(r.MessageID), `
		stored [ ] t/0@0
		freed [billing c1] t/0@0
		leased [billing c2] t/0@0
		acked [billing c2] t/0@0`, "acked [billing c2] t/0@0")
}

// A message that fails is retried, a dead letter, and sent again.
func TestTraceMessage_OfAFailure(t *testing.T) {
	x := newTraced(t, nil)
	_, err := x.admin.CreateGroup(t.Context(), protocol.GroupConfig{
		Name: "billing", ConsumeEnabled: true, RetryMax: 1, RetryPolicy: protocol.RetryPolicy{Kind: protocol.RetryExponential, FirstMillis: 1, MaxMillis: 1},
	}, admin.Target{})
	x.must(err)
	r := x.send(message.Message{})
	var dead []message.Stored
	fail := func(client string, n int) {
		t.Helper()
		p, err := consumer.NewPush(t.Context(), consumer.Config{
			NameServers: x.cluster.NameServers, Group: "billing", ClientID: client, From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "t"}},
		}, func(context.Context, *consumer.Delivery) error { return errors.New("no funds") })
		x.must(err)
		ctx, stop := context.WithCancel(t.Context())
		ran := make(chan error, 1)
		go func() { ran <- p.Run(ctx) }() // waited for below
		harness.Eventually(t, "it is a dead letter", func() bool {
			dead = all(t, x.admin.DeadLetters(t.Context(), "billing", admin.Target{}))
			return len(dead) == n
		})
		stop()
		x.must(<-ran)
	}
	fail("c1", 1)
	kinds := []protocol.TraceKind{protocol.TraceStored, protocol.TraceRetrying, protocol.TraceDue, protocol.TraceAcked, protocol.TraceDead, protocol.TraceResent}
	journey := `
		stored [ ] t/0@0
		retrying [billing ] %RETRY%billing/0@-1 ×1 no funds
		due [billing ] %RETRY%billing/0@0 ×1 no funds
		dead [billing ] %DLQ%billing/0@0 ×2 no funds`
	j := only(x.trace(r.MessageID), kinds...)
	x.want(j, journey, "dead [billing ] %DLQ%billing/0@0")
	if len(j.Events) > 1 && j.Events[1].DeliverAtMillis == 0 {
		t.Errorf("got %+v", j.Events[1])
	}
	_, err = x.admin.ResendDeadLetter(t.Context(), "billing", &dead[0])
	x.must(err)
	fail("c2", 2)
	x.want(only(x.trace(r.MessageID), kinds...), journey+`
		resent [billing ] t/0@1
		retrying [billing ] %RETRY%billing/0@-1 ×1 no funds
		due [billing ] %RETRY%billing/0@1 ×1 no funds
		dead [billing ] %DLQ%billing/0@1 ×2 no funds`, "dead [billing ] %DLQ%billing/0@0", "dead [billing ] %DLQ%billing/0@1")
}

// A message that waits for its next delivery says until when.
func TestTraceMessage_OfAWaitingRetry(t *testing.T) {
	x := newTraced(t, nil)
	r := x.send(message.Message{})
	p, err := consumer.NewPush(t.Context(), consumer.Config{
		NameServers: x.cluster.NameServers, Group: "billing", ClientID: "c1", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "t"}},
	}, func(context.Context, *consumer.Delivery) error {
		return consumer.RetryAfter(time.Hour, errors.New("later"))
	})
	x.must(err)
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }() // waited for below
	harness.Eventually(t, "it waits", func() bool {
		return slices.ContainsFunc(x.trace(r.MessageID).States, func(s admin.JourneyState) bool { return s.State == protocol.TraceRetrying })
	})
	stop()
	x.must(<-ran)
	j := only(x.trace(r.MessageID), protocol.TraceRetrying, protocol.TraceAcked)
	x.want(j, `
		retrying [billing ] %RETRY%billing/0@-1 ×1 later`, "retrying [billing ] %RETRY%billing/0@-1")
	if until := time.UnixMilli(j.States[0].DeliverAtMillis).Sub(j.Events[0].Time); until < time.Hour-time.Second || until > time.Hour+time.Second {
		t.Errorf("it waits for %v", until)
	}
}

func TestTraceMessage_OfDelayedMessages(t *testing.T) {
	x := newTraced(t, nil)
	r := x.send(message.Message{Delay: time.Hour})
	x.want(x.trace(r.MessageID), `
		delayed [ ] t/0@-1`, "delayed [ ] t/0@-1")
	if _, err := x.producer.Recall(t.Context(), r.RecallHandle); err != nil {
		t.Fatal(err)
	}
	x.want(x.trace(r.MessageID), `
		delayed [ ] t/0@-1
		recalled [ ] t/0@-1`)
	r = x.send(message.Message{Delay: time.Millisecond})
	harness.Eventually(t, "it is shown", func() bool { return len(x.trace(r.MessageID).Events) == 2 })
	x.want(x.trace(r.MessageID), `
		delayed [ ] t/0@-1
		due [ ] t/0@0`)
}

func TestTraceMessage_OfTransactions(t *testing.T) {
	x := newTraced(t, func(context.Context, *message.Stored) producer.Decision { return producer.Unknown })
	half := func() *producer.Transaction {
		t.Helper()
		tx, err := x.producer.SendHalf(t.Context(), &message.Message{Topic: "t", Body: []byte("body")})
		x.must(err)
		return tx
	}
	open, done, undone := half(), half(), half()
	_, err := done.Commit(t.Context())
	x.must(err)
	x.must(undone.Rollback(t.Context()))
	harness.Eventually(t, "the producer can be asked", func() bool {
		asked, err := x.admin.CheckTransaction(t.Context(), open.Handle())
		x.must(err)
		return asked
	})
	harness.Eventually(t, "it is noted", func() bool { return len(x.trace(open.MessageID()).Events) == 2 })
	x.want(x.trace(open.MessageID()), `
		prepared [shop ] t/0@-1
		asked [ ] t/0@-1`, "prepared [shop ] t/0@-1")
	x.want(x.trace(done.MessageID()), `
		prepared [shop ] t/0@-1
		committed [ ] t/0@0`)
	x.want(x.trace(undone.MessageID()), `
		prepared [shop ] t/0@-1
		rolledBack [ ] t/0@-1`)
}

func TestTraceMessage_OfWhatIsNotThere(t *testing.T) {
	x := newTraced(t, nil)
	r := x.send(message.Message{})
	if _, err := x.admin.TraceMessage(t.Context(), message.MakeID(1, 2), 0, admin.Target{}); !errors.Is(err, protocol.NotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := x.admin.TraceMessage(t.Context(), r.MessageID, -1, admin.Target{}); !errors.Is(err, protocol.InvalidArgument) {
		t.Errorf("got %v", err)
	}
	if _, err := x.admin.TraceMessage(t.Context(), r.MessageID, 0, admin.Target{Brokers: []string{"x"}}); !errors.Is(err, admin.ErrBrokerNotFound) {
		t.Errorf("got %v", err)
	}
}

// A trace that may not look far says how far it came; where the message is stored it
// knows all the same.
func TestTraceMessage_IsBounded(t *testing.T) {
	x := newTraced(t, nil)
	r := x.send(message.Message{Delay: time.Millisecond})
	p := x.member("billing", "c1")
	defer leave(t, p)
	x.poll(p)
	x.must(p.Commit(t.Context()))
	j, err := x.admin.TraceMessage(t.Context(), r.MessageID, 1, admin.Target{})
	x.must(err)
	if j.Whole() || len(j.Searched) != 1 || j.Searched[0].Until != j.Events[0].LogIndex || j.Searched[0].Last <= j.Searched[0].Until {
		t.Errorf("got %+v", j.Searched)
	}
	x.want(j, `
		delayed [ ] t/0@-1
		due [ ] t/0@0`, "acked [billing c1] t/0@0")
	r = x.send(message.Message{Delay: time.Hour})
	recalled, err := x.producer.Recall(t.Context(), r.RecallHandle)
	if x.must(err); !recalled {
		t.Error("it was delivered")
	}
	j, err = x.admin.TraceMessage(t.Context(), r.MessageID, 1, admin.Target{})
	x.must(err)
	x.want(j, `
		delayed [ ] t/0@-1`)
}

// What is popped says when it was handed out and given another time, and who reads it
// no more.
func TestTraceMessage_OfPops(t *testing.T) {
	x := newTraced(t, nil)
	s, err := consumer.NewSimple(t.Context(), consumer.SimpleConfig{
		NameServers: x.cluster.NameServers, Group: "billing", From: consumer.Earliest(), Subscriptions: []consumer.Subscription{{Topic: "t", Tag: "a"}},
	})
	x.must(err)
	defer func() { x.must(s.Close(t.Context())) }()
	other := x.send(message.Message{Tag: "b"})
	first, second, third := x.send(message.Message{Tag: "a"}), x.send(message.Message{Tag: "a"}), x.send(message.Message{Tag: "a"})
	got := map[message.ID]*consumer.Popped{}
	harness.Eventually(t, "three messages", func() bool {
		ps, err := s.Receive(t.Context(), 3, time.Minute)
		x.must(err)
		for _, p := range ps {
			got[p.ID] = p
		}
		return len(got) == 3
	})
	x.want(x.trace(second.MessageID), `
		stored [ ] t/0@2
		popped [billing ] t/0@2`, "popped [billing ] t/0@2")
	x.must(got[second.MessageID].ChangeInvisible(t.Context(), time.Hour))
	x.must(s.Ack(t.Context(), got[third.MessageID]))
	x.must(got[first.MessageID].Reject(t.Context(), errors.New("no funds")))
	j := x.trace(second.MessageID)
	x.want(j, `
		stored [ ] t/0@2
		popped [billing ] t/0@2
		postponed [billing ] t/0@2`, "popped [billing ] t/0@2")
	if until := time.UnixMilli(j.States[0].DeliverAtMillis).Sub(j.Events[2].Time); until != time.Hour || j.Events[2].DeliverAtMillis != j.States[0].DeliverAtMillis {
		t.Errorf("it is invisible for %v: %+v", until, j)
	}
	x.want(x.trace(third.MessageID), `
		stored [ ] t/0@3
		popped [billing ] t/0@3
		acked [billing ] t/0@3`, "acked [billing ] t/0@3")
	x.want(only(x.trace(first.MessageID), protocol.TraceStored, protocol.TracePopped, protocol.TraceAcked, protocol.TraceDead), `
		stored [ ] t/0@1
		popped [billing ] t/0@1
		dead [billing ] %DLQ%billing/0@0 ×1 no funds`, "dead [billing ] %DLQ%billing/0@0")
	x.want(x.trace(other.MessageID), `
		stored [ ] t/0@0
		filtered [billing ] t/0@0`, "acked [billing ] t/0@0")
}
