package admin

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// A broker that started anew counts from 0, one that came meanwhile has no rate, and
// a topic that was made anew begins at offset 0.
func TestTopicStats_OfWhatBeganAnew(t *testing.T) {
	topic := func(messages, end int64, brokers ...string) *Topic {
		all := &Topic{Name: "t"}
		for _, b := range brokers {
			s := protocol.TopicStatus{Traffic: &protocol.TopicTraffic{InMessages: messages}, Queues: []protocol.QueueStatus{{End: end}}}
			all.Brokers = append(all.Brokers, BrokerTopic{Broker: b, TopicStatus: s})
		}
		return all
	}
	for _, c := range []struct {
		before, after *Topic
		in, queue     float64
	}{
		{topic(10, 30, "a"), topic(30, 50, "a"), 10, 10},
		{topic(10, 30, "a"), topic(4, 34, "a"), 0, 2},
		{topic(10, 30, "a"), topic(12, 3, "a"), 1, 0},
		{topic(10, 30, "a"), topic(30, 50, "b"), 0, 0},
	} {
		s := newTopicStats(c.before, c.after, 2*time.Second)
		if s.In.MessagesPerSecond != c.in || s.Queues[0].InPerSecond != c.queue {
			t.Errorf("got %+v, want %+v", s, c)
		}
	}
}
