// Package message holds the nouns that users of the SDKs have in their hands:
// messages, queues, identifiers, and the rules for names and sizes.
// It imports nothing of this module and does no I/O.
package message

import (
	"errors"
	"fmt"
	"time"
)

// Limits that producers and brokers enforce. Sources: RocketMQ's
// maxMessageSize (4 MiB) and its 16-bit property length (32,767 bytes).
const (
	MaxBodyBytes       = 4 << 20
	MaxPropertiesBytes = 32767
)

// Errors of Message.Validate. They are wrapped with the offending figures.
var (
	// ErrBodyTooLarge is returned for a body above MaxBodyBytes.
	ErrBodyTooLarge = errors.New("message body too large")
	// ErrPropertiesTooLarge is returned when tag, keys, message group and
	// properties together exceed MaxPropertiesBytes.
	ErrPropertiesTooLarge = errors.New("message properties too large")
	// ErrIllegalMessage is returned for contents that no broker accepts.
	ErrIllegalMessage = errors.New("illegal message")
)

// Message is what a producer sends and a consumer receives. The zero value of
// every field but Topic means "none". A Message handed to an SDK must not be
// changed until the call that took it has answered; one that was received
// belongs to the receiver.
type Message struct {
	// Topic is required; see CheckTopic.
	Topic string
	// Tag is RocketMQ's single tag, matched by tag filters.
	Tag string
	// Keys are looked up by key queries. A key holds no space.
	Keys []string
	// Group is the message group (RocketMQ 5.x; the sharding key of 4.x):
	// messages of one group go to one queue, in the order they were sent.
	Group string
	// Properties are the user's own; names are not empty.
	Properties map[string]string
	// Body is at most MaxBodyBytes. It may be empty.
	Body []byte
	// ID is given by the producer when zero.
	ID ID
	// BornTime is when the producer took the message, to the millisecond.
	// The producer sets it when zero.
	BornTime time.Time

	// Priority is 0, the lowest, to MaxPriority. In a topic of priorities a
	// consumer gets what is there of a higher one first.
	Priority int
	// DeliverAt hides the message until then, to the millisecond by the broker's
	// clock; a time that has passed hides nothing. A message that was delayed has
	// it set when it is received.
	DeliverAt time.Time
	// Delay does the same for a time from the broker's taking the message, and
	// DelayLevel for that of one of the broker's levels, from 1. At most one of the
	// three is set by a sender.
	Delay      time.Duration
	DelayLevel int
	// CheckImmunity is for how long after a transaction's half message nobody is
	// asked for its outcome; 0: as the broker does by default.
	CheckImmunity time.Duration
	// DedupKey makes the broker store one message with this key in the topic
	// within a window of time (24 h by default); a further one is answered with the
	// receipt of the first, marked as a duplicate.
	DedupKey string
	// Compression says how Body is compressed. Producers set it and consumers undo
	// it: programs see None.
	Compression Compression
	// OriginalBytes is the size of the body before it was compressed.
	OriginalBytes int

	// CorrelationID, ReplyTo and ReplyBy belong to requests and replies:
	// ReplyTo is the client that waits, and ReplyBy until when.
	CorrelationID string
	ReplyTo       string
	ReplyBy       time.Time

	// ReconsumeTimes is how often the message was delivered in vain before this
	// copy of it was made. It and Origin are a broker's to set; a producer sends
	// without them whatever they are.
	ReconsumeTimes int
	// Origin says, of a copy in a retry or dead-letter topic, or of one that was sent
	// again from there, what it is a copy of; nil: it is none.
	Origin *Origin
}

// Origin is where a broker took a copy of a message from.
type Origin struct {
	// Topic, Queue and Offset are the place of the message in whose place the copy
	// stands: for a copy in a retry or dead-letter topic the one that was sent, and
	// for one that was sent again the dead letter.
	Topic  string
	Queue  int
	Offset int64
	// LastError is what the handler said that failed last, cut to MaxErrorBytes.
	LastError string
	// Mark tells copies apart that were made of the same message for different
	// reasons. It means nothing to programs.
	Mark uint64
}

// Validate checks everything but the topic's name against the rules that the
// broker enforces too.
func (m *Message) Validate() error {
	if len(m.Body) > MaxBodyBytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrBodyTooLarge, len(m.Body), MaxBodyBytes)
	}
	if n := m.PropertiesBytes(); n > MaxPropertiesBytes {
		return fmt.Errorf("%w: %d bytes, the limit is %d", ErrPropertiesTooLarge, n, MaxPropertiesBytes)
	}
	for _, k := range m.Keys {
		if k == "" || hasSpace(k) {
			return fmt.Errorf("%w: key %q is empty or holds a space", ErrIllegalMessage, k)
		}
	}
	for name := range m.Properties {
		if name == "" {
			return fmt.Errorf("%w: a property has no name", ErrIllegalMessage)
		}
		if IsReservedProperty(name) {
			return fmt.Errorf("%w: the property name %q is reserved", ErrIllegalMessage, name)
		}
	}
	return m.validateKind()
}

// PropertiesBytes is the size that counts against MaxPropertiesBytes: names and
// values with two separators each, as RocketMQ encodes them.
func (m *Message) PropertiesBytes() int {
	n := len(m.Tag) + len(m.Group) + len(m.DedupKey) + len(m.CorrelationID) + len(m.ReplyTo)
	for _, k := range m.Keys {
		n += len(k) + 1
	}
	for k, v := range m.Properties {
		n += len(k) + len(v) + 2
	}
	return n
}

func hasSpace(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] == ' ' {
			return true
		}
	}
	return false
}

// Queue names one message queue (RocketMQ's MessageQueue).
type Queue struct {
	Topic  string `json:"topic"`
	Broker string `json:"broker"`
	ID     int    `json:"queue"`
}

func (q Queue) String() string { return fmt.Sprintf("%s/%s/%d", q.Topic, q.Broker, q.ID) }

// Compare orders queues by topic, broker and id.
func (q Queue) Compare(o Queue) int {
	switch {
	case q.Topic != o.Topic:
		return compareStrings(q.Topic, o.Topic)
	case q.Broker != o.Broker:
		return compareStrings(q.Broker, o.Broker)
	default:
		return q.ID - o.ID
	}
}

func compareStrings(a, b string) int {
	if a < b {
		return -1
	}
	return 1
}

// Stored is a message with what the broker knows of it.
type Stored struct {
	Message
	Queue       Queue
	QueueOffset int64
	StoreTime   time.Time
}
