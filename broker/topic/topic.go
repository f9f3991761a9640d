// Package topic is the view of the broker's topics. It is built from the records
// that create, change and delete topics, in the order of the log, and owns
// nothing else: messages, routes and the decision whether a topic may be created
// are the broker's. It never does I/O.
//
// A topic's ID is the index in the log of the record that created it. A topic
// that is deleted and created again is another topic with another ID, so that
// nothing of the old one (offsets, leases, messages) can be taken for the new
// one's.
//
// # Records
//
// The payload of a record that creates or changes a topic (EncodePut). "uvarint"
// and "varint" are those of encoding/binary:
//
//	1 byte   version, 1
//	uvarint  length of the name in bytes, 1 to 255
//	n bytes  name
//	uvarint  read queues, at most 2^31-1
//	uvarint  write queues, at most 2^31-1
//	uvarint  permissions (message.Perm), at most 255
//	varint   milliseconds for which messages can be read; 0: as the broker does by default, -1: for ever
//	1 byte   flags; 1: messages are kept until they are consumed; others are 0
//	uvarint  length of the type in bytes, at most 255
//	n bytes  type, the kind of messages that the topic takes; none: all
//	uvarint  messages a second that may be sent, at most 2^63-1; 0: no bound
//	uvarint  bytes a second that may be sent, at most 2^63-1; 0: no bound
//
// The payload of a record that deletes a topic (EncodeDelete):
//
//	1 byte   version, 1
//	uvarint  length of the name in bytes, 1 to 255
//	n bytes  name
//
// Nothing follows. A record is not held to the limits of Validate: they may change,
// while the log stays as it is.
//
// # Rows
//
// The rows that view.DB keeps, numbers in keys big endian:
//
//	't', ID uint64   the payload of a put
//	'v'              index of the last change, uvarint
package topic

import (
	"math"
	"slices"
	"time"

	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// MaxQueues is the highest number of read or of write queues that a topic may
// have on one broker. RocketMQ has no limit; here each queue costs memory for as
// long as it is there.
const MaxQueues = 1024

// Topic is a topic on this broker.
type Topic struct {
	// ID is the log index of the record that created the topic. It is never 0.
	ID uint64
	protocol.TopicConfig
}

// MaxRate is the highest number of messages or of bytes a second that a quota may
// have; it bounds nothing that there is.
const MaxRate = 1 << 40

// maxRetentionMillis is the longest time that a time.Duration holds, 292 years.
const maxRetentionMillis = math.MaxInt64 / int64(time.Millisecond)

// Validate tells whether a client may give a topic this configuration: a name
// that message.CheckTopic accepts, 1 to MaxQueues read and write queues, known
// permissions, a retention that is one, a type of message.Kinds or none, and rates
// of 0 to MaxRate. The error is a *protocol.Error with InvalidArgument.
func Validate(cfg protocol.TopicConfig) error {
	if err := message.CheckTopic(cfg.Name); err != nil {
		return protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	if err := checkQueues(cfg.Name, "read", cfg.ReadQueues); err != nil {
		return err
	}
	if err := checkQueues(cfg.Name, "write", cfg.WriteQueues); err != nil {
		return err
	}
	if !cfg.Perm.Valid() {
		return protocol.Errorf(protocol.InvalidArgument, "topic %q: permission %d; it is a sum of %d (write) and %d (read)",
			cfg.Name, int(cfg.Perm), int(message.PermWrite), int(message.PermRead))
	}
	if err := checkRetention(cfg.Name, cfg.RetentionMillis); err != nil {
		return err
	}
	if kinds := message.Kinds(); cfg.Type != "" && !slices.Contains(kinds, cfg.Type) {
		return protocol.Errorf(protocol.InvalidArgument, "topic %q: type %q; it is one of %v", cfg.Name, cfg.Type, kinds)
	}
	if err := checkRate(cfg.Name, "messages", cfg.Quota.MessagesPerSecond); err != nil {
		return err
	}
	return checkRate(cfg.Name, "bytes", cfg.Quota.BytesPerSecond)
}

func checkRate(topic, unit string, n int64) error {
	if n < 0 || n > MaxRate {
		return protocol.Errorf(protocol.InvalidArgument, "topic %q: %d %s a second; 0 (no bound) to %d are allowed", topic, n, unit, int64(MaxRate))
	}
	return nil
}

func checkRetention(topic string, millis int64) error {
	if millis == protocol.KeepByDefault || millis == protocol.KeepForever ||
		millis >= protocol.MinRetentionMillis && millis <= maxRetentionMillis {
		return nil
	}
	return protocol.Errorf(protocol.InvalidArgument, "topic %q: retention of %d ms; %d to %d ms are allowed, %d (the broker's default) and %d (for ever)",
		topic, millis, protocol.MinRetentionMillis, maxRetentionMillis, protocol.KeepByDefault, protocol.KeepForever)
}

func checkQueues(topic, kind string, n int) error {
	if n < 1 || n > MaxQueues {
		return protocol.Errorf(protocol.InvalidArgument, "topic %q: %d %s queues; 1 to %d are allowed", topic, n, kind, MaxQueues)
	}
	return nil
}
