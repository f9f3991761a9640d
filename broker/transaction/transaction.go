// Package transaction holds what the broker knows of transactions: View, which
// is built from the log (half messages, how often their producers were asked,
// what was decided), and Schedule, which says when producers are to be asked. It
// never does I/O, reads no clock and starts no goroutine; appending records,
// asking producers and answering requests are the broker's.
//
// A half message is a message that no consumer sees until its producer commits
// it. It is named for ever by the log index of the half record that it came with,
// its origin, and its position in that record's batch. It is open until it is
// decided. A batch record with a release in its lead (package message/batch) that
// goes to the topic of the message commits it: the message is shown and forgotten
// in one record. A release to any other topic is a copy for people to see, after
// the producers were asked in vain: the message is then parked, but open still.
//
// The first decision holds: records that decide on a message which is not open
// change nothing. Decisions are remembered for a day of log time, the last
// MaxDecided of them.
//
// # Records
//
// "uvarint" and "varint" are those of encoding/binary; "name" is a uvarint length
// of 1 to 255 and as many bytes. Nothing follows.
//
// A half record (EncodeHalf); the record's row in the log names the topic:
//
//	1 byte   version, 1
//	name     producer group
//	uvarint  number of messages, for each of them:
//	  varint   milliseconds for which nobody is asked; 0: as the broker does by default
//	4 bytes  CRC32C of all bytes before, little endian
//	n bytes  the batch as the producer sent it
//
// A decision record (EncodeDecision):
//
//	1 byte   version, 1
//	1 byte   0: producers were asked, 1: rollback
//	uvarint  number of messages, for each of them:
//	  uvarint  origin
//	  uvarint  position
//
// # Rows
//
// The rows that view.DB keeps, numbers in keys big endian:
//
//	'd', number uint64, in the order of the decisions
//	    uvarint   origin
//	    uvarint   position
//	    16 bytes  message id
//	    uvarint   topic ID
//	    uvarint   queue
//	    varint    offset in the queue, -1: it was rolled back
//	    varint    store time of the decision
//	'h', origin uint64
//	    uvarint   log index of the record that has the messages now
//	    uvarint   topic ID
//	    uvarint   queue
//	    uvarint   bytes of the half record's data
//	    varint    store time of the half record
//	    name      producer group
//	    uvarint   number of messages that are open, for each of them:
//	      uvarint   position
//	      16 bytes  message id
//	      uvarint   milliseconds for which nobody is asked; 0: the default
//	      uvarint   how often producers were asked
//	      varint    store time of the last time
//	      1 byte    1: it is parked
package transaction

import (
	"cmp"
	"errors"
	"time"

	"github.com/rmqio/rmq/message"
)

// Limits of what is remembered. They are no configuration: what a log says must
// not depend on one.
const (
	// MaxDecided is how many decisions are remembered at most.
	MaxDecided = 1 << 20
	// DecidedFor is for how long one is remembered, by the store times of the log.
	DecidedFor = 24 * time.Hour
)

// ErrRecord is returned for the payload of a record, or for a row, that this
// build cannot read.
var ErrRecord = errors.New("illegible transaction record")

// Key names a half message for ever.
type Key struct {
	Origin   uint64 // log index of the half record that it came with
	Position int    // within that record's batch
}

// Compare orders keys by age.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Origin, o.Origin), cmp.Compare(k.Position, o.Position))
}

// Message is a half message that is open.
type Message struct {
	Key
	ID      message.ID
	TopicID uint64
	Queue   int
	Group   string // of its producers
	// At is the log index of the record that has it now, Bytes the length of the
	// half record's data.
	At          uint64
	Bytes       int
	StoreMillis int64
	// ImmunityMillis is for how long nobody is asked; 0: as the broker does by
	// default.
	ImmunityMillis int64
	// Checks is how often producers were asked, AskedMillis the last time.
	Checks      int
	AskedMillis int64
	// Parked says that they are not asked any more unless somebody wants it.
	Parked bool
}

// Verdict is a decision that was made on a half message.
type Verdict struct {
	Key
	ID          message.ID
	TopicID     uint64
	Queue       int
	Offset      int64 // in the queue; -1: it was rolled back
	StoreMillis int64
}

// Committed reports whether the message was committed.
func (v *Verdict) Committed() bool { return v.Offset >= 0 }
