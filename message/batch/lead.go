package batch

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Purpose says what a broker does with a batch.
type Purpose uint8

// The purposes of a batch.
const (
	// ToQueue stores the messages in their queue at once.
	ToQueue Purpose = iota
	// ToTimer holds each message back until its time.
	ToTimer
	// ToTransaction holds the messages back until their producer decides.
	ToTransaction
)

// Flags of a batch: its purpose, which sections follow the topic, in this order,
// and what of its messages a view of the log has to see.
const (
	flagTimer       = 1 << iota // Purpose is ToTimer
	flagTransaction             // Purpose is ToTransaction
	flagSequence                // a Sequence
	flagRelease                 // a Release
	flagDedup                   // a message has a DedupKey
	flagSparse                  // a broker has left messages out; see Select
	flagCopy                    // a message has an Origin, or ReconsumeTimes

	knownBatchFlags = flagTimer | flagTransaction | flagSequence | flagRelease | flagDedup | flagSparse | flagCopy
)

const sequenceBytes = 25

// Sequence numbers the messages of a producer in one queue, so that a broker
// recognises what it has.
type Sequence struct {
	// Producer names the producer across its restarts, Incarnation this run of it.
	// They are not 0 where there is a sequence.
	Producer, Incarnation uint64
	// First is the number of the batch's first message; each next one has the next
	// number.
	First uint64
	// Begin says that the broker may begin to count with this batch if it does not
	// know this run of the producer: the batch cannot have been stored and forgotten
	// again, because it was not sent before, or not so long ago.
	Begin bool
	// Again says that the producer sends on purpose what it had given up, after it
	// has sent later messages.
	Again bool
}

// Bits of a sequence.
const (
	sequenceBegin = 1 << iota
	sequenceAgain

	knownSequenceBits = sequenceBegin | sequenceAgain
)

// Release says which messages a broker held back and shows with this batch, so
// that showing them and forgetting them is one record.
type Release struct {
	// Origin is the log index of the record that the messages were held in first.
	Origin uint64
	// Positions are those of the messages within that record's batch, ascending.
	Positions []int
}

// Lead is what a batch has before its messages.
type Lead struct {
	Topic    string // at most 255 bytes
	Queue    int
	Purpose  Purpose
	Sequence Sequence
	Release  Release
}

func (l *Lead) flags() (flags byte) {
	switch l.Purpose {
	case ToTimer:
		flags = flagTimer
	case ToTransaction:
		flags = flagTransaction
	}
	if l.Sequence.Producer != 0 {
		flags |= flagSequence
	}
	if l.Release.Origin != 0 {
		flags |= flagRelease
	}
	return flags
}

func (l *Lead) appendSections(b []byte) []byte {
	if l.Sequence.Producer != 0 {
		b = append(b, make([]byte, sequenceBytes)...)
		l.Sequence.put(b[len(b)-sequenceBytes:])
	}
	if l.Release.Origin != 0 {
		b = binary.LittleEndian.AppendUint64(b, l.Release.Origin)
		b = binary.AppendUvarint(b, uint64(len(l.Release.Positions)))
		for _, p := range l.Release.Positions {
			b = binary.AppendUvarint(b, uint64(p))
		}
	}
	return b
}

func (s *Sequence) put(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, s.Producer)
	le.PutUint64(b[8:], s.Incarnation)
	le.PutUint64(b[16:], s.First)
	b[24] = 0
	if s.Begin {
		b[24] |= sequenceBegin
	}
	if s.Again {
		b[24] |= sequenceAgain
	}
}

// readLead reads purpose and sections; rest begins behind the topic.
func (h *Header) readLead(flags byte, rest []byte) error {
	if flags&flagSparse != 0 {
		return h.readSparse(flags, rest)
	}
	switch flags & (flagTimer | flagTransaction | flagRelease) {
	case 0, flagRelease:
	case flagTimer:
		h.Purpose = ToTimer
	case flagTransaction:
		h.Purpose = ToTransaction
	default:
		return fmt.Errorf("%w: flags %#02x contradict one another", ErrCorrupt, flags)
	}
	r := reader{b: rest}
	if flags&flagSequence != 0 {
		if err := h.Sequence.read(&r, h.Count); err != nil {
			return err
		}
	}
	if flags&flagRelease != 0 {
		if err := h.Release.read(&r, h.Count); err != nil {
			return err
		}
	}
	h.bodyAt += len(rest) - len(r.b)
	return nil
}

func (s *Sequence) read(r *reader, count int) error {
	s.Producer, s.Incarnation, s.First = r.uint64(), r.uint64(), r.uint64()
	bits := r.byte()
	s.Begin, s.Again = bits&sequenceBegin != 0, bits&sequenceAgain != 0
	switch {
	case !r.failed && bits&^knownSequenceBits != 0:
		return fmt.Errorf("%w: sequence bits %#02x", ErrVersion, bits)
	case r.failed || s.Producer == 0 || s.Incarnation == 0 || s.First > math.MaxUint64-uint64(count):
		return fmt.Errorf("%w: sequence of producer %d, incarnation %d, from %d", ErrCorrupt, s.Producer, s.Incarnation, s.First)
	}
	return nil
}

func (x *Release) read(r *reader, count int) error {
	x.Origin = r.uint64()
	if n := r.count(); r.failed || n != count || x.Origin == 0 {
		return fmt.Errorf("%w: release of %d messages of record %d, in a batch of %d", ErrCorrupt, n, x.Origin, count)
	}
	x.Positions = make([]int, count)
	last := -1
	for i := range x.Positions {
		p := int(min(r.uvarint(), MaxCount))
		if r.failed || p <= last || p == MaxCount {
			return fmt.Errorf("%w: position %d of released messages is cut, out of order or above %d", ErrCorrupt, i, MaxCount-1)
		}
		x.Positions[i], last = p, p
	}
	return nil
}

// IsNumbered reports whether a batch is one that IsPlain but for its sequence. b
// begins with a header.
func IsNumbered(b []byte) bool { return b[3] == flagSequence }

// HasRelease reports whether a batch has a Release. b begins with a header.
func HasRelease(b []byte) bool { return b[3]&flagRelease != 0 }

// HasDedupKey reports whether a message of a batch has a DedupKey. b begins with a
// header.
func HasDedupKey(b []byte) bool { return b[3]&flagDedup != 0 }

// HasCopy reports whether a message of a batch has an Origin or ReconsumeTimes. b
// begins with a header.
func HasCopy(b []byte) bool { return b[3]&flagCopy != 0 }

// SetSequence changes the sequence of a finished batch that has one.
func SetSequence(b []byte, s Sequence) {
	at := fixedBytes + int(b[76])
	s.put(b[at : at+sequenceBytes])
	binary.LittleEndian.PutUint32(b[crcAt:], checksum(b))
}

// IsPlain reports whether a batch has nothing but messages for its queue, none
// with a DedupKey or an Origin, so that no view of the log need look into it. b begins with a
// header.
func IsPlain(b []byte) bool { return b[3] == 0 }
