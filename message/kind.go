package message

import (
	"fmt"
	"time"
)

// Limits of the fields that make a message special.
const (
	// MaxPriority is the highest priority.
	MaxPriority = 9
	// MaxGroupNameBytes bounds a message group. RocketMQ's proxy allows 64; a path
	// is a common group and is longer.
	MaxGroupNameBytes = 255
	// MaxDedupKeyBytes bounds a deduplication key.
	MaxDedupKeyBytes = 255
	// MaxKeys bounds the keys of a message: each is a row of the key index.
	MaxKeys = 128
	// MaxErrorBytes bounds the text of the error that a message failed with.
	MaxErrorBytes = 1024
	// MaxReconsumeTimes bounds how often a message may have been delivered in vain.
	MaxReconsumeTimes = 1 << 30
	// MaxDelay is how far ahead a message may be delivered, unless the broker is
	// configured for less.
	MaxDelay = 366 * 24 * time.Hour
	// MaxDelayLevel is the last of RocketMQ's delay levels; a broker may be
	// configured for more.
	MaxDelayLevel = 18
	// MaxTimeMillis is the last millisecond of the year 9999 UTC, the latest time
	// of a delivery or a reply.
	MaxTimeMillis = 253_402_300_799_999
)

// Kind is what a message is to the broker, in RocketMQ's words (message.type).
type Kind string

// The kinds of messages. A topic's type is one of them or Mixed, which takes all.
const (
	Normal      Kind = "NORMAL"
	FIFO        Kind = "FIFO"        // has a message group
	Delayed     Kind = "DELAY"       // has a time of delivery
	Transaction Kind = "TRANSACTION" // is sent as a half message
	Priority    Kind = "PRIORITY"    // has a priority above 0
	Mixed       Kind = "MIXED"
)

// Kinds are all kinds that a topic may have.
func Kinds() []Kind { return []Kind{Normal, FIFO, Delayed, Transaction, Priority, Mixed} }

// Kind is what the message's fields make it; whether it is a transaction is not
// among them.
func (m *Message) Kind() Kind {
	switch {
	case m.IsDelayed():
		return Delayed
	case m.Group != "":
		return FIFO
	case m.Priority > 0:
		return Priority
	}
	return Normal
}

// IsDelayed reports whether the sender set a time of delivery.
func (m *Message) IsDelayed() bool {
	return !m.DeliverAt.IsZero() || m.Delay != 0 || m.DelayLevel != 0
}

// validateKind checks the fields that make a message special, each and together.
func (m *Message) validateKind() error {
	set := 0
	for _, is := range []bool{!m.DeliverAt.IsZero(), m.Delay != 0, m.DelayLevel != 0} {
		if is {
			set++
		}
	}
	illegal := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrIllegalMessage, fmt.Errorf(format, args...))
	}
	switch {
	case set > 1:
		return illegal("at most one of DeliverAt, Delay and DelayLevel can be set")
	case set > 0 && m.Group != "":
		return illegal("a message with the group %q cannot be delayed: it would not keep its place in the group", m.Group)
	case m.Delay < 0 || m.Delay > MaxDelay:
		return illegal("delay of %v; 0 to %v are allowed", m.Delay, MaxDelay)
	case m.DelayLevel < 0:
		return illegal("delay level %d; they begin with 1", m.DelayLevel)
	case isBeyond(m.DeliverAt) || isBeyond(m.ReplyBy):
		return illegal("time of delivery %v or reply %v; the year 9999 is the last", m.DeliverAt, m.ReplyBy)
	case m.Priority < 0 || m.Priority > MaxPriority:
		return illegal("priority %d; 0 to %d are allowed", m.Priority, MaxPriority)
	case m.Priority > 0 && m.Group != "":
		return illegal("a message with the group %q cannot have a priority: it would not keep its place in the group", m.Group)
	case len(m.Group) > MaxGroupNameBytes:
		return illegal("message group of %d bytes, the limit is %d", len(m.Group), MaxGroupNameBytes)
	case len(m.DedupKey) > MaxDedupKeyBytes:
		return illegal("deduplication key of %d bytes, the limit is %d", len(m.DedupKey), MaxDedupKeyBytes)
	case len(m.Keys) > MaxKeys:
		return illegal("%d keys, the limit is %d", len(m.Keys), MaxKeys)
	case m.CheckImmunity < 0 || m.CheckImmunity > MaxDelay:
		return illegal("check immunity of %v; 0 to %v are allowed", m.CheckImmunity, MaxDelay)
	case m.Compression > Zstd || m.Compression != None && (m.OriginalBytes < 0 || m.OriginalBytes > MaxBodyBytes):
		return illegal("%v of a body of %d bytes; the limit is %d", m.Compression, m.OriginalBytes, MaxBodyBytes)
	}
	return nil
}

func isBeyond(t time.Time) bool { return t.After(time.UnixMilli(MaxTimeMillis)) }

// Compression is how a body is compressed. The numbers cross the wire.
type Compression uint8

// The compressions, as in RocketMQ.
const (
	None Compression = 0
	Zlib Compression = 1
	LZ4  Compression = 2
	Zstd Compression = 3
)

func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Zlib:
		return "zlib"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("compression %d", uint8(c))
}
