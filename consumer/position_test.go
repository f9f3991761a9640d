package consumer

import (
	"errors"
	"testing"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

func TestStartPositionResolve(t *testing.T) {
	offsets := protocol.QueueOffsets{Min: 10, End: 100, At: 42}
	for _, c := range []struct {
		from StartPosition
		want int64
	}{
		{StartPosition{}, 100},
		{Latest(), 100},
		{Earliest(), 10},
		{AtTime(time.UnixMilli(5)), 42},
		{AtOffset(50), 50},
		{AtOffset(5), 10},
		{AtOffset(500), 100},
	} {
		if got := c.from.resolve(offsets); got != c.want {
			t.Errorf("%v: got %d, want %d", c.from, got, c.want)
		}
	}
	if q := AtTime(time.UnixMilli(5)).query("t", 3); q != (protocol.QueryOffset{Topic: "t", Queue: 3, AtMillis: 5}) {
		t.Errorf("query of a time: got %+v", q)
	}
	if q := AtTime(time.Time{}).query("t", 3); q.AtMillis != 1 {
		t.Errorf("query of the zero time: got %d, want 1, which asks for the oldest", q.AtMillis)
	}
}

func TestParseStartPosition(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		text string
		want StartPosition
	}{
		{"latest", Latest()},
		{"earliest", Earliest()},
		{"0", AtOffset(0)},
		{"17", AtOffset(17)},
		{"-10m", AtTime(now.Add(-10 * time.Minute))},
		{"2026-01-02T03:00:00Z", AtTime(time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC))},
	} {
		got, err := ParseStartPosition(c.text, now)
		if err != nil || got != c.want {
			t.Errorf("%q: got %v, %v, want %v", c.text, got, err, c.want)
		}
		if again, err := ParseStartPosition(got.String(), now); err != nil || again != got {
			t.Errorf("%q: its text %q gives %v, %v", c.text, got, again, err)
		}
	}
	for _, text := range []string{"", "newest", "-5", "10m", "2026-01-02"} {
		if _, err := ParseStartPosition(text, now); !errors.Is(err, ErrIllegalConfig) {
			t.Errorf("%q: got %v, want ErrIllegalConfig", text, err)
		}
	}
}

// With Latest, nothing sent after the start is missed.
func TestStartsAtLatest(t *testing.T) {
	now := time.Now()
	s := newStarts(Latest(), now)
	s.see("t", []message.Queue{queueA})
	s.see("t", []message.Queue{queueA, queueB})
	s.see("new", nil)
	if got := s.of(queueA); got != AtTime(now.Add(time.Millisecond)) {
		t.Errorf("queue that was there: got %v, want the time of the start", got)
	}
	for _, late := range []message.Queue{queueB, {Topic: "new", Broker: "b"}} {
		if got := s.of(late); got != AtTime(now.Add(-clockSkew)) {
			t.Errorf("late queue %v: got %v, want some time before the start", late, got)
		}
	}
	if got := s.of(message.Queue{Topic: "assigned"}); got != Latest() {
		t.Errorf("queue of a topic that was never looked up: got %v, want latest", got)
	}
	e := newStarts(Earliest(), now)
	e.see("t", nil)
	if got := e.of(queueA); got != Earliest() {
		t.Errorf("late queue with earliest: got %v", got)
	}
}
