// Package sequence knows which numbered batches of which producers the log has,
// so that a batch that comes again is recognised. Producers number the messages
// that they send to a queue; a Track is what is known of one producer in one
// queue, and the View is all tracks.
//
// Track is a pure state machine. The view changes only by applying records of
// the log, by the store times in them; it has no clock, starts no goroutine and
// does no I/O. What is appended and not committed yet is the broker's business.
//
// # What is kept
//
// Of each producer in each queue: the run of it that sends now, up to 16 earlier
// runs that may send no more, and up to 64 intervals of numbers with the places
// where their messages are. Intervals that continue one another in number and in
// queue offset are one, except for the newest batch, whose store time is kept as
// it was. When there are more intervals, the lowest is forgotten, and numbers
// below its end are never accepted again.
//
// A track is forgotten after a time of the log without a batch (24 h by default),
// and when there are more than a number of them (500,000), the one that has been
// idle for longest. Nobody is admitted at the cost of a track that was active
// within Grace.
//
// # Rows
//
// A key is producer 8, topic 8, queue 4, big endian. A value is a list of
// varints: the log index of the last batch and its store time, the run, the
// lowest number that can be known (floor), the first number of the run (begun),
// the number of earlier runs and each of them, the number of intervals and, of
// each, its first number less the end of the one before, its count, the queue
// offset (-1: held back) and the log index and store time of its first batch.
package sequence

import (
	"errors"
	"time"

	"github.com/rmqio/rmq/broker/store"
	"github.com/rmqio/rmq/message/batch"
)

// Defaults and bounds of the view.
const (
	DefaultExpiry = 24 * time.Hour
	DefaultLimit  = 500_000
	// Grace is how long a track is safe after a batch: a producer that sends the
	// first batch of a queue again within it may say Begin, because what the broker
	// does not know then it has never had.
	Grace = time.Minute

	maxSpans  = 64
	maxFenced = 16
)

// ErrRow is returned by Load for a row that makes no sense.
var ErrRow = errors.New("bad row of sequences")

// Key names a track: a producer in a queue.
type Key struct {
	Producer uint64
	Queue    store.QueueKey
}

// Place says where a batch is.
type Place struct {
	// Base is the queue offset of the first message; -1: the batch is held back.
	Base int64
	// Index is the log index of the record.
	Index uint64
	// Millis is the record's store time.
	Millis int64
}

// KeyOf is the key of the track that a numbered batch belongs to.
func KeyOf(h *batch.Header, queue store.QueueKey) Key {
	return Key{Producer: h.Sequence.Producer, Queue: queue}
}

// plus is the place of the message n places behind the one at p.
func (p Place) plus(n uint64) Place {
	if p.Base >= 0 {
		p.Base += int64(n)
	} else {
		p.Base -= int64(n)
	}
	return p
}
