package consumer

import (
	"fmt"
	"strconv"
	"time"

	"github.com/rmqio/rmq/transport/protocol"
)

// StartPosition says where reading of a queue begins. The zero value is
// Latest, RocketMQ's CONSUME_FROM_LAST_OFFSET.
type StartPosition struct {
	kind   startKind
	at     time.Time
	offset int64
}

type startKind uint8

const (
	startLatest startKind = iota
	startEarliest
	startTime
	startOffset
)

// Latest begins with what is stored after the time at which the consumer
// started, even if the server could not be reached then. A queue that the topic
// did not have yet (a new topic, a new broker, more queues) is read from ten
// seconds before, so that nothing sent to it is missed when the clocks of broker
// and consumer differ. For Seek and Assign it is the queue's end.
func Latest() StartPosition { return StartPosition{kind: startLatest} }

// Earliest begins with the oldest message that is there.
func Earliest() StartPosition { return StartPosition{kind: startEarliest} }

// AtTime begins with the first message stored at or after t.
func AtTime(t time.Time) StartPosition { return StartPosition{kind: startTime, at: t} }

// AtOffset begins at an offset; where the queue does not reach to it, at the
// nearest one that it has.
func AtOffset(offset int64) StartPosition { return StartPosition{kind: startOffset, offset: offset} }

// ParseStartPosition reads what String writes, and a negative duration such as
// -10m, which counts from now.
func ParseStartPosition(s string, now time.Time) (StartPosition, error) {
	switch s {
	case "latest":
		return Latest(), nil
	case "earliest":
		return Earliest(), nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return AtOffset(n), nil
	}
	if d, err := time.ParseDuration(s); err == nil && d < 0 {
		return AtTime(now.Add(d)), nil
	}
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return AtTime(t), nil
	}
	return StartPosition{}, fmt.Errorf("%w: start position %q: want earliest, latest, an offset, a time as RFC 3339, or a duration back such as -10m",
		ErrIllegalConfig, s)
}

// String is earliest, latest, the time as RFC 3339, or the offset.
func (p StartPosition) String() string {
	switch p.kind {
	case startEarliest:
		return "earliest"
	case startTime:
		return p.at.Format(time.RFC3339Nano)
	case startOffset:
		return strconv.FormatInt(p.offset, 10)
	default:
		return "latest"
	}
}

func (p StartPosition) validate() error {
	if p.kind == startOffset && p.offset < 0 {
		return fmt.Errorf("%w: start offset %d is negative", ErrIllegalConfig, p.offset)
	}
	return nil
}

// query asks what resolve needs to know of the queue.
func (p StartPosition) query(topic string, queue int) protocol.QueryOffset {
	q := protocol.QueryOffset{Topic: topic, Queue: queue}
	if p.kind == startTime {
		q.AtMillis = max(p.at.UnixMilli(), 1) // 0 would ask for nothing
	}
	return q
}

func (p StartPosition) resolve(o protocol.QueueOffsets) int64 {
	switch p.kind {
	case startEarliest:
		return o.Min
	case startTime:
		return o.At
	case startOffset:
		return min(max(p.offset, o.Min), o.End)
	default:
		return o.End
	}
}
