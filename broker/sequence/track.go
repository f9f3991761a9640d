package sequence

import (
	"slices"

	"github.com/rmqio/rmq/message/batch"
	"github.com/rmqio/rmq/transport/protocol"
)

// Track is what is known of a producer in a queue. A nil Track is that of a
// producer of which nothing is known. It is not safe for concurrent use.
type Track struct {
	incarnation uint64
	fenced      []uint64 // earlier runs, oldest first
	begun       uint64   // the first number of this run that was taken
	floor       uint64   // what was known of numbers below is forgotten
	spans       []span   // ascending, never overlapping; not empty
}

// span is an interval of numbers whose messages are stored one after another.
type span struct {
	first, count uint64
	Place        // of the first message
}

func (s *span) end() uint64 { return s.first + s.count }

// joins reports whether o continues s in number and in queue offset.
func (s *span) joins(o *span) bool {
	return s.Base >= 0 && s.end() == o.first && s.Base+int64(s.count) == o.Base
}

// Judge says what is to be done with a batch of count messages: known, it is
// stored at a place; not known and without an error, it is to be stored. Errors
// are *protocol.Error with SequenceLost (it may or may not be stored), Fenced (it
// comes too late) or IllegalMessage. The place of a message within a batch that
// is held back has Base -1 less its position.
func (t *Track) Judge(s *batch.Sequence, count int) (at Place, known bool, err error) {
	end := s.First + uint64(count)
	switch {
	case end < s.First:
		return at, false, protocol.Errorf(protocol.IllegalMessage, "%d messages from number %d on", count, s.First)
	case t == nil && s.Begin:
		return at, false, nil
	case t == nil:
		return at, false, lost(s, "nothing is known of the producer here")
	case t.incarnation != s.Incarnation:
		return at, false, t.judgeRun(s)
	}
	i := t.find(s.First)
	switch {
	case i == len(t.spans):
		return at, false, nil
	case t.spans[i].first <= s.First && end <= t.spans[i].end():
		return t.spans[i].plus(s.First - t.spans[i].first), true, nil
	case end > t.spans[i].first:
		return at, false, protocol.Errorf(protocol.IllegalMessage,
			"messages %d to %d of producer %x: some are stored and some are not", s.First, end-1, s.Producer)
	}
	return at, false, t.judgeGap(s)
}

// judgeRun judges another run of the producer than the one that sends now.
func (t *Track) judgeRun(s *batch.Sequence) error {
	if s.Begin && !slices.Contains(t.fenced, s.Incarnation) {
		return nil
	}
	return protocol.Errorf(protocol.Fenced, "another run of producer %x has taken over", s.Producer)
}

// judgeGap judges numbers that are not stored, though later ones are.
func (t *Track) judgeGap(s *batch.Sequence) error {
	switch {
	case s.First < t.floor:
		return lost(s, "what was known of such old numbers is forgotten")
	case !s.Again:
		return protocol.Errorf(protocol.Fenced, "message %d of producer %x comes after later ones", s.First, s.Producer)
	case s.First < t.begun && !s.Begin:
		return lost(s, "the producer began later, as far as is known here")
	}
	return nil
}

func lost(s *batch.Sequence, why string) error {
	return protocol.Errorf(protocol.SequenceLost, "whether message %d of producer %x is stored is not known: %s", s.First, s.Producer, why)
}

// find is the index of the first span that ends behind a number.
func (t *Track) find(number uint64) int {
	i, _ := slices.BinarySearchFunc(t.spans, number, func(s span, number uint64) int {
		if s.end() <= number {
			return -1
		}
		return 1
	})
	return i
}

// Take enters a batch that is stored; one of which a part is known changes
// nothing.
func (t *Track) Take(s *batch.Sequence, count int, at Place) {
	if t.incarnation != s.Incarnation {
		t.begin(s)
	}
	next := span{first: s.First, count: uint64(count), Place: at}
	i := t.find(s.First)
	switch {
	case i == len(t.spans):
		t.joinLast()
		t.spans = append(t.spans, next)
	case next.end() <= t.spans[i].first:
		t.spans = slices.Insert(t.spans, i, next)
	}
	if len(t.spans) > maxSpans {
		t.floor = t.spans[0].end()
		t.spans = slices.Delete(t.spans, 0, 1)
	}
}

// begin has another run of the producer take over.
func (t *Track) begin(s *batch.Sequence) {
	if t.incarnation != 0 {
		t.fenced = append(t.fenced, t.incarnation)
	}
	if len(t.fenced) > maxFenced {
		t.fenced = slices.Delete(t.fenced, 0, 1)
	}
	t.incarnation, t.begun, t.floor, t.spans = s.Incarnation, s.First, 0, t.spans[:0]
}

// joinLast makes one of the last two spans if they continue one another: only
// that of the newest batch is kept as it was.
func (t *Track) joinLast() {
	n := len(t.spans)
	if n < 2 || !t.spans[n-2].joins(&t.spans[n-1]) {
		return
	}
	t.spans[n-2].count += t.spans[n-1].count
	t.spans = t.spans[:n-1]
}

// Clone returns a copy that shares nothing; that of nil is an empty track.
func (t *Track) Clone() *Track {
	if t == nil {
		return &Track{}
	}
	c := *t
	c.fenced, c.spans = slices.Clone(t.fenced), slices.Clone(t.spans)
	return &c
}

// IsEmpty reports whether nothing was ever taken.
func (t *Track) IsEmpty() bool { return t == nil || t.incarnation == 0 }
