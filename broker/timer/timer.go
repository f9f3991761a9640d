// Package timer is the view of messages that wait for their time: which there
// are, where in the log they stand, and in which order they are due. A timer
// record (store.TimerRecord) brings the messages of one batch; a batch record that
// releases them, a recall record or the end of their topic takes them away.
//
// The package does no I/O, reads no clock and looks at no configuration: what is
// due the broker asks for, and the log's records are all that changes the view. A
// message is named by its origin, which is the log index of its timer record, and
// its position in that record's batch. The record itself may be carried forward in
// the log; the view knows where it is.
//
// # Records
//
// A timer record (numbers are little endian, varints those of encoding/binary):
//
//	1        version, 1
//	uvarint  number of messages
//	varint   for each of them, when it is due, Unix milliseconds
//	4        CRC32C of the preceding bytes
//	n        the batch as its producer sent it (package message/batch)
//
// Its row in the log has the topic's number and the queue of the batch.
//
// A recall record:
//
//	1        version, 1
//	uvarint  origin
//	uvarint  position
//	16       id of the message
//
// # Rows
//
// A row for each timer record that has messages left: the key is 'm' and the
// origin, 8 bytes big endian; the value:
//
//	uvarint  log index where the record stands now
//	uvarint  topic number
//	uvarint  queue
//	uvarint  bytes of the record
//	uvarint  number of messages left, and for each of them, in the order of positions:
//	uvarint    how many positions lie between it and the one before
//	varint     when it is due, less when the one before is; Unix milliseconds for the first
//
// A row for each message that was recalled lately: the key is 'r' and the log index
// of the recall record, 8 bytes big endian; the value:
//
//	uvarint  origin
//	uvarint  position
//	uvarint  topic number
//	uvarint  store time of the recall record, Unix milliseconds
//	16       id of the message
package timer

import (
	"cmp"
	"errors"
	"math"
	"time"

	"github.com/rmqio/rmq/message"
)

// ErrRecord is returned for the payload of a record, or for a row, that this
// build cannot read.
var ErrRecord = errors.New("illegible timer record")

// Recalls are remembered so that a second one is answered as the first was.
const (
	// RecallMemory is for how long, in the log's time, if there are not too many.
	RecallMemory = 24 * time.Hour
	// MaxRecalls is how many at most.
	MaxRecalls = 100_000
)

// Place names a message that waits, or waited.
type Place struct {
	Origin   uint64 // log index of the timer record
	Position int    // in its batch
}

// Earliest is before every time that a message can be due.
const Earliest = math.MinInt64

// Key is a place in the order in which messages are due: by time, and those of
// the same time as they were sent.
type Key struct {
	Millis int64 // when the message is due, Unix milliseconds
	Origin uint64
	// Position is an int32 because a million keys are kept.
	Position int32
}

// Compare orders keys.
func (k Key) Compare(o Key) int {
	return cmp.Or(cmp.Compare(k.Millis, o.Millis), cmp.Compare(k.Origin, o.Origin), cmp.Compare(k.Position, o.Position))
}

// Place is the place without the time.
func (k Key) Place() Place { return Place{Origin: k.Origin, Position: int(k.Position)} }

// Pending is a message that waits.
type Pending struct {
	Key
	At    uint64 // log index where its record stands now
	Topic uint64 // the topic's number
	Queue uint32
	Bytes uint32 // of the whole timer record
}

// Recalled is a message that was taken back.
type Recalled struct {
	Topic uint64
	ID    message.ID
}
