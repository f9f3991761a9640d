// Package group holds what the broker knows of consumer groups: View, which is
// built from the log (configurations, committed offsets and leases of queues),
// and Sessions, which is only in memory (who is there). It never does I/O, reads
// no clock and starts no goroutine; appending records, notifying members and
// deciding who gets which queue are the broker's.
//
// A lease is the right of one client to consume one queue for a group. Its fence
// is the index in the log of the record that granted it, so that it survives a
// restart and grows with every grant of the queue. First come, first served: a
// grant of a queue that another client holds changes nothing, whatever the
// broker saw when it appended the record.
//
// Topics are known by their ID (see package topic), so that a topic that is
// deleted and created again begins without offsets.
//
// # Records
//
// All payloads begin with a byte for the version, 1. "uvarint" is that of
// encoding/binary; "name" is a uvarint length of 1 to 255 and as many bytes;
// queues are at most 2^31-1, offsets at most 2^63-1. Nothing follows.
//
// A record that creates or changes a group (EncodePut):
//
//	1 byte   version, 1
//	name     group
//	1 byte   flags; 1: consuming is enabled; 2: members may have different topics;
//	         4: what follows is there; others are 0
//	uvarint  retries of a message, plus 1; 1: the default
//	1 byte   retry policy; 0: none is set, 1: table, 2: exponential
//	uvarint  first delay in milliseconds, 0: the default
//	uvarint  longest delay in milliseconds, 0: the default
//
// A record that deletes a group with its offsets and leases (EncodeDelete):
//
//	1 byte   version, 1
//	name     group
//
// A record that moves offsets (EncodeOffsets):
//
//	1 byte   version, 1
//	name     group
//	uvarint  number of rows, for each of them:
//	  uvarint  topic ID
//	  uvarint  queue
//	  1 byte   0: commit, 1: reset
//	  uvarint  offset
//	  uvarint  fence, 0: none
//
// A record that grants or ends leases of queues of one topic (EncodeLeases,
// EncodeRelease):
//
//	1 byte   version, 1
//	1 byte   0: grant, 1: release
//	name     group
//	uvarint  topic ID
//	uvarint  length of the client ID, 0 to 255; 0 only in a release: whoever holds it
//	n bytes  client ID
//	uvarint  number of queues, for each of them:
//	  uvarint  queue
//
// A record that says what the members of a group subscribe, without the group's
// retry topic (EncodeSubscription):
//
//	1 byte   version, 1
//	name     group
//	uvarint  number of topics, for each of them, sorted:
//	  name     topic
//	  1 byte   0: no filter, 1: tags, 2: SQL; with one of these:
//	    uvarint  length of the filter, 0 to 8192
//	    n bytes  filter
//
// # Rows
//
// The rows that view.DB keeps, numbers in keys big endian:
//
//	'g', group
//	    what a put has from its flags on
//	'q', length of group uint8, group, topic ID uint64, queue uint32
//	    varint   committed offset, -1: none
//	    uvarint  fence, 0: no lease
//	    n bytes  client that holds the lease
//	's', group
//	    what a subscription has from its number of topics on
package group

import (
	"github.com/rmqio/rmq/message"
	"github.com/rmqio/rmq/transport/protocol"
)

// Default is the configuration of a group that nobody configured.
func Default(name string) protocol.GroupConfig {
	return protocol.GroupConfig{Name: name, ConsumeEnabled: true}
}

// Validate tells whether a group may have this configuration. The error is a
// *protocol.Error with InvalidArgument.
func Validate(cfg protocol.GroupConfig) error {
	if err := message.CheckGroup(cfg.Name); err != nil {
		return protocol.Errorf(protocol.InvalidArgument, "%v", err)
	}
	return validateRetry(cfg)
}

// Offset is one row of a record that moves offsets.
type Offset struct {
	TopicID uint64
	Queue   int
	// Offset is the next one to consume, not negative.
	Offset int64
	// Reset sets the offset, backwards too, and ends the queue's lease. Without
	// it an offset that is not above the committed one changes nothing.
	Reset bool
	// Fence, when not 0, makes a commit count only if the queue's lease has this
	// fence at the record's place in the log. It keeps a commit that was on its
	// way while the offset was reset, or the queue given to another client, from
	// undoing that. A reset does not look at it.
	Fence uint64
}

// Progress is what a group has in one queue: an offset, a lease, or both.
type Progress struct {
	TopicID uint64
	Queue   int
	// Committed is the next offset to consume; -1: none was committed.
	Committed int64
	// Client holds the lease with Fence; empty and 0: nobody does.
	Client string
	Fence  uint64
}

// Holder is a client that holds at least one lease of a group.
type Holder struct{ Client, Group string }
