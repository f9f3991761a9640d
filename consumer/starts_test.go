package consumer

import (
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// A retry topic is read from its beginning, wherever the group begins.
func TestStarts_OfARetryTopic(t *testing.T) {
	for _, from := range []StartPosition{Latest(), AtOffset(7), AtTime(time.UnixMilli(7))} {
		s := newStarts(from, time.UnixMilli(1000))
		if got := s.of(message.Queue{Topic: "%RETRY%g", Broker: "b"}); got != Earliest() {
			t.Errorf("%v: got %v", from, got)
		}
	}
}

// Brokers are told the position that queues are then read from.
func TestStartsAnnounced(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_123)
	for _, c := range []struct {
		from StartPosition
		want protocol.Start
	}{
		{Latest(), protocol.Start{Target: protocol.ResetToTime, Value: now.UnixMilli() + 1}},
		{Earliest(), protocol.Start{Target: protocol.ResetToEarliest}},
		{AtOffset(7), protocol.Start{Target: protocol.ResetToOffset, Value: 7}},
		{AtTime(now.Add(-time.Minute)), protocol.Start{Target: protocol.ResetToTime, Value: now.Add(-time.Minute).UnixMilli()}},
	} {
		s := newStarts(c.from, now)
		if got := *s.announced(); got != c.want {
			t.Errorf("%v: got %+v, want %+v", c.from, got, c.want)
		}
	}
}
