package broker_test

import (
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/broker"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport"
	"github.com/rmqio/rmq/transport/protocol"
)

// TestDelayed_OnTheWire sends, lists, recalls and receives delayed messages with
// bare requests.
func TestDelayed_OnTheWire(t *testing.T) {
	c := harness.Start(t, func(c *broker.Config) { c.Delays.Max = 3 * time.Hour })
	conn, err := transport.Dial(c.NameServers[0], transport.Options{Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	subject := func(class protocol.Class) string { return protocol.BrokerSubject("broker-a", 0, class) }
	put := &protocol.PutTopicRequest{Mode: protocol.PutAuto, Topic: protocol.TopicConfig{Name: "orders"}}
	if _, err := transport.Call[protocol.PutTopicResponse](t.Context(), conn, subject(protocol.ClassAdmin), put); err != nil {
		t.Fatal(err)
	}
	ids := message.NewIDSource()
	send := func(delays ...time.Duration) protocol.SendResult {
		t.Helper()
		b := batch.NewBuilder("", 0)
		b.Begin(&batch.Lead{Topic: "orders", Purpose: batch.ToTimer})
		for _, d := range delays {
			b.Add(&message.Message{ID: ids.Next(), BornTime: time.Now(), Delay: d})
		}
		r, err := transport.Call[protocol.SendResponse](t.Context(), conn, subject(protocol.ClassSend), &protocol.SendRequest{ClientID: "test", Batches: b.Finish()})
		if err != nil {
			t.Fatal(err)
		}
		return r.Results[0]
	}
	if r := send(3*time.Hour, 3*time.Hour+time.Millisecond); !errors.Is(r.Err, protocol.IllegalMessage) {
		t.Errorf("beyond the limit: got %+v", r)
	}
	r := send(time.Hour, 2*time.Hour, time.Millisecond)
	if r.Err != nil || r.BaseOffset != -1 || r.Index == 0 {
		t.Fatalf("got %+v", r)
	}
	list := func() *protocol.ListDelayedResponse {
		t.Helper()
		l, err := transport.Call[protocol.ListDelayedResponse](t.Context(), conn, subject(protocol.ClassAdmin), &protocol.ListDelayedRequest{Topic: "orders", Max: 10})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	harness.Eventually(t, "the message that is due is delivered", func() bool { return list().Pending == 2 })
	first := list().Messages[0]
	if first.Origin != r.Index || first.Position != 0 || first.DeliverAtMillis < time.Now().UnixMilli() {
		t.Errorf("got %+v", first)
	}
	recall := &protocol.RecallRequest{Held: first.Held}
	if r, err := transport.Call[protocol.RecallResponse](t.Context(), conn, subject(protocol.ClassClient), recall); err != nil || !r.Recalled {
		t.Errorf("recall: got %v, %v", r, err)
	}
	if n := list().Pending; n != 1 {
		t.Errorf("%d messages wait, want 1", n)
	}
	pull := &protocol.PullRequest{MaxBytes: 1 << 20, Queues: []protocol.PullQueue{{Topic: "orders"}}}
	p, err := transport.Call[protocol.PullResponse](t.Context(), conn, subject(protocol.ClassPull), pull)
	if err != nil || len(p.Queues) != 1 {
		t.Fatalf("pull: got %v, %v", p, err)
	}
	got, _, err := batch.Decode(nil, p.Queues[0].Batches, "broker-a")
	if err != nil || len(got) != 1 || got[0].StoreTime.Before(got[0].DeliverAt) {
		t.Errorf("got %v, %v", got, err)
	}
}
