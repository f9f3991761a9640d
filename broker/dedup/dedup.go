// Package dedup knows the deduplication keys of the messages that the log has,
// and where the first message of each is, for a window of time.
//
// The view changes only by applying records of the log, by the store times in
// them; it has no clock, starts no goroutine and does no I/O. What is appended
// and not committed yet is the broker's business.
//
// A key is forgotten when a window (24 h of the log's time by default) has passed
// since its message was stored, however often the message came again. There are
// at most so many keys (1,000,000 by default); nobody is admitted at the cost of
// a key within its window.
//
// # Rows
//
// A key is topic 8, big endian, and the deduplication key. A value is a list of
// varints: the log index of the message's batch, its store time, queue and queue
// offset.
package dedup

import (
	"errors"
	"time"
)

// Defaults of the view.
const (
	DefaultWindow = 24 * time.Hour
	DefaultLimit  = 1_000_000
)

// ErrRow is returned by Load for a row that makes no sense.
var ErrRow = errors.New("bad row of deduplication keys")

// Key is a deduplication key in its topic.
type Key struct {
	Topic uint64
	Text  string
}

// Place says where the message of a key is.
type Place struct {
	Queue  uint32
	Offset int64 // in the queue
	Index  uint64
	Millis int64 // store time
}
