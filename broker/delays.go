package broker

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Delays says for how long messages may be held back. Zero values mean the
// defaults.
type Delays struct {
	// Levels are the delays of levels 1 and up; default DefaultDelayLevels. A level
	// above the last counts as the last, as in RocketMQ.
	Levels []time.Duration
	// Max is how far ahead a message may be delivered, at most; default, and upper
	// bound, message.MaxDelay. No level is above it.
	Max time.Duration
}

// DefaultDelayLevels are RocketMQ's messageDelayLevel.
func DefaultDelayLevels() []time.Duration {
	levels := []time.Duration{time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second}
	for m := range 10 {
		levels = append(levels, time.Duration(m+1)*time.Minute)
	}
	return append(levels, 20*time.Minute, 30*time.Minute, time.Hour, 2*time.Hour)
}

func (d Delays) withDefaults() (Delays, error) {
	if d.Max == 0 {
		d.Max = message.MaxDelay
	}
	if d.Levels == nil {
		d.Levels = DefaultDelayLevels()
	}
	d.Levels = slices.Clone(d.Levels)
	switch {
	case d.Max < time.Millisecond || d.Max > message.MaxDelay:
		return d, fmt.Errorf("delays of up to %v; %v to %v are allowed", d.Max, time.Millisecond, time.Duration(message.MaxDelay))
	case len(d.Levels) == 0:
		return d, fmt.Errorf("no delay levels")
	}
	for i, level := range d.Levels {
		if level < time.Millisecond || level > d.Max {
			return d, fmt.Errorf("delay level %d is %v; %v to %v, the limit of delays, are allowed", i+1, level, time.Millisecond, d.Max)
		}
	}
	return d, nil
}

// resolve says when each message of a batch is due, in Unix milliseconds. A time
// that has passed is taken as it is: the message is due at once.
func (d Delays) resolve(b []byte, now time.Time) (millis []int64, err error) {
	bad := batch.EachExtra(b, func(i int, m *message.Message) {
		at, e := d.due(m, now)
		if e != nil && err == nil {
			err = protocol.Errorf(protocol.IllegalMessage, "message %d: %v", i, e)
		}
		millis = append(millis, at)
	})
	if bad != nil {
		return nil, protocol.Errorf(protocol.IllegalMessage, "%v", bad)
	}
	return millis, err
}

func (d Delays) due(m *message.Message, now time.Time) (int64, error) {
	from := ceilMillis(now)
	at := from
	switch {
	case !m.DeliverAt.IsZero():
		at = m.DeliverAt.UnixMilli()
	case m.Delay > 0:
		at += m.Delay.Milliseconds()
	case m.DelayLevel > 0:
		at += ceilDelay(d.Levels[min(m.DelayLevel, len(d.Levels))-1])
	default:
		return 0, fmt.Errorf("it has no time of delivery and was sent with messages that have one")
	}
	if ahead := at - from; ahead > d.Max.Milliseconds() {
		shown := time.Duration(min(ahead, math.MaxInt64/int64(time.Millisecond))) * time.Millisecond
		return 0, fmt.Errorf("a delay of %v; the limit is %v", shown, d.Max)
	}
	return at, nil
}

// ceilMillis rounds up: what is due a while from now is never early.
func ceilMillis(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }

func ceilDelay(d time.Duration) int64 { return (d + time.Millisecond - 1).Milliseconds() }
