package admin_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/admin"
	"github.com/rmqio/rmq/consumer"
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/tests/harness"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestTopicStats(t *testing.T) {
	c, a := spread(t) // 30 messages in 3 queues at 2 brokers
	still, err := a.TopicStats(t.Context(), "t", 0, admin.Target{})
	if err != nil || still.Messages() != 30 || still.In.Messages != 30 || still.In.Bytes < 30*50 || still.Out.Messages != 0 || still.In.MessagesPerSecond != 0 || still.Over != 0 || len(still.Queues) != 3 {
		t.Fatalf("got %+v, %v", still, err)
	}
	for _, q := range still.Queues {
		if q.End-q.Min != 10 || q.FirstStoreMillis == 0 || q.FirstStoreMillis > q.LastStoreMillis || q.InPerSecond != 0 {
			t.Errorf("got %+v", q)
		}
	}
	for range 2 { // each group is given all
		p := member(t, c, []string{"g", "h"}[still.Out.Messages/30], consumer.Earliest())
		if got, err := p.Poll(t.Context(), 1); err != nil || len(got) == 0 {
			t.Fatal(got, err)
		}
		harness.Eventually(t, "all is given out", func() bool {
			s, err := a.TopicStats(t.Context(), "t", 0, admin.Target{})
			given := still.Out.Messages + 30
			return err == nil && s.Out.Messages == given && s.Out.Bytes > 0 && advance(still, s)
		})
	}
	harness.Eventually(t, "the newest is younger than the oldest", func() bool {
		fill(t, c, 1, message.Queue{Broker: "broker-b"})
		s, err := a.TopicStats(t.Context(), "t", 0, admin.Target{Brokers: []string{"broker-b"}})
		return err == nil && len(s.Queues) == 1 && s.Queues[0].FirstStoreMillis == still.Queues[2].FirstStoreMillis && s.Queues[0].LastStoreMillis > s.Queues[0].FirstStoreMillis
	})
	if _, err := a.TopicStats(t.Context(), "none", time.Hour, admin.Target{}); !errors.Is(err, protocol.TopicNotFound) {
		t.Errorf("got %v", err)
	}
	ended, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if s, err := a.TopicStats(ended, "t", time.Hour, admin.Target{}); s != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %+v, %v", s, err)
	}
}

func advance(to, from *admin.TopicStats) bool {
	*to = *from
	return true
}

// The rates are what came between two looks, by the time between them.
func TestTopicStats_Rates(t *testing.T) {
	c, a := spread(t)
	p := newSender(t, c, nil)
	if _, err := p.Send(t.Context(), &message.Message{Topic: "t", Body: []byte("connects")}, on(0)); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan int)
	go func() { // waited for below
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := p.Send(t.Context(), &message.Message{Topic: "t", Body: []byte("x")}, on(0)); err != nil {
				t.Error(err)
			}
		}
		sent <- n
	}()
	s, err := a.TopicStats(t.Context(), "t", time.Second, admin.Target{})
	stop()
	n := <-sent
	if err != nil || s.Over < time.Second || s.In.MessagesPerSecond <= 0 || s.In.BytesPerSecond < s.In.MessagesPerSecond {
		t.Fatalf("got %+v, %v", s, err)
	}
	if came := s.In.MessagesPerSecond * s.Over.Seconds(); came < 0.5 || came > float64(n)+0.5 {
		t.Errorf("%.1f messages came, %d were sent", came, n)
	}
	for _, q := range s.Queues {
		if (q.InPerSecond > 0) != (q.Broker == "broker-a" && q.Queue == 0) {
			t.Errorf("got %+v", q)
		}
	}
}
