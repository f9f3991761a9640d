// Package pop holds what groups have popped: messages that were handed out to a
// member and are to be acknowledged within a time, else they are handed out again.
// View is built from the log. It never does I/O, reads no clock and starts no
// goroutine; which message is handed out to whom is the broker's to decide.
//
// Nothing is copied and no queue has an owner: a message that is handed out is an
// entry of its queue, until it is acknowledged. What comes before the next offset
// that nobody has looked at and has no entry is finished.
//
// A message of a message group has a lane, and is handed out only when no earlier
// message of its lane in its queue is unfinished: until then it is an entry that
// waits. A lane is a hash: two groups that share one wait for one another.
//
// What hands a message out is a handle: group, topic, queue, offset and a fence,
// which is the index in the log of the record that handed it out. Times come from
// records' store times, so that a replay gives the same.
//
// # Records
//
// All payloads begin with a byte for the version, 1. "uvarint" is that of
// encoding/binary; "name" is a uvarint length of 1 to 255 and as many bytes;
// queues are at most 2^31-1, offsets and milliseconds at most 2^63-1. Nothing
// follows.
//
// A record that hands out messages of a queue (EncodeHandout):
//
//	1 byte   version, 1
//	name     group
//	uvarint  topic ID
//	uvarint  queue
//	uvarint  the record that handed out messages of the queue before, or set it
//	         back; 0: none. If another did meanwhile this one changes nothing
//	uvarint  the group's committed offset, plus 1; 0: none
//	uvarint  first offset of the queue: unfinished messages below are dropped
//	uvarint  next offset that nobody has looked at
//	uvarint  milliseconds from the record's store time for which they are invisible
//	uvarint  number of unfinished messages that are handed out, for each of them:
//	  uvarint  offset less the one before, which is -1 at first, less 1
//	uvarint  number of runs of messages that nobody had looked at, for each of them:
//	  uvarint  first offset less the end of the run before, which is 0 at first
//	  1 byte   0: messages without a lane, 1: one that has a lane, 2: one that waits
//	           for its lane and is not handed out
//	  uvarint  number of messages, or the lane, 1 to 2^32-1
//
// A record that acknowledges messages of a queue or gives them another time
// (EncodeAck):
//
//	1 byte   version, 1
//	1 byte   0: acknowledged, 1: another time
//	name     group
//	uvarint  topic ID
//	uvarint  queue
//	uvarint  milliseconds from the record's store time for which they are invisible;
//	         only with another time
//	uvarint  number of fences, for each of them:
//	  uvarint  fence
//	  uvarint  number of offsets, for each of them:
//	    uvarint  offset less the one before, which is -1 at first, less 1
//
// # Rows
//
// The rows that view.DB keeps, numbers in keys big endian:
//
//	'q', length of group uint8, group, topic ID uint64, queue uint32
//	    uvarint  next offset that nobody has looked at
//	    uvarint  the record with which it began, or was last set back
//	    uvarint  the record that handed out messages last, or set it back
//	'u', length of group uint8, group, topic ID uint64, queue uint32, block uint64
//	    the unfinished messages with offsets from 256 times block on, up to 256 times
//	    the next; for each of them:
//	    uvarint  offset less the one before, which is 256 times block - 1 at first, less 1
//	    uvarint  lane, 0: none
//	    uvarint  how often it was handed out
//	    varint   fence less that of the one before; 0: never handed out
//	    varint   deadline in Unix milliseconds less that of the one before; 0 likewise
package pop

// Key is a queue as one group pops it.
type Key struct {
	Group string
	Topic uint64 // its ID
	Queue uint32
}

// Message is one that is handed out, or that could be now.
type Message struct {
	Offset int64
	// Deadline is when it may be handed out again, in Unix milliseconds; 0: it was
	// never handed out.
	Deadline int64
	// Fence is that of its handle; 0: it was never handed out.
	Fence uint64
	// Attempts is how often it was handed out.
	Attempts int
}

// Progress is where a group is in a queue.
type Progress struct {
	// Floor is the lowest offset that is not finished, Next the first that nobody has
	// looked at.
	Floor, Next int64
	// Last is the index of the record that last handed out messages, or set the queue
	// back.
	Last uint64
	// Unfinished is how many messages below Next are; Waiting of them wait for others
	// of their lanes.
	Unfinished, Waiting int
}

// Counts are of the unfinished messages of a queue as of a time.
type Counts struct {
	// Unfinished is how many there are: InFlight of them are handed out, Ready can be
	// handed out now, the others wait for their lanes.
	Unfinished, InFlight, Ready int64
	// Oldest is the lowest offset of them; without any it is Next.
	Oldest int64
	// Next is the first offset that nobody has looked at.
	Next int64
}

// Verdict says what a handle is worth.
type Verdict uint8

// The verdicts.
const (
	// Live: the message is unfinished, and nobody was handed it later.
	Live Verdict = iota
	// Finished: the message needs no acknowledgement any more.
	Finished
	// Expired: the message was handed out again, or its queue was set back.
	Expired
	// Unknown: no such handle was ever given.
	Unknown
)
