package admin

import (
	"context"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// TopicStats is what goes through a topic and what is in it.
type TopicStats struct {
	Topic string
	// Over is for how long it was looked at for the rates.
	Over time.Duration
	// In is what producers have stored, and what the brokers have shown of what was
	// held back; Out is what was given to consumers, once for each group.
	In, Out Flow
	// Queues are sorted by broker and number.
	Queues []QueueStats
}

// Messages is how many are there.
func (s *TopicStats) Messages() (n int64) {
	for _, q := range s.Queues {
		n += q.End - q.Min
	}
	return n
}

// Flow is messages and their bytes as they are stored.
type Flow struct {
	// Messages and Bytes are those since the brokers started.
	Messages int64 `json:"messages"`
	Bytes    int64 `json:"bytes"`
	// MessagesPerSecond and BytesPerSecond are 0 when nothing was looked at twice.
	MessagesPerSecond float64 `json:"messagesPerSecond"`
	BytesPerSecond    float64 `json:"bytesPerSecond"`
}

// QueueStats is one queue of a topic.
type QueueStats struct {
	Broker string
	protocol.QueueStatus
	// InPerSecond is how many messages came a second.
	InPerSecond float64
}

// TopicStats looks at a topic on the brokers of the target, and with an over above 0
// once more after that time, for the rates. TopicNotFound is returned when none has
// it.
func (a *Admin) TopicStats(ctx context.Context, name string, over time.Duration, t Target) (*TopicStats, error) {
	before, err := a.DescribeTopic(ctx, name, t)
	if err != nil || over <= 0 {
		return newTopicStats(before, before, 0), err
	}
	began := time.Now()
	timer := time.NewTimer(over)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	after, err := a.DescribeTopic(ctx, name, t)
	return newTopicStats(before, after, time.Since(began)), err
}

// newTopicStats is what there is after, and the rates since before; nil when one is
// not known.
func newTopicStats(before, after *Topic, over time.Duration) *TopicStats {
	if before == nil || after == nil {
		return nil
	}
	s := &TopicStats{Topic: after.Name, Over: over}
	was := make(map[string]BrokerTopic, len(before.Brokers))
	for _, b := range before.Brokers {
		was[b.Broker] = b
	}
	for _, b := range after.Brokers {
		old, known := was[b.Broker]
		if !known {
			old = b // it came meanwhile
		}
		s.add(&old, &b)
	}
	return s
}

func (s *TopicStats) add(before, after *BrokerTopic) {
	if a, b := after.Traffic, before.Traffic; a != nil && b != nil {
		s.In.add(a.InMessages, a.InBytes, s.perSecond(a.InMessages-b.InMessages), s.perSecond(a.InBytes-b.InBytes))
		s.Out.add(a.OutMessages, a.OutBytes, s.perSecond(a.OutMessages-b.OutMessages), s.perSecond(a.OutBytes-b.OutBytes))
	}
	ends := make(map[int]int64, len(before.Queues))
	for _, q := range before.Queues {
		ends[q.Queue] = q.End
	}
	for _, q := range after.Queues {
		s.Queues = append(s.Queues, QueueStats{Broker: after.Broker, QueueStatus: q, InPerSecond: s.perSecond(q.End - ends[q.Queue])})
	}
}

// perSecond is the rate of n; 0 when a broker began to count anew.
func (s *TopicStats) perSecond(n int64) float64 {
	if s.Over <= 0 || n <= 0 {
		return 0
	}
	return float64(n) / s.Over.Seconds()
}

func (f *Flow) add(messages, bytes int64, messagesPerSecond, bytesPerSecond float64) {
	f.Messages += messages
	f.Bytes += bytes
	f.MessagesPerSecond += messagesPerSecond
	f.BytesPerSecond += bytesPerSecond
}
